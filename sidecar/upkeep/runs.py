"""Where settings name a Redis, runs are those of all pods: connecting, and telling operators when it fails."""

from __future__ import annotations

from prometheus_client import Gauge

from sidecar.engine import Engine
from sidecar.policies.runs import MOST_RUNS
from sidecar.policies.shared_runs import SharedRuns
from sidecar.store import shared_runs


async def connect_runs(engine: Engine) -> SharedRuns | None:
    """Share runs with other pods from now on; nothing is sent before `begin`. None where pods share nothing.

    Raises SettingsError for what is wrong with [redis] or for its missing package, StoreFailed for server.data_dir.
    """
    place = await shared_runs.connect(engine.settings)
    if place is None:
        for run in engine.budgets.runs.listing():
            if run.generation:  # settings named a Redis before
                engine.budgets.runs.hand_over(run, "")
        return None
    budgets, settings = engine.budgets, engine.settings
    shared = budgets.runs.shared = SharedRuns(
        place,
        budgets.runs,
        engine.ledger,
        idle_hours=settings.limits.run_idle_hours,
        most=MOST_RUNS,
        learn_ms=settings.fleet.learn_ms,
        without=settings.fleet.without_redis,
        keep=budgets.keep_runs,
        clock_ns=engine.clock_ns,
        wall_ns=engine.wall_ns,
    )

    def tell(problem: str) -> None:
        if problem:
            engine.health.notices["runs"] = notice = (
                f"runs of all pods: {problem}; until that is mended calls of runs with a plan are refused"
            )
            engine.meter.event("health", notice, "error", key="runs")
        else:
            engine.health.notices.pop("runs", None)
            engine.meter.event("health", "redis answers: pods share their runs", "info", key="runs")

    def reached(account: str, spent: int, limit: int) -> None:
        now_ns = engine.wall_ns()
        engine.meter.budget(*budgets.reached(account, engine.ledger.balance(account, now_ns), now_ns, (spent, 0)))

    def ended(message: str, facts: dict[str, str]) -> None:
        engine.meter.event("run", f"{message}; no call came for limits.run_idle_hours", "info", **facts)

    shared.tell, shared.reached, shared.ended = tell, reached, ended
    up = Gauge(
        "llm_shared_runs_up", "Whether pods share their runs now: 1; 0: Redis is away or learns.", registry=engine.meter.metrics.registry
    )
    up.set_function(lambda: float(shared.is_up))
    return shared
