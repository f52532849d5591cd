"""Where remembered answers are kept beside memory, and what operators see of all that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import Gauge

from sidecar.engine import Engine
from sidecar.errors import StoreFailed
from sidecar.forgetting import complain, forget, given_by
from sidecar.store.cache_entry import Entry, vault_of
from sidecar.store.cache_invalidation import Invalidation
from sidecar.store.redis_server import client_of
from sidecar.upkeep.cache_calls import QuestionVectors

if TYPE_CHECKING:
    from sidecar.store.cache_file import CacheFile
    from sidecar.store.cache_shared import SharedAnswers

_GAUGES: dict[str, str] = {
    "llm_cache_entries": "Answers that are remembered in memory.",
    "llm_cache_bytes": "What they take.",
    "llm_cache_evicted": "Answers that had to go, or did not come in, for want of room, since the start.",
    "llm_cache_vectors": "Vectors that are remembered.",
    "llm_cache_vector_bytes": "What they take.",
    "llm_cache_flights": "Questions that are being asked, for which identical calls may wait.",
}


class CacheStores:
    """Opens what settings name, and does what must be done beside the calls."""

    def __init__(self, engine: Engine) -> None:
        """Raises SettingsError for a missing package."""
        self._engine = engine
        if engine.settings.cache.embedding:
            engine.similar.embed = QuestionVectors(engine)
        self._vault = vault_of(engine.settings)
        self._file: CacheFile | None = None
        self._shared: SharedAnswers | None = None
        self._garbled: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        answers, vectors, flights = engine.answers, engine.vectors, engine.flights
        self._show("llm_cache_entries", lambda: len(answers))
        self._show("llm_cache_bytes", lambda: answers.used_bytes)
        self._show("llm_cache_evicted", lambda: answers.evicted)
        self._show("llm_cache_vectors", lambda: len(vectors))
        self._show("llm_cache_vector_bytes", lambda: vectors.used_bytes)
        self._show("llm_cache_flights", lambda: len(flights))

    def _show(self, name: str, read: Callable[[], float]) -> None:
        Gauge(name, _GAUGES[name], registry=self._engine.meter.metrics.registry).set_function(read)

    def open(self) -> None:
        """The file, if there is to be one. Needs a running event loop. Raises StoreFailed where it cannot be used."""
        engine = self._engine
        folder = engine.settings.server.data_dir
        if not engine.settings.cache.persist or self._vault is None or folder is None:
            return
        from sidecar.store.cache_file import CacheFile  # with SQLite, which a sidecar without a folder does without

        self._file = CacheFile(Path(folder), self._vault, engine.wall_ns, self._threads(self._tell_file), self._threads(self._tell_garbled))
        engine.answers.elsewhere.append(self._file)

    async def connect(self) -> None:
        """The Redis, if there is one, without a word over the network. Raises SettingsError for what is wrong with it."""
        engine, redis = self._engine, self._engine.settings.redis
        if redis.url is None:
            return

        from sidecar.store.cache_shared import SharedAnswers

        async def hear(ones: Sequence[Invalidation]) -> None:
            problems: list[str] = []
            await forget(engine, ones, problems, is_own=False)
            for one in ones:
                if one.is_complaint:
                    await self._hear_complaint(one.entry, problems)
            for problem in problems:
                engine.meter.event("alert", problem, "error", key="cache file")

        self._shared = shared = SharedAnswers(
            await client_of(engine.settings),
            self._vault if engine.settings.cache.shared else None,
            address=redis.url,
            prefix=redis.prefix,
            read_s=engine.settings.cache.read_ms / 1000,
            wall_ns=engine.wall_ns,
            random=engine.random,
            hear=hear,
            brought=lambda entry: _bring(engine, entry),
            floor=engine.answers.invalidations.raise_floor,
            tell=self._tell_shared,
            garbled=self._tell_garbled,
        )
        engine.answers.shared = shared
        engine.answers.elsewhere.append(shared)
        registry = engine.meter.metrics.registry
        Gauge("llm_cache_redis_up", "Whether the Redis that pods share answers is used: 1 or 0.", registry=registry).set_function(
            lambda: float(shared.is_up)
        )
        Gauge("llm_cache_redis_late", "Reads that Redis did not answer in time, since the start.", registry=registry).set_function(
            lambda: shared.late_reads
        )
        Gauge("llm_cache_redis_lost", "Answers for which there was no room on their way to Redis.", registry=registry).set_function(
            lambda: shared.lost
        )

    async def _hear_complaint(self, call_id: str, problems: list[str]) -> None:
        """Somebody complained at another pod about a call that may have been this one's."""
        engine = self._engine
        given = engine.similar.given.pop(call_id, None)
        if given is None and engine.usage.is_kept:
            try:
                row = await engine.usage.rate(call_id, None, None)  # changes nothing
                if row is not None and row.vote is None:  # else it was heard before, or its user thinks better of it
                    await engine.usage.rate(call_id, None, -1)
                    given = given_by(engine, row)
            except StoreFailed as error:
                problems.append(f"a complaint about call {call_id} may not count: {error.message}")
                return
        if given is not None:
            await complain(engine, given)

    def start(self) -> None:
        """Begin what runs until `close`."""
        if self._shared is not None:
            self._tasks.append(asyncio.ensure_future(self._guarded(self._shared.run())))
        if self._file is not None:
            self._tasks.append(asyncio.ensure_future(self._guarded(self._load(self._file))))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A defect in one part is logged and ends that part only."""
        try:
            await work
        except StoreFailed as error:
            self._tell_file(error.message)
        except Exception as error:
            self._engine.meter.log.defect("cache", error)

    async def _load(self, file: CacheFile) -> None:
        """Take in what the file has. With a Redis not before it is known what was invalidated meanwhile."""
        engine = self._engine
        if self._shared is not None:
            await self._shared.learned.wait()
        entries = await file.load(engine.settings.cache.max_bytes)
        for number, entry in enumerate(entries, 1):
            engine.answers.take_in(entry, engine.clock_ns())
            if number % 100 == 0:
                await asyncio.sleep(0)
        engine.meter.log.write("info", "remembered answers read", entries=len(entries))

    async def close(self) -> None:
        """Write what waits, to Redis and to the disk."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    # --- what operators are told --------------------------------------------------------------------------------------------------

    def _threads(self, tell: Callable[[str], None]) -> Callable[[str], None]:
        loop = asyncio.get_running_loop()

        def told(problem: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, problem)

        return told

    def _tell_file(self, problem: str) -> None:
        told = problem and f"the cache: answers are not kept: {problem}"
        self._engine.trouble("cache file", told, "the cache: answers are kept again in the file")

    def _tell_shared(self, problem: str) -> None:
        share = "do not share answers, and " if self._engine.settings.cache.shared else ""
        told = problem and f"the cache: {problem}; until that is mended, pods {share}learn only afterwards of what is invalidated"
        does = "share answers, and learn at once" if share else "learn at once"
        self._engine.trouble("cache redis", told, f"the cache: redis answers: pods {does} of what is invalidated")

    def _tell_garbled(self, why: str) -> None:
        """Once for each reason."""
        if why not in self._garbled:
            self._garbled.add(why)
            told = f"an entry of the cache cannot be read ({why}), and is as good as not there; more like it are not told of"
            self._engine.meter.event("alert", told, "warning", key="cache garbled")


def _bring(engine: Engine, entry: Entry) -> None:
    """Remember what another pod has kept, unless it is here already."""
    if engine.answers.old(entry.digest, engine.clock_ns()) is None:
        engine.answers.take_in(entry, engine.clock_ns())
