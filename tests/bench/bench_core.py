"""What the Rust extension costs from Python, in time and in memory: `python -m tests.bench.bench_core`.

Rounds of all operations are interleaved, so that a slow moment of the machine meets them all, and the median round of each is shown.
The loop around an operation is part of what is measured, as it is in use; its own share is the first row.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from sidecar._core import Breaker, Ledger, Limiter, Reservation, Rule, SimilarityIndex
from tests.bench.instructions import counted

ROUNDS = 31
DAY = (1_800_057_600_000_000_000, 1_800_144_000_000_000_000)
NOW_NS = DAY[0]
ROOT = Path(__file__).parents[2]
CALL = "01JDABCDEFGHJKMNPQRSTVWXYZ"

Operation = Callable[[int], object]


def ledger_operations(accounts: int, ledger: Ledger) -> Operation:
    """Reserve and post on some accounts, as one call does."""
    rule = Rule(limit_nano_usd=10**18, limit_tokens=10**15, window=DAY)
    pairs = [(f"tenant:account-{number}", rule) for number in range(accounts)]

    def reserve_and_post(turn: int) -> None:
        held = ledger.reserve(pairs, 5_000_000, 1200, 600_000_000_000, NOW_NS + turn)
        if isinstance(held, Reservation):
            ledger.post(held.id, 4_000_000, 900, NOW_NS + turn, CALL)

    return reserve_and_post


def denied_operation() -> Operation:
    """A reservation that is refused."""
    ledger, accounts = Ledger(), [("tenant:poor", Rule(limit_nano_usd=1))]
    return lambda turn: ledger.reserve(accounts, 5_000_000, 1200, 600_000_000_000, NOW_NS + turn)


def breaker_operations() -> Operation:
    """Permit and success, as one call does."""
    breaker = Breaker(failures=3, open_ns=30_000_000_000)

    def permit_and_success(turn: int) -> None:
        permit = breaker.permit(turn)
        if isinstance(permit, int):
            breaker.success(permit, turn)

    return permit_and_success


def limiter_operation() -> Operation:
    """Take, with both units limited."""
    limiter = Limiter(requests=10_000_000, tokens=2_000_000_000)
    return lambda turn: limiter.take(1200, turn * 1_000_000)


def similarity_operations(entries: int, dimensions: int) -> tuple[Operation, Operation]:
    """The nearest four of many, and adding one where the oldest has to go."""
    numbers = random.Random(1)
    vectors = [array("f", (numbers.gauss(0, 1) for _ in range(dimensions))) for _ in range(200)]
    index = SimilarityIndex(dimensions, capacity=entries)
    for key in range(entries):
        index.add("tenant", key, array("f", (x + numbers.gauss(0, 0.5) for x in vectors[key % 200])))
    keys = itertools.count(entries)
    return (
        lambda turn: index.nearest("tenant", vectors[turn % 200], 4, 0.8),
        lambda turn: index.add("tenant", next(keys), vectors[turn % 200]),
    )


def microseconds(operation: Operation, first: int, turns: int) -> float:
    """The mean over one round."""
    start = time.perf_counter()
    for turn in range(first, first + turns):
        operation(turn)
    return (time.perf_counter() - start) / turns * 1e6


def operations(folder: Path) -> dict[str, tuple[Operation, int]]:
    """What is measured, and how often in one round."""
    nearest, add = similarity_operations(10_000, 1536)
    journaled = {fsync: Ledger.open(folder / fsync, fsync=fsync)[0] for fsync in ("settle", "interval", "never")}  # type: ignore[arg-type]
    return {
        "an empty function": (lambda turn: None, 2000),
        "Ledger reserve + post, 1 account": (ledger_operations(1, Ledger()), 2000),
        "Ledger reserve + post, 5 accounts (aim 5)": (ledger_operations(5, Ledger()), 2000),
        **{f"  with a journal, fsync {fsync} (aim 20)": (ledger_operations(5, ledger), 2000) for fsync, ledger in journaled.items()},
        "Ledger reserve, denied": (denied_operation(), 2000),
        "Breaker permit + success": (breaker_operations(), 2000),
        "Limiter take": (limiter_operation(), 2000),
        "SimilarityIndex nearest 4 of 10,000 x 1536": (nearest, 20),
        "SimilarityIndex add at capacity, 1536": (add, 20),
    }


def memory_mib() -> float:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def ledger_memory() -> str:
    """A tenant's day each; those that no call is using are packed."""
    ledger, day, before, figures = Ledger(), Rule(limit_nano_usd=30_000_000_000, limit_tokens=1_000_000, window=DAY), memory_mib(), []
    for accounts in (100_000, 1_000_000):
        for number in range(ledger.accounts(), accounts):
            held = ledger.reserve([(f"tenant:account-{number}:day", day)], 5_000_000, 1200, 60_000_000_000, NOW_NS)
            assert isinstance(held, Reservation)
            ledger.post(held.id, 4_000_000, 900, NOW_NS)
        figures.append(f"{accounts:,} accounts {memory_mib() - before:.1f} MiB")
    return f"Ledger memory: {', '.join(figures)} (aim 40 MiB per 100,000)"


