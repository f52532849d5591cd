"""What audits have proven of answers to similar questions: kept over restarts, added up by pods, shown to operators."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import Counter, Gauge

from sidecar.engine import Engine
from sidecar.errors import StoreFailed
from sidecar.json_text import UNREADABLE
from sidecar.policies.cache_audits import MOST, Counts, Kept, Namespace
from sidecar.policies.cache_judge import CacheJudge
from sidecar.store.proof_file import ProofFile
from sidecar.store.shared_proofs import SharedProofs, connect
from sidecar.upkeep.cache_calls import ModelJudge

_GATHER_S: Final = 0.2  # what a killed process forgets
_RETRY_S: Final = 5.0
_LISTEN_S: Final = 3.0
_LISTENED: Final = 200  # namespaces, those audited last
_AT_ONCE: Final = 50
_read = msgspec.json.Decoder(Kept).decode


class CacheProofs:
    """Runs beside the calls, from `open` to `close`. Without server.data_dir every start begins with nothing proven."""

    def __init__(self, engine: Engine, judge: CacheJudge) -> None:
        self._engine = engine
        self._audits = judge.audits
        self._model = judge.model = ModelJudge(engine) if engine.settings.cache.audit.judge else None
        self._file: ProofFile | None = None
        self._unwritten: dict[Namespace, None] = {}
        self._something = asyncio.Event()
        self._shared: SharedProofs | None = None
        self._untold: dict[Namespace, None] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-proofs")  # its thread begins with the first write
        registry = engine.meter.metrics.registry
        told = (
            "Would-be answers to similar questions that a provider was asked for too: same, complaint, or what differed; `not judged` is "
            "none of them, and does not count."
        )
        self._counter = Counter("llm_cache_audit_total", told, ["node", "outcome"], registry=registry)
        self._audits.changed = self._changed
        judge.audited = lambda node, outcome: self._counter.labels(node, outcome).inc()
        self._show("llm_cache_proofs", "Namespaces (node, tenants, model, prompt, rules) that were audited.", lambda: len(self._audits))
        self._show("llm_cache_proofs_open", "Those whose similar answers are given.", lambda: self._audits.open)

    def _show(self, name: str, told: str, read: Callable[[], float]) -> None:
        Gauge(name, told, registry=self._engine.meter.metrics.registry).set_function(read)

    def open(self) -> None:
        """Read what is known from before. Raises StoreFailed where it cannot be."""
        folder = self._engine.settings.server.data_dir
        if folder is None:
            return
        self._file = file = ProofFile(Path(folder))
        self._audits.restore(kept for kept in map(_kept, file.load(MOST)) if kept is not None)
        self._tasks.append(asyncio.ensure_future(self._keep_writing(file)))

    async def connect(self) -> None:
        """To the Redis where pods add up their counts, if there is one, without waiting for it. Raises SettingsError."""
        pod = self._file.pod if self._file is not None else uuid.uuid4().hex
        self._shared = shared = await connect(self._engine.settings, pod)
        if shared is not None:
            self._tasks.append(asyncio.ensure_future(self._keep_adding_up(shared)))

    def _changed(self, namespace: Namespace) -> None:
        if self._file is not None:
            self._unwritten[namespace] = None
            self._something.set()
        if self._shared is not None:
            self._untold[namespace] = None
            self._news.set()

    async def _keep_writing(self, file: ProofFile) -> None:
        problem = ""
        while True:
            await self._something.wait()
            await asyncio.sleep(_RETRY_S if problem else _GATHER_S)
            self._something.clear()
            taken = list(self._unwritten)
            try:
                await asyncio.get_running_loop().run_in_executor(self._writer, file.save, self._rows())
            except StoreFailed as error:
                self._unwritten |= dict.fromkeys(taken)
                self._something.set()
                if not problem:
                    self._engine.meter.event("health", f"what audits prove is not kept: {error.message}", "error", key="cache proofs")
                problem = error.message
            else:
                if problem:
                    self._engine.meter.event("health", "what audits prove is kept again in the file", "info", key="cache proofs")
                problem = ""

    async def _keep_adding_up(self, shared: SharedProofs) -> None:
        """Tell this pod's counts soon after they have changed; hear the others' then, and now and then."""
        is_told = True
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LISTEN_S):
                    await self._news.wait()
            await asyncio.sleep(_GATHER_S if is_told else _RETRY_S)
            self._news.clear()
            names = list(self._untold | dict.fromkeys(self._audits.latest(_LISTENED)))
            self._untold.clear()
            try:
                for begin in range(0, len(names), _AT_ONCE):
                    await self._add_up(shared, names[begin : begin + _AT_ONCE])
            except Exception as error:  # also a defect must not end it: the others' failures would never be heard of
                self._untold = dict.fromkeys(names) | self._untold
                if is_told:
                    told = f"{shared.problem(error)}; until that is mended, each pod proves similar answers alone"
                    self._engine.meter.event("health", told, "error", key="cache proofs redis")
                is_told = False
            else:
                if not is_told:
                    told = "redis answers: pods add up what audits prove"
                    self._engine.meter.event("health", told, "info", key="cache proofs redis")
                is_told = True

    async def _add_up(self, shared: SharedProofs, names: list[Namespace]) -> None:
        own = [(namespace, self._audits.own(namespace)) for namespace in names]
        heard = await shared.exchange(
            [(_text(namespace), (one.audits, one.failures) if one is not None else None) for namespace, one in own]
        )
        for namespace, (audits, failures) in zip(names, heard, strict=True):
            if self._audits.learn(namespace, Counts(audits, failures)) and self._file is not None:
                self._unwritten[namespace] = None
                self._something.set()

    def _rows(self) -> list[tuple[str, bytes | None]]:
        """What is to be written, which then counts as written. None: it was forgotten."""
        found = [(namespace, self._audits.kept(namespace)) for namespace in self._unwritten]
        self._unwritten.clear()
        return [(_text(namespace), None if kept is None else msgspec.json.encode(kept)) for namespace, kept in found]

    async def close(self) -> None:
        """Write what waits."""
        if self._model is not None:
            await self._model.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._shared is not None:
            with contextlib.suppress(Exception):
                await self._shared.close()
        if self._file is not None:
            with contextlib.suppress(StoreFailed):  # it was told before
                await asyncio.get_running_loop().run_in_executor(self._writer, self._file.save, self._rows())
            self._file.close()


def _text(namespace: Namespace) -> str:
    return msgspec.json.encode(namespace).decode()


def _kept(text: bytes) -> Kept | None:
    try:
        return _read(text)
    except UNREADABLE:
        return None
