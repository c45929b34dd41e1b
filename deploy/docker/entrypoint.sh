#!/usr/bin/env bash
# What a container of this image does first: `aggregator`, `client`, `invite`, `job`, `observe-token`, `chaos-kill`,
# `chaos-delay`, or any
# of the programs with its arguments. Each takes its settings from TRIBUTARY_* variables (docs/deployment.md); the
# programs themselves read their TOML files only.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")

role=${1:-help}
[[ $# -gt 0 ]] && shift
case "$role" in
  aggregator | client | invite | job | observe-token | chaos-kill | chaos-delay) exec "$here/$role.sh" "$@" ;;
  trib | trib-server | trib-client) exec "$role" "$@" ;;
  help | --help | -h)
    cat <<'TEXT'
roles:     aggregator, client; for simulations: invite, job, observe-token, chaos-kill, chaos-delay
programs:  trib, trib-server, trib-client, with their arguments
example:   docker run --rm tributary trib --help
TEXT
    ;;
  *)
    echo "entrypoint.sh: there is no role or program '$role'; see: docker run --rm tributary help" >&2
    exit 2
    ;;
esac
