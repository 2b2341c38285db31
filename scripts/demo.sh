#!/usr/bin/env bash
# Index the sample folder and answer the queries of samples/QUERIES.txt, the way a user would: `diffembed search`.
# The first search builds the index, the later ones (and the next `make demo`) reuse it. Everything stays in .demo/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
diffembed=${1:-diffembed}
export XDG_CACHE_HOME="$PWD/.demo"

while IFS= read -r query || [[ -n $query ]]; do
  [[ -z $query || $query == \#* ]] && continue
  printf '\n$ diffembed search "%s" samples --top 3\n\n' "$query"
  "$diffembed" search "$query" samples --top 3 </dev/null
done <samples/QUERIES.txt
