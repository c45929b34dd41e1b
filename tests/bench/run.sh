#!/usr/bin/env bash
# The benchmarks behind docs/performance.md: `./dev bench [NAME]`, or tests/bench/run.sh BUILD_DIR [NAME].
# NAME is one of: step, dp-overhead, refactorize, accountant, memory, wire, features, dashboard. Without it all run, one after the other.
# What is compared is run alternately in one go, and medians are printed, so that a busy machine slows both sides.
# REPEATS (default 5) says how often. Bash and awk only; the PyTorch yardstick needs python3-torch, and is skipped without
# it.
set -euo pipefail
export LC_ALL=C

source_directory=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${1:?usage: run.sh BUILD_DIR [step|dp-overhead|refactorize|accountant|memory|wire|features|dashboard]}" && pwd)
only=${2:-}
repeats=${REPEATS:-5}
shared=${TRIBUTARY_SHARED:-$source_directory/../shared}
export TRIBUTARY_BASE=${TRIBUTARY_BASE:-$source_directory/base/roberta-mini-imdb}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/tributary-bench-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$source_directory"

heading() { printf '\n%s\n%s\n' "$1" "${1//?/-}"; }
skip() { printf '  skipped: %s\n' "$1"; }
median() { sort -g | awk '{ value[NR] = $1 } END { print NR % 2 ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'; }
spread() { sort -g | awk 'NR == 1 { low = $1 } { high = $1 } END { printf "%g to %g", low, high }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }
# number_of KEY: the first number of that key in the JSON on standard input.
number_of() { grep -o "\"$1\":[-+0-9.eE]*" | head -1 | cut -d: -f2; }

# engine_bench NAME: runs one benchmark for about a second; its CSV row, with "samples/s" as the column before the last.
engine_bench() {
  "$build/bench/engine_bench" --benchmark_filter="^$1\$|^$1/" --benchmark_min_time="${2:-1}" --benchmark_format=csv 2>/dev/null | tail -1
}
samples_per_second() { engine_bench "training_step/$1" | awk -F, '{ print $(NF - 1) }'; }
milliseconds() { engine_bench "$1" "${2:-1}" | awk -F, '{ print $3 }'; }

# python_with_torch: the interpreter that can import torch (Debian's package serves /usr/bin/python3 alone).
python_with_torch() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -c 'import torch' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}

