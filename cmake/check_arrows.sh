#!/usr/bin/env bash
# Holds the layout: a folder may include only the folders below it, kernels/detail and kernels/cpu stay inside kernels/,
# and server/ and client/ know tasks only through the seam. Prints every include that points the wrong way.
set -euo pipefail
cd "${1:-.}"

declare -A allowed=(
  [proto]="proto"
  [common]="common proto"
  [kernels]="kernels common proto"
  [privacy]="privacy kernels common proto"
  [models]="models kernels common proto"
  [tasks]="tasks models privacy kernels common proto"
  [client]="client tasks privacy kernels common proto"
  [server]="server tasks privacy kernels common proto"
  [cli]="cli server client tasks privacy kernels common proto"
)

bad=0
for folder in "${!allowed[@]}"; do
  while IFS=: read -r file line text; do
    target=$(sed -E 's/^#include "([^"]+)".*/\1/' <<<"$text")
    top=${target%%/*}
    [[ "$target" == */* ]] || continue
    if [[ " ${allowed[$folder]} " != *" $top "* ]]; then
      echo "$file:$line: $folder/ may not include $target (allowed: ${allowed[$folder]})"; bad=1
    fi
    if [[ "$folder" != kernels && "$target" =~ ^kernels/(detail|cpu|cuda)/ ]]; then
      echo "$file:$line: $target is private to kernels/: host pointers stay below the compute seam"; bad=1
    fi
    if [[ "$folder" =~ ^(server|client|cli)$ && "$target" =~ ^tasks/ && ! "$target" =~ ^tasks/(task|progress|job|sum)\.h$ ]]; then
      echo "$file:$line: $folder/ knows tasks only through tasks/task.h, progress.h, job.h and sum.h"; bad=1
    fi
  done < <(grep -rnE '^#include "' "$folder" --include='*.h' --include='*.cpp' --include='*.cu' || true)
done
exit $bad
