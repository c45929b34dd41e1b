#!/usr/bin/env bash
# Simulations only: delays everything that the aggregator sends, from within its network namespace (CAP_NET_ADMIN).
#   TRIBUTARY_CHAOS_DELAY_MS (60), TRIBUTARY_CHAOS_JITTER_MS (40), TRIBUTARY_CHAOS_LOSS_PERCENT (0.5)
#   TRIBUTARY_CHAOS_RATE (4mbit): where the kernel has no netem, a narrow line instead, whose queue delays
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

delay=${TRIBUTARY_CHAOS_DELAY_MS:-60} jitter=${TRIBUTARY_CHAOS_JITTER_MS:-40} loss=${TRIBUTARY_CHAOS_LOSS_PERCENT:-0.5}
if tc qdisc replace dev eth0 root netem delay "${delay}ms" "${jitter}ms" loss "$loss%" 2>/dev/null; then
  log info "eth0: $delay ms ± $jitter ms, $loss % lost (netem)"
elif tc qdisc replace dev eth0 root tbf rate "${TRIBUTARY_CHAOS_RATE:-4mbit}" burst 16kb latency 400ms; then
  log warn "this kernel has no netem: eth0 is a line of ${TRIBUTARY_CHAOS_RATE:-4mbit} with a queue of 400 ms (tbf)"
else
  fail "neither netem nor tbf can be set on eth0: NET_ADMIN and the kernel's sch_netem are needed"
fi

trap 'tc qdisc del dev eth0 root 2>/dev/null; exit 0' TERM
# A restarted aggregator has a new network namespace, and the old one loses its interface. The pause lets the aggregator
# come up before this container is started again, in the new one.
while [[ -e /sys/class/net/eth0 ]] || grep -q '^ *eth0:' /proc/net/dev; do
  sleep 1 &
  wait $!
done
log info "the aggregator is gone; starting again in its new network namespace"
sleep 15 &
wait $!
exit 1
