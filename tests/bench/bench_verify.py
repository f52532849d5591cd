"""The verifier: a verdict, a look-up among 10,000 prompts, memory per prompt, and instructions in Rust.

`python -m tests.bench.bench_verify`
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from sidecar._core import PromptIndex, compare
from tests.bench.instructions import FIGURES, counted

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
    """Instructions, where there is a callgrind: see `instructions.py`, which holds them to their figures."""
    if not shutil.which("valgrind"):
        return ["in Rust, instructions: not counted, valgrind is missing"]
    turns = {arguments[0]: (few, many) for (bench, *arguments), (_, few, many) in FIGURES.items() if bench == "verify"}
    return [f"in Rust, {what}: {counted('verify', (what,), *between):.0f} instructions" for what, between in turns.items()]


if __name__ == "__main__":
    print(*from_python(), *in_rust(), sep="\n")
