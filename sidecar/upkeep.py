"""What runs beside the calls and on no call's path: watching health, checking providers, telling other pods."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Coroutine
from typing import Any

from prometheus_client import Gauge

from sidecar.engine import Engine
from sidecar.policies.breakers import Change
from sidecar.policies.health_checks import check_all
from sidecar.store import hints
from sidecar.store.hints import Hints


async def connect_hints(engine: Engine) -> Hints | None:
    """Have this pod's breakers tell and learn from those of other pods, where settings name a Redis; nothing is sent before `upkeep`.

    Raises SettingsError for what is wrong with [redis] or for its missing package.
    """

    def hear(target: str, left_ns: int) -> None:
        if target.partition("/")[0] in engine.providers:  # else nobody here will ever ask it
            engine.breakers.hint(target, engine.clock_ns(), left_ns)

    def tell(problem: str) -> None:
        if problem:
            engine.health.notices["redis"] = notice = f"{problem}; until that is mended, pods do not tell each other of failing providers"
            engine.meter.event("health", notice, "error", key="redis")
        else:
            engine.health.notices.pop("redis", None)
            engine.meter.event("health", "redis answers: pods tell each other of failing providers", "info", key="redis")

    peers = await hints.connect(
        engine.settings,
        pod=f"{socket.gethostname()[:200]}-{uuid.uuid4().hex[:12]}",
        hear=hear,
        tell=tell,
        clock_ns=engine.clock_ns,
        wall_ns=engine.wall_ns,
        random=engine.random,
    )
    if peers is None:
        return None

    def changed(change: Change) -> None:
        # What an operator holds open is no failure of the provider's.
        if change.after == "open" and change.why != "held" and change.open_ns:
            peers.opened(change.target, change.open_ns)

    engine.breakers.on_change.append(changed)
    up = Gauge("llm_redis_up", "Whether the Redis that pods share answers: 1 or 0.", registry=engine.meter.metrics.registry)
    up.set_function(lambda: float(peers.is_up))
    return peers


async def upkeep(engine: Engine, peers: Hints | None) -> None:
    """Run until cancelled. A defect in one part is logged and ends that part only."""

    async def part(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            engine.meter.log.defect("upkeep", error)

    parts = [
        engine.health.watch(engine.clock_ns),
        check_all(engine.health, engine.settings.health, engine.providers, engine.clock_ns, engine.random),
    ]
    if peers is not None:
        parts.append(peers.run())
    async with asyncio.TaskGroup() as group:
        for work in parts:
            group.create_task(part(work))
