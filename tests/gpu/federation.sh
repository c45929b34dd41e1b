#!/usr/bin/env bash
# The whole system on one machine with a GPU, from an installed build: trib-server and three trib-client daemons, all
# computing on the same device, over TLS; CLINC150's domains, and SST-2 where its files are there, each to the end.
#
#   tests/gpu/federation.sh PREFIX [--device cuda] [--sst2 DIR] [--rounds N] [--out DIR]
#
# PREFIX is what `cmake --install BUILD --prefix PREFIX` made; DIR of --sst2 holds train.tsv and dev.tsv with the header
# "sentence<TAB>label". --rounds shortens SST-2's 100. For each job: every daemon says on which device it computes; the
# job finishes; every site's ledger verifies and is within its cap; the exported adapter, applied by `trib model
# evaluate`, has the accuracy that the aggregator reported (within 0.5 per cent: another batch rounds otherwise). Prints a table;
# exit code 1 if any of it does not hold.
set -euo pipefail
[[ $# -ge 1 ]] || { sed -n '2,/^set -e/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2; }
prefix=$(cd "$1" && pwd); shift
device=cuda sst2='' rounds=100 out=federation-run
while [[ $# -gt 0 ]]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --sst2) sst2=$(cd "$2" && pwd); shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    *) echo "unknown option $1; see $0" >&2; exit 2 ;;
  esac
done
trib=$prefix/bin/trib
share=$prefix/share/tributary
mkdir -p "$out"
out=$(cd "$out" && pwd)
failures=0
fail() { echo "FAILED: $*" >&2; failures=$((failures + 1)); }

# The last number at a key of a one-line JSON document.
number() { grep -o "\"$2\":[-0-9.eE+]*" "$1" | tail -1 | cut -d: -f2; }

table='| job | rounds | seconds | accuracy | running average | epsilon spent, largest | cap |
|---|---|---|---|---|---|---|'
# federation NAME JOB TEST TEXT_COLUMN [OVERRIDES…]
federation() {
  local name=$1 job=$2 test=$3 column=$4 run=$out/$1
  shift 4
  if ! "$trib" demo --job "$job" --models "$share/base" --dir "$run" --device "$device" --private-only --json \
    --set "evaluation.limit=0" "$@" >"$out/$name.json" 2>"$out/$name.err"; then
    fail "$name: $(tail -3 "$out/$name.err")"
    return
  fi
  local log wanted=${device%%:*}
  for log in "$run"/site-*.log; do
    grep -q "on $wanted" "$log" || fail "$name: $log does not say that it computes on $device"
  done
  local site largest=0 cap=0 spent
  for site in "$run"/site-?; do
    "$trib" privacy verify "$site" >"$out/verify" 2>&1 || fail "$name: $site's ledger: $(cat "$out/verify")"
    "$prefix/bin/trib-client" status --dir "$site" --json >"$out/status"
    spent=$(number "$out/status" epsilon_spent) cap=$(number "$out/status" epsilon_budget)
    awk -v s="$spent" -v c="$cap" 'BEGIN { exit !(s > 0 && s <= c) }' || fail "$name: $site spent $spent of $cap"
    largest=$(awk -v a="$largest" -v b="$spent" 'BEGIN { print (a > b ? a : b) }')
  done
  local accuracy average again
  accuracy=$(number "$out/$name.json" accuracy) average=$(number "$out/$name.json" accuracy_average)
  "$trib" model evaluate --base "$share/base/roberta-mini-imdb" --adapter "$run/adapter" --data "$test" \
    --text-column "$column" --label-column label --device "$device" --json >"$out/evaluated"
  again=$(number "$out/evaluated" accuracy)
  awk -v a="$average" -v b="$again" 'BEGIN { d = a - b; exit !(d < 0.005 && d > -0.005) }' ||
    fail "$name: the aggregator's running average has $average, the exported adapter $again"
  table+="
| $name | $(number "$out/$name.json" rounds_done) | $(number "$out/$name.json" seconds) | $accuracy | $average | $largest | $cap |"
}

federation clinc "$share/experiments/demo/clinc.toml" "$share/datasets/clinc150/test.tsv" text
if [[ -n $sst2 ]]; then
  federation sst2 "$share/experiments/fedsvd/sst2.toml" "$sst2/dev.tsv" sentence \
    --set "simulate.train=$sst2/train.tsv" --set "evaluation.file=$sst2/dev.tsv" --set job.evaluate_every=10 \
    --set "job.rounds=$rounds" --set privacy.rounds_per_client=0 --set selection.expected_clients=3
fi
echo "device: $(grep -ho 'site .site-1. on .*;' "$out"/*/site-1.log | tail -1)"
echo "$table"
[[ $failures -eq 0 ]]
