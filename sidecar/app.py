"""The composition root: settings become an engine, the engine gets its doors, and the process its life and death."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from sidecar import VERSION
from sidecar._core import Ledger
from sidecar.call import Call, Chunk, GenerateAsk
from sidecar.catalog import Catalog
from sidecar.catalog import load as load_catalog
from sidecar.counting import count_text
from sidecar.doors import LAST_WORDS_S, Doors, StartError
from sidecar.engine import Engine
from sidecar.errors import SettingsError, SidecarError, StoreFailed
from sidecar.names import new_event_loop
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
from sidecar.policies.models import Preferences, refusals
from sidecar.policies.prompt_prefixes import PromptPrefixes
from sidecar.policies.quotas import Quotas
from sidecar.policies.reservations import Outputs
from sidecar.policies.retries import Retries
from sidecar.policies.runs import summary
from sidecar.policies.sharing import Sharing
from sidecar.providers import Provider
from sidecar.request import Caller, GenerateRequest, Message, Text
from sidecar.settings import Settings
from sidecar.settings.operation import Limits, Redis
from sidecar.settings.routing import ProviderSettings
from sidecar.store.answers import Answers
from sidecar.store.audit import Audit
from sidecar.store.budget_file import BudgetFile
from sidecar.store.cache_vectors import KnownVectors
from sidecar.store.hints import Hints
from sidecar.store.journal import JournalWatch, open_ledger
from sidecar.store.preferences import UserPreferences
from sidecar.store.shared_budgets import SharedBudgets
from sidecar.store.usage import NOT_KEPT, UsageLog
from sidecar.upkeep.alerts import Alerts, connect_alerts
from sidecar.upkeep.cache_proofs import CacheProofs
from sidecar.upkeep.cache_stores import CacheStores
from sidecar.upkeep.pods import connect_budgets, connect_hints, upkeep
from sidecar.upkeep.runs import connect_runs
from sidecar.upkeep.usage import keep_usage
from sidecar.upkeep.words import Hearing, connect_words

_HOUSEKEEPING_S = 30.0
_JOURNAL_WATCH_S = 1.0
_KEEP_RUNS_S = 1.0


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 0 after a clean end, 1 if it could not start.

    Raises SettingsError where settings contradict what is known about models and nodes.
    """
    # Keys lie in memory: no core dumps. A limit of 0 still lets them through where they are piped to a program, 1 does not (core(5)).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_serve(settings))
    except StartError as error:
        print(f"sidecar: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


async def _serve(settings: Settings) -> int:
    log = Log(settings.logging.level, content=settings.logging.content)
    catalog = load_catalog(settings, datetime.now(UTC).date())
    _require_fallbacks(settings, catalog)
    ledger, found = _open_ledger(settings)
    engine = make_engine(settings, catalog, log, ledger=ledger)
    _open_store(engine)
    alerts = await _connect_alerts(engine)
    stores, proofs = _open_cache(engine)
    doors = Doors(engine, (*settings.notices, *catalog.notices, *skipped_providers(settings), *_without_log(settings), *found))
    try:
        await doors.open()
        peers = await connect_hints(engine)
        await stores.connect()
        await proofs.connect()
        budgets = await _share_with_others(engine)
        hearing = await connect_words(engine)
        await connect_all(engine)
        await warm_up(engine)
        _settle_heap()
        await doors.serve()
        stores.start()
        log.write(
            "info", "serving", version=VERSION, environment=settings.profile.name, listen=doors.bound, providers=sorted(engine.providers)
        )
        await _until_stopped(engine, doors, peers, budgets, hearing)
    finally:
        await doors.close()
        for provider in engine.providers.values():
            await provider.close()
        await stores.close()
        await proofs.close()
        await asyncio.to_thread(engine.usage.close)
        await alerts.close(LAST_WORDS_S)
        engine.user_preferences.close()
        with contextlib.suppress(StoreFailed):  # it was told before
            await engine.budgets.keep_runs()
        engine.budget_file.close()
        engine.audit.close()
        if not await asyncio.to_thread(engine.ledger.close):
            log.write("error", "the journal of what was spent could not be written to its end; as far as there was room it is kept apart")
        log.flush()
    log.write("info", "stopped")
    log.flush()
    return 0


def _settle_heap() -> None:
    """Spare the garbage collector what is there to stay, and let it run seldom: calls leave no circles behind, and a full collection
    with hundreds of calls in flight stops all their streams for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


async def _until_stopped(engine: Engine, doors: Doors, peers: Hints | None, budgets: SharedBudgets | None, hearing: Hearing | None) -> None:
    """SIGTERM or SIGINT: an orderly end. A second one: an end at once."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def signalled() -> None:
        if asked.is_set():
            os._exit(143)  # whoever signals twice wants it gone, whatever hangs
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    chores = [
        loop.create_task(chore) for chore in (_keep_house(engine), _watch_journal(engine), _keep_runs(engine), engine.admission.watch())
    ]
    if hearing is not None:
        chores.append(loop.create_task(hearing.run()))
    upkeeping = loop.create_task(upkeep(engine, peers, budgets))
    shared_runs = engine.budgets.runs.shared
    talking = loop.create_task(shared_runs.run()) if shared_runs is not None else None
    await asked.wait()
    for chore in chores:
        chore.cancel()
    grace_ms = engine.settings.server.grace_ms
    engine.meter.log.write("info", "draining", calls_in_flight=await doors.drain(), grace_ms=grace_ms)
    await doors.finish(grace_ms / 1000)
    upkeeping.cancel()
    await asyncio.wait([upkeeping])
    if engine.sharing is not None and budgets is not None:
        await engine.sharing.end(budgets)
    if talking is not None and shared_runs is not None:
        talking.cancel()
        await asyncio.wait([talking])
        await shared_runs.end()


# --- parts ----------------------------------------------------------------------------------------------------------------------


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

    def breaker_changed(change: Change) -> None:
        metrics.breaker_changed(change.service, change.target, change.after)
        facts = {"service": change.service, "target": change.target, "from": change.before, "to": change.after, "why": change.why}
        if change.why in ("held", "let_go"):
            facts["who"] = "operator"
        meter.event("breaker", change.message, "warning" if change.after == "open" else "info", **facts)

    breakers.on_change.append(breaker_changed)

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


async def connect_all(engine: Engine) -> None:
    """Connect every configured provider, or each of its endpoints, SDKs imported in threads, and the echo.

    Raises SettingsError naming a missing package.
    """
    wanted = (*_spots(engine.settings), ProviderSettings(name="echo", kind="echo"))
    for provider in await asyncio.gather(*(_connect(spot) for spot in wanted)):
        engine.providers[provider.name] = provider


def _spots(settings: Settings) -> list[ProviderSettings]:
    """Where calls may go: the configured providers, those with endpoints once for each, as `NAME#ENDPOINT`."""
    wanted = [settings.providers[name] for name in sorted(settings.configured)]
    return [spot for p in wanted for spot in ([p.at(name) for name in p.endpoints] if p.endpoints else [p])]


def skipped_providers(settings: Settings) -> list[str]:
    """A notice for each provider without a key. Anything else that a provider lacks is refused when settings are read."""
    return [f"provider {p.name} is skipped: it has no key" for p in settings.providers.values() if not p.is_configured]


def _without_log(settings: Settings) -> list[str]:
    return [NOT_KEPT] if settings.server.data_dir is None else []


async def _connect(settings: ProviderSettings) -> Provider:
    module = importlib.import_module(f"sidecar.providers.{settings.kind}")
    provider: Provider = await module.connect(settings)
    return provider


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


async def live_check(settings: Settings) -> list[tuple[str, bool, str]]:
    """One tiny real call per configured provider and endpoint: (which, did it answer, what happened). For `sidecar check --live`."""
    catalog = load_catalog(settings, datetime.now(UTC).date())
    results: list[tuple[str, bool, str]] = []
    for spot in _spots(settings):
        name = spot.name
        try:
            provider = await _connect(spot)
            try:
                results.append((name, True, await _ask_once(provider, catalog)))
            finally:
                await provider.close()
        except (SidecarError, SettingsError) as error:
            results.append((name, False, str(error)))
        except TimeoutError:
            results.append((name, False, "no answer within 20 s"))
    return results


async def _ask_once(provider: Provider, catalog: Catalog) -> str:
    model = catalog.model(f"{provider.name.partition('#')[0]}/")
    said: list[Chunk] = []

    async def emit(chunks: Iterable[Chunk]) -> None:
        said.extend(chunks)

    async with asyncio.timeout(20):
        await provider.generate(GenerateAsk(model.name, (Message("user", (Text("Say ok."),)),), stream=False, max_output_tokens=16), emit)
    return f"{model.id} answered"


def _require_fallbacks(settings: Settings, catalog: Catalog) -> None:
    """Production does not start on one leg. Raises SettingsError naming the first nodes without a model or a fallback."""
    found = refusals(settings, catalog, settings.configured)
    if found:
        more = f"; and {len(found) - 3} more: run `sidecar check`" if len(found) > 3 else ""
        raise SettingsError(settings.origin("profile", "name"), "", f"production is refused: {'; '.join(found[:3])}{more}")


def _open_ledger(settings: Settings) -> tuple[Ledger, list[str]]:
    """What the last process spent. Raises StartError."""
    try:
        return open_ledger(settings)
    except StoreFailed as error:
        raise StartError(error.message) from None


async def _share_with_others(engine: Engine) -> SharedBudgets | None:
    """Budgets, and runs. Raises StartError, or SettingsError for what is wrong with [redis]."""
    try:
        runs = await connect_runs(engine)
        if runs is None:
            return await connect_budgets(engine)
        budgets, _ = await asyncio.gather(connect_budgets(engine), runs.begin(engine.settings.fleet.learn_ms / 1000 + 2))
    except StoreFailed as error:
        raise StartError(error.message) from None
    return budgets


def _open_store(engine: Engine) -> None:
    """Read what has outlived the last process. Raises StartError."""
    folder = engine.settings.server.data_dir
    if folder is not None:
        try:
            engine.user_preferences.open(Path(folder))
            engine.budgets.restore(engine.budget_file.open(Path(folder)), engine.budget_file.keep, engine.wall_ns() // 1_000_000)
            engine.audit.open(Path(folder))
            keep_usage(engine, Path(folder))
        except StoreFailed as error:
            raise StartError(error.message) from None


def _open_cache(engine: Engine) -> tuple[CacheStores, CacheProofs]:
    """Where answers, and what is proven of them, are kept beside memory. Raises StartError, or SettingsError for a missing package."""
    judge = engine.similar.judge
    assert isinstance(judge, CacheJudge)  # noqa: S101  (`make_engine` has made it)
    stores, proofs = CacheStores(engine), CacheProofs(engine, judge)
    try:
        stores.open()
        proofs.open()
    except StoreFailed as error:
        raise StartError(error.message) from None
    return stores, proofs


async def _connect_alerts(engine: Engine) -> Alerts:
    """Raises StartError, and SettingsError."""
    try:
        return await connect_alerts(engine)
    except StoreFailed as error:
        raise StartError(error.message) from None


async def _keep_house(engine: Engine) -> None:
    """Give back what lost reservations hold, now and then."""
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        engine.ledger.expire(engine.wall_ns())


async def _keep_runs(engine: Engine) -> None:
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


async def _watch_journal(engine: Engine) -> None:
    """Say it when the disk is full."""
    watch = JournalWatch(engine.ledger, engine.settings.journal, engine.meter.event)
    while True:
        watch.look()
        await asyncio.sleep(_JOURNAL_WATCH_S)
