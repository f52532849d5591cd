#!/bin/sh
# The contract: lint, format, no breaking change against main, and generated code as a fresh generation makes it.
set -eu
cd "$(dirname "$0")/.."
buf=.venv/bin/buf
"$buf" lint
"$buf" format --diff --exit-code
# Against the newest version of the contract that is not this one.
previous=$(git rev-list --max-count=1 --skip=1 HEAD -- proto)
[ -z "$previous" ] || "$buf" breaking --against ".git#ref=$previous"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/generate_proto.sh "$fresh" 2>/dev/null
for file in "$fresh"/sidecar/v1/*; do
  cmp "$file" "sidecar/v1/$(basename "$file")" || { echo "generated code is stale: run tools/generate_proto.sh" >&2; exit 1; }
done
