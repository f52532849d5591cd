"""Seeds and what is played with them: of five, three are one process with every rule of a call, two a fleet with every rule of money."""

from __future__ import annotations

import gc

from tests.sim.fleet import play_fleet
from tests.sim.world import Outcome, World


def play(seed: int) -> Outcome:
    """Run one seed to its end."""
    return World(seed).play() if seed % 5 < 3 else play_fleet(seed)


def run_part(seeds: range) -> list[Outcome]:
    """Run some seeds in this process; of those that broke no rule the trace is left out."""
    gc.collect()
    gc.freeze()  # each seed ends with a collection, which need not look at what was there before
    outcomes = []
    for seed in seeds:
        outcome = play(seed)
        outcome.trace.clear()
        outcomes.append(outcome)
    return outcomes
