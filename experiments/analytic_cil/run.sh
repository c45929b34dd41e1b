#!/usr/bin/env bash
# Reproduces the tables and plots of this folder's results.md.
#
#   experiments/analytic_cil/run.sh [--data DIR] [--out DIR] [--seeds "1 2 3 4 5"] [--threads N] [EXPERIMENT…]
#
# Experiments: heterogeneity (CLINC150, 6 and 100 sites, Dirichlet 0.1 and 0.01), phases (5 and 10), banking77, privacy
# (epsilon 1, 3, 8 and none), width (buffers under privacy), probe (federated SGD and FedAvg on the same features within
# the same bytes), cifar10 (SqueezeNet), none (only
# writes the tables of what has run). Default: heterogeneity phases privacy width probe.
# DIR of --data holds banking77/train.csv and test.csv (experiments/data/prepare.sh), and cifar10/train and test with a
# folder of JPEG files for each class. Every run leaves OUT/NAME.json, what `trib simulate --json` prints; a run whose file is there is not repeated. The
# tables are made of these files and written to results.md, stream.svg and privacy.svg. TRIB names the program (default:
# build/release/bin/trib).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
trib=${TRIB:-$root/build/release/bin/trib}
data=$root/experiments/data/sets
out=$here/results
seeds="1 2 3 4 5"
threads=1
experiments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --data) data=$(cd "$2" && pwd); shift 2 ;;
    --out) out=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    -h | --help) sed -n '2,/^set -e/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    -*) echo "unknown option $1; see $0 --help" >&2; exit 2 ;;
    *) experiments+=("$1"); shift ;;
  esac
done
[[ ${#experiments[@]} -gt 0 ]] || experiments=(heterogeneity phases privacy width probe)
[[ -x $trib ]] || { echo "no program at $trib: run ./dev build, or set TRIB" >&2; exit 1; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
export TRIBUTARY_FEATURES_CACHE=${TRIBUTARY_FEATURES_CACHE:-$out/features}

# run NAME JOB SITES ARGUMENTS…: one simulation a seed.
run() {
  local name=$1 job=$2 sites=$3 seed report
  shift 3
  for seed in $seeds; do
    report=$out/$name-$seed.json
    [[ -s $report ]] && continue
    echo "$name, seed $seed" >&2
    (cd "$root" && "$trib" simulate "$here/$job.toml" --clients "$sites" --threads "$threads" --json \
      --set "job.seed=$seed" "$@") >"$report.part" 2>"$report.log" || { cat "$report.log" >&2; exit 1; }
    rm -f "$report.log"
    mv "$report.part" "$report"
  done
}
# The number at a key of the "result" object of a run, or at a key of the document itself.
result() { sed -n 's/.*"result":{\([^}]*\)}.*/\1/p' "$1" | tr ',' '\n' | sed -n "s/^\"$2\"://p"; }
top() { grep -o "\"$2\":[0-9.eE+-]*" "$1" | tail -1 | cut -d: -f2; }
# "81.23 ± 0.45": per cent; mean and sample standard deviation of the numbers on standard input.
spread() {
  awk '{ x = 100 * $1; n++; s += x; q += x * x }
       END { if (n == 0) print "-"; else { m = s / n; v = n > 1 ? (q - n * m * m) / (n - 1) : 0
             printf "%.2f ± %.2f\n", m, sqrt(v > 0 ? v : 0) } }'
}
# row LABEL NAME: a table's row of the runs of that name.
row() {
  local reports=() seed
  for seed in $seeds; do [[ -s $out/$2-$seed.json ]] && reports+=("$out/$2-$seed.json"); done
  [[ ${#reports[@]} -gt 0 ]] || return 0
  column() { for report in "${reports[@]}"; do result "$report" "$1"; done | spread; }
  mean() { for report in "${reports[@]}"; do top "$report" "$1"; done | awk '{ s += $1 } END { printf "%.1f", s / NR / 1e6 }'; }
  echo "| $1 | ${#reports[@]} | $(column A_AUC) | $(column A_avg) | $(column A_last) | $(column forgetting) | $(mean bytes_up) |"
}
header() {
  printf '\n## %s\n\n' "$1"
  echo "| | seeds | A_AUC | A_avg | A_last | forgetting | MB up, all sites |"
  echo "|---|---|---|---|---|---|---|"
}
plain=(--set privacy.enabled=false)
private() { echo --set privacy.enabled=true --set "privacy.epsilon=$1" --set "selection.minimum_clients=1"; }

for experiment in "${experiments[@]}"; do
  case $experiment in
    heterogeneity)
      for sites in 6 100; do for alpha in 0.1 0.01; do
        run "clinc-5-$sites-$alpha" quick "$sites" "${plain[@]}" --set "simulate.dirichlet_alpha=$alpha" --set simulate.min_records=1
      done; done
      run clinc-5-1 quick 1 "${plain[@]}" --set selection.minimum_clients=1 --set selection.expected_clients=1 ;;
    phases)
      run clinc-10-6-0.1 quick 6 "${plain[@]}" --set job.rounds=20 --set protocol.phases=10 ;;
    privacy)
      for sites in 6; do for epsilon in 1 3 8; do
        run "clinc-dp-$sites-$epsilon" quick "$sites" $(private $epsilon) --set job.rounds=5 \
          --set protocol.steps_per_phase=1 --set buffer.width=256
      done; done
      run clinc-dp-6-none quick 6 "${plain[@]}" --set privacy.clip_norm=1.0 --set job.rounds=5 \
        --set protocol.steps_per_phase=1 --set buffer.width=256 --set ridge.gamma=1.0 ;;
    width)
      for width in 64 128 256 512 1000; do
        run "clinc-width-$width" quick 6 $(private 8) --set job.rounds=5 --set protocol.steps_per_phase=1 \
          --set "buffer.width=$width"
      done ;;
    probe)
      # In a phase a site of quick.toml sends 10.4 MB (two rounds of a triangle of 1,000 and 150 sums, float64); a head of
      # 256 × 150 in float32 is 154 kB, so the probe has 60 rounds. The learning rate is the best of this grid at the first seed, by A_last on the validation
      # set; see results.md.
      rates=${PROBE_RATES:-"0.3 1 3 10"}
      for kind in sgd fedavg; do
        steps=$([[ $kind == sgd ]] && echo 1 || echo 20)
        best="" best_score=-1
        for rate in $rates; do
          seeds_kept=$seeds; seeds=$(echo "$seeds" | cut -d' ' -f1)
          run "clinc-probe-$kind-rate-$rate" probe 6 --set "training.learning_rate=$rate" \
            --set "training.local_steps=$steps" --set evaluation.file=../../datasets/clinc150/valid.tsv
          score=$(result "$out/clinc-probe-$kind-rate-$rate-$seeds.json" A_last); seeds=$seeds_kept
          if awk "BEGIN { exit !($score > $best_score) }"; then best=$rate best_score=$score; fi
        done
        echo "$best" >"$out/clinc-probe-$kind.rate"
        run "clinc-probe-$kind" probe 6 --set "training.learning_rate=$best" --set "training.local_steps=$steps"
      done ;;
    banking77)
      for file in train test; do
        [[ -f $data/banking77/$file.csv ]] || { echo "banking77 needs $data/banking77/$file.csv; see $0 --help" >&2; exit 1; }
      done
      run banking-5-6-0.1 banking77 6 --set "simulate.train=$data/banking77/train.csv" \
        --set "evaluation.file=$data/banking77/test.csv" ;;
    cifar10)
      for part in train test; do
        [[ -d $data/cifar10/$part ]] || { echo "cifar10 needs $data/cifar10/$part/CLASS/*.jpg; see $0 --help" >&2; exit 1; }
      done
      run cifar-5-6-0.1 cifar10 6 --set "simulate.train=$data/cifar10/train" \
        --set "evaluation.file=$data/cifar10/test" ;;
    none) ;;
    *) echo "no experiment $experiment; see $0 --help" >&2; exit 2 ;;
  esac
