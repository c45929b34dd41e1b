#!/usr/bin/env bash
# Simulations only: kills a daemon of this project with SIGKILL, now and then, at random. Runs in the host's process
# namespace as the daemons' own user and without any capability: it can end processes of that user, and no other.
#   TRIBUTARY_PROJECT           only processes whose environment names the same project
#   TRIBUTARY_CHAOS_SECONDS     longest pause between two kills (20); the shortest is a quarter of it
#   TRIBUTARY_CHAOS_KILLS       stop after so many; 0: never
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"
need TRIBUTARY_PROJECT

longest=${TRIBUTARY_CHAOS_SECONDS:-20} limit=${TRIBUTARY_CHAOS_KILLS:-0} killed=0

# The daemons' process ids. A process that ends while it is looked at is none.
victims() {
  local process name
  for process in /proc/[0-9]*; do
    name=$(cat "$process/comm" 2>/dev/null) || continue
    [[ "$name" == trib-server || "$name" == trib-client ]] || continue
    tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -qxF "TRIBUTARY_PROJECT=$TRIBUTARY_PROJECT" || continue
    # Not `trib-client join`, whose interruption is a test of its own.
    tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q ' join ' && continue
    echo "${process#/proc/} $name"
  done
}

trap 'exit 0' TERM
while ((limit == 0 || killed < limit)); do
  sleep $((longest / 4 + RANDOM % (longest - longest / 4 + 1))) &
  wait $!
  mapfile -t all < <(victims)
  [[ ${#all[@]} -gt 0 ]] || continue
  read -r process name <<<"${all[RANDOM % ${#all[@]}]}"
  kill -9 "$process" 2>/dev/null || continue
  killed=$((killed + 1))
  log info "killed $name (process $process): $killed"
done
