#!/usr/bin/env bash
# Makes the viewer's token with which Prometheus reads /metrics, where there is none yet. It lies in a volume in memory
# that only Prometheus mounts besides, so a new one is made, and the old one withdrawn, when the containers were stopped.
# The CA's certificate, by which Prometheus knows the aggregator, lies beside it.
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

file=/run/tributary/observe/token
cp "$federation/ca/ca.pem" /run/tributary/observe/ca.pem
[[ -s "$file" ]] && exit 0
trib token revoke prometheus --server "$federation" >/dev/null 2>&1 || true # there was none
umask 0077
trib token create prometheus --role viewer --server "$federation" >"$file.new" ||
  fail "no viewer's token was made: does this version's \`trib token\` say why?"
# Only the token: what else is printed is for people.
grep -om1 'trib-view\.[A-Za-z0-9_-]*' "$file.new" | tr -d '\n' >"$file.token"
rm "$file.new"
mv "$file.token" "$file"
log info "Prometheus has a viewer's token"
