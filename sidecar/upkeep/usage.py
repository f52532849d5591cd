"""The usage log beside the calls: rows are written, and operators told when they are not."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path

from prometheus_client import Counter, Gauge

from sidecar.engine import Engine

_QUIET_NS = 60_000_000_000  # between two alerts of the same kind


def keep_usage(engine: Engine, folder: Path) -> None:
    """Write a row of the usage log for each call that ends, and tell operators when that fails: calls go on.

    Needs a running event loop. Raises StoreFailed where the folder cannot be used, SettingsError for a missing package.
    """
    usage, registry = engine.usage, engine.meter.metrics.registry
    loop = asyncio.get_running_loop()
    lost = Counter("llm_usage_rows_lost_total", "Rows of the usage log for which there was no room.", registry=registry)
    up = Gauge("llm_usage_store_up", "Whether the usage log can be written: 1 or 0.", ["store"], registry=registry)
    waiting = Gauge("llm_usage_rows_waiting", "Rows of the usage log not yet in this store.", ["store"], registry=registry)
    known = 0
    quiet_until = 0

    def told(place: str, problem: str) -> None:
        nonlocal known, quiet_until
        if place != "lost":
            doing = "the usage log cannot be written" if place == "file" else "the usage log does not reach its PostgreSQL"
            engine.trouble(f"usage {place}", problem and f"{doing}: {problem}", f"the usage log is written again ({place})")
            return
        lost.inc(usage.lost - known)
        known = usage.lost
        if engine.clock_ns() >= quiet_until:
            quiet_until = engine.clock_ns() + _QUIET_NS
            engine.meter.event("alert", problem, "error", key="usage lost")

    def tell(place: str, problem: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(told, place, problem)

    usage.tell = tell
    usage.open(folder)
    for store, read in (("file", lambda: usage.waiting), ("postgres", lambda: usage.unsent)):
        if store == "file" or usage.is_shared:
            up.labels(store).set_function(partial(lambda store: float(not usage.problems[store]), store))
            waiting.labels(store).set_function(read)
    engine.meter.on_call = usage.ended
