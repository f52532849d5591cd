"""The usage log's file: where every row goes first, and stays, unless a PostgreSQL takes it over."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from msgspec.structs import astuple

from sidecar.errors import StoreFailed
from sidecar.store import usage_sql as sql
from sidecar.store.usage_rows import COLUMNS, SUMS, BadRow, Row, encoded

FILE: Final = "usage.db"
_FORM: Final = 3  # of the tables, as the file's user_version
_PIECE: Final = 5_000  # rows deleted in one go, so that writers do not wait long
_INSERT: Final = f"INSERT INTO llm_calls ({', '.join(COLUMNS)}) VALUES "  # noqa: S608  (of our own names)
_ONE: Final = f"({', '.join('?' * len(COLUMNS))})"
_ADD_TO_DAYS: Final = sql.add_to_days("llm_calls WHERE rowid > ?")
_PURGE: Final = "DELETE FROM llm_calls WHERE rowid IN (SELECT rowid FROM llm_calls WHERE time_ms < ? LIMIT ?)"
_REMOVE: Final = "DELETE FROM llm_calls WHERE id IN (SELECT value FROM json_each(?))"
_OF_THE_ROW: Final = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG)


class UsageFile:
    """One SQLite file in a folder of the sidecar's. Its methods wait for the disk and may be called from any thread, one at a time.

    With a write-ahead log and synchronous=NORMAL: what `add` has written outlives the process however it ends; a power failure may take
    back the last moments, never more. Raises StoreFailed, and then nothing has changed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        at = f"{self.path} (server.data_dir)"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # who asked what is nobody else's business
        except OSError as error:
            raise StoreFailed(f"cannot write {at}: {error.strerror}") from None
        try:
            self._file = file = sqlite3.connect(self.path, timeout=5, check_same_thread=False, isolation_level=None)
            (form,) = file.execute("PRAGMA user_version").fetchone()
            if form > _FORM:
                raise StoreFailed(f"cannot use {at}: a later version of the sidecar wrote it; run that, or move it away")
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            if form < _FORM:
                self._migrate(form)
        except sqlite3.Error as error:
            raise StoreFailed(f"cannot use {at}: {error}; repair it or move it away") from None

    def _migrate(self, form: int) -> None:
        with self._file as file:
            file.execute("BEGIN IMMEDIATE")
            if form == 1:
                file.execute("ALTER TABLE llm_calls ADD COLUMN answer_saved_nano_usd BIGINT")
                file.execute("ALTER TABLE llm_days ADD COLUMN answer_saved_nano_usd BIGINT NOT NULL DEFAULT 0")
            if form in (1, 2):
                file.execute("ALTER TABLE llm_calls ADD COLUMN cache_source TEXT")
            file.execute(sql.calls_table("PRIMARY KEY (id)"))
            file.execute("CREATE INDEX IF NOT EXISTS llm_calls_time ON llm_calls (time_ms)")
            # A sum beyond 64 bits would silently become a float here.
            file.execute(sql.days_table("".join(f", CHECK (typeof({name}) = 'integer')" for name in SUMS)))
            file.execute(f"PRAGMA user_version = {_FORM}")

    def add(self, rows: Sequence[Row]) -> int:
        """All of them, and their days' sums, or none. One that is there already is left as it is. Returns how many were not. Raises BadRow.

        Many rows are one statement: the interpreter is free while SQLite works, and is asked back seldom; row by row is as cheap, but each
        row would wait for its turn with the calls' own thread.
        """
        with self._lock:
            most = self._file.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(COLUMNS)
            pieces = [rows[begin : begin + most] for begin in range(0, len(rows), most)]
            changes: list[tuple[str, Sequence[object] | None]] = [
                (f"{_INSERT}{', '.join([_ONE] * len(piece))} ON CONFLICT (id) DO NOTHING", [*chain.from_iterable(map(astuple, piece))])
                for piece in pieces
            ]
            return sum(self._change([*changes, (_ADD_TO_DAYS, None)])[:-1])

    def rate(self, call: str, quality_ppm: int | None, vote: int | None) -> Row | None:
        """Attach feedback. Returns the call as it was before; None: it is not here."""
        ids = (call,) * sql.FEEDBACK_VALUES
        with self._lock:
            found = self._run(sql.ONE_CALL, (call,))
            if not found:
                return None
            self._change([(sql.feedback(sign=-1), ids), (sql.SET_FEEDBACK, (quality_ppm, vote, call)), (sql.feedback(sign=1), ids)])
            return Row(*found[0])

    def oldest(self, limit: int) -> list[Row]:
        with self._lock:
            rows = self._run(f"SELECT {', '.join(COLUMNS)} FROM llm_calls ORDER BY rowid LIMIT ?", (limit,))  # noqa: S608
        return [Row(*row) for row in rows]

    def remove(self, rows: Sequence[Row]) -> None:
        """Rows that somebody else keeps now. Their days' sums stay."""
        with self._lock:
            self._change([(_REMOVE, (encoded([row.id for row in rows]),))])

    def count(self) -> int:
        with self._lock:
            return int(self._run("SELECT COUNT(*) FROM llm_calls", ())[0][0])

    def purge(self, before_ms: int, before_day: str) -> None:
        """Delete rows and days' sums that are older."""
        deleted = _PIECE
        while deleted == _PIECE:
            with self._lock:
                deleted, _ = self._change([(_PURGE, (before_ms, _PIECE)), ("DELETE FROM llm_days WHERE day < ?", (before_day,))])

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _change(self, changes: Sequence[tuple[str, Sequence[object] | None]]) -> list[int]:
        """All or none, in one transaction. Values None: the highest rowid before it. Returns how many rows each of them touched."""
        file = self._file
        try:
            file.execute("BEGIN IMMEDIATE")
            try:
                (last,) = file.execute("SELECT COALESCE(MAX(rowid), 0) FROM llm_calls").fetchone()
                done = [file.execute(statement, (last,) if values is None else values) for statement, values in changes]
                file.execute("COMMIT")
            except BaseException:
                if file.in_transaction:
                    file.execute("ROLLBACK")
                raise
        except OverflowError as error:
            raise BadRow(str(error)) from None
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_ROW or "overflow" in str(error):
                raise BadRow(str(error)) from None
            raise StoreFailed(f"cannot write {self.path} (server.data_dir): {error}") from None
        return [one.rowcount for one in done]

    def _run(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreFailed(f"cannot read {self.path} (server.data_dir): {error}") from None


def ask(path: Path, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    """One question to the file, over a connection of its own, so that writers do not wait. Raises StoreFailed."""
    try:
        file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return file.execute(statement, values).fetchall()
        finally:
            file.close()
    except sqlite3.Error as error:
        raise StoreFailed(f"cannot read {path} (server.data_dir): {error}") from None
