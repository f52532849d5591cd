"""python -m tests.leases --seeds 10000 --from 0: pods that share budgets, simulated.  --seed 7: replay one seed and tell what happens."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.leases.world import Outcome, play

KINDS = ("chaos", "gentle", "share", "refuse")
_SHOWN = 20


def one(seed: int, kind: str = "") -> Outcome:
    """Of ten seeds five are chaos, three gentle, one each for the other ways to go on without Redis."""
    kind = kind or ("chaos", "gentle", "chaos", "gentle", "chaos", "share", "chaos", "gentle", "chaos", "refuse")[seed % 10]
    return play(seed, without="lease" if kind in ("chaos", "gentle") else kind, gentle=kind == "gentle")  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.leases", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this seed and print its trace")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--kind", choices=KINDS, default="", help="all seeds of this kind; otherwise by their last digit")
    given = parser.parse_args()
    if given.seed is not None:
        outcome = one(given.seed, given.kind)
        for at, what in outcome.trace:
            print(f"{at:12.6f}  {what}")
        print("\n".join(outcome.breaks) or "all rules held")
        return 1 if outcome.breaks else 0
    began = time.perf_counter()
    seeds = range(given.first, given.first + given.seeds)
    if given.jobs > 1:
        with ProcessPoolExecutor(given.jobs) as pool:
            outcomes = list(pool.map(partial(one, kind=given.kind), seeds, chunksize=25))
    else:
        outcomes = [one(seed, given.kind) for seed in seeds]
    broken = [outcome for outcome in outcomes if outcome.breaks]
    admitted, waited, refused = (sum(getattr(o, name) for o in outcomes) for name in ("admitted", "waited", "refused"))
    print(f"{given.seeds} seeds from {given.first}, {admitted} calls admitted, {waited} of them waited, {refused} refused")
    print(f"{sum(o.beyond > 0 for o in outcomes)} seeds with more than the limit, as stated; {time.perf_counter() - began:.0f} s")
    for outcome in broken[:_SHOWN]:
        print(f"seed {outcome.seed}: {outcome.breaks[0]}")
    print(f"{len(broken)} seeds broke a rule; replay one with --seed N" if broken else "all rules held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