done

{
  echo "# Results"
  echo
  echo "Written by \`experiments/analytic_cil/run.sh\`; accuracy in per cent on the test set's exposed classes, mean ± sample"
  echo "standard deviation over seeds (each seed another stream and another random layer). What the columns are is in"
  echo "[tasks/analytic_cil](../../tasks/analytic_cil/README.md#metrics). Backbone roberta-mini-imdb, mean of the last layer."
  header "CLINC150, 150 intents, 5 phases: sites and heterogeneity (buffer 1,000, gamma 3)"
  row "one site, all records" clinc-5-1
  for sites in 6 100; do for alpha in 0.1 0.01; do row "$sites sites, Dirichlet $alpha" "clinc-5-$sites-$alpha"; done; done
  header "Phases (6 sites, Dirichlet 0.1)"
  row "CLINC150, 5 phases" clinc-5-6-0.1
  row "CLINC150, 10 phases" clinc-10-6-0.1
  row "Banking77, 77 intents, 5 phases" banking-5-6-0.1
  row "CIFAR-10 (lossy JPEG, 20,000 of it), SqueezeNet, 5 phases" cifar-5-6-0.1
  header "Privacy (CLINC150, 6 sites, Dirichlet 0.1, 5 rounds, buffer 256, delta 1e-5)"
  for epsilon in 1 3 8; do row "epsilon $epsilon" "clinc-dp-6-$epsilon"; done
  row "features cut to norm 1, no noise, gamma 1" clinc-dp-6-none
  header "Buffer width under privacy (epsilon 8)"
  for width in 64 128 256 512 1000; do row "$width" "clinc-width-$width"; done
  header "Beside gradients (CLINC150, 5 phases, 6 sites, Dirichlet 0.1, not private)"
  row "analytic, one pass" clinc-5-6-0.1
  for kind in sgd fedavg; do
    rate=$(cat "$out/clinc-probe-$kind.rate" 2>/dev/null || echo "?")
    row "$([[ $kind == sgd ]] && echo "federated SGD, one step a round" || echo "FedAvg, 20 steps a round"), 60 rounds a phase, learning rate $rate" "clinc-probe-$kind"
  done
  echo
  echo "A learning rate at the end of its grid (0.3 to 10) may be too small: then the row is a lower bound."
} >"$here/results.md.part"
mv "$here/results.md.part" "$here/results.md"
"$here/plot.sh" "$out" "$seeds" "$here"
echo "wrote $here/results.md, stream.svg and privacy.svg" >&2
