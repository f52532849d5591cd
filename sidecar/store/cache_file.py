"""Remembered answers in a file, sealed, so that they outlive the process: written off the calls' path, read once at the start."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from sidecar.errors import StoreFailed
from sidecar.store.cache_entry import Entry, Unreadable, Vault
from sidecar.store.cache_invalidation import Invalidation
from sidecar.store.small_file import open_small_file

FILE: Final = "cache.db"
_FORM: Final = 1  # of the table, as the file's user_version
_GATHER_S: Final = 0.2  # what a killed process forgets
_MOST_WAITING: Final = 8 * 1024 * 1024  # bytes, where the disk does not keep up
_PURGE_S: Final = 600.0
_TABLE: Final = "CREATE TABLE IF NOT EXISTS answers (name BLOB PRIMARY KEY, until_ms INTEGER NOT NULL, sealed BLOB NOT NULL)"


T = TypeVar("T")


class CacheFile:
    """A thread of its own writes. `tell` is called there with what is wrong, "" when it is mended; `garbled` with what cannot be read."""

    name = "file"

    def __init__(
        self, folder: Path, vault: Vault, wall_ns: Callable[[], int], tell: Callable[[str], None], garbled: Callable[[str], None]
    ) -> None:
        """Raises StoreFailed where the folder cannot be used."""
        self._path = path = folder / FILE
        self._vault = vault
        self._wall_ns = wall_ns
        self._tell = tell
        self._garbled = garbled
        self._problem = ""
        self._waiting: dict[bytes, tuple[Entry, bytes] | None] = {}  # by digest; None: to be removed
        self._waiting_bytes = 0
        self.lost = 0
        self._lock = threading.Lock()  # over `_waiting`
        self._something = threading.Event()
        self._stopping = threading.Event()
        self._file = file = open_small_file(path, _FORM, _TABLE)
        file.isolation_level = None  # transactions begin and end where it says so
        file.execute("PRAGMA synchronous = NORMAL")  # a power failure may take back the last answers: they are asked for again
        file.execute("PRAGMA secure_delete = ON")  # what is erased is not to be found in the file's free pages
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-file")  # the file's only user
        self._thread = threading.Thread(target=self._keep_writing, name="cache-write", daemon=True)
        self._thread.start()

    async def load(self, most_bytes: int) -> list[Entry]:
        """What is still worth something, the oldest first, no more than fits. Raises StoreFailed."""
        return await self._in_turn(lambda: self._load(most_bytes))

    def put(self, entry: Entry, data: bytes) -> None:
        with self._lock:
            if self._waiting_bytes + len(data) > _MOST_WAITING:
                self.lost += 1
                return
            self._drop(entry.digest)
            self._waiting[entry.digest] = (entry, data)
            self._waiting_bytes += len(data)
        self._something.set()

    def gone(self, digests: list[bytes]) -> None:
        with self._lock:
            for digest in digests:
                self._drop(digest)
                self._waiting[digest] = None
        self._something.set()

    def _drop(self, digest: bytes) -> None:
        if (before := self._waiting.pop(digest, None)) is not None:
            self._waiting_bytes -= len(before[1])

    async def erase(self, ones: Sequence[Invalidation]) -> int:
        return await self._in_turn(lambda: self._erase(ones))

    async def _in_turn(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def close(self) -> None:
        """Write what waits, and leave the file."""
        self._stopping.set()
        self._something.set()
        self._thread.join()
        self._worker.shutdown()
        self._file.close()

    # --- in the worker ------------------------------------------------------------------------------------------------------------

    def _keep_writing(self) -> None:
        pause_s = _GATHER_S
        while not self._stopping.is_set():
            self._something.wait(_PURGE_S)
            self._stopping.wait(pause_s)
            self._something.clear()
            try:
                self._worker.submit(self._write).result()
                pause_s = _GATHER_S
            except StoreFailed:
                pause_s = 1.0
                self._something.set()

    def _write(self) -> None:
        """All that waits, and away with what is too old. Raises StoreFailed; then it waits on."""
        with self._lock:
            waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        puts, removals = [], []
        for digest, kept in waiting.items():
            name = self._vault.name(digest)
            if kept is None:
                removals.append((name,))
            else:
                entry, data = kept
                puts.append((name, entry.kept_ms + entry.keep_ms, self._vault.seal(name, data)))
        try:
            self._run_all(puts, removals)
        except StoreFailed:
            with self._lock:
                for digest, kept in waiting.items():
                    if digest not in self._waiting:
                        self._waiting[digest] = kept
                        self._waiting_bytes += len(kept[1]) if kept is not None else 0
            raise

    def _run_all(self, puts: list[tuple[bytes, int, bytes]], removals: list[tuple[bytes]]) -> None:
        file = self._file
        try:
            file.execute("BEGIN IMMEDIATE")
            try:
                file.executemany("INSERT OR REPLACE INTO answers (name, until_ms, sealed) VALUES (?, ?, ?)", puts)
                file.executemany("DELETE FROM answers WHERE name = ?", removals)
                file.execute("DELETE FROM answers WHERE until_ms < ?", (self._wall_ns() // 1_000_000,))
                file.execute("COMMIT")
            except BaseException:
                if file.in_transaction:
                    file.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self._turn(f"cannot write {self._path} (server.data_dir): {error}")
            raise StoreFailed(self._problem) from None
        self._turn("")

    def _turn(self, problem: str) -> None:
        was, self._problem = self._problem, problem
        if bool(was) is not bool(problem):
            self._tell(problem)

    def _rows(self) -> Iterator[tuple[bytes, Entry]]:
        """All that can be read, the latest first. Raises StoreFailed."""
        try:
            for name, sealed in self._file.execute("SELECT name, sealed FROM answers ORDER BY rowid DESC"):
                try:
                    yield name, self._vault.entry(name, sealed)
                except Unreadable as error:
                    self._garbled(str(error))
        except sqlite3.Error as error:
            raise StoreFailed(f"cannot read {self._path} (server.data_dir): {error}") from None

    def _load(self, most_bytes: int) -> list[Entry]:
        now_ms = self._wall_ns() // 1_000_000
        entries: list[Entry] = []
        for _, entry in self._rows():
            most_bytes -= len(entry.text) + len(entry.reasoning)
            if most_bytes < 0:
                break
            if entry.kept_ms + entry.keep_ms > now_ms:
                entries.append(entry)
        return entries[::-1]

    def _erase(self, ones: Sequence[Invalidation]) -> int:
        self._write()
        hit = [(name,) for name, entry in self._rows() if any(_hits(one, entry) for one in ones)]
        self._run_all([], hit)
        try:
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # nor in the log beside it
        except sqlite3.Error as error:
            raise StoreFailed(f"cannot write {self._path} (server.data_dir): {error}") from None
        return len(hit)


def _hits(one: Invalidation, entry: Entry) -> bool:
    return entry.generation < one.generation and one.hits(entry.named, entry.kept_ms, entry.call_id)
