# make run    set up, start the sidecar with the built-in echo, show it working, go on serving
# make test   set up what the tests need and run all of them
# make compatibility  run published clients, and write the table of what works
# make bench  measure, and print the table of tests/bench/RESULTS.md anew
# make conduct  what callers see for each fault of each provider: tests/conduct/CONDUCT.md anew
# make check  format, lint, types, layers, the seam to Rust, the contract
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust_core -name '*.rs' -o -name '*.toml' -o -path 'rust_core/data/*')

.PHONY: run test compatibility bench instructions conduct check format constraints rust python clean

run: .venv/.run
	@$(BIN)/python tools/demo.py

test: rust python

rust: .venv/.dev
	cargo test --quiet --package sidecar-core

python: .venv/.dev
	tools/get_grpcurl.sh
	tools/get_postgres.sh
	$(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q -m clients tests/clients

# The same, and tests/clients/COMPATIBILITY.md written anew.
compatibility: .venv/.dev
	$(BIN)/python -m pytest -q -m clients tests/clients --write-compatibility

bench: .venv/.dev
	$(BIN)/python -m tests.bench

# How many instructions the hot parts in Rust take, against what they took: fails where it is more.
instructions: .venv/.dev
	$(BIN)/python -m tests.bench.instructions

conduct: .venv/.dev
	$(BIN)/python -m tests.conduct

check: .venv/.dev
	cargo fmt --all --check
	cargo clippy --quiet --all-features --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest sidecar._core
	$(BIN)/lint-imports
	tools/check_proto.sh

format:
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The versions that the tests have passed with, for every platform; make test afterwards.
constraints:
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --no-emit-index-url --no-emit-find-links \
	  --no-annotate --no-header pyproject.toml --output-file constraints.txt

# One environment; the stamps say what it was made for. The extension is built in release mode by maturin.
.venv/.run: pyproject.toml constraints.txt $(RUST_SOURCES)
	@tools/setup.sh all "$(PYTHON)"
	@touch $@

.venv/.dev: pyproject.toml constraints.txt $(RUST_SOURCES)
	@tools/setup.sh dev "$(PYTHON)"
	@touch $@ .venv/.run

clean:
	rm -rf .venv target .tools sidecar/_core*.so
