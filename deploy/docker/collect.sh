#!/usr/bin/env bash
# collect.sh BIN OUT: the programs of BIN, stripped, in OUT/bin, and in OUT/packages the packages of this distribution
# whose libraries they load.
set -euo pipefail
bin=$1 out=$2
programs=("$bin/trib" "$bin/trib-server" "$bin/trib-client")
mkdir -p "$out/bin"
install -m 0755 -s "${programs[@]}" "$out/bin/"

mapfile -t libraries < <(ldd "${programs[@]}" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u)
# A package owns a library under one of three names: as it is loaded, behind all links, and, where /lib is /usr/lib,
# without /usr.
names=()
for library in "${libraries[@]}"; do
  real=$(readlink -f "$library")
  names+=("$library" "$real" "${real#/usr}")
done
owners=$(dpkg-query -S "${names[@]}" 2>/dev/null) || true # complains of the names that nobody owns
for library in "${libraries[@]}"; do
  real=$(readlink -f "$library")
  owner=$(awk -F ': ' -v a="$library" -v b="$real" -v c="${real#/usr}" \
    '$2 == a || $2 == b || $2 == c {sub(/:.*/, "", $1); print $1; exit}' <<<"$owners")
  if [[ -z "$owner" ]]; then
    echo "collect.sh: no package has $library: it has to be in the runtime image by itself" >&2
    continue
  fi
  echo "$owner"
done | sort -u >"$out/packages"
