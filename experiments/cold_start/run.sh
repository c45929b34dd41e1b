#!/usr/bin/env bash
# Writes the tables of this folder's README.
#
#   experiments/cold_start/run.sh [--data DIR] [--out DIR] [--seeds "1 2 3 4 5"] [--set KEY=VALUE]… [EXPERIMENT…]
#
# Experiments: quick, ml-100k, ml-1m. Of each: the baselines and our model on one machine (cold_start_compare), the
# ablation of each part, the federation of the job file (`trib simulate`), and the epsilon curves: EXPERIMENT-private.toml
# with noise at the sites, EXPERIMENT-person.toml with one user a client and noise at the aggregator, at each of EPSILONS
# ("none": the same training, clipped, without noise).
# Default: quick. DIR of --data holds ml-100k/ and ml-1m/ with the original files, unpacked (default:
# experiments/cold_start/data; experiments/data/prepare.sh makes it).
# Every run leaves a file in OUT; a run whose file is there is not repeated.
# Other variables: BIN (programs, default build/release/bin), EPOCHS of the baselines at most (200), EPSILONS
# ("1 2 4 8 none"), PARTS (of "baselines ours ablation federated epsilon person"), METHODS (the baselines, of "popularity
# mf content dropoutnet clcrec").
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=${BIN:-$root/build/release/bin}
data=$here/data
out=$here/results
seeds="1 2 3 4 5"
epochs=${EPOCHS:-200}
epsilons=${EPSILONS:-1 2 4 8 none}
methods=${METHODS:-popularity mf content dropoutnet clcrec}
parts=${PARTS:-baselines ours ablation federated epsilon person}
experiments=()
settings=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --data) data=$(cd "$2" && pwd); shift 2 ;;
    --out) out=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --set) settings+=(--set "$2"); shift 2 ;;
    -h | --help) sed -n '2,/^set -e/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    -*) echo "unknown option $1; see $0 --help" >&2; exit 2 ;;
    *) experiments+=("$1"); shift ;;
  esac
done
[[ ${#experiments[@]} -gt 0 ]] || experiments=(quick)
[[ -x $bin/trib && -x $bin/cold_start_compare ]] || { echo "no programs in $bin: run ./dev build, or set BIN" >&2; exit 1; }
mkdir -p "$out"

compare() { # NAME METHOD SEED [ARGUMENT…]: one line of cold_start_compare, kept as OUT/NAME-SEED.tsv
  local name=$1 method=$2 seed=$3 file=$out/$1-$3.tsv
  shift 3
  [[ -s $file ]] && return
  echo "$name, seed $seed" >&2
  "$bin/cold_start_compare" "$job" "$method" --seeds "$seed" --epochs "$epochs" "${arguments[@]}" "$@" >"$file.part"
  mv "$file.part" "$file"
}
simulate() { # JOB NAME SEED [ARGUMENT…]: the result of trib simulate, kept as OUT/NAME-SEED.json
  local job=$1 name=$2 seed=$3 file=$out/$2-$3.json
  shift 3
  [[ -s $file ]] && return
  echo "$name, seed $seed" >&2
  "$bin/trib" simulate "$job" --json --seed "$seed" --set "split.seed=$((41 + seed))" "${arguments[@]}" "$@" >"$file.part"
  mv "$file.part" "$file"
}
curve() { # JOB PART LABEL: one row an epsilon, where the experiment has such a job
  local epsilon seed more
  [[ -f $1 ]] || return 0
  for epsilon in $epsilons; do
    more=(--set "privacy.epsilon=$epsilon")
    [[ $epsilon != none ]] || more=(--set privacy.enabled=false)
    for seed in $seeds; do simulate "$1" "$experiment-$2-$epsilon" "$seed" "${more[@]}"; done
    rows+=("$3, epsilon $epsilon|$experiment-$2-$epsilon")
  done
}
# The number at a key of the "result" object of a run. The document is one line of JSON that trib wrote.
result() { sed -n 's/.*"result":{\([^}]*\)}.*/\1/p' "$1" | tr ',' '\n' | sed -n "s/^\"$2\"://p"; }
# A column of a TSV by its header.
column() { awk -F'\t' -v name="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i } NR == 2 { print $c }' "$1"; }
spread() {
  awk '$1 != "-" { n++; s += $1; q += $1 * $1 }
       END { if (n == 0) print "-"; else { m = s / n; v = n > 1 ? (q - n * m * m) / (n - 1) : 0
             printf "%.4f ± %.4f", m, sqrt(v > 0 ? v : 0) } }'
}
row() { # LABEL NAME: means and deviations over the seeds
  local line="| $1 |" setting metric seed
  for setting in warm cold_item cold_user both_cold; do
    for metric in recall@20 ndcg@20; do
      line+=" $(for seed in $seeds; do
        if [[ -s $out/$2-$seed.tsv ]]; then column "$out/$2-$seed.tsv" "$setting $metric"
        elif [[ -s $out/$2-$seed.json ]]; then result "$out/$2-$seed.json" "$setting.$metric"; fi
      done | spread) |"
    done
  done
  echo "$line"
}

for experiment in "${experiments[@]}"; do
  job=$here/$experiment.toml
  [[ -f $job ]] || { echo "no experiment $experiment; there are quick, ml-100k, ml-1m" >&2; exit 2; }
  arguments=("${settings[@]}")
  [[ $experiment == quick ]] || arguments+=(--set "catalogue.directory=$data/$experiment")
  rows=()
  for part in $parts; do
    case $part in
      baselines)
        for method in $methods; do
          for seed in $seeds; do compare "$experiment-$method" "$method" "$seed"; done
          rows+=("$method|$experiment-$method")
        done ;;
      ours)
        for seed in $seeds; do compare "$experiment-ours" ours "$seed"; done
        rows+=("ours, centralized|$experiment-ours") ;;
      ablation)
        for off in gates fusion contrast item_content item_embedding user_attributes user_history; do
          more=()
          [[ $off != item_embedding ]] || more=(--set ablation.contrast=false)
          for seed in $seeds; do compare "$experiment-no-$off" ours "$seed" --set "ablation.$off=false" "${more[@]}"; done
          rows+=("ours without $off|$experiment-no-$off")
        done
        for off in item_dropout user_dropout; do
          for seed in $seeds; do compare "$experiment-no-$off" ours "$seed" --set "model.$off=0"; done
          rows+=("ours without $off|$experiment-no-$off")
        done ;;
      federated)
        for seed in $seeds; do simulate "$job" "$experiment-federated" "$seed"; done
        rows+=("ours, cross-silo|$experiment-federated") ;;
      epsilon) curve "$here/$experiment-private.toml" epsilon "ours, cross-silo, private settings" ;;
      person) curve "$here/$experiment-person.toml" person "ours, one user a client, noise at the aggregator" ;;
      *) echo "no part $part; see $0 --help" >&2; exit 2 ;;
    esac
  done
  echo "$experiment, seeds $seeds (mean ± standard deviation over the seeds)"
  echo
  echo "| | warm R@20 | N@20 | cold item R@20 | N@20 | cold user R@20 | N@20 | both cold R@20 | N@20 |"
  echo "|---|---|---|---|---|---|---|---|---|"
  for entry in "${rows[@]}"; do row "${entry%%|*}" "${entry##*|}"; done
  echo
done
