#!/usr/bin/env bash
# The aggregator: makes the federation at the first start, and then only runs it.
#   TRIBUTARY_FEDERATION   the federation's name            TRIBUTARY_HOSTS      names that sites dial, by blanks
#   TRIBUTARY_LISTEN       0.0.0.0:7443                     TRIBUTARY_ADVERTISE  HOST:PORT where a port is forwarded
#   TRIBUTARY_MODELS       directories with base models     TRIBUTARY_DATA       directory of public test sets
#   TRIBUTARY_DEVICE       auto, cpu, cuda                  TRIBUTARY_HTTP_LISTEN  page, API, metrics (default: none)
# They count at the first start; afterwards server.toml is what holds.
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

if [[ ! -e "$federation/server.toml" ]]; then
  need TRIBUTARY_HOSTS
  options=(--name "${TRIBUTARY_FEDERATION:-tributary}" --listen "${TRIBUTARY_LISTEN:-0.0.0.0:7443}"
    --device "${TRIBUTARY_DEVICE:-auto}" --http "${TRIBUTARY_HTTP_LISTEN:-none}")
  for host in $TRIBUTARY_HOSTS; do options+=(--host "$host"); done
  for models in ${TRIBUTARY_MODELS:-}; do options+=(--models "$models"); done
  [[ -n "${TRIBUTARY_ADVERTISE:-}" ]] && options+=(--advertise "$TRIBUTARY_ADVERTISE")
  [[ -n "${TRIBUTARY_DATA:-}" ]] && options+=(--data "$TRIBUTARY_DATA")
  log info "making the federation '${TRIBUTARY_FEDERATION:-tributary}' in $federation"
  trib init "$federation" "${options[@]}" >&2
fi
exec trib-server --config "$federation/server.toml" --log-format json "$@"
