"""The model that each user prefers: read on every call's path from memory, kept in a file where settings name a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.errors import StoreFailed
from sidecar.store.small_file import open_small_file, unusable

if TYPE_CHECKING:
    import sqlite3

FILE = "preferences.db"
_MOST = 100_000  # about 30 MB
_FORM = 1  # of the table, as the file's user_version
_TABLE = """CREATE TABLE IF NOT EXISTS preferences (
    tenant TEXT NOT NULL, user TEXT NOT NULL, model TEXT NOT NULL, PRIMARY KEY (tenant, user))"""
_SET = """INSERT INTO preferences (tenant, user, model) VALUES (?, ?, ?)
    ON CONFLICT (tenant, user) DO UPDATE SET model = excluded.model"""
_DELETE = "DELETE FROM preferences WHERE tenant = ? AND user = ?"


class UserPreferences:
    """At most 100,000 of them; beyond that the one that was first set the longest ago goes, from the file too.

    Without a file they live as long as the process. With one, a change is on the disk when `set` and `delete` return (SQLite with a
    write-ahead log, synchronous=FULL: neither kill -9 nor a power failure takes it back). The disk is waited for in one thread of the
    store's own, so that no call waits for it, and changes happen in the order in which they were asked for. Another process that uses
    the same file is not noticed before the next start.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._models: dict[tuple[str, str], str] = {}  # the one first set the longest ago first, as in the file
        self._path: Path | None = None
        self._file: sqlite3.Connection | None = None
        self._writer: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._models)

    def of(self, tenant: str, user: str) -> str:
        """The model that this user prefers, as it was stored. "": none."""
        return self._models.get((tenant, user), "")

    async def set(self, tenant: str, user: str, model: str) -> bool:
        """Store it. Returns whether another user's had to go for it. Raises StoreFailed, and then nothing has changed."""
        if self._writer is None:
            return self._set(tenant, user, model)
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._set, tenant, user, model)

    async def delete(self, tenant: str, user: str) -> None:
        """Forget it, if there is one. Raises StoreFailed, and then nothing has changed."""
        if self._writer is None:
            self._delete(tenant, user)
        else:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._delete, tenant, user)

    def open(self, folder: Path) -> None:
        """Keep them in a file in this folder, which is made if need be, and read what is there. Raises StoreFailed."""
        self._path = path = folder / FILE
        self._file = file = open_small_file(path, _FORM, _TABLE)  # used by one thread at a time: by this one now, then by the writer
        try:
            rows = file.execute("SELECT tenant, user, model FROM preferences ORDER BY rowid DESC LIMIT ?", (self._most,)).fetchall()
        except file.Error as error:
            raise unusable(path, error) from None
        self._models = {(tenant, user): model for tenant, user, model in reversed(rows)}
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preferences")

    def close(self) -> None:
        """Finish what is being written and leave the file."""
        if self._writer is not None:
            self._writer.shutdown()
        if self._file is not None:
            self._file.close()

    def _set(self, tenant: str, user: str, model: str) -> bool:
        is_full = (tenant, user) not in self._models and len(self._models) >= self._most
        oldest = next(iter(self._models)) if is_full else None
        changes: list[tuple[str, tuple[str, ...]]] = [(_SET, (tenant, user, model))]
        if oldest is not None:
            changes.append((_DELETE, oldest))
        self._write(changes)
        self._models[tenant, user] = model
        if oldest is not None:
            del self._models[oldest]
        return oldest is not None

    def _delete(self, tenant: str, user: str) -> None:
        if (tenant, user) in self._models:
            self._write([(_DELETE, (tenant, user))])
            del self._models[tenant, user]

    def _write(self, changes: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """All of them or none. Raises StoreFailed."""
        if self._file is None:
            return
        try:
            with self._file:
                for statement, values in changes:
                    self._file.execute(statement, values)
        except self._file.Error as error:
            raise StoreFailed(f"cannot write {self._path} (server.data_dir): {error}; nothing was changed") from None
