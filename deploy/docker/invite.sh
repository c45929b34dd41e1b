#!/usr/bin/env bash
# Simulations only: plays the operator who invites sites, and the world that gives each of them data of its own.
# Clients leave their names in the spool; when as many as are expected have come, the job's training data is dealt out
# to that many, and each gets a token of its own (one use, ten minutes) and its share. No secret is shared by two
# clients, the spool lives in memory, and a token is gone from it once its client has it.
#   TRIBUTARY_CLIENTS  how many; 0: all that come until none has come for TRIBUTARY_SETTLE_SECONDS (5)
#   TRIBUTARY_JOB      the job file, for its training data and mixture
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"
need TRIBUTARY_SPOOL TRIBUTARY_JOB

count_requests() { find "$spool/requests" -type f | wc -l; }

wait_for_clients() {
  local expected=${TRIBUTARY_CLIENTS:-0} settle=${TRIBUTARY_SETTLE_SECONDS:-5} before=0 since=$SECONDS now
  while true; do
    now=$(count_requests)
    [[ $now -eq $before ]] || { before=$now since=$SECONDS; }
    if ((expected > 0 ? now >= expected : now > 0 && SECONDS - since >= settle)); then return; fi
    sleep 0.2
  done
}

deal() {
  local names=("$spool"/requests/*) i
  rm -rf "$spool/shares" "$spool/making"
  # Below two lines of header: file and number of records.
  local shares
  mapfile -t shares < <(trib data split "$TRIBUTARY_JOB" --sites "${#names[@]}" --out "$spool/shares" | tail -n +3)
  [[ ${#shares[@]} -eq ${#names[@]} ]] || fail "${#shares[@]} shares were made for ${#names[@]} clients"
  mkdir -p "$spool/making"
  for i in "${!names[@]}"; do
    local name=${names[$i]##*/} share records
    read -r share records <<<"${shares[$i]}"
    mkdir "$spool/making/$name"
    # CLINC150 is public: here the exact number may be told.
    echo "$records" >"$spool/making/$name/records"
    mv "$share" "$spool/making/$name/share.csv"
    trib invite "$name" --valid-minutes 10 --server "$federation" >"$spool/making/$name/token" 2>/dev/null ||
      fail "the aggregator did not invite $name"
  done
  # All or none: a service that is killed in between deals again from the start, to the same clients.
  echo "${#names[@]}" >"$spool/making/.clients"
  mv "$spool/making/.clients" "$spool/clients"
  for i in "${!names[@]}"; do mv -T "$spool/making/${names[$i]##*/}" "$spool/answers/${names[$i]##*/}"; done
  rm -rf "$spool/shares" "$spool/making" "${names[@]}"
  log info "dealt the data out to ${#names[@]} clients and invited them"
}

mkdir -p "$spool"/{answers,claimed,refused}
mkdir -p "$spool/requests" # last: clients wait for it
if [[ ! -e "$spool/clients" ]]; then
  wait_for_clients
  deal
elif [[ -d "$spool/making" ]]; then # killed between two of the last renames
  for made in "$spool"/making/*/; do
    [[ -d "$made" ]] && mv -T "$made" "$spool/answers/$(basename "$made")"
  done
  rm -rf "$spool/shares" "$spool/making"
fi
for request in "$spool"/requests/*; do
  [[ -e "$request" && ! -d "$spool/answers/${request##*/}" ]] || continue
  echo "all data was dealt out to $(cat "$spool/clients") clients before ${request##*/} came: stop, and start again with --scale client=N" \
    >"$spool/refused/${request##*/}"
done