bench_step() {
  heading "step: DP-SGD on LoRA-B, batch 128, SST-2-like lengths, 2 threads: samples per second"
  local yardstick=$shared/bench/torch_cpu_dp_lora.py python="" round
  local variants=(dp_fp32 plain_fp32 dp_bf16 plain_bf16)
  if [[ ! -f $yardstick ]]; then
    skip "PyTorch beside it: $yardstick is not there (set TRIBUTARY_SHARED)"
  elif ! python=$(python_with_torch); then
    skip "PyTorch beside it: no python3 with torch (apt-get install python3-torch)"
  elif [[ $(readlink -f /usr/lib/*/libblas.so.3) == */blas/libblas.so* ]]; then
    # Debian's PyTorch takes whichever BLAS the system names; the reference one makes it thirty times as slow.
    skip "PyTorch beside it: it would run on the reference BLAS (apt-get install libopenblas0-pthread)"
    python=""
  fi
  for ((round = 0; round < repeats; ++round)); do
    for variant in "${variants[@]}"; do TRIBUTARY_THREADS=2 samples_per_second "$variant" >>"$scratch/$variant"; done
    [[ -n $python ]] || continue
    "$python" "$yardstick" "$TRIBUTARY_BASE" --threads 2 --steps 4 | sed 's/.*, \([0-9]*\) samples.*/\1/' >>"$scratch/torch_dp"
    "$python" "$yardstick" "$TRIBUTARY_BASE" --threads 2 --steps 4 --no-dp | sed 's/.*, \([0-9]*\) samples.*/\1/' >>"$scratch/torch_plain"
  done
  printf '  %-14s %10s   %-18s %s\n' "" "median" "spread" "over PyTorch"
  for variant in "${variants[@]}" torch_dp torch_plain; do
    [[ -s $scratch/$variant ]] || continue
    local reference=$scratch/torch_${variant%%_*} over=""
    [[ -s $reference && $variant != torch_* ]] && over=$(ratio "$(median <"$scratch/$variant")" "$(median <"$reference")")x
    printf '  %-14s %10.0f   %-18s %s\n' "$variant" "$(median <"$scratch/$variant")" "$(spread <"$scratch/$variant")" "$over"
  done
}

bench_dp_overhead() {
  heading "dp-overhead: a private step over ours without privacy, 2 threads: milliseconds"
  local round precision
  for ((round = 0; round < 2 * repeats; ++round)); do
    for precision in fp32 bf16; do
      for kind in dp plain; do
        TRIBUTARY_THREADS=2 milliseconds "training_step/${kind}_$precision" 0.5 >>"$scratch/overhead_${kind}_$precision"
      done
      ratio "$(tail -1 "$scratch/overhead_dp_$precision")" "$(tail -1 "$scratch/overhead_plain_$precision")" >>"$scratch/overhead_$precision"
      echo >>"$scratch/overhead_$precision"
    done
  done
  printf '  %-6s %10s %10s %8s   %s\n' "" "private" "plain" "ratio" "spread of the pairs' ratios"
  for precision in fp32 bf16; do
    printf '  %-6s %10.1f %10.1f %8.3f   %s\n' "$precision" "$(median <"$scratch/overhead_dp_$precision")" \
      "$(median <"$scratch/overhead_plain_$precision")" "$(median <"$scratch/overhead_$precision")" \
      "$(spread <"$scratch/overhead_$precision")"
  done
}

bench_refactorize() {
  heading "refactorize: 48 adapters of 1024x1024 at rank 8, one core: milliseconds"
  local round
  for ((round = 0; round < repeats; ++round)); do
    TRIBUTARY_THREADS=1 milliseconds refactorize_48_adapters 0.5 >>"$scratch/refactorize"
  done
  printf '  median %.2f, spread %s\n' "$(median <"$scratch/refactorize")" "$(spread <"$scratch/refactorize")"
}

# accountant_bench FILTER: "milliseconds of processor time, name" of each benchmark whose name begins so, slowest last.
accountant_bench() {
  "$build/bench/accountant_bench" --benchmark_filter="^$1" --benchmark_min_time=0.2 --benchmark_format=csv 2>/dev/null |
    awk -F, 'NR > 1 { gsub(/"/, "", $1); print $4, $1 }' | sort -g
}

bench_accountant() {
  heading "accountant: tight epsilon and calibration over the reference tables, one core: milliseconds of processor time"
  local what
  printf '  %-30s %6s %10s %10s   %s\n' "" cases median worst "worst case"
  for what in tight_epsilon/steps_100000/ tight_epsilon/ calibrate/; do
    accountant_bench "$what" >"$scratch/accountant"
    printf '  %-30s %6d %10.1f %10.1f   %s\n' "$what" "$(wc -l <"$scratch/accountant")" \
      "$(cut -d' ' -f1 "$scratch/accountant" | median)" "$(tail -1 "$scratch/accountant" | cut -d' ' -f1)" \
      "$(tail -1 "$scratch/accountant" | cut -d' ' -f2)"
  done
}

# A job whose rounds cost the same however many sites there are: ten of them, eight records a step.
simulate_sites() {
  "$build/bin/trib" simulate experiments/fedsvd/quick.toml --clients "$1" --seed 1 --threads 2 --json \
    --set job.rounds=3 --set job.evaluate_every=3 --set selection.clients_per_round=10 --set training.batch_size=8 \
    --set training.local_steps=2 --set evaluation.limit=100 --set simulate.dirichlet_alpha=1000 \
    --set simulate.min_records=1 --set privacy.epsilon=64 2>/dev/null
}

bench_memory() {
  heading "memory: peak of \`trib simulate\` with 10 sites a round: bytes"
  local sites report
  printf '  %6s %14s %10s\n' sites "peak memory" "seconds"
  for sites in 10 1000; do
    report=$(simulate_sites "$sites")
    number_of peak_memory_bytes <<<"$report" >"$scratch/memory_$sites"
    printf '  %6d %14d %10.1f\n' "$sites" "$(<"$scratch/memory_$sites")" "$(number_of seconds <<<"$report")"
  done
  printf '  ratio  %14s\n' "$(ratio "$(<"$scratch/memory_1000")" "$(<"$scratch/memory_10")")"
}

# bytes_per_contribution DIRECTION: mean bytes a site and round, over the report's rounds, on standard input.
bytes_per_contribution() {
  grep -o '"contributions":[0-9]*,"weight":[^}]*' | awk -F'[:,]' -v key="\"bytes_$1\"" '
    { for (i = 1; i < NF; ++i) { if ($i == "\"contributions\"") sites += $(i + 1); if ($i == key) bytes += $(i + 1) } }
    END { printf "%.1f", bytes / sites }'
}

# compare_wire JOB SETTINGS…: what travels over TLS between daemons, beside the tensors of a simulation of the same job,
# where nothing travels.
compare_wire() {
  local job=$1 direction wire tensors all_wire=0 all_tensors=0
  shift
  "$build/bin/trib" demo --job "$job" --private-only --json --dir "$scratch/demo" "$@" >"$scratch/demo.json" 2>"$scratch/demo.log" ||
    { tail -3 "$scratch/demo.log" >&2; return 1; }
  "$build/bin/trib" simulate "$job" --clients 3 --json "$@" >"$scratch/tensors.json" 2>/dev/null
  printf '  %-5s %12s %12s %8s\n' "" "on the wire" "tensors" "ratio"
  for direction in down up; do
    wire=$(bytes_per_contribution "$direction" <"$scratch/demo.json")
    tensors=$(bytes_per_contribution "$direction" <"$scratch/tensors.json")
    all_wire=$(awk -v a="$all_wire" -v b="$wire" 'BEGIN { print a + b }')
    all_tensors=$(awk -v a="$all_tensors" -v b="$tensors" 'BEGIN { print a + b }')
    printf '  %-5s %12.0f %12.0f %8s\n' "$direction" "$wire" "$tensors" \
      "$([[ $tensors == 0* ]] && echo - || ratio "$wire" "$tensors")"
  done
  printf '  %-5s %12.0f %12.0f %8s\n' both "$all_wire" "$all_tensors" "$(ratio "$all_wire" "$all_tensors")"
}

bench_wire() {
  heading "wire: TLS bytes a site and round beside the tensors' own, 3 daemons on the loopback: bytes"
  if [[ ! -x $build/bin/trib-server || ! -x $build/bin/trib-client ]]; then
    skip "trib-server and trib-client are not in $build/bin"
    return
  fi
  local common=(--set selection.minimum_clients=3 --set selection.expected_clients=3
    --set "evaluation.file=$source_directory/datasets/clinc150/test.tsv")
  echo "  LoRA, private (experiments/fedsvd/quick.toml)"
  compare_wire experiments/fedsvd/quick.toml "${common[@]}" --set job.rounds=4 --set job.evaluate_every=4 \
    --set training.local_steps=1 --set evaluation.limit=20
  local width=5000 triangle
  triangle=$((8 * width * (width + 1) / 2))
  echo "  sums of the closed form, buffer $width, 150 classes (experiments/analytic_cil/quick.toml); XᵀX's triangle: $triangle"
  compare_wire experiments/analytic_cil/quick.toml "${common[@]}" --set job.rounds=2 --set protocol.phases=1 \
    --set buffer.width=$width --set evaluation.limit=100
  echo "  the same, private"
  compare_wire experiments/analytic_cil/quick.toml "${common[@]}" --set job.rounds=1 --set protocol.phases=1 \
    --set protocol.steps_per_phase=1 --set buffer.width=$width --set evaluation.limit=100 --set privacy.enabled=true \
    --set privacy.epsilon=8
}

bench_features() {
  heading "features: frozen backbones, beside what large matrix products reach in the same run"
  local round
  for ((round = 0; round < repeats; ++round)); do
    for backbone in roberta-mini-imdb squeezenet-1.0; do
      "$build/bench/feature_bench" speed "${DEVICE:-cpu}" "$source_directory/base/$backbone" | sed 's/^/  /'
    done
  done | sort
}

bench_dashboard() {
  heading "dashboard: a job of 100 sites over 200 rounds: the API while it trains, the page in Chromium"
  local minutes=${MINUTES:-2} chromium="" server
  chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
  if ! command -v node >/dev/null || [[ -z $chromium || ! -d server/dashboard/node_modules/playwright-core ]]; then
    skip "the page: Node, its packages (npm ci in server/dashboard) or Chromium are missing"
    "$build/bench/http_bench" 100 200 20
    return
  fi
  "$build/bench/http_bench" 100 200 20 $((60 * minutes + 60)) >"$scratch/api" 2>&1 &
  server=$!
  until grep -q '^TRIBUTARY_URL=' "$scratch/api"; do
    kill -0 "$server" 2>/dev/null || { cat "$scratch/api" >&2; return 1; }
    sleep 1
  done
  grep -v '^TRIBUTARY_URL=' "$scratch/api"
  env $(grep '^TRIBUTARY_URL=' "$scratch/api") CHROMIUM="$chromium" TRIBUTARY_MINUTES="$minutes" node tests/browser/measure.mjs
  kill "$server"
}

printf '%s, %s processors, load %s\n' "$(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)" "$(nproc)" \
  "$(cut -d' ' -f1-3 /proc/loadavg)"
sections=(step dp-overhead refactorize accountant memory wire features dashboard)
if [[ -n $only && " ${sections[*]} " != *" $only "* ]]; then
  echo "there is no benchmark \"$only\"; there are: ${sections[*]}" >&2
  exit 2
fi
for section in "${sections[@]}"; do
  if [[ -z $only || $only == "$section" ]]; then "bench_${section//-/_}"; fi
done
