"""Settings and the catalogue become an engine."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from sidecar._core import Ledger
from sidecar.call import Call
from sidecar.catalog import Catalog
from sidecar.counting import count_text
from sidecar.engine import Engine
from sidecar.observe import Log, Meter, Metrics
from sidecar.pipeline import run
from sidecar.policies.admission import Admission
from sidecar.policies.breakers import Breakers, Change
from sidecar.policies.budgets import Budgets
from sidecar.policies.cache_flights import Flights
from sidecar.policies.cache_judge import CacheJudge
from sidecar.policies.cache_repeats import Repeats
from sidecar.policies.cache_similar import Similar
from sidecar.policies.dear_calls import DearCalls
from sidecar.policies.degradation import Degradations
from sidecar.policies.endpoints import Endpoints
from sidecar.policies.health import Health
from sidecar.policies.latencies import Latencies
from sidecar.policies.models import Preferences
from sidecar.policies.prompt_prefixes import PromptPrefixes
from sidecar.policies.quotas import Quotas
from sidecar.policies.reservations import Outputs
from sidecar.policies.retries import Retries
from sidecar.policies.sharing import Sharing
from sidecar.request import Caller, GenerateRequest
from sidecar.settings import Settings
from sidecar.settings.operation import Limits, Redis
from sidecar.store.answers import Answers
from sidecar.store.audit import Audit
from sidecar.store.budget_file import BudgetFile
from sidecar.store.cache_vectors import KnownVectors
from sidecar.store.preferences import UserPreferences
from sidecar.store.usage import UsageLog


def make_engine(
    settings: Settings,
    catalog: Catalog,
    log: Log,
    *,
    ledger: Ledger | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    wall_ns: Callable[[], int] = time.time_ns,
    random: Callable[[], float] = random.random,
) -> Engine:
    """Everything the stages work with; its providers are connected later. Another clock needs an event loop that keeps it.

    Without a ledger, one in memory.
    """
    breakers = Breakers(settings)
    metrics = Metrics(
        catalog.nodes, settings.services, catalog.known_names, lambda: breakers.states(clock_ns()), lambda: admission.waiting()
    )
    meter = Meter(log, metrics, clock_ns)
    admission = Admission(settings, clock_ns, metrics.refused, partial(meter.event, "shed"))

    breakers.on_change.append(partial(_breaker_changed, meter))
    health = Health(settings, breakers.listing, partial(meter.event, "health"))
    breakers.on_change.append(lambda _: health.wake())

    def set_aside(key: str, until_ns: int, reason: str) -> None:
        left_s = max(0, until_ns - clock_ns()) // 1_000_000_000
        meter.event("set_aside", f"{key} goes behind all others for {left_s} s: {reason}", key=key, reason=reason)

    answers = Answers(settings.cache, wall_ns)
    similar = Similar(settings.cache.max_bytes)
    answers.on_kept.append(similar.add)
    answers.on_gone.append(similar.remove)
    repeats = Repeats(settings.cache.max_bytes)
    answers.on_gone.append(repeats.forget)
    similar.judge = CacheJudge(settings, random, partial(meter.event, "cache"))
    ledger = Ledger() if ledger is None else ledger
    budgets = Budgets(settings)
    budgets.bind(ledger, wall_ns)
    shares = settings.redis.url and settings.fleet.share_budgets
    return Engine(
        settings=settings,
        catalog=catalog,
        providers={},
        preferences=Preferences(settings, catalog, settings.configured),
        budgets=budgets,
        dear_calls=DearCalls(settings.limits),
        ledger=ledger,
        sharing=Sharing(settings.fleet, ledger, clock_ns, wall_ns, budgets.without_redis) if shares else None,
        breakers=breakers,
        retries=Retries(settings),
        endpoints=Endpoints(set_aside),
        health=health,
        latencies=Latencies(),
        outputs=Outputs(settings.limits.reserve_quantile),
        quotas=Quotas(),
        prefixes=PromptPrefixes(settings),
        admission=admission,
        answers=answers,
        repeats=repeats,
        flights=Flights(),
        similar=similar,
        vectors=KnownVectors(settings.cache, answers.invalidations),
        user_preferences=UserPreferences(),
        budget_file=BudgetFile(),
        audit=Audit(),
        usage=UsageLog(settings, wall_ns),
        degradations=Degradations(settings),
        meter=meter,
        clock_ns=clock_ns,
        wall_ns=wall_ns,
        random=random,
    )


def _breaker_changed(meter: Meter, change: Change) -> None:
    meter.metrics.breaker_changed(change.service, change.target, change.after)
    facts = {"service": change.service, "target": change.target, "from": change.before, "to": change.after, "why": change.why}
    if change.why in ("held", "let_go"):
        facts["who"] = "operator"
    meter.event("breaker", change.message, "warning" if change.after == "open" else "info", **facts)


async def warm_up(engine: Engine) -> None:
    """Answer one call through the whole pipeline, so that the first caller does not pay for first uses. Nothing leaves the process."""
    for tokenizer in {model.tokenizer for model in engine.catalog.models.values()}:
        count_text(tokenizer, "warm-up")

    async def nobody(_: object) -> None:
        return None

    loop = asyncio.get_running_loop()
    # An engine of its own, with the shipped limits: these calls are nobody's, are counted nowhere, and a small limit must not stop a start.
    quiet = make_engine(replace(engine.settings, limits=Limits(), budgets={}, redis=Redis()), engine.catalog, Log("error"))
    quiet.providers.update(engine.providers)
    for operation in ("generate", "stream"):
        now = loop.time()
        request = GenerateRequest(caller=Caller(tenant="sidecar"), prompt="warm-up", model="echo/echo")
        call = Call(
            id="warm-up",
            operation=operation,
            request=request,
            metadata={},
            arrived=now,
            deadline=now + 60,
            send=nobody if operation == "stream" else None,
        )
        await run(quiet, call)
