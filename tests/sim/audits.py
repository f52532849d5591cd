"""python -m tests.sim.audits: a thousand namespaces whose error rate is at or about the target, looked at after every call.

Counted is how many were ever open while the average chance of a wrong answer in their audits was the target or more, and how many bounds
were ever below the true rate. Neither may be more than 1 - confidence of them. Beside it the same with the usual bound for a fixed number
of audits (Clopper and Pearson), looked at after every call as well: it shows that the test would notice.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sidecar.policies.cache_audits import Audits, Counts, Evidence, Namespace

SHARE, TARGET, CONFIDENCE = 0.03, 0.02, 0.95
RATES = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.0201, 0.022, 0.03, 0.05)
Rate = Callable[[int], float]  # the chance of a wrong answer by number of the would-be hit


@dataclass
class Seen:
    """What became of one namespace."""

    hits: int = 0
    audits: int = 0
    served: int = 0
    wrong: int = 0  # of the served ones
    opened_at: int | None = None  # audits
    was_wrongly_open: bool = False
    was_bound_too_low: bool = False
    closed: int = 0


against = cache(Evidence)


def live(seed: int, hits: int, rate: Rate) -> Seen:
    """One namespace from its first would-be hit on."""
    chance = random.Random(seed)
    audits = Audits(share=SHARE, target=TARGET, confidence=CONFIDENCE)
    name = Namespace(f"node{seed}", "", "", "", "", "")
    seen = Seen()
    total = 0.0  # of the chances of all audits
    is_open = False
    for hit in range(hits):
        wrong_with = rate(hit)
        is_wrong = chance.random() < wrong_with
        seen.hits += 1
        if audits.decide(name, chance.random()) == "serve":
            seen.served += 1
            seen.wrong += is_wrong
            continue
        seen.audits += 1
        total += wrong_with
        audits.record(name, same=not is_wrong)
        was_open, is_open = is_open, audits.decide(name, 1.0) == "serve"
        seen.closed += was_open and not is_open
        if is_open:
            if seen.opened_at is None:
                seen.opened_at = seen.audits
            seen.was_wrongly_open |= total >= TARGET * seen.audits
        if not seen.was_bound_too_low and 0 < wrong_with < 1:
            # The bound is below the rate exactly when there is that much evidence against the rate.
            counts = audits.own(name) or Counts()
            seen.was_bound_too_low = against(wrong_with)(counts.audits, counts.failures) >= 1 / (1 - CONFIDENCE)
    return seen


def fixed(seed: int, audits: int, rate: float, most: Sequence[int]) -> bool:
    """Was the bound for a fixed number of audits ever at or below the target? `most[n]`: failures of n audits with which it is."""
    chance = random.Random(seed)
    failures = 0
    for number in range(1, audits + 1):
        failures += chance.random() < rate
        if failures <= most[number]:
            return True
    return False


def most_failures(audits: int, target: float, confidence: float) -> list[int]:
    """By number of audits: the most failures with which Clopper and Pearson's upper bound is at or below the target, -1: none."""
    found = [-1]
    for number in range(1, audits + 1):
        failures, below = -1, 0.0
        term = (1 - target) ** number
        while below + term <= 1 - confidence:
            below += term
            failures += 1
            term *= (number - failures) / (failures + 1) * target / (1 - target)
        found.append(failures)
    return found


def steady(rate: float) -> Rate:
    return lambda _: rate


def turning(first: float, later: float, at: int) -> Rate:
    return lambda hit: first if hit < at else later


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.audits", description=__doc__)
    parser.add_argument("--namespaces", type=int, default=1000)
    parser.add_argument("--hits", type=int, default=3000, help="would-be hits of each")
    options = parser.parse_args()
    many, hits = options.namespaces, options.hits
    began = time.perf_counter()
    print(f"{many} namespaces of {hits} would-be hits; target {TARGET:.1%}, confidence {CONFIDENCE:.0%}, audited {SHARE:.0%}")
    print(f"{'true rate':>9}{'wrongly open':>14}{'bound too low':>15}{'fixed-size':>12}{'opened after':>18}{'served':>9}{'wrong':>8}")
    most = most_failures(hits, TARGET, CONFIDENCE)
    worst = max(told(rate, many, hits, most) for rate in RATES)
    print(f"wrongly open were at most {worst:.1%} ({1 - CONFIDENCE:.0%} allowed); {time.perf_counter() - began:.0f} s")
    for later in (0.05, 0.2):
        seen = [live(seed, hits, turning(0.002, later, hits // 2)) for seed in range(200)]
        shut = sum(one.closed > 0 for one in seen)
        wrong = sorted(one.wrong for one in seen)
        figures = f"median {wrong[100]}, most {wrong[-1]}"
        print(f"from 0.2% to {later:.0%} half-way: {shut} of 200 closed by themselves; wrong answers served: {figures}")
    return 0 if worst <= 1 - CONFIDENCE else 1


def told(rate: float, many: int, hits: int, most: Sequence[int]) -> float:
    """One line of the table. Returns the share of namespaces that were ever wrongly open."""
    seen = [live(seed, hits, steady(rate)) for seed in range(many)]
    wrongly = sum(one.was_wrongly_open for one in seen) / many
    too_low = sum(one.was_bound_too_low for one in seen) / many
    naive = f"{sum(fixed(seed, hits, rate, most) for seed in range(many)) / many:.1%}" if rate >= TARGET else "-"
    opened = sorted(one.opened_at for one in seen if one.opened_at is not None)
    after = f"{opened[len(opened) // 2]} ({len(opened) / many:.0%})" if opened else "never"
    served, wrong = sum(one.served for one in seen), sum(one.wrong for one in seen)
    among = f"{wrong / served:.2%}" if served else "-"
    print(f"{rate:>9.2%}{wrongly:>14.1%}{too_low:>15.1%}{naive:>12}{after:>18}{served / hits / many:>9.1%}{among:>8}")
    return wrongly


if __name__ == "__main__":
    sys.exit(main())
