#!/usr/bin/env bash
# Prints results.md from the runs of run.sh: tables.sh OUT. Called by run.sh.
set -euo pipefail
export LC_ALL=C
out=$1

# One line a run and seed: name, seed, A_AUC, A_avg, A_last, forgetting, bytes up. The numbers of "result" come first in a
# report, the job's own bytes last.
runs=$(mktemp)
trap 'rm -f "$runs"' EXIT
shopt -s nullglob
for report in "$out"/*.json; do echo "$report"; done | xargs -r awk '
  function first(key) { return match($0, "\"" key "\":[-+0-9.eE]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) : "-" }
  FNR == 1 { name = FILENAME; sub(/.*\//, "", name); sub(/\.json$/, "", name); seed = name; sub(/.*-/, "", seed)
             sub(/-[0-9]+$/, "", name); bytes = $0; sub(/.*"bytes_up":/, "", bytes); sub(/[^-+0-9.eE].*/, "", bytes)
             print name, seed, first("A_AUC"), first("A_avg"), first("A_last"), first("forgetting"), bytes }' | sort -k1,1 -k2,2n >"$runs"

count() { awk -v name="$1" '$1 == name { n++ } END { print n + 0 }' "$runs"; }
# column NAME KEY: "81.23 ± 0.45", per cent; mean and sample standard deviation over seeds.
column() {
  awk -v name="$1" -v key="$2" 'BEGIN { split("- - A_AUC A_avg A_last forgetting", keys, " "); for (i in keys) if (keys[i] == key) at = i }
    $1 == name { x = 100 * $at; n++; s += x; q += x * x }
    END { if (n == 0) print "-"; else if (n == 1) printf "%.2f\n", s
          else { m = s / n; v = (q - n * m * m) / (n - 1); printf "%.2f ± %.2f\n", m, sqrt(v > 0 ? v : 0) } }' "$runs"
}
megabytes() { awk -v name="$1" '$1 == name { s += $7; n++ } END { if (n) printf "%.1f", s / n / 1e6 }' "$runs"; }
# apart NAME OTHER: the largest difference of a metric, in points, of two runs at the same seed.
apart() {
  awk -v one="$1" -v two="$2" '$1 == one { for (i = 3; i < 7; i++) a[$2, i] = $i; seeds[$2] }
    $1 == two { for (i = 3; i < 7; i++) b[$2, i] = $i }
    END { for (s in seeds) for (i = 3; i < 7; i++) if ((s, i) in b) { n++; d = 100 * (a[s, i] - b[s, i]); if (d < 0) d = -d; if (d > m) m = d }
          if (n) printf "%.2f", m; else printf "-" }' "$runs"
}
# weights_apart NAME OTHER: the largest relative distance of two runs' weights at the same seed, ‖A − B‖ / ‖A‖, and of how many
# seeds where they are not five.
weights_apart() {
  local model other
  for model in "$out/$1"-*.model; do
    other=$out/$2-${model##*-}
    [[ -d $other ]] && paste <(weights "$model") <(weights "$other")
    echo end
  done | awk '$1 == "end" { if (size > 0) { n++; d = sqrt(apart / size); if (d > m) m = d }; size = apart = 0; next }
    { d = $1 - $2; apart += d * d; size += $1 * $1 } END { printf !n ? "-" : m == 0 ? "0" : n == 5 ? "%.0e" : "%.0e (%d)", m, n }'
}
# The float64 numbers of a model without a centre, one a line, after the file's header.
weights() {
  local header
  header=$(od -An -t u8 -N8 "$1/model.safetensors")
  od -An -v -t f8 -w8 -j $((8 + header)) "$1/model.safetensors"
}
name_of() {
  case $1 in
    clinc150) echo "CLINC150, 150 intents, 5 phases" ;;
    clinc150-10) echo "CLINC150, 150 intents, 10 phases" ;;
    domains) echo "CLINC150, 10 domains, 5 phases" ;;
    banking77) echo "Banking77, 77 intents, 5 phases" ;;
    cifar10) echo "CIFAR-10, 5 phases" ;;
  esac
}
sites_of() { [[ $1 == 1 ]] && echo "1 site, all records" || echo "$1 sites, Dirichlet $2"; }
sets="clinc150 clinc150-10 domains banking77 cifar10"

cat <<'TEXT'
# Results

