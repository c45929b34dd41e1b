#!/usr/bin/env bash
# Reproduces the tables of this folder's README.
#
#   experiments/fedsvd/run.sh [--data DIR] [--out DIR] [--seeds "1 2 3 4 5"] [EXPERIMENT…]
#
# Experiments: quick, sst2 (four algorithms, private), sst2-plain (four algorithms, without privacy), banking77, imdb.
# Default: sst2 and sst2-plain. DIR of --data holds the original files, unpacked (default: experiments/fedsvd/data):
#   sst2/train.tsv, sst2/dev.tsv         GLUE's SST-2, header "sentence<TAB>label"
#   banking77/train.csv, banking77/test.csv
#   imdb/train.tsv, imdb/test.tsv        header "sentence<TAB>label"; see below for dividing one file
# Every run leaves OUT/EXPERIMENT-ALGORITHM-SEED.json (what `trib simulate --json` prints); a run whose file is there is
# not repeated. The table is made of these files. TRIB names the program (default: build/release/bin/trib).
#
# One labelled IMDB file becomes two by every tenth review:
#   awk 'NR == 1 || NR % 10 != 0' all.tsv > train.tsv;  awk 'NR == 1 || NR % 10 == 0' all.tsv > test.tsv
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
trib=${TRIB:-$root/build/release/bin/trib}
data=$here/data
out=$here/results
seeds="1 2 3 4 5"
experiments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --data) data=$(cd "$2" && pwd); shift 2 ;;
    --out) out=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    -h | --help) sed -n '2,/^set -e/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    -*) echo "unknown option $1; see $0 --help" >&2; exit 2 ;;
    *) experiments+=("$1"); shift ;;
  esac
done
[[ ${#experiments[@]} -gt 0 ]] || experiments=(sst2 sst2-plain)
[[ -x $trib ]] || { echo "no program at $trib: run ./dev build, or set TRIB" >&2; exit 1; }
mkdir -p "$out"

# experiment → set (folder of --data, training file, test file; none: inside the repository) and algorithms
files() {
  case $1 in
    quick) ;;
    sst2 | sst2-plain) echo sst2 train.tsv dev.tsv ;;
    banking77) echo banking77 train.csv test.csv ;;
    imdb) echo imdb train.tsv test.tsv ;;
    *) echo "no experiment $1; there are quick, sst2, sst2-plain, banking77, imdb" >&2; exit 2 ;;
  esac
}
algorithms() {
  case $1 in
    sst2 | sst2-plain) echo fedsvd ffa-orthonormal ffa fedavg ;;
    *) echo fedsvd ;;
  esac
}

# The number at a key of the "result" object of a run. The document is one line of JSON that trib wrote.
result() { sed -n 's/.*"result":{\([^}]*\)}.*/\1/p' "$1" | tr ',' '\n' | sed -n "s/^\"$2\"://p"; }
# "81.23 ± 0.45" (per cent; mean and sample standard deviation) of the numbers on standard input.
spread() {
  awk '{ x = 100 * $1; n++; s += x; q += x * x }
       END { if (n == 0) print "-"; else { m = s / n; v = n > 1 ? (q - n * m * m) / (n - 1) : 0
             printf "%.2f ± %.2f\n", m, sqrt(v > 0 ? v : 0) } }'
}

for experiment in "${experiments[@]}"; do
  set_files=$(files "$experiment")
  arguments=()
  if [[ -n $set_files ]]; then
    read -r set_name train test <<<"$set_files"
    for file in "$data/$set_name/$train" "$data/$set_name/$test"; do
      [[ -f $file ]] || { echo "$experiment needs $file; see $0 --help" >&2; exit 1; }
    done
    arguments=(--set "simulate.train=$data/$set_name/$train" --set "evaluation.file=$data/$set_name/$test")
  fi
  for algorithm in $(algorithms "$experiment"); do
    for seed in $seeds; do
      report=$out/$experiment-$algorithm-$seed.json
      [[ -s $report ]] && continue
      echo "$experiment, $algorithm, seed $seed" >&2
      (cd "$root" && "$trib" simulate "$here/$experiment.toml" --json --set "training.algorithm=$algorithm" \
        --set "job.seed=$seed" "${arguments[@]}") >"$report.part"
      mv "$report.part" "$report"
    done
  done
done

echo "| experiment | algorithm | seeds | running average | mean of the last ten | spread of the last ten | last round |"
echo "|---|---|---|---|---|---|---|"
for experiment in "${experiments[@]}"; do
  for algorithm in $(algorithms "$experiment"); do
    reports=()
    for seed in $seeds; do reports+=("$out/$experiment-$algorithm-$seed.json"); done
    column() { for report in "${reports[@]}"; do result "$report" "$1"; done | spread; }
    echo "| $experiment | $algorithm | ${#reports[@]} | $(column accuracy_average) | $(column accuracy_mean_last_10)" \
      "| $(column accuracy_std_last_10) | $(column accuracy) |"
  done
done
