"""What is looked after all the time: lost reservations, runs, the journal's disk."""

from __future__ import annotations

import asyncio

from sidecar.engine import Engine
from sidecar.errors import StoreFailed
from sidecar.policies.runs import summary
from sidecar.store.journal import JournalWatch

_HOUSEKEEPING_S = 30.0
_JOURNAL_WATCH_S = 1.0
_KEEP_RUNS_S = 1.0


async def keep_house(engine: Engine) -> None:
    """Give back what lost reservations hold, now and then."""
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        engine.ledger.expire(engine.wall_ns())


async def keep_runs(engine: Engine) -> None:
    """Write down what runs have used, every second, and close those that nobody uses any more."""
    runs, meter, was_told = engine.budgets.runs, engine.meter, False
    while True:
        for unused in runs.idle(engine.wall_ns() // 1_000_000) if runs.shared is None else ():
            message, facts = summary(unused, runs.close(unused, engine.ledger))
            meter.event("run", f"{message}; no call came for limits.run_idle_hours", "info", **facts)
        try:
            await engine.budgets.keep_runs()
            was_told = False
        except StoreFailed as error:
            if not was_told:
                meter.event("alert", f"what runs have used is not kept: {error.message}", "error", key="runs")
            was_told = True
        await asyncio.sleep(_KEEP_RUNS_S)


async def watch_journal(engine: Engine) -> None:
    """Say it when the disk is full."""
    watch = JournalWatch(engine.ledger, engine.settings.journal, engine.meter.event)
    while True:
        watch.look()
        await asyncio.sleep(_JOURNAL_WATCH_S)