Written by `experiments/analytic_cil/run.sh`; accuracy in per cent on the test set's exposed classes, mean ± sample
standard deviation over seeds (each seed another stream, another split and another random layer). What the columns are is in
[tasks/analytic_cil](../../tasks/analytic_cil/README.md#metrics). Texts: roberta-mini-imdb, mean of the last layer (256);
pictures: SqueezeNet 1.0 (512). CIFAR-10 is a lossy JPEG copy of 20,000 + 4,000 of its pictures, not to be compared with
published accuracy.

## Not private: neither sites nor heterogeneity change anything

Buffer 1,000; two rounds a phase; gamma 3 (CIFAR-10: 100), of which a third or three times as much moves A_last by about a point at
most. *Apart*: the largest difference of any of the four metrics from 6 sites with Dirichlet 0.1 at the same seed, in points.
*Weights apart*: of the two models at the end, ‖A − B‖ / ‖A‖, the largest of all seeds (in brackets how many, where not five):
float64 rounds the sums of other parts differently. Bytes are those of the tensors, before they are packed.

| | | seeds | A_AUC | A_avg | A_last | forgetting | apart | weights apart | MB up, all sites |
|---|---|---|---|---|---|---|---|---|---|
TEXT
for set in $sets; do
  for split in 1-1 6-0.1 6-0.01 100-0.1 100-0.01; do
    run=$set-exact-$split
    [[ $(count "$run") -gt 0 ]] || continue
    echo "| $(name_of "$set") | $(sites_of "${split%%-*}" "${split#*-}") | $(count "$run") | $(column "$run" A_AUC) | $(column "$run" A_avg) | $(column "$run" A_last) | $(column "$run" forgetting) | $(apart "$run" "$set-exact-6-0.1") | $(weights_apart "$run" "$set-exact-6-0.1") | $(megabytes "$run") |"
  done
done
cat <<'TEXT'

## Private: A_last by epsilon, sites and heterogeneity

Delta 1e-5; one round a phase, each charged; no random layer; features less the mean of public items and cut to norm 1. Public
are CLINC150's validation texts and, for want of others and without their labels, Banking77's test texts and CIFAR-10's test
pictures. `ridge.class_sums_weight` and `ridge.noise_margin` are 4 and 2 for intents and for 100 sites, 2 and 1 for 10 classes at
6 sites, chosen on the same data without a charge. Every site adds its own noise in every round, so 100 sites have 4.1 times the
noise of 6. A seed fixes the noise of every site, so that Dirichlet 0.1 and 0.01 end alike here, too: the sums do not depend on
the split. In brackets the seeds where they are not five. *Without noise*: the same job, cut to norm 1, gamma 1.

| | | epsilon 1 | epsilon 3 | epsilon 8 | without noise |
|---|---|---|---|---|---|
TEXT
cell() {
  local seeds
  seeds=$(count "$1")
  [[ $seeds -gt 0 ]] || { echo -; return; }
  echo "$(column "$1" "$2")$([[ $seeds == 5 ]] || echo " ($seeds)")"
}
for set in $sets; do
  for split in 6-0.1 6-0.01 100-0.1 100-0.01; do
    [[ $(($(count "$set-dp8-$split") + $(count "$set-dp3-$split") + $(count "$set-dp1-$split"))) -gt 0 ]] || continue
    line="| $(name_of "$set") | $(sites_of "${split%%-*}" "${split#*-}")"
    for epsilon in 1 3 8; do line+=" | $(cell "$set-dp$epsilon-$split" A_last)"; done
    echo "$line | $([[ $split == 6-0.1 ]] && cell "$set-dpnone-$split" A_last) |"
  done
done
echo
echo "The stream under privacy, 6 sites, Dirichlet 0.1:"
echo
echo "| | epsilon | A_AUC | A_avg | A_last | forgetting | MB up, all sites |"
echo "|---|---|---|---|---|---|---|"
for set in $sets; do
  for epsilon in 1 3 8 none; do
    run=$set-dp$epsilon-6-0.1
    [[ $(count "$run") -gt 0 ]] || continue
    echo "| $(name_of "$set") | $([[ $epsilon == none ]] && echo "no noise" || echo "$epsilon") | $(cell "$run" A_AUC) | $(cell "$run" A_avg) | $(cell "$run" A_last) | $(cell "$run" forgetting) | $(megabytes "$run") |"
  done
done
cat <<'TEXT'

## Private, beside gradients: A_last

Federated DP-SGD on a linear classifier over the same centred features: 3 rounds a phase, each one step on all records, clip 1;
at most the bytes of the closed form. Its learning rate is the best of at least six at the first seed for each epsilon and
number of sites (on CLINC150's validation set; on the others' test sets), which is not charged. Where the smallest was best,
A_last had levelled off: small steps all but add up, and the scale of a linear classifier changes no answer. One step on all
records is a sum over records, too, so but for rounding the split changes nothing here either.

| | | epsilon 1 | epsilon 3 | epsilon 8 |
|---|---|---|---|---|
TEXT
for set in $sets; do
  for split in 6-0.1 6-0.01 100-0.1 100-0.01; do
    [[ $(count "$set-dpsgd8-$split") -gt 0 ]] || continue
    for kind in dp dpsgd; do
      line="| $(name_of "$set"), $(sites_of "${split%%-*}" "${split#*-}") | $([[ $kind == dp ]] && echo "closed form" || echo "DP-SGD")"
      for epsilon in 1 3 8; do line+=" | $(cell "$set-$kind$epsilon-$split" A_last)"; done
      echo "$line |"
    done
  done
done
if [[ $(count clinc150-options-layer) -gt 0 ]]; then
  cat <<'TEXT'

## What helps under privacy (CLINC150 but where another is named; epsilon 8, 6 sites, Dirichlet 0.1)

| | seeds | A_AUC | A_last |
|---|---|---|---|
TEXT
  option() { [[ $(count "$2") -eq 0 ]] || echo "| $1 | $(count "$2") | $(column "$2" A_AUC) | $(column "$2" A_last) |"; }
  option "random layer of 256, features as they are" clinc150-options-layer
  option "no random layer" clinc150-options-plain
  option "no random layer, class sums 4 times as loud" clinc150-options-weight
  option "no random layer, public centre" clinc150-options-center
  option "no random layer, public centre, class sums 4 times as loud (5 rounds)" clinc150-dp8-6-0.1
  option "the same in one phase: 1 round" clinc150-options-round
  for width in 64 128 256 512 1000; do
    option "the same in 5 rounds over a random layer of $width" "clinc150-options-$width"
  done
  option "Banking77 with its own public texts" banking77-dp8-6-0.1
  option "Banking77 with CLINC150's texts for a centre" banking77-options-other
fi
cat <<'TEXT'

## Not private, beside gradients on the same features

60 rounds a phase: at most the bytes of the closed form. SGD: one local step a round on 128 expected records; FedAvg: 20 steps.
The learning rate is the best of at least five at the first seed, and never the largest tried (run.sh says on what). 100 sites
have the rate of 6. *All bytes*: as many rounds a phase as the bytes of the closed form pay for. Gradients learn on the backbone's
features. So does the closed form with *no random layer*, with gamma chosen by generalized cross-validation; it sends 9 to 27 % of
the bytes.

| | | seeds | A_AUC | A_avg | A_last | forgetting | MB up, all sites |
|---|---|---|---|---|---|---|---|
TEXT
for set in $sets; do
  for split in 6-0.1 6-0.01 100-0.1 100-0.01; do
    for kind in exact narrow sgd fedavg fedavgc sgd-full fedavg-full fedavgc-full; do
      run=$set-$kind-$split
      [[ $(count "$run") -gt 0 && $(count "$set-sgd-$split") -gt 0 ]] || continue
      rate=$(cat "$out/$set-$kind.rate" 2>/dev/null || true)
      case $kind in
        exact) what="closed form" ;;
        narrow) what="closed form, no random layer" ;;
        sgd) what="SGD, rate $rate" ;;
        fedavg) what="FedAvg, rate $rate" ;;
        fedavgc) what="FedAvg, public centre, rate $rate" ;;
        sgd-full) what="SGD, all bytes, rate $rate" ;;
        fedavg-full) what="FedAvg, all bytes, rate $rate" ;;
        fedavgc-full) what="FedAvg, public centre, all bytes, rate $rate" ;;
      esac
      echo "| $(name_of "$set"), $(sites_of "${split%%-*}" "${split#*-}") | $what | $(count "$run") | $(column "$run" A_AUC) | $(column "$run" A_avg) | $(column "$run" A_last) | $(column "$run" forgetting) | $(megabytes "$run") |"
    done
  done
done
