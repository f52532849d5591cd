"""The composition root: settings become an engine, the engine gets its doors, and the process its life and death."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from sidecar import VERSION
from sidecar._core import Ledger
from sidecar.assembly import make_engine, warm_up
from sidecar.catalog import Catalog
from sidecar.catalog import load as load_catalog
from sidecar.connecting import connect_all, skipped_providers
from sidecar.doors import LAST_WORDS_S, Doors, StartError
from sidecar.engine import Engine
from sidecar.errors import SettingsError, StoreFailed
from sidecar.names import new_event_loop
from sidecar.observe import Log
from sidecar.policies.cache_judge import CacheJudge
from sidecar.policies.models import refusals
from sidecar.settings import Settings
from sidecar.store.hints import Hints
from sidecar.store.journal import open_ledger
from sidecar.store.shared_budgets import SharedBudgets
from sidecar.store.usage import NOT_KEPT
from sidecar.upkeep.alerts import Alerts, connect_alerts
from sidecar.upkeep.cache_proofs import CacheProofs
from sidecar.upkeep.cache_stores import CacheStores
from sidecar.upkeep.house import keep_house, keep_runs, watch_journal
from sidecar.upkeep.pods import connect_budgets, connect_hints, upkeep
from sidecar.upkeep.runs import connect_runs
from sidecar.upkeep.usage import keep_usage
from sidecar.upkeep.words import Hearing, connect_words


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
    chores = [loop.create_task(chore) for chore in (keep_house(engine), watch_journal(engine), keep_runs(engine), engine.admission.watch())]
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


def _without_log(settings: Settings) -> list[str]:
    return [NOT_KEPT] if settings.server.data_dir is None else []


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
