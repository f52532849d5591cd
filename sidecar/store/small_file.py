"""A small SQLite file in server.data_dir that is read whole at start and written now and then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.errors import StoreFailed

if TYPE_CHECKING:
    import sqlite3


def open_small_file(path: Path, form: int, table: str) -> sqlite3.Connection:
    """Open or make it: write-ahead log, synchronous=FULL, so that neither kill -9 nor a power failure takes a commit back.

    `form` is the table's, as the file's user_version; the folder is made if need be. The connection is for one thread at a time. Raises
    StoreFailed.
    """
    import sqlite3  # 2 MB that a sidecar without a folder does without

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # the names in it are nobody else's business
    except OSError as error:
        raise StoreFailed(f"cannot write {path} (server.data_dir): {error.strerror}") from None
    try:
        file = sqlite3.connect(path, timeout=5, check_same_thread=False)
        (found,) = file.execute("PRAGMA user_version").fetchone()
        if found > form:
            raise StoreFailed(f"cannot use {path} (server.data_dir): a later version of the sidecar wrote it; run that, or move it away")
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = FULL")
        file.execute(table)
        file.execute(f"PRAGMA user_version = {form}")
    except sqlite3.Error as error:
        raise unusable(path, error) from None
    return file


def unusable(path: Path, error: Exception) -> StoreFailed:
    return StoreFailed(f"cannot use {path} (server.data_dir): {error}; repair it or move it away")
