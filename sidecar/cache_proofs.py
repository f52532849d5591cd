"""What audits have proven of answers to similar questions: kept over restarts, and shown to operators."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import Counter, Gauge

from sidecar.engine import Engine
from sidecar.errors import StoreFailed
from sidecar.json_text import UNREADABLE
from sidecar.policies.cache_audits import MOST, Kept, Namespace
from sidecar.policies.cache_judge import CacheJudge
from sidecar.store.proof_file import ProofFile

_GATHER_S: Final = 0.2  # what a killed process forgets
_RETRY_S: Final = 5.0
_read = msgspec.json.Decoder(Kept).decode


class CacheProofs:
    """Runs beside the calls, from `open` to `close`. Without server.data_dir every start begins with nothing proven."""

    def __init__(self, engine: Engine, judge: CacheJudge) -> None:
        self._engine = engine
        self._audits = judge.audits
        self._file: ProofFile | None = None
        self._unwritten: dict[Namespace, None] = {}
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-proofs")  # its thread begins with the first write
        registry = engine.meter.metrics.registry
        told = "Would-be answers to similar questions that a provider was asked for too: same, complaint, or what differed."
        self._counter = Counter("llm_cache_audit_total", told, ["node", "outcome"], registry=registry)
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
        self._audits.changed = self._changed
        self._task = asyncio.ensure_future(self._keep_writing(file))

    def _changed(self, namespace: Namespace) -> None:
        self._unwritten[namespace] = None
        self._something.set()

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

    def _rows(self) -> list[tuple[str, bytes]]:
        """What is to be written, which then counts as written."""
        found = [kept for namespace in self._unwritten if (kept := self._audits.kept(namespace)) is not None]
        self._unwritten.clear()
        return [(msgspec.json.encode(kept.namespace).decode(), msgspec.json.encode(kept)) for kept in found]

    async def close(self) -> None:
        """Write what waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._file is not None:
            with contextlib.suppress(StoreFailed):  # it was told before
                await asyncio.get_running_loop().run_in_executor(self._writer, self._file.save, self._rows())
            self._file.close()


def _kept(text: bytes) -> Kept | None:
    try:
        return _read(text)
    except UNREADABLE:
        return None
