#!/bin/sh
# The contract: lint, format, no breaking change against its version before, and generated code as a fresh generation makes it.
set -eu
cd "$(dirname "$0")/.."
buf=.venv/bin/buf
"$buf" lint
"$buf" format --diff --exit-code
# The version before: of a change that is not committed the last commit's, else that of the last but one commit that touched proto/.
skip=1
[ -z "$(git status --porcelain -- proto 2>/dev/null)" ] || skip=0
previous=$(git rev-list --max-count=1 --skip="$skip" HEAD -- proto 2>/dev/null || true)
if [ -n "$previous" ]; then
  "$buf" breaking --against ".git#ref=$previous"
else
  echo "WARNING: NOT checked for breaking changes: this clone does not reach back to another version of proto/ (git fetch --unshallow)" >&2
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/generate_proto.sh "$fresh" 2>/dev/null
for file in "$fresh"/sidecar/v1/*; do
  cmp "$file" "sidecar/v1/$(basename "$file")" || { echo "generated code is stale: run tools/generate_proto.sh" >&2; exit 1; }
done
