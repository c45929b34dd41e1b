#!/usr/bin/env bash
# Exit 0: healthy. An aggregator answers its operators; a client is connected, as it last wrote down itself.
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

case "${TRIBUTARY_ROLE:-none}" in
  aggregator) exec trib sites --server "$federation" --json >/dev/null ;;
  client)
    status=$(cat "$site/status.json")
    [[ "$status" == *'"connection":{"state":"connected"'* ]] || fail "not connected: ${status:0:300}"
    ;;
  *) ;; # a command that comes to an end has its exit code
esac
