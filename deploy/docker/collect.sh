#!/usr/bin/env bash
# collect.sh BIN OUT: the programs of BIN, stripped, in OUT/bin, and in OUT/packages the packages of this distribution
# whose libraries they load.
set -euo pipefail
bin=$1 out=$2
programs=("$bin/trib" "$bin/trib-server" "$bin/trib-client")
mkdir -p "$out/bin"
install -m 0755 -s "${programs[@]}" "$out/bin/"

# A library is asked for under the name it has behind all links and, on a system whose /lib is /usr/lib, under both.
for library in $(ldd "${programs[@]}" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u); do
  real=$(readlink -f "$library")
  found=$(dpkg-query -S "$library" "$real" "${real#/usr}" 2>/dev/null | head -n 1) || true
  if [[ -z "$found" ]]; then
    echo "collect.sh: no package has $library: it has to be in the runtime image by itself" >&2
    continue
  fi
  echo "${found%%:*}"
done | sort -u >"$out/packages"
