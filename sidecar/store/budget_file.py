"""What must outlive the process beside the money itself: the limits that operators set, and the runs that are open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.errors import StoreFailed
from sidecar.store.small_file import open_small_file, unusable

if TYPE_CHECKING:
    import sqlite3

FILE = "budgets.db"
_FORM = 1
_TABLE = "CREATE TABLE IF NOT EXISTS kept (kind TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (kind, name))"
_SET = "INSERT INTO kept (kind, name, text) VALUES (?, ?, ?) ON CONFLICT (kind, name) DO UPDATE SET text = excluded.text"

Key = tuple[str, str]  # kind (budget, run) and name


class BudgetFile:
    """Texts by kind and name. Without a folder nothing is kept. The disk is waited for in a thread of its own, and in order."""

    def __init__(self) -> None:
        self._path = Path()
        self._file: sqlite3.Connection | None = None
        self._writer: ThreadPoolExecutor | None = None

    def open(self, folder: Path) -> dict[Key, str]:
        """Use the file in this folder. Returns all that is in it, the oldest first. Raises StoreFailed."""
        self._path = folder / FILE
        self._file = file = open_small_file(self._path, _FORM, _TABLE)
        try:
            rows = file.execute("SELECT kind, name, text FROM kept ORDER BY rowid").fetchall()
        except file.Error as error:
            raise unusable(self._path, error) from None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="budgets")
        return {(kind, name): text for kind, name, text in rows}

    async def keep(self, changes: Mapping[Key, str | None]) -> None:
        """Write all of them or none; None: it is gone. They are on the disk when this returns. Raises StoreFailed."""
        if self._writer is not None and changes:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._write, changes)

    def close(self) -> None:
        """Finish what is being written and leave the file."""
        if self._writer is not None:
            self._writer.shutdown()
        if self._file is not None:
            self._file.close()

    def _write(self, changes: Mapping[Key, str | None]) -> None:
        assert self._file is not None  # noqa: S101
        try:
            with self._file:
                self._file.executemany(_SET, [(*key, text) for key, text in changes.items() if text is not None])
                self._file.executemany(
                    "DELETE FROM kept WHERE kind = ? AND name = ?", [key for key, text in changes.items() if text is None]
                )
        except self._file.Error as error:
            raise StoreFailed(f"cannot write {self._path} (server.data_dir): {error}; nothing was changed") from None
