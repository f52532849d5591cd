"""python -m tests.sim --seed 7: replay one seed and tell all that happens.  --seeds 10000 --from 0 --jobs 2: run many."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.sim.seeds import play, run_part
from tests.sim.world import Outcome

_SHOWN = 20
_AT_A_TIME = 25  # seeds for one process


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this seed and print its trace")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed)
    return many(options.first, options.seeds, options.jobs)


def replay(seed: int) -> int:
    outcome = play(seed)
    for name, value in sorted(outcome.settings.items()):
        print(f"  {name}={value}")
    for at, who, what in outcome.trace:
        print(f"{at:12.6f}  {who!s:<10} {what}")
    print(f"\nseed {seed}: {outcome.questions} questions; calls ended {_counts(Counter(outcome.results))}")
    print("\n".join(outcome.breaks) or "all rules held")
    return 1 if outcome.breaks else 0


def many(first: int, count: int, jobs: int) -> int:
    began = time.perf_counter()
    results: Counter[str] = Counter()
    questions = 0
    broken: list[list[str]] = []
    for outcome in _outcomes(first, count, jobs):
        results.update(outcome.results)
        questions += outcome.questions
        if outcome.breaks:
            broken.append(outcome.breaks)
    seconds = time.perf_counter() - began
    print(f"{count} seeds from {first}, {sum(results.values())} calls, {questions} questions to providers, {seconds:.1f} s")
    print(f"calls ended {_counts(results)}")
    for breaks in broken[:_SHOWN]:
        more = f" (and {len(breaks) - 1} more)" if len(breaks) > 1 else ""
        print(f"{breaks[0]}{more}")
    print(f"{len(broken)} seeds broke a rule; replay one with python -m tests.sim --seed N" if broken else "all rules held")
    return 1 if broken else 0


def _outcomes(first: int, count: int, jobs: int) -> Iterator[Outcome]:
    parts = [range(at, min(at + _AT_A_TIME, first + count)) for at in range(first, first + count, _AT_A_TIME)]
    if jobs == 1:
        for part in parts:
            yield from run_part(part)
        return
    # Not forked: the libraries that a process has loaded may have threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for outcomes in pool.map(run_part, parts):
            yield from outcomes


def _counts(results: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in results.most_common())


if __name__ == "__main__":
    sys.exit(main())
