#!/usr/bin/env bash
# A site's client: joins at the first start, with a one-time token, and then only runs.
# A real site is given its token and its data:
#   TRIBUTARY_TOKEN_FILE  file with the token (a secret that may be taken away once the site has joined)
#   TRIBUTARY_DATA_FILE   the site's records           TRIBUTARY_RECORDS      their declared, public number
# A simulated one (TRIBUTARY_SPOOL) asks the `invite` service for both, under its own container's name.
# Both: TRIBUTARY_EPSILON_CAP (8), TRIBUTARY_DELTA, TRIBUTARY_DATA_SET (default), TRIBUTARY_MODELS, TRIBUTARY_DEVICE,
#   TRIBUTARY_DRAIN_SECONDS (60).
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"

# Asks for a token and a share of the data, and moves the answer to this container's own volume. One rename takes the
# answer out of everybody's sight; whatever happens between two steps, the next start goes on from there.
take_from_spool() {
  local name=$1 mine=$2 patience=$((SECONDS + ${TRIBUTARY_INVITE_TIMEOUT:-300}))
  until [[ -d "$spool/requests" ]]; do
    ((SECONDS < patience)) || fail "no invite service has opened $spool: is its container running?" 3
    sleep 0.2
  done
  if [[ ! -d "$spool/claimed/$name" ]]; then
    : >"$spool/requests/$name"
    log info "asked for an invite as $name"
    until mv -T "$spool/answers/$name" "$spool/claimed/$name" 2>/dev/null; do
      [[ ! -e "$spool/refused/$name" ]] || fail "$(cat "$spool/refused/$name")" 4
      ((SECONDS < patience)) || fail "no invite came for $name within ${TRIBUTARY_INVITE_TIMEOUT:-300} s" 3
      sleep 0.2
    done
  fi
  rm -rf "$mine.new"
  cp -r "$spool/claimed/$name" "$mine.new"
  mv -T "$mine.new" "$mine"
  rm -rf "$spool/claimed/$name"
}

join() {
  local token data records
  if [[ -n "$spool" ]]; then
    local mine=/var/lib/tributary/invite
    # The name is kept: a container that is made anew over the same volume stays the same site.
    [[ -s /var/lib/tributary/name ]] || echo "site-$(cat /etc/hostname)" >/var/lib/tributary/name
    [[ -d "$mine" ]] || take_from_spool "$(cat /var/lib/tributary/name)" "$mine"
    token=$(cat "$mine/token") data=/var/lib/tributary/records.csv records=$(cat "$mine/records")
    [[ -e "$data" ]] || { cp "$mine/share.csv" "$data.new" && mv "$data.new" "$data"; }
  else
    need TRIBUTARY_TOKEN_FILE TRIBUTARY_DATA_FILE TRIBUTARY_RECORDS
    token=$(cat "$TRIBUTARY_TOKEN_FILE") data=$TRIBUTARY_DATA_FILE records=$TRIBUTARY_RECORDS
  fi
  local options=(--dir "$site" --data "$data" --records "$records" --data-set "${TRIBUTARY_DATA_SET:-default}"
    --epsilon-cap "${TRIBUTARY_EPSILON_CAP:-8}" --device "${TRIBUTARY_DEVICE:-auto}")
  [[ -n "${TRIBUTARY_DELTA:-}" ]] && options+=(--delta "$TRIBUTARY_DELTA")
  for models in ${TRIBUTARY_MODELS:-}; do options+=(--models "$models"); done
  # The aggregator may just be restarting; a used token with the same key gets the same certificate.
  local try code
  for try in {1..20}; do
    code=0
    trib-client join "$token" "${options[@]}" >&2 || code=$?
    [[ $code -eq 3 ]] || break
    log warn "the aggregator cannot be reached (try $try of 20)"
    sleep 1
  done
  [[ $code -eq 0 ]] || fail "this site has not joined (exit code $code): what trib-client said stands above" "$code"
  rm -rf /var/lib/tributary/invite
}

# client.toml is the last file that joining writes.
[[ -e "$site/client.toml" ]] || join
exec trib-client run --dir "$site" --quiet --log-format json --drain-timeout "${TRIBUTARY_DRAIN_SECONDS:-60}" "$@"
