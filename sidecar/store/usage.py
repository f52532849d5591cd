"""The usage log: one row per ended call, written off the calls' path.

A call hands a small record over and goes on. A thread writes what has come, every 0.2 s in one go, into a file; where settings name a
PostgreSQL another thread moves rows on from the file to there, which is how they survive that it is away: in the file, until it has them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sidecar.days import Days, zone_of
from sidecar.errors import StoreFailed
from sidecar.settings import Settings
from sidecar.store.usage_rows import BadRow, Ended, Row, ended, note, row, row_of_note
from sidecar.store.usage_shield import Shield

if TYPE_CHECKING:
    from sidecar.call import Call
    from sidecar.store.usage_file import UsageFile
    from sidecar.store.usage_postgres import UsagePostgres

T = TypeVar("T")

NOT_KEPT: Final = "no usage log is kept: set server.data_dir to a folder"
_GATHER_S: Final = 0.2
_MOST_WAITING: Final = 10_000  # about 10 MB, when the disk is full
_BATCH: Final = 500
_RETRY_S: Final = (1.0, 15.0)  # pauses after a failure: at first, and at most
_PURGE_S: Final = 3_600.0
_LAST_S: Final = 5.0  # for the last rows to reach PostgreSQL when the sidecar stops; they stay in the file otherwise


class UsageLog:
    """`waiting` rows are in memory, `unsent` ones in the file and not yet in PostgreSQL, `lost` ones are lost: no room was left.

    Nothing is kept before `open`. `tell` is called, in any thread, with `file`, `postgres` or `lost` and what is wrong, "" when it is
    mended.
    """

    def __init__(self, settings: Settings, wall_ns: Callable[[], int]) -> None:
        self._settings = settings
        self._wall_ns = wall_ns
        self._zone = zone_of(settings.usage.time_zone)
        self._days = Days(self._zone)  # the writer's
        self.tell: Callable[[str, str], None] = lambda _place, _problem: None
        self.problems = {"file": "", "postgres": ""}
        self.lost = 0
        self._written_rows = self._moved_rows = 0  # each counted by one thread at a time
        self._records: deque[Ended] = deque()
        self._rows: list[Row] = []  # built, and not written because the file could not be
        self._shield: Shield | None = None
        self._noted = ("", 0.0, 0)
        self._file: UsageFile | None = None
        self._path = Path()
        self._postgres: UsagePostgres | None = None  # the mover's
        self._asked: UsagePostgres | None = None  # of feedback and reports
        self._asker: ThreadPoolExecutor | None = None
        self._threads: list[threading.Thread] = []
        self._something = threading.Event()
        self._written = threading.Event()
        self._stopping = threading.Event()  # the writer
        self._leaving = threading.Event()  # and then the mover
        self._writing = threading.Lock()
        self._moving = threading.Lock()  # rows are on their way from the file to PostgreSQL

    @property
    def is_kept(self) -> bool:
        return self._file is not None

    @property
    def is_shared(self) -> bool:
        """Rows go on to a PostgreSQL."""
        return self._postgres is not None

    @property
    def days(self) -> Days:
        """For one thread's use."""
        return Days(self._zone)

    @property
    def unsent(self) -> int:
        return self._written_rows - self._moved_rows if self.is_shared else 0

    @property
    def waiting(self) -> int:
        return len(self._records) + len(self._rows)

    def open(self, folder: Path) -> None:
        """Begin to keep rows in this folder. Raises StoreFailed where it cannot be used, SettingsError for a missing package.

        A PostgreSQL that is away is no reason not to start.
        """
        from sidecar.store.usage_file import UsageFile  # what a sidecar without a folder does without

        if self._settings.usage.postgres is not None:
            from sidecar.store import usage_postgres

            usage_postgres.require_package(self._settings)
            self._postgres, self._asked = (usage_postgres.UsagePostgres(self._settings) for _ in range(2))
        self._file = file = UsageFile(folder)
        self._path = file.path
        self._recover(Shield(folder))
        self._asker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="usage-ask")
        self._threads.append(threading.Thread(target=self._keep_writing, name="usage-write", daemon=True))
        if self._postgres is not None:
            self._written_rows = file.count()
            self._threads.append(threading.Thread(target=self._keep_moving, args=(self._postgres,), name="usage-move", daemon=True))
        for thread in self._threads:
            thread.start()

    def _recover(self, shield: Shield) -> None:
        """Write the rows that a killed process had not written yet; those that it had are known by their ids."""
        rows = []
        for content in shield.found:
            with suppress(ValueError):  # it was whole, so another version wrote it
                rows.append(row_of_note(content, self._days))
        if rows:
            self._add(rows)
        shield.clear()
        self._shield = shield

    def note(self, call: Call, duration_s: float) -> None:
        """What this call has just cost: a kill before its row is written does not take it. Its `ended` follows at once."""
        if self._shield is not None:
            self._noted = (call.id, duration_s, self._wall_ns())
            self._shield.put(note(call, duration_s, self._noted[2]))

    def ended(self, call: Call, duration_s: float) -> None:
        """Take one ended call. Never waits and never fails: where there is no room it is counted and lost."""
        if len(self._records) >= _MOST_WAITING:
            self._lose(1, f"{_MOST_WAITING} wait in memory to be written")
            return
        wall_ns = self._wall_ns()
        if self._noted[0] == call.id:
            _, duration_s, wall_ns = self._noted
        self._records.append(ended(call, duration_s, wall_ns))
        if not self._something.is_set():
            self._something.set()

    def close(self) -> None:
        """Write what waits, and move it on if PostgreSQL answers soon."""
        self._stopping.set()
        self._something.set()
        for thread in self._threads[:1]:
            thread.join()
        if self._file is not None:
            with suppress(StoreFailed):
                self._write()
        self._leaving.set()
        self._written.set()
        for thread in self._threads[1:]:
            thread.join(_LAST_S)
        if self._asker is not None:
            self._asker.shutdown(wait=False, cancel_futures=True)
        if self._file is not None:
            self._file.close()
        if self._shield is not None:
            if not self.waiting:
                self._shield.clear()
            self._shield.close()
            self._shield = None

    def _lose(self, rows: int, why: str) -> None:
        self.lost += rows
        self.tell("lost", f"{self.lost} rows of the usage log are lost: {why}")

    # --- writing ------------------------------------------------------------------------------------------------------------------

    def _keep_writing(self) -> None:
        purged_ns = 0
        pause_s = _GATHER_S
        while not self._stopping.is_set():
            self._something.wait(_PURGE_S)
            self._stopping.wait(pause_s)
            self._something.clear()
            try:
                self._write()
                pause_s = _GATHER_S
                if abs(self._wall_ns() - purged_ns) > _PURGE_S * 1e9:
                    purged_ns = self._wall_ns()
                    self._purge()
            except StoreFailed:
                pause_s = _RETRY_S[0]
                self._something.set()

    def _write(self) -> None:
        """Write all that has come. Raises StoreFailed; then it is kept for the next time."""
        with self._writing:
            while self._rows or self._records:
                try:
                    while self._records and len(self._rows) < _BATCH:
                        self._rows.append(row(self._records.popleft(), self._days))
                    self._add(self._rows)
                except StoreFailed as error:
                    self._turn("file", error.message)
                    raise
                except Exception as error:  # a defect must end neither this thread nor the log
                    self._lose(1, f"a defect of the sidecar ({type(error).__name__}: {error})")
                    continue  # with what was made into rows before it
                self._rows = []
                self._turn("file", "")
                self._written.set()
            if self._shield is not None:
                self._shield.turn(time.monotonic(), all_written=True)

    def _add(self, rows: list[Row]) -> None:
        """Into the file. One row that it cannot hold does not take the others with it."""
        assert self._file is not None  # noqa: S101  (nobody gets here before `open`)
        try:
            self._written_rows += self._file.add(rows)
        except BadRow as error:
            if len(rows) == 1:
                self._lose(1, f"call {rows[0].id}: {error}")
            else:
                for one in rows:
                    self._add([one])

    def _turn(self, place: str, problem: str) -> None:
        was, self.problems[place] = self.problems[place], problem
        if bool(was) is not bool(problem):
            self.tell(place, problem)

    def _purge(self) -> None:
        """Let go of what is too old; rows that wait for PostgreSQL are never too old."""
        assert self._file is not None  # noqa: S101
        usage, postgres = self._settings.usage, self._asked
        days = self.days
        today = days.of(self._wall_ns() // 1_000_000)
        before_ms = days.begin_ms(today - timedelta(usage.keep_days))
        before_day = (today - timedelta(usage.keep_statistics_days)).isoformat()
        self._file.purge(0 if postgres is not None else before_ms, before_day)
        if postgres is not None and self._asker is not None:
            with suppress(RuntimeError):  # the sidecar stops; and where PostgreSQL is away there is another hour
                self._asker.submit(postgres.purge, before_ms, before_day)

    # --- moving on ----------------------------------------------------------------------------------------------------------------

    def _keep_moving(self, postgres: UsagePostgres) -> None:
        pause_s = _RETRY_S[0]
        while True:
            self._written.clear()
            try:
                while self._move(postgres):
                    pass
                pause_s = _RETRY_S[0]
                self._turn("postgres", "")
                if self._leaving.is_set():
                    break
                self._written.wait()
            except Exception as error:  # also a defect must not end the trying
                told = error.message if isinstance(error, StoreFailed) else f"a defect of the sidecar ({type(error).__name__}: {error})"
                self._turn("postgres", f"{told}; rows of the usage log wait in {self._path}")
                if self._leaving.wait(pause_s):
                    break
                pause_s = min(pause_s * 2, _RETRY_S[1])
        postgres.close()

    def _move(self, postgres: UsagePostgres) -> bool:
        """One batch, oldest first. Returns whether there was any. Whatever breaks in between, the same rows are sent again, and PostgreSQL
        knows them by their ids.
        """
        assert self._file is not None  # noqa: S101
        with self._moving:
            rows = self._file.oldest(_BATCH)
            if not rows:
                return False
            try:
                postgres.add(rows)
            except BadRow:
                for one in rows:
                    try:
                        postgres.add([one])
                    except BadRow as error:
                        self._lose(1, f"call {one.id}: {error}")
            self._file.remove(rows)
            self._moved_rows += len(rows)
            return True

    # --- feedback and reports -----------------------------------------------------------------------------------------------------

    async def rate(self, call: str, quality_ppm: int | None, vote: int | None) -> Row | None:
        """Attach feedback to a call, wherever its row is. Returns that as it was before; None: there is none. Raises StoreFailed."""
        return await self._in_turn(lambda: self._rate(call, quality_ppm, vote))

    def _rate(self, call: str, quality_ppm: int | None, vote: int | None) -> Row | None:
        assert self._file is not None  # noqa: S101
        unwritten: StoreFailed | None = None
        try:
            self._write()
        except StoreFailed as error:
            unwritten = error
        with self._moving:
            found = self._file.rate(call, quality_ppm, vote)
        if found is None and self._asked is not None:
            found = self._asked.rate(call, quality_ppm, vote)
        if found is None and unwritten is not None:
            raise unwritten  # it may be among the rows that wait in memory
        return found

    async def ask(self, question: Callable[[Callable[[str, Sequence[object]], list[tuple[Any, ...]]]], T]) -> T:
        """The answer of `usage_reports` to a question, from the PostgreSQL where there is one. Raises StoreFailed."""

        def answer() -> T:
            with suppress(StoreFailed):
                self._write()  # so that a call that has ended is counted
            return question(self._query)

        return await self._in_turn(answer)

    def _query(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        if self._asked is not None:
            return self._asked.ask(statement, values)
        from sidecar.store import usage_file

        return usage_file.ask(self._path, statement, values)

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if self._asker is None:
            raise StoreFailed(NOT_KEPT)
        return await asyncio.get_running_loop().run_in_executor(self._asker, work)
