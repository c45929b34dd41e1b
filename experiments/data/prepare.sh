#!/usr/bin/env bash
# Unpacks SST-2, IMDB, Banking77 and MovieLens into the files that the job files of experiments/ name.
# Usage: experiments/data/prepare.sh SOURCE TARGET [SET…]   (README.md in this folder says what SOURCE must hold; SET is
# sst2, banking77, imdb, ml-100k or ml-1m; without any: the first three)
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
source_folder=$1 target=$2
sets=${*:3}
sets=" ${sets:-sst2 banking77 imdb} "
wanted() { [[ $sets == *" $1 "* ]]; }

# unpack FILE TARGET ROWS: SOURCE/FILE, or SOURCE/FILE.xz, as TARGET, which must then have ROWS records.
unpack() {
  local file="$source_folder/$1" out="$target/$2" rows=$3
  mkdir -p "$(dirname "$out")"
  if [[ -f $file.xz ]]; then
    xz -dc "$file.xz" >"$out.part"
  elif [[ -f $file ]]; then
    cp "$file" "$out.part"
  else
    echo "prepare.sh: neither $file nor $file.xz is there: see README.md for where to get it" >&2
    exit 1
  fi
  # Banking77 has newlines inside quoted fields: only lines outside quotes end a record.
  local found
  found=$(awk -v quoting="$([[ $out == *.csv ]] && echo 1 || echo 0)" '
    { if (quoting) quotes += gsub(/"/, "\""); if (quotes % 2 == 0) records++ }
    END { print records - (ARGV[1] ~ /\.(tsv|csv)\.part$/) }' "$out.part")
  if [[ $found -ne $rows ]]; then
    echo "prepare.sh: $file has $found records where $rows were expected: is it another version of the data set?" >&2
    exit 1
  fi
  mv "$out.part" "$out"
  echo "$out: $rows records"
}

if wanted sst2; then
  unpack sst2/SST-2_train.tsv sst2/train.tsv 67349
  unpack sst2/SST-2_dev.tsv sst2/dev.tsv 872
  unpack sst2/SST-2_test-labeled.tsv sst2/test.tsv 1821
fi
if wanted banking77; then
  unpack banking77/train.csv banking77/train.csv 10003
  unpack banking77/test.csv banking77/test.csv 3080
fi
if wanted imdb; then
  unpack imdb/train.tsv imdb/all.tsv 25000
  # IMDB's labelled half alone: every fifth review is held out as the public test set.
  awk -v train="$target/imdb/train.tsv" -v test="$target/imdb/test.tsv" '
    NR == 1 { print >train; print >test; next }
    { print >((NR - 1) % 5 == 0 ? test : train) }' "$target/imdb/all.tsv"
  rm "$target/imdb/all.tsv"
  echo "$target/imdb/train.tsv and test.tsv: 20000 and 5000 of them"
fi
if wanted ml-100k; then
  unpack ml-100k/u.user ml-100k/u.user 943
  unpack ml-100k/u.item ml-100k/u.item 1682
  unpack ml-100k/u.genre ml-100k/u.genre 20
  unpack ml-100k/u.data ml-100k/u.data 100000
fi
if wanted ml-1m; then
  unpack ml-1m/users.dat ml-1m/users.dat 6040
  unpack ml-1m/movies.dat ml-1m/movies.dat 3883
  # All pairs, with ratings and times or without.
  ratings=ml-1m/ratings.dat
  [[ -f $source_folder/$ratings || -f $source_folder/$ratings.xz ]] || ratings=ml-1m/interactions_implicit.dat
  unpack "$ratings" ml-1m/ratings.dat 1000209
fi
