"""All benches: `python -m tests.bench` prints the table and keeps it in RESULTS.md; with `--quick` it is smaller and only printed.

Several processes share the machine's cores, so a busy machine shows: figures of one run belong together, and ratios say more than times.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import calls, http, starts
from tests.bench.load import LATE_MS
from tests.bench.processes import ROOT
from tests.bench.table import Row, markdown

_RESULTS = Path(__file__).with_name("RESULTS.md")
# Programs of their own, which print their own tables.
_OTHERS = ("bench_tokens", "bench_core", "bench_resilience", "bench_usage", "bench_cache", "bench_shared_budgets", "bench_verify")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the sidecar beside the floor program.")
    parser.add_argument("--quick", action="store_true", help="under a minute; prints, and keeps nothing")
    parser.add_argument(
        "--only", choices=("cpu", "latency", "crowds", "http", "starts", "imports"), help="one part; prints, and keeps nothing"
    )
    given = parser.parse_args()
    begun = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder:
        for row in _measured(Path(folder), is_quick=given.quick, only=given.only):
            print(f"{row.what}: {row.reached}{f'  (aim {row.aim})' if row.aim else ''}", file=sys.stderr, flush=True)
            rows.append(row)
    table = markdown(rows)
    if given.only is None:
        table += "".join(_other(name) for name in _OTHERS if not given.quick and importlib.util.find_spec(f"tests.bench.{name}"))
    text = f"{_heading(time.monotonic() - begun)}\n{table}"
    print(text)
    if not given.quick and given.only is None:
        _RESULTS.write_text(text)
    return 0


def _measured(folder: Path, *, is_quick: bool, only: str | None) -> Iterator[Row]:
    sizes = calls.QUICK if is_quick else calls.FULL
    if only not in ("starts", "imports"):
        with calls.bench(folder) as bench:
            for name, part in (
                ("cpu", calls.cpu_rows),
                ("latency", calls.latency_rows),
                ("crowds", calls.crowd_rows),
                ("http", http.http_rows),
            ):
                if only in (None, name):
                    yield from part(bench, sizes)
    if only in (None, "starts"):
        yield from starts.start_rows(folder, 1 if is_quick else 5)
    if only in (None, "imports"):
        yield from starts.import_rows(1 if is_quick else 5)


def _other(name: str) -> str:
    ended = subprocess.run((sys.executable, "-m", f"tests.bench.{name}"), cwd=ROOT, capture_output=True, text=True, check=True)
    return f"\n`python -m tests.bench.{name}`:\n\n```\n{ended.stdout.strip()}\n```\n"


def _heading(took_s: float) -> str:
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        "unknown",
    )
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores ({cpu})"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"""# What the sidecar costs

Measured by `make bench` on {datetime.now(UTC).date()}, {machine}, {python}, in {took_s:.0f} s.
The floor program (`tests/bench/floor.py`) is bare grpc.aio and aiohttp, which forwards raw bytes. Provider, callers and the program
measured are processes of their own that share these cores; CPU is the measured program's alone, all threads. Programs are measured in
turns, and what is shown are medians. A piece is late when it reaches the caller {LATE_MS:g} ms after the provider wrote it.
"""


if __name__ == "__main__":
    sys.exit(main())