def recovery(folder: Path, on_each: int) -> str:
    """A million posts in one segment, no snapshot: more than a start ever has to read, because a full segment (64 MiB) becomes one."""
    everything = {"fsync": "never", "segment_bytes": 2**40, "most_waiting_bytes": 2**40}
    ledger, _ = Ledger.open(folder, **everything)  # type: ignore[arg-type]
    rule = Rule(limit_nano_usd=10**18, window=DAY)
    pairs = [(f"tenant:account-{number}:day", rule) for number in range(1000)]
    for turn in range(1_000_000):
        held = ledger.reserve([pairs[(turn * 7 + more) % 1000] for more in range(on_each)], 1000, 10, 60_000_000_000, NOW_NS + turn)
        assert isinstance(held, Reservation)
        ledger.post(held.id, 1000, 1, NOW_NS + turn, CALL)
    assert ledger.close()
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    start = time.perf_counter()
    again, _ = Ledger.open(folder, **everything)  # type: ignore[arg-type]
    took = time.perf_counter() - start
    assert again.accounts() == 1000
    again.close()
    return f"Journal recovery of 1,000,000 posts on {on_each} account{'s' * (on_each > 1)} each ({size:.0f} MiB): {took:.2f} s (aim 1 s)"


def in_rust() -> list[str]:
    """The same without Python: time by the crate's own bench, instructions by callgrind where there is one."""
    made = subprocess.run(["cargo", "bench", "--quiet", "--bench", "ledger"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [f"in Rust, {line} (aim 1000 ns)" for line in made.stdout.splitlines()]
    if not shutil.which("valgrind"):
        return [*lines, "in Rust, instructions: not counted, valgrind is missing"]
    return [*lines, f"in Rust, reserve + post, 5 accounts: {counted('ledger', (), 1000, 11_000):.0f} instructions"]


def main() -> None:
    """Runs the rounds and prints the table."""
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as name:
        folder = Path(name)
        measured = operations(folder)
        rounds: dict[str, list[float]] = {name: [] for name in measured}
        for number in range(ROUNDS):
            for name, (operation, turns) in measured.items():
                rounds[name].append(microseconds(operation, 1 + number * turns, turns))
        print(f"{'operation':44} {'median µs':>10} {'least':>10}")
        for name, found in rounds.items():
            print(f"{name:44} {statistics.median(found):10.2f} {min(found):10.2f}")
        del measured, rounds
        print(*in_rust(), sep="\n")
        print(recovery(folder / "one", 1))
        print(recovery(folder / "five", 5))
        # Of a process of its own: this one's memory has been used before.
        here = [sys.executable, "-c", "from tests.bench.bench_core import ledger_memory; print(ledger_memory())"]
        print(subprocess.run(here, cwd=ROOT, capture_output=True, text=True, check=True).stdout, end="")


if __name__ == "__main__":
    main()
