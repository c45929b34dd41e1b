#!/usr/bin/env bash
# Simulations only: submits the job once all clients are connected, follows it whatever dies meanwhile, and exits 0 if it
# finished. TRIBUTARY_JOB: the job file; TRIBUTARY_JOB_SET: overrides, SECTION.KEY=VALUE by blanks.
set -euo pipefail
# shellcheck source=deploy/docker/common.sh
source "$(dirname "$(readlink -f "$0")")/common.sh"
need TRIBUTARY_SPOOL TRIBUTARY_JOB

clients=$(cat "$spool/clients")
admin() { trib "$@" --server "$federation"; }

connected() { { admin sites --json 2>/dev/null || true; } | { grep -o '"connected":true' || true; } | wc -l; }

if [[ ! -s "$spool/job" ]]; then
  until [[ $(connected) -ge $clients ]]; do sleep 0.5; done
  # A client that is killed between its charge and its contribution has paid for a round that it sends nothing to: the
  # round goes on without it.
  overrides=(--set "selection.expected_clients=$clients" --set selection.minimum_clients=1)
  for override in ${TRIBUTARY_JOB_SET:-}; do overrides+=(--set "$override"); done
  submitted=$(admin job submit "$TRIBUTARY_JOB" "${overrides[@]}" --json)
  [[ "$submitted" =~ \"id\":\"([^\"]+)\" ]] || fail "no job id in: $submitted"
  echo "${BASH_REMATCH[1]}" >"$spool/job.new"
  mv "$spool/job.new" "$spool/job"
fi
id=$(cat "$spool/job")
log info "job $id is submitted for $clients clients"

said=
while true; do
  # While the aggregator is down, nothing is said.
  if report=$(admin job show "$id" --json 2>/dev/null); then
    # The job's own state stands before its sites'.
    state=unknown round=0
    if [[ "$report" =~ \"state\":\"([a-z]+)\" ]]; then state=${BASH_REMATCH[1]}; fi
    if [[ "$report" =~ \"rounds_done\":([0-9]+) ]]; then round=${BASH_REMATCH[1]}; fi
    if [[ "$state $round" != "$said" ]]; then
      log info "job $id: $state, $round rounds done"
      said="$state $round"
    fi
    case "$state" in
      finished)
        admin job show "$id" || true
        exit 0
        ;;
      failed | cancelled)
        admin job show "$id" || true
        fail "job $id $state"
        ;;
    esac
  fi
  sleep 1
done
