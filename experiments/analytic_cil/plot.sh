#!/usr/bin/env bash
# Draws the runs of run.sh as SVG: plot.sh OUT TARGET. Called by run.sh.
#   TARGET/stream.svg   accuracy on exposed classes over the stream, mean over seeds
#   TARGET/privacy.svg  A_last over epsilon
# Means are over the seeds that have run.
set -euo pipefail
out=$1 target=$2

reports() { find "$out" -maxdepth 1 -name '*.json' | grep -E "/$1-[0-9]+\.json$" || true; }

# points NAME: "share-of-the-stream accuracy", mean over seeds.
points() {
  for report in $(reports "$1"); do
    grep -o '"round":[0-9]*,"metrics":{[^}]*}' "$report" |
      sed -n 's/^"round":\([0-9]*\),.*"accuracy":\([0-9.eE+-]*\)[,}].*/\1 \2/p'
  done | awk '{ s[$1] += $2; n[$1]++; if ($1 > last) last = $1 }
              END { for (r = 1; r <= last; r++) if (n[r]) print r / last, s[r] / n[r] }'
}
# last NAME: mean A_last, from 0 to 1.
last() {
  for report in $(reports "$1"); do
    sed -n 's/.*"result":{\([^}]*\)}.*/\1/p' "$report" | tr ',' '\n' | sed -n 's/^"A_last"://p'
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

{ series "closed form, 1 site" clinc150-exact-1-1; series "closed form, 6 sites, 0.1" clinc150-exact-6-0.1
  series "closed form, 100 sites, 0.01" clinc150-exact-100-0.01; series "FedAvg" clinc150-fedavg-6-0.1
  series "FedAvg, centred" clinc150-fedavgc-6-0.1; series "federated SGD" clinc150-sgd-6-0.1; } |
  draw "CLINC150, 5 phases: accuracy on exposed classes" "share of the stream" >"$target/stream.svg"
# private NAME RUNS: A_last over epsilon.
private() {
  local values="" epsilon y
  for epsilon in 1 3 8; do
    y=$(last "${2/EPSILON/$epsilon}")
    [[ -z $y ]] || values+="$(awk "BEGIN { print $epsilon / 8, $y }");"
  done
  [[ -z $values ]] || printf '%s\t%s\n' "$1" "$values"
}
{ private "150 intents, 6 sites" clinc150-dpEPSILON-6-0.1; private "150 intents, 100 sites" clinc150-dpEPSILON-100-0.1
  private "10 domains, 6 sites" domains-dpEPSILON-6-0.1; private "10 domains, 100 sites" domains-dpEPSILON-100-0.1
  private "Banking77, 6 sites" banking77-dpEPSILON-6-0.1; private "CIFAR-10, 6 sites" cifar10-dpEPSILON-6-0.1; } |
  draw "A_last under privacy, Dirichlet 0.1" "epsilon, 0 to 8" >"$target/privacy.svg"
