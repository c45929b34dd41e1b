#!/usr/bin/env bash
# Reproduces the tables and plots of this folder's results.md.
#
#   experiments/analytic_cil/run.sh [--data DIR] [--out DIR] [--seeds "1 2 3 4 5"] [--sites "6 100"]
#                                   [--alphas "0.1 0.01"] [--threads N] [SET[:KIND]…]
#
# Sets: clinc150 (5 phases), clinc150-10 (10 phases), domains (CLINC150's 10 domains instead of its 150 intents),
# banking77, cifar10. Default: clinc150 clinc150-10 domains, whose data is in this repository.
# Kinds: exact (not private), private (epsilon 1, 3 and 8, and without noise), options (what helps under privacy, at
# epsilon 8; clinc150 and banking77 alone), probe (federated SGD and FedAvg on the same features within the same bytes),
# probefull (the same with as many rounds as fill these bytes, at 6 sites and alpha 0.1; after probe), dpprobe (federated
# DP-SGD). Default: all. Of 100 sites, SGD takes about a minute a run and FedAvg up to four.
# "tables" in place of a set runs nothing and writes the tables of what there is.
# Each kind runs for every number of sites, Dirichlet alpha and seed of the options; a row with fewer seeds says so.
#
# DIR of --data holds banking77/train.csv and test.csv (experiments/data/prepare.sh), and cifar10/train and test with a
# folder of JPEG files for each class. Every run leaves OUT/NAME.json, what `trib simulate --json` prints; a run whose
# file is there is not repeated. The tables are made of these files and written to results.md, stream.svg and
# privacy.svg. TRIB names the program (default: build/release/bin/trib). What the simulated sites would keep on disk
# goes to /dev/shm where that is a folder (with TMPDIR elsewhere): a run with 100 sites otherwise waits for the disk.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
trib=${TRIB:-$root/build/release/bin/trib}
data=$root/experiments/data/sets
out=$here/results
seeds="1 2 3 4 5"
sites_list="6 100"
alphas="0.1 0.01"
threads=1
wanted=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --data) data=$(cd "$2" && pwd); shift 2 ;;
    --out) out=$2; shift 2 ;;
    --seeds) seeds=$2; shift 2 ;;
    --sites) sites_list=$2; shift 2 ;;
    --alphas) alphas=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    -h | --help) sed -n '2,/^set -e/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    -*) echo "unknown option $1; see $0 --help" >&2; exit 2 ;;
    *) wanted+=("$1"); shift ;;
  esac
