#!/bin/sh
# Makes .venv with the sidecar, its extension and one extra (all: every provider's SDK; dev: also what the tests need).
# usage: tools/setup.sh EXTRA [PYTHON]
set -eu
cd "$(dirname "$0")/.."
extra=$1
python=${2:-python3}

command -v "$python" >/dev/null || { echo "setup: $python is missing; install Python 3.11 or newer (Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $("$python" --version) is too old, 3.11 or newer is needed; name another one: make run PYTHON=python3.12" >&2; exit 1; }
"$python" -c 'import ensurepip, venv' 2>/dev/null || { echo "setup: $python has no venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
command -v cargo >/dev/null || { echo "setup: cargo is missing; install Rust 1.85 or newer (rustup, see rust-lang.org)" >&2; exit 1; }
command -v cc >/dev/null || { echo "setup: cc is missing; Rust needs a linker (Debian: apt-get install gcc libc6-dev)" >&2; exit 1; }

[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || .venv/bin/pip install --quiet --disable-pip-version-check uv
echo "setup: installing the sidecar with extra '$extra' and building its extension (a minute or two the first time)"
.venv/bin/uv pip install --quiet --python .venv/bin/python --editable ".[$extra]" --constraint constraints.txt
# Editable installs do not compile: without this the first start of each SDK takes seconds longer.
.venv/bin/python -m compileall -q .venv/lib sidecar >/dev/null 2>&1 || true
