"""What tests of the usage log share: rows, a file asked as PostgreSQL is, a log and its ears."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sidecar.errors import SidecarError
from sidecar.pipeline import run
from sidecar.settings import load
from sidecar.store import usage_sql as sql
from sidecar.store.usage import UsageLog
from sidecar.store.usage_file import FILE, UsageFile, ask
from sidecar.store.usage_rows import COLUMNS, Row
from tests.unit.fakes import Bench

NOON_MS = 1_795_262_400_000  # 2026-11-21 12:00 UTC


def a_row(number: int, **facts: Any) -> Row:
    """A call that went well; another id for another number."""
    row: dict[str, Any] = {name: "" if kind == "TEXT" else 0 for name, kind in COLUMNS.items()}
    row |= {
        "id": f"{number:032x}",
        "time_ms": NOON_MS + number,
        "day": "2026-11-21",
        "operation": "generate",
        "service": "rag",
        "node": "answer",
        "tenant": "acme",
        "model": "gpt-4o",
        "provider": "openai",
        "status": "ok",
        "finish": "stop",
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_nano_usd": 75_000,
        "duration_ms": 12,
        "first_token_ms": None,
        "attempts": 1,
        "tags": "{}",
        "quality_ppm": None,
        "vote": None,
    }
    return Row(**(row | facts))


class InFile:
    """The file, asked as the PostgreSQL is."""

    def __init__(self, folder) -> None:
        self._file = UsageFile(folder)
        self.add, self.rate, self.purge, self.close = self._file.add, self._file.rate, self._file.purge, self._file.close

    def ask(self, statement, values):
        return ask(self._file.path, statement, values)


class Told:
    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, place: str, problem: str) -> None:
        self.all.append((place, problem))

    def places(self) -> list[tuple[str, bool]]:
        return [(place, bool(problem)) for place, problem in self.all]


def until(what: Callable[[], bool], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def a_log(folder, settings=None) -> tuple[UsageLog, Told]:
    log, told = UsageLog(settings or load(None, {}), time.time_ns), Told()
    log.tell = told
    log.open(folder)
    return log, told


async def some_calls(bench: Bench, number: int, **facts) -> list[str]:
    ids = []
    for _ in range(number):
        call = bench.call(**facts)
        call.id = f"{random.getrandbits(128):032x}"
        ids.append(call.id)
        with contextlib.suppress(SidecarError):
            await run(bench.engine, call)
    return ids


def listed_in(folder) -> list[Row]:
    rows = ask(folder / FILE, *sql.calls({}, (0, 1 << 62), None, 10_000, is_failed=False))
    return [Row(*found) for found in rows]


def ms(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)
