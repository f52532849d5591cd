#!/bin/sh
# Generates sidecar/v1 from proto/, or into the folder given as the first argument (so that a test can compare).
set -eu
cd "$(dirname "$0")/.."
out=${1:-.}
python=${PYTHON:-.venv/bin/python}
PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -Iproto \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  proto/sidecar/v1/llm.proto proto/sidecar/v1/errors.proto proto/sidecar/v1/budgets.proto proto/sidecar/v1/cache.proto proto/sidecar/v1/ops.proto
