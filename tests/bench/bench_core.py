"""What one operation of the Rust extension costs from Python: `python -m tests.bench.bench_core`.

Rounds of all operations are interleaved, so that a slow moment of the machine meets them all, and the median round of each is shown.
The loop around an operation is part of what is measured, as it is in use; its own share is the first row.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from array import array
from collections.abc import Callable

from sidecar._core import Breaker, Ledger, Limiter, Reservation, Rule, SimilarityIndex

ROUNDS = 31
DAY_NS = 86_400_000_000_000
NOW_NS = 1_800_000_000_000_000_000

Operation = Callable[[int], object]


def ledger_operations(accounts: int) -> Operation:
    """Reserve and post on some accounts, as one call does."""
    ledger = Ledger()
    rule = Rule(limit_nano_usd=10**18, limit_tokens=10**15, window_ns=DAY_NS)
    pairs = [(f"tenant:account-{number}", rule) for number in range(accounts)]

    def reserve_and_post(turn: int) -> None:
        held = ledger.reserve(pairs, 5_000_000, 1200, 600_000_000_000, NOW_NS + turn)
        if isinstance(held, Reservation):
            ledger.post(held.id, 4_000_000, 900, NOW_NS + turn)

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


def main() -> None:
    """Runs the rounds and prints the table."""
    nearest, add = similarity_operations(10_000, 1536)
    operations: dict[str, tuple[Operation, int]] = {
        "an empty function": (lambda turn: None, 2000),
        "Ledger reserve + post, 1 account": (ledger_operations(1), 2000),
        "Ledger reserve + post, 5 accounts": (ledger_operations(5), 2000),
        "Ledger reserve, denied": (denied_operation(), 2000),
        "Breaker permit + success": (breaker_operations(), 2000),
        "Limiter take": (limiter_operation(), 2000),
        "SimilarityIndex nearest 4 of 10,000 x 1536": (nearest, 20),
        "SimilarityIndex add at capacity, 1536": (add, 20),
    }
    rounds: dict[str, list[float]] = {name: [] for name in operations}
    for number in range(ROUNDS):
        for name, (operation, turns) in operations.items():
            rounds[name].append(microseconds(operation, 1 + number * turns, turns))
    print(f"{'operation':44} {'median µs':>10} {'least':>10}")
    for name, found in rounds.items():
        print(f"{name:44} {statistics.median(found):10.2f} {min(found):10.2f}")


if __name__ == "__main__":
    main()
