"""What audits have proven, in a small file of server.data_dir: a restart takes nothing of it back, neither the good nor the bad."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.errors import StoreFailed
from sidecar.store.small_file import open_small_file, unusable

FILE: Final = "cache_proofs.db"
_FORM: Final = 1
_TABLE: Final = "CREATE TABLE IF NOT EXISTS proofs (name TEXT PRIMARY KEY, kept BLOB NOT NULL)"


class ProofFile:
    """Texts by name, the one written last at the end. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreFailed where the folder cannot be used."""
        self._path = folder / FILE
        self._file = file = open_small_file(self._path, _FORM, _TABLE)
        try:
            with file:
                file.execute("PRAGMA secure_delete = ON")  # what is erased is not to be found in the file's free pages
                file.execute("CREATE TABLE IF NOT EXISTS pod (name TEXT NOT NULL)")
                file.execute("INSERT INTO pod (name) SELECT ? WHERE NOT EXISTS (SELECT * FROM pod)", (uuid.uuid4().hex,))
            (self.pod,) = file.execute("SELECT name FROM pod").fetchone()  # whose counts these are, among other pods'
        except file.Error as error:
            raise unusable(self._path, error) from None

    def load(self, most: int) -> list[bytes]:
        """The `most` that were written last, the oldest first; the others are deleted. Raises StoreFailed."""
        try:
            with self._file as file:
                file.execute("DELETE FROM proofs WHERE rowid <= (SELECT rowid FROM proofs ORDER BY rowid DESC LIMIT 1 OFFSET ?)", (most,))
                return [kept for (kept,) in file.execute("SELECT kept FROM proofs ORDER BY rowid")]
        except self._file.Error as error:
            raise unusable(self._path, error) from None

    def save(self, rows: Sequence[tuple[str, bytes | None]]) -> None:
        """All of them or none; None: it is deleted. Raises StoreFailed."""
        try:
            with self._file as file:
                file.executemany("DELETE FROM proofs WHERE name = ?", [(name,) for name, _ in rows])
                file.executemany("INSERT INTO proofs (name, kept) VALUES (?, ?)", [row for row in rows if row[1] is not None])
        except self._file.Error as error:
            raise StoreFailed(f"cannot write {self._path} (server.data_dir): {error}") from None

    def close(self) -> None:
        self._file.close()
