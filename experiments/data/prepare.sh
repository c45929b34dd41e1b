#!/usr/bin/env bash
# Unpacks SST-2, IMDB and Banking77 into the tables that the job files of experiments/ name.
# Usage: experiments/data/prepare.sh SOURCE TARGET   (README.md in this folder says what SOURCE must hold)
set -euo pipefail

if [[ $# -ne 2 ]]; then
  sed -n '2,3s/^# //p' "$0" >&2
  exit 2
fi
source_folder=$1 target=$2

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
    { if (quoting) quotes += gsub(/"/, "\""); if (quotes % 2 == 0) records++ } END { print records - 1 }' "$out.part")
  if [[ $found -ne $rows ]]; then
    echo "prepare.sh: $file has $found records where $rows were expected: is it another version of the data set?" >&2
    exit 1
  fi
  mv "$out.part" "$out"
  echo "$out: $rows records"
}

unpack sst2/SST-2_train.tsv sst2/train.tsv 67349
unpack sst2/SST-2_dev.tsv sst2/dev.tsv 872
unpack sst2/SST-2_test-labeled.tsv sst2/test.tsv 1821
unpack banking77/train.csv banking77/train.csv 10003
unpack banking77/test.csv banking77/test.csv 3080
unpack imdb/train.tsv imdb/all.tsv 25000
# IMDB's labelled half alone: every fifth review is held out as the public test set.
awk -v train="$target/imdb/train.tsv" -v test="$target/imdb/test.tsv" '
  NR == 1 { print >train; print >test; next }
  { print >((NR - 1) % 5 == 0 ? test : train) }' "$target/imdb/all.tsv"
rm "$target/imdb/all.tsv"
echo "$target/imdb/train.tsv and test.tsv: 20000 and 5000 of them"
