"""The verifier: a verdict, a look-up among 10,000 prompts, memory per prompt, and instructions in Rust.

`python -m tests.bench.bench_verify`
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from sidecar._core import PromptIndex, compare

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = 10_000
ACTS = ("cancel", "print", "find", "extend", "change", "download", "explain", "check", "send", "close")
THINGS = ("invoice", "refund", "parcel", "ticket", "contract", "salary", "passport", "printer", "dashboard", "password")


def prompt(number: int) -> str:
    return f"How do I {ACTS[number % 10]} the {THINGS[number // 10 % 10]} of customer {number} before Friday?"


def cpu_us(operation: Callable[[], object], turns: int) -> float:
    """The least of five rounds: CPU time of this process, so that others on the machine count little."""
    found = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(turns):
            operation()
        found.append((time.process_time() - start) * 1e6 / turns)
    return min(found)


def from_python() -> list[str]:
    start = time.process_time()
    compare("a", "b")
    load_ms = (time.process_time() - start) * 1e3
    index = PromptIndex(100_000)
    for number in range(ENTRIES):
        index.add("p", number, prompt(number))
    asked = "What's the way to cancel customer 4710's invoice before Friday?"
    lines = [
        f"lexicon and trees read, once: {load_ms:.1f} ms",
        f"compare: {cpu_us(lambda: compare(asked, prompt(4710)), 2000):.1f} µs",
        f"add: {cpu_us(lambda: index.add('p', 1, prompt(1)), 2000):.1f} µs",
        f"candidates among {ENTRIES:,}: {cpu_us(lambda: index.candidates('p', asked), 200):.0f} µs (aim 500 µs)",
    ]
    before = psutil.Process().memory_info().rss
    for number in range(ENTRIES, 5 * ENTRIES):
        index.add("q", number, prompt(number))
    each = (psutil.Process().memory_info().rss - before) / (4 * ENTRIES)
    return [*lines, f"memory per prompt: {each:.0f} bytes (aim 1024)"]


def in_rust() -> list[str]:
    """Instructions by callgrind, where there is one: the difference of two runs with different turns."""
    if not shutil.which("valgrind"):
        return ["in Rust, instructions: not counted, valgrind is missing"]
    built = subprocess.run(["cargo", "bench", "--bench", "verify", "--no-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = re.search(r"\((.*verify-[0-9a-f]+)\)", built.stderr)
    assert found is not None, built.stderr
    lines = []
    for what, few, many in (("analyse", 100, 1100), ("compare", 100, 1100), ("candidates", 1, 11)):
        counts = [instructions(ROOT / found[1], what, turns) for turns in (few, many)]
        lines.append(f"in Rust, {what}: {(counts[1] - counts[0]) / (many - few):.0f} instructions")
    return lines


def instructions(program: Path, what: str, turns: int) -> int:
    counter = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    counted = subprocess.run([*counter, str(program), what, str(turns)], capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", counted.stderr)
    assert found is not None, counted.stderr
    return int(found[1])


if __name__ == "__main__":
    print(*from_python(), *in_rust(), sep="\n")
