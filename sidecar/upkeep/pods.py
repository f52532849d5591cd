"""Other pods, and what is looked after all the time: hints of failing providers, shared budgets, active checks."""

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
from sidecar.shares import Both
from sidecar.store import hints, shared_budgets
from sidecar.store.hints import Hints
from sidecar.store.shared_budgets import SharedBudgets


async def connect_hints(engine: Engine) -> Hints | None:
    """Have this pod's breakers tell and learn from those of other pods, where settings name a Redis; nothing is sent before `upkeep`.

    Raises SettingsError for what is wrong with [redis] or for its missing package.
    """

    def hear(target: str, left_ns: int) -> None:
        if target.partition("/")[0] in engine.providers:  # else nobody here will ever ask it
            engine.breakers.hint(target, engine.clock_ns(), left_ns)

    def tell(problem: str) -> None:
        told = problem and f"{problem}; until that is mended, pods do not tell each other of failing providers"
        engine.trouble("redis", told, "redis answers: pods tell each other of failing providers")

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


async def connect_budgets(engine: Engine) -> SharedBudgets | None:
    """Where settings name a Redis, share the budgets with other pods there, and wait while a new server learns of all pods.

    Raises SettingsError for what is wrong with [redis] or for its missing package, StoreFailed for server.data_dir.
    """
    sharing, settings, registry = engine.sharing, engine.settings, engine.meter.metrics.registry
    if sharing is None:
        return None
    alone = {
        "lease": "each pod goes on within what it has leased, then refuses",
        "refuse": "calls are refused",
        "share": "each pod goes on within its share",
    }[settings.fleet.without_redis]

    def tell(problem: str) -> None:
        told = problem and f"shared budgets: {problem}; until that is mended {alone} (fleet.without_redis)"
        engine.trouble("budgets", told, "redis answers: pods share their budgets")

    def reached(account: str, total: Both) -> None:
        now_ns = engine.wall_ns()
        engine.meter.budget(*engine.budgets.reached(account, engine.ledger.balance(account, now_ns), now_ns, total))

    def lost(account: str, more: Both) -> None:
        what = f"{more[0] / 1e9:.9f} USD and {more[1]} tokens"
        message = f"the journal has lost {what} of account {account}: Redis knows that this pod has spent them, and they count"
        engine.meter.event("journal", message, "error", account=account)

    sharing.tell = tell
    sharing.reached = reached
    sharing.lost = lost
    up = Gauge("llm_shared_budgets_up", "Whether pods share budgets now: 1; 0: Redis is away or learns.", registry=registry)
    up.set_function(lambda: float(sharing.leases.state == "up"))
    waits = Gauge("llm_shared_budget_waits", "Calls that waited for Redis because this pod's lease was too small.", registry=registry)
    waits.set_function(lambda: float(sharing.waits))
    place = await shared_budgets.connect(settings, lambda advice: engine.meter.event("health", advice, "warning", key="budgets memory"))
    if place is not None:
        await sharing.begin(place, settings.fleet.learn_ms / 1000 + 2)
    return place


async def upkeep(engine: Engine, peers: Hints | None, budgets: SharedBudgets | None = None) -> None:
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
    if engine.sharing is not None and budgets is not None:
        parts.append(engine.sharing.run(budgets))
    async with asyncio.TaskGroup() as group:
        for work in parts:
            group.create_task(part(work))
