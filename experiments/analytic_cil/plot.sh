#!/usr/bin/env bash
# Draws the runs of run.sh as SVG: plot.sh OUT "SEEDS" TARGET. Called by run.sh.
#   TARGET/stream.svg   accuracy on exposed classes over the stream, mean over seeds
#   TARGET/privacy.svg  A_last over epsilon
set -euo pipefail
out=$1 seeds=$2 target=$3

# points NAME: "share-of-the-stream accuracy", mean over the seeds that have run.
points() {
  for seed in $seeds; do
    [[ -s $out/$1-$seed.json ]] || continue
    grep -o '"round":[0-9]*,"metrics":{[^}]*}' "$out/$1-$seed.json" |
      sed -n 's/^"round":\([0-9]*\),.*"accuracy":\([0-9.eE+-]*\)[,}].*/\1 \2/p'
  done | awk '{ s[$1] += $2; n[$1]++; if ($1 > last) last = $1 }
              END { for (r = 1; r <= last; r++) if (n[r]) print r / last, s[r] / n[r] }'
}
# last NAME: mean A_last in per cent.
last() {
  for seed in $seeds; do
    [[ -s $out/$1-$seed.json ]] && sed -n 's/.*"result":{\([^}]*\)}.*/\1/p' "$out/$1-$seed.json" | tr ',' '\n' |
      sed -n 's/^"A_last"://p'
  done | awk '{ s += $1; n++ } END { if (n) print s / n }'
}
# draw TITLE X-LABEL: series on standard input, "name<TAB>x y;x y;…" with x and y from 0 to 1.
draw() {
  awk -F '\t' -v title="$1" -v xlabel="$2" 'BEGIN {
      split("#1b6ca8 #c0392b #2e8b57 #8e44ad #d68910 #444444", colour, " "); w = 640; h = 400; l = 60; t = 40; pw = 400; ph = 300
      printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n", w, h
      printf "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"%d\" y=\"22\" font-size=\"14\">%s</text>\n", l, title
      for (i = 0; i <= 10; i += 2) { y = t + ph - ph * i / 10
        printf "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d %%</text>\n", l, y, l + pw, y, l - 6, y + 4, 10 * i }
      printf "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", l + pw / 2, t + ph + 34, xlabel }
    { n++; c = colour[(n - 1) % 6 + 1]; m = split($2, p, ";"); path = ""
      for (i = 1; i <= m; i++) { if (split(p[i], v, " ") < 2) continue
        x = l + pw * v[1]; y = t + ph - ph * v[2]; path = path (path == "" ? "M" : "L") sprintf("%.1f %.1f ", x, y)
        if (m <= 12) printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x, y, c }
      printf "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", path, c
      printf "<text x=\"%d\" y=\"%d\" fill=\"%s\">%s</text>\n", l + pw + 12, t + 12 + 18 * n, c, $1 }
    END { print "</svg>" }'
}
series() { local values; values=$(points "$2" | tr '\n' ';'); [[ -z $values ]] || printf '%s\t%s\n' "$1" "$values"; }

{ series "analytic, 1 site" clinc-5-1; series "analytic, 6 sites, 0.1" clinc-5-6-0.1
  series "analytic, 100 sites, 0.01" clinc-5-100-0.01; series "FedAvg probe" clinc-probe-fedavg
  series "federated SGD probe" clinc-probe-sgd; } |
  draw "CLINC150, 5 phases: accuracy on exposed classes" "share of the stream" >"$target/stream.svg"
{ values=""
  for epsilon in 1 3 8; do
    y=$(last "clinc-dp-6-$epsilon"); [[ -z $y ]] || values+="$(awk "BEGIN { print $epsilon / 8, $y }");"
  done
  [[ -z $values ]] || printf 'analytic, buffer 256\t%s\n' "$values"
  y=$(last clinc-dp-6-none); [[ -z $y ]] || printf 'without noise\t0 %s;1 %s\n' "$y" "$y"; } |
  draw "CLINC150, 6 sites: A_last under privacy" "epsilon, 0 to 8" >"$target/privacy.svg"