done
[[ ${#wanted[@]} -gt 0 ]] || wanted=(clinc150 clinc150-10 domains)
[[ -x $trib ]] || { echo "no program at $trib: run ./dev build, or set TRIB" >&2; exit 1; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
export TRIBUTARY_FEATURES_CACHE=${TRIBUTARY_FEATURES_CACHE:-$out/features}
if [[ -z ${TMPDIR:-} && -w /dev/shm ]]; then export TMPDIR=/dev/shm; fi

# run NAME JOB SITES ALPHA ARGUMENTS…: one simulation a seed, OUT/NAME-SEED.json; its model, too, in OUT/NAME-SEED.model,
# where keep_models is set.
keep_models=
run() {
  local name=$1 job=$2 sites=$3 alpha=$4 seed report
  shift 4
  for seed in $seeds; do
    report=$out/$name-$seed.json
    [[ -s $report ]] && continue
    echo "$name, seed $seed" >&2
    (cd "$root" && "$trib" simulate "$job" --clients "$sites" --threads "$threads" --json \
      --set "job.seed=$seed" --set simulate.min_records=1 --set "simulate.dirichlet_alpha=$alpha" \
      ${keep_models:+--export "${report%.json}.model"} "$@") >"$report.part" 2>"$report.log" || { cat "$report.log" >&2; exit 1; }
    rm -f "$report.log"
    mv "$report.part" "$report"
  done
}

# use SET: its job files, phases, arguments, and what is public for the private jobs.
use() {
  set_arguments=() margin=2 weight=4 phases=5  # few records a class: noise counts most in the class sums
  case $1 in
    clinc150) job=$here/quick.toml probe=$here/probe.toml center=../../datasets/clinc150/valid.tsv ;;
    clinc150-10) job=$here/quick.toml probe=$here/probe.toml center=../../datasets/clinc150/valid.tsv phases=10 ;;
    domains)
      job=$here/quick.toml probe=$here/probe.toml center=../../datasets/clinc150/valid.tsv margin=1 weight=2
      set_arguments=(--set data.label_column=label --set 'model.labels=["auto_and_commute", "banking", "credit_cards",
        "home", "kitchen_and_dining", "meta", "small_talk", "travel", "utility", "work"]') ;;
    banking77)
      job=$here/banking77.toml probe=$out/banking77-probe.toml center=$data/banking77/test.csv
      set_arguments=(--set "simulate.train=$data/banking77/train.csv" --set "evaluation.file=$data/banking77/test.csv")
      needs "$data/banking77/train.csv" "$data/banking77/test.csv" ;;
    cifar10)
      job=$here/cifar10.toml probe=$out/cifar10-probe.toml center=$data/cifar10/test margin=1 weight=2
      set_arguments=(--set "simulate.train=$data/cifar10/train" --set "evaluation.file=$data/cifar10/test")
      needs "$data/cifar10/train" "$data/cifar10/test" ;;
    *) echo "no set $1; see $0 --help" >&2; exit 2 ;;
  esac
  # A probe has no ridge regression, and its file no such section.
  [[ $probe == "$here"/* ]] || sed '/^\[ridge\]/,/^$/d' "$job" >"$probe"
  # Two rounds a phase; under privacy one, since each costs.
  exact=("${set_arguments[@]}" --set privacy.enabled=false --set "job.rounds=$((2 * phases))" --set "protocol.phases=$phases")
  bounded=("${set_arguments[@]}" --set selection.minimum_clients=1 --set "job.rounds=$phases" --set "protocol.phases=$phases"
    --set protocol.steps_per_phase=1)
  center_on "$weight" "$margin"
}
center_on() {
  centered=(--set buffer.width=0 --set "features.center_file=$center" --set "ridge.class_sums_weight=$1" --set "ridge.noise_margin=$2")
}
needs() {
  local path
  for path in "$@"; do [[ -e $path ]] || { echo "$path is missing; see $0 --help" >&2; exit 1; }; done
}
at_epsilon() { private=(--set privacy.enabled=true --set "privacy.epsilon=$1"); }
# With the same clip, and no noise.
noiseless=(--set privacy.enabled=false --set privacy.clip_norm=1.0 --set ridge.gamma=1.0)

run_exact() {
  local sites alpha keep_models=yes
  for sites in $sites_list; do for alpha in $alphas; do run "$1-exact-$sites-$alpha" "$job" "$sites" "$alpha" "${exact[@]}"; done; done
  run "$1-exact-1-1" "$job" 1 1 "${exact[@]}" --set selection.minimum_clients=1 --set selection.expected_clients=1
}
run_private() {
  local sites alpha epsilon
  for sites in $sites_list; do
    # Every site adds its own noise, so that of many it is loud whatever the set.
    [[ $sites -le 6 ]] && center_on "$weight" "$margin" || center_on 4 2
    for alpha in $alphas; do for epsilon in 8 3 1; do
      at_epsilon $epsilon
      run "$1-dp$epsilon-$sites-$alpha" "$job" "$sites" "$alpha" "${bounded[@]}" "${centered[@]}" "${private[@]}"
    done; done
  done
  center_on "$weight" "$margin"
  run "$1-dpnone-6-0.1" "$job" 6 0.1 "${bounded[@]}" "${centered[@]}" "${noiseless[@]}"
}
run_options() {
  local width plain=(--set buffer.width=0 --set "ridge.noise_margin=$margin")
  at_epsilon 8
  if [[ $1 == banking77 ]]; then  # a centre of other people's texts
    run banking77-options-other "$job" 6 0.1 "${bounded[@]}" "${centered[@]}" "${private[@]}" \
      --set features.center_file=../../datasets/clinc150/valid.tsv
  fi
  [[ $1 == clinc150 ]] || return 0
  run clinc150-options-layer "$job" 6 0.1 "${bounded[@]}" "${private[@]}" --set buffer.width=256
  run clinc150-options-plain "$job" 6 0.1 "${bounded[@]}" "${private[@]}" "${plain[@]}"
  run clinc150-options-center "$job" 6 0.1 "${bounded[@]}" "${private[@]}" "${plain[@]}" --set "features.center_file=$center"
  run clinc150-options-weight "$job" 6 0.1 "${bounded[@]}" "${private[@]}" "${plain[@]}" --set ridge.class_sums_weight=4.0
  run clinc150-options-round "$job" 6 0.1 "${bounded[@]}" "${private[@]}" "${centered[@]}" --set job.rounds=1 --set protocol.phases=1
  for width in 64 128 256 512 1000; do
    run "clinc150-options-$width" "$job" 6 0.1 "${bounded[@]}" "${private[@]}" "${centered[@]}" --set "buffer.width=$width"
  done
}
# search NAME SITES RATES ARGUMENTS…: `best`, the learning rate of the probe with the highest A_last at the first seed and alpha
# 0.1, also left in OUT/NAME.rate. While it is the largest tried, the next one (1, 3, 10, …) is tried, too.
search() {
  local name=$1 sites=$2 rates=($3) rate score best_score=-1 seeds=1
  shift 3
  best=""
  while [[ ${#rates[@]} -gt 0 ]]; do
    rate=${rates[0]} rates=("${rates[@]:1}")
    run "$name-rate-$rate" "$probe" "$sites" 0.1 "$@" --set "training.learning_rate=$rate"
    score=$(result "$out/$name-rate-$rate-1.json" A_last)
    if awk "BEGIN { exit !($score > $best_score) }"; then
      best=$rate best_score=$score
      [[ ${#rates[@]} -gt 0 ]] || rates=("$(awk -v r="$rate" 'BEGIN { printf "%g", r * (r ~ /3/ ? 10 / 3 : 3) }')")
    fi
  done
  echo "$best" >"$out/$name.rate"
}
# In a phase a site of an exact run sends two triangles of 1,000 and its class sums, float64: 10.4 MB for 150 classes and
# 8.2 MB for 10. A head over the backbone's features is at most 154 kB in float32: 60 rounds a phase are within that. The
# learning rate is the best by A_last at the first seed, 6 sites and alpha 0.1, on CLINC150's validation set; the other sets
# have none, and there it is the best on the test set, which favours the probe.
# with_probe KIND ROUNDS: `common` and `judged` for a probe with so many rounds a phase.
with_probe() {
  common=("${set_arguments[@]}" --set privacy.enabled=false --set job.task='"linear_probe"' --set job.rounds=$(($2 * phases))
    --set "job.evaluate_every=$2" --set "protocol.steps_per_phase=$2" --set "protocol.phases=$phases" --set buffer.width=0
    --set training.batch_size=128 --set "training.local_steps=$([[ $1 == sgd ]] && echo 1 || echo 20)")
  [[ $1 == fedavgc ]] && common+=(--set "features.center_file=$center")
  judged=()
  [[ $set == clinc150* ]] && judged=(--set evaluation.file=../../datasets/clinc150/valid.tsv)
  return 0
}
run_probe() {
  local set=$1 kind rates best sites alpha common judged
  [[ $set == domains ]] && return 0
  for kind in sgd fedavg fedavgc; do
    case $kind in sgd) rates="3 10 30 100 300" ;; fedavg) rates="1 3 10 30 100 300" ;; *) rates="10 30 100 300 1000" ;; esac
    with_probe "$kind" 60
    search "$set-$kind" 6 "$rates" "${common[@]}" "${judged[@]}"
    for sites in $sites_list; do for alpha in $alphas; do
      run "$set-$kind-$sites-$alpha" "$probe" "$sites" "$alpha" "${common[@]}" --set "training.learning_rate=$best"
    done; done
  done
  # The closed form on just what these see: no random layer, and gamma by generalized cross-validation.
  for sites in $sites_list; do for alpha in $alphas; do
    run "$set-narrow-$sites-$alpha" "$job" "$sites" "$alpha" "${exact[@]}" --set buffer.width=0 --set ridge.selection='"gcv"'
  done; done
}
# As many rounds as the bytes of the closed form pay for: 117 of Banking77's head of 79 kB, 398 of CIFAR-10's of 20 kB. The
# search for the rate begins at a third, one and three times the one before.
run_probefull() {
  local set=$1 kind rounds best common judged
  case $set in banking77) rounds=117 ;; cifar10) rounds=398 ;; *) return 0 ;; esac
  for kind in sgd fedavg fedavgc; do
    with_probe "$kind" "$rounds"
    search "$set-$kind-full" 6 "$(awk '{ printf "%g %g %g", $1 / 3, $1, 3 * $1 }' "$out/$set-$kind.rate")" "${common[@]}"
    run "$set-$kind-full-6-0.1" "$probe" 6 0.1 "${common[@]}" --set "training.learning_rate=$best"
  done
}
# The same probe under privacy, with the public centre: 3 rounds a phase, each with one step on all records, which is what
# serves it best of what fits into the bytes of the closed form (2.9 MB a site and job for 150 classes; a head is 154 kB).
# The rate is searched for every epsilon and number of sites, since these say how loud the noise of the mean is.
run_dpprobe() {
  local set=$1 epsilon rates="0.3 1 3 10 30 100" sites alpha judged=() common best
  [[ $set == clinc150* || $set == domains ]] && judged=(--set evaluation.file=../../datasets/clinc150/valid.tsv)
  [[ $set == cifar10 ]] && rates="0.003 0.01 0.03 0.1 0.3 1 3 10"
  [[ $set == domains ]] && rates="0.03 0.1 0.3 1 3 10 30 100"
  common=("${set_arguments[@]}" --set job.task='"linear_probe"' --set "job.rounds=$((3 * phases))" --set job.evaluate_every=3
    --set selection.minimum_clients=1 --set protocol.steps_per_phase=3 --set "protocol.phases=$phases" --set buffer.width=0
    --set "features.center_file=$center" --set training.batch_size=1000000 --set training.local_steps=1)
  for sites in $sites_list; do for epsilon in 8 3 1; do
    at_epsilon $epsilon
    search "$set-dpsgd$epsilon-$sites" "$sites" "$rates" "${common[@]}" "${private[@]}" "${judged[@]}"
    for alpha in $alphas; do
      run "$set-dpsgd$epsilon-$sites-$alpha" "$probe" "$sites" "$alpha" "${common[@]}" "${private[@]}" \
        --set "training.learning_rate=$best"
    done
  done; done
}
# The number at a key of the "result" object of a run, or at a key of the document itself.
result() { sed -n 's/.*"result":{\([^}]*\)}.*/\1/p' "$1" | tr ',' '\n' | sed -n "s/^\"$2\"://p"; }
top() { grep -o "\"$2\":[0-9.eE+-]*" "$1" | tail -1 | cut -d: -f2; }

for entry in "${wanted[@]}"; do
  [[ $entry == tables ]] && continue
  name=${entry%%:*} kinds=${entry#"$name"}
  use "$name"
  for kind in ${kinds#:} $([[ -n $kinds ]] || echo exact private options probe probefull dpprobe); do
    case $kind in
      exact | private | options | probe | probefull | dpprobe) "run_$kind" "$name" ;;
      *) echo "no kind $kind; see $0 --help" >&2; exit 2 ;;
    esac
  done
done

"$here/tables.sh" "$out" >"$here/results.md.part"
mv "$here/results.md.part" "$here/results.md"
"$here/plot.sh" "$out" "$here"
echo "wrote $here/results.md, stream.svg and privacy.svg" >&2
