"""The usage log in a PostgreSQL that all pods share: rows by month, days' sums, the same tables as the file's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sidecar.days import Days, month_begin, next_month
from sidecar.errors import SettingsError, StoreFailed
from sidecar.settings import Settings
from sidecar.store import usage_sql as sql
from sidecar.store.usage_rows import COLUMNS, BadRow, Row, encoded

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

_CONNECT_S: Final = 5
_STATEMENT_MS: Final = 15_000
_LOCK: Final = 7_305_808_869_229_538_305  # the bytes `each_use`: one pod at a time changes tables
_VALUES: Final = ", ".join(f"(value ->> {number})::{kind}" for number, kind in enumerate(COLUMNS.values()))
# One statement, so one transaction: only rows that are new count in their days' sums, however often a batch is sent.
_INSERT: Final = (
    f"WITH fresh AS (INSERT INTO llm_calls ({', '.join(COLUMNS)}) "  # noqa: S608  (of our own names)
    f"SELECT {_VALUES} FROM jsonb_array_elements(?::jsonb) ON CONFLICT DO NOTHING RETURNING *) {sql.add_to_days('fresh')}"
)
# In order, each applied once. They may only add: pods of an older version go on writing during a roll-out.
_MIGRATIONS: Final = (
    (
        f"{sql.calls_table('PRIMARY KEY (id, time_ms)')} PARTITION BY RANGE (time_ms)",
        "CREATE INDEX IF NOT EXISTS llm_calls_time ON llm_calls (time_ms)",
        sql.days_table(),
    ),
    (
        "ALTER TABLE llm_calls ADD COLUMN IF NOT EXISTS answer_saved_nano_usd BIGINT",
        "ALTER TABLE llm_days ADD COLUMN IF NOT EXISTS answer_saved_nano_usd BIGINT NOT NULL DEFAULT 0",
    ),
    ("ALTER TABLE llm_calls ADD COLUMN IF NOT EXISTS cache_source TEXT",),
)


def require_package(settings: Settings) -> None:
    """Raises SettingsError naming the extra, where psycopg is missing."""
    try:
        importlib.import_module("psycopg")
    except ImportError as error:
        problem = f"needs the package psycopg ({error}): pip install 'llm-sidecar[postgres]'"
        raise SettingsError(settings.origin("usage", "postgres"), "", problem) from None


class UsagePostgres:
    """Methods wait for the network; each thread needs one of its own. A lost connection is made anew by the next call.

    Raises StoreFailed, and then nothing has changed. Works behind a pool that hands out connections per transaction.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.usage.postgres or ""
        self._password = settings.usage.postgres_password
        self._connection: psycopg.Connection | None = None
        self._months = Days(UTC)
        self._known: set[str] = set()  # partitions

    def add(self, rows: Sequence[Row]) -> None:
        """All of them or none; rows that are there already stay as they are. Raises BadRow."""

        def work(connection: psycopg.Connection) -> None:
            self._require_partitions(connection, rows)
            _run(connection, _INSERT, (encoded(rows),))

        try:
            self._within(work)
        except (StoreFailed, BadRow):
            self._known.clear()  # what was made is undone, and one may have been dropped by hand
            raise

    def rate(self, call: str, quality_ppm: int | None, vote: int | None) -> Row | None:
        """Attach feedback. Returns the call as it was before; None: it is not here."""
        ids = (call,) * sql.FEEDBACK_VALUES

        def work(connection: psycopg.Connection) -> Row | None:
            found = _run(connection, f"{sql.ONE_CALL} FOR UPDATE", (call,)).fetchall()
            if not found:
                return None
            _run(connection, sql.feedback(sign=-1), ids)
            _run(connection, sql.SET_FEEDBACK, (quality_ppm, vote, call))
            _run(connection, sql.feedback(sign=1), ids)
            return Row(*found[0])

        return self._within(work)

    def ask(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._within(lambda connection: _run(connection, statement, values).fetchall())

    def purge(self, before_ms: int, before_day: str) -> None:
        """Drop months of which every row is older, and days' sums that are."""

        def work(connection: psycopg.Connection) -> None:
            _run(connection, "SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            listed = _run(connection, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'llm_calls'::regclass", ())
            last = _name(self._months.of(before_ms))  # rows of this month may be younger
            for (name,) in listed.fetchall():
                if name < last:
                    _run(connection, f"DROP TABLE {name}", ())
            _run(connection, "DELETE FROM llm_days WHERE day < ?", (before_day,))

        self._within(work)
        self._known.clear()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None

    def _within(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Do it in one transaction of its own."""
        import psycopg

        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            with self._connection.transaction():
                _run(self._connection, f"SET LOCAL statement_timeout = {_STATEMENT_MS}", ())
                return work(self._connection)
        except psycopg.DataError as error:
            raise BadRow(_told(error)) from None
        except psycopg.Error as error:
            self.close()
            raise StoreFailed(f"PostgreSQL (usage.postgres): {_told(error)}") from None

    def _connect(self) -> psycopg.Connection:
        import psycopg

        connection = psycopg.connect(
            self._url,
            password=self._password,
            connect_timeout=_CONNECT_S,
            application_name="llm-sidecar",
            autocommit=True,
            prepare_threshold=None,
            keepalives_idle=10,
            tcp_user_timeout=_STATEMENT_MS,
        )
        with connection.transaction():
            _run(connection, "SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            _run(connection, "CREATE TABLE IF NOT EXISTS llm_migrations (number INTEGER PRIMARY KEY)", ())
            (done,) = _run(connection, "SELECT COALESCE(MAX(number), 0) FROM llm_migrations", ()).fetchall()[0]
            for number, statements in enumerate(_MIGRATIONS[done:], done + 1):
                for statement in statements:
                    _run(connection, statement, ())
                _run(connection, "INSERT INTO llm_migrations VALUES (?)", (number,))
        return connection

    def _require_partitions(self, connection: psycopg.Connection, rows: Sequence[Row]) -> None:
        """The months of these rows, and the one after, which is then there before anybody needs it."""
        wanted = {month_begin(self._months.of(row.time_ms)) for row in rows}
        months = [month for month in sorted(wanted | {next_month(max(wanted))}) if _name(month) not in self._known]
        if not months:
            return
        _run(connection, "SELECT pg_advisory_xact_lock(?)", (_LOCK,))
        for month in months:
            bounds = f"FROM ({self._months.begin_ms(month)}) TO ({self._months.begin_ms(next_month(month))})"
            _run(connection, f"CREATE TABLE IF NOT EXISTS {_name(month)} PARTITION OF llm_calls FOR VALUES {bounds}", ())
            self._known.add(_name(month))


def _run(connection: psycopg.Connection, statement: str, values: Sequence[object]) -> psycopg.Cursor[tuple[Any, ...]]:
    return connection.execute(statement.replace("?", "%s").encode(), values or None)


def _name(month: date) -> str:
    return f"llm_calls_{month:%Y_%m}"


def _told(error: Exception) -> str:
    """The server's words in one short line; they hold no password."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else words[:299] + "…"
