"""Which alerts have been told, so that each is told once: by this process, by those before it, and by the other pods.

This process' own memory is whoever uses this; here are the two that reach further. The file in server.data_dir also holds what is still to
be sent. In a Redis or Valkey that pods share, whoever is about to send an alert claims it for a while, and marks it as told once it has
arrived; a pod that dies in between leaves a claim that ends, and another one that has the same alert sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from sidecar.errors import StoreFailed
from sidecar.store.small_file import open_small_file, unusable

if TYPE_CHECKING:
    import sqlite3

    from redis.asyncio import Redis

FILE: Final = "alerts.db"
_FORM: Final = 1
_TABLE: Final = """CREATE TABLE IF NOT EXISTS alert (
    receiver TEXT NOT NULL, id TEXT NOT NULL, until_ms INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (receiver, id)) WITHOUT ROWID"""
_SET: Final = """INSERT INTO alert (receiver, id, until_ms, text) VALUES (?, ?, ?, ?)
    ON CONFLICT (receiver, id) DO UPDATE SET until_ms = excluded.until_ms, text = excluded.text"""
_PURGE: Final = "DELETE FROM alert WHERE until_ms <= ? AND text = ''"
_PURGE_EVERY: Final = 1_000  # writes
_CLAIM_MS: Final = 120_000
_TOLD: Final = b"told"
_ANSWER_S: Final = 2.0

Verdict = Literal["mine", "told", "elsewhere"]
Entry = tuple[str, int, str]  # an alert's id, until when it is not told again (Unix ms), and what is still to be sent ("": it is told)


class Told:
    """`receiver` is one place where alerts go, by a name that is the same in all pods. Without folder and Redis nothing is known here."""

    def __init__(self, client: Redis | None, prefix: str, pod: str) -> None:
        self._client = client
        self._prefix = prefix
        self._pod = pod.encode()
        self._path = Path()
        self._file: sqlite3.Connection | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._writes = 0

    # --- the file -----------------------------------------------------------------------------------------------------------------

    def open(self, folder: Path) -> None:
        """Use the file in this folder, which is made if need be. Raises StoreFailed."""
        self._path = folder / FILE
        self._file = open_small_file(self._path, _FORM, _TABLE)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alerts")

    async def kept(self, receiver: str, now_ms: int) -> list[Entry]:
        """What is not over. Raises StoreFailed."""
        if self._writer is None:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._read, receiver, now_ms)

    async def keep(self, receiver: str, entries: Sequence[Entry], now_ms: int) -> None:
        """They are on the disk when this returns. Raises StoreFailed."""
        if self._writer is not None:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._write, receiver, entries, now_ms)

    def _read(self, receiver: str, now_ms: int) -> list[Entry]:
        assert self._file is not None  # noqa: S101
        try:
            with self._file:
                self._file.execute(_PURGE, (now_ms,))
            return self._file.execute("SELECT id, until_ms, text FROM alert WHERE receiver = ?", (receiver,)).fetchall()
        except self._file.Error as error:
            raise unusable(self._path, error) from None

    def _write(self, receiver: str, entries: Sequence[Entry], now_ms: int) -> None:
        assert self._file is not None  # noqa: S101
        self._writes += 1
        try:
            with self._file:
                if self._writes % _PURGE_EVERY == 0:
                    self._file.execute(_PURGE, (now_ms,))
                self._file.executemany(_SET, [(receiver, *entry) for entry in entries])
        except self._file.Error as error:
            raise StoreFailed(f"cannot write {self._path} (server.data_dir): {error}") from None

    # --- the other pods -----------------------------------------------------------------------------------------------------------

    async def claim(self, receiver: str, ids: Sequence[str]) -> list[Verdict]:
        """Which of them this pod is to send now, which are told, and which another pod is sending. Of what cannot be asked, all."""
        if self._client is None:
            return ["mine"] * len(ids)
        keys = [self._key(receiver, one) for one in ids]
        try:
            async with asyncio.timeout(_ANSWER_S), self._client.pipeline(transaction=False) as asked:
                for key in keys:
                    asked.set(key, self._pod, nx=True, px=_CLAIM_MS)
                    asked.get(key)
                values: list[Any] = (await asked.execute())[1::2]
            verdicts: list[Verdict] = ["told" if v == _TOLD else "mine" if v in (self._pod, None) else "elsewhere" for v in values]
            async with asyncio.timeout(_ANSWER_S), self._client.pipeline(transaction=False) as renewed:
                for key, verdict in zip(keys, verdicts, strict=True):
                    if verdict == "mine":
                        renewed.pexpire(key, _CLAIM_MS)
                await renewed.execute()
        except Exception:  # it is away, or wrong: whoever talks to it all the time tells of that
            return ["mine"] * len(ids)
        return verdicts

    async def tell_others(self, receiver: str, ids: Sequence[str], lefts_ms: Sequence[int]) -> None:
        """These are told, for so long."""
        if self._client is None:
            return
        try:
            async with asyncio.timeout(_ANSWER_S), self._client.pipeline(transaction=False) as words:
                for one, left_ms in zip(ids, lefts_ms, strict=True):
                    words.set(self._key(receiver, one), _TOLD, px=max(left_ms, 1))
                await words.execute()
        except Exception:
            return  # then others may tell it once more

    async def let_go(self, receiver: str, ids: Sequence[str]) -> None:
        """This pod ends: what it has claimed and not sent is for others, or for the process after it."""
        if self._client is None or not ids:
            return
        try:
            async with asyncio.timeout(1.0):
                keys = [self._key(receiver, one) for one in ids]
                mine = [key for key, value in zip(keys, await self._client.mget(keys), strict=True) if value == self._pod]
                if mine:
                    await self._client.delete(*mine)
        except Exception:
            return  # the claims end by themselves

    async def close(self) -> None:
        """Finish what is being written and leave the file and the connection."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.shutdown)
        if self._file is not None:
            self._file.close()
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.aclose()

    def _key(self, receiver: str, one: str) -> str:
        return f"{self._prefix}:alert:{receiver}:{one}"
