"""Periods, groups and forecasts of the usage log, on days of all lengths."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from sidecar.days import Days, zone_of
from sidecar.errors import InvalidRequest
from sidecar.store import usage_reports as reports
from tests.unit.store.usage_parts import InFile, a_row

DAY = date(2026, 11, 21)
NEXT = date(2026, 11, 22)


def test_periods():
    first = date(2026, 11, 1)
    assert reports.period("", "", first, DAY) == (first, NEXT)
    assert reports.period("2026-11-03", "", first, DAY) == (date(2026, 11, 3), NEXT)
    assert reports.period("2026-11-03", "2026-11-03", first, DAY) == (date(2026, 11, 3), date(2026, 11, 4))
    assert reports.period("", "2026-02-28", first, DAY) == (date(2026, 2, 28), date(2026, 3, 1))


@pytest.mark.parametrize("day", ["yesterday", "2026-02-30", "20261121", "2026-W47-6", "0000-01-01", "9999-12-31", "2026-11-21T00:00", "1"])
def test_a_day_that_is_none_is_refused(day):
    with pytest.raises(InvalidRequest, match="expected a day like") as caught:
        reports.period(day, "", DAY, DAY)
    assert caught.value.field == "filter.from_day"


def test_a_period_that_ends_before_it_begins_is_refused():
    with pytest.raises(InvalidRequest, match="before from_day"):
        reports.period("2026-11-03", "2026-11-02", DAY, DAY)


def test_groups_are_checked():
    assert reports.checked_groups(["day", "user"], "by") == ["day", "user"]
    for names, words in (
        (["user_id"], 'did you mean "user"'),
        (["id; DROP TABLE llm_calls"], "expected one of"),
        (["day", "day"], "twice"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            reports.checked_groups(names, "by")


@pytest.mark.parametrize(
    ("spent_by_day", "zone", "now", "spent", "rest_days", "basis"),
    [
        # 10 a day for a month: the rest of it costs as much.
        ({f"2026-11-{d:02d}": 10 for d in range(1, 21)}, "UTC", (2026, 11, 21, 0), 200, 10, (70, 7)),
        # Only the last seven whole days count, not today.
        ({"2026-10-01": 1, "2026-11-02": 999, "2026-11-15": 70, "2026-11-21": 5}, "UTC", (2026, 11, 21, 12), 1074, 9.5, (70, 7)),
        # A young log: its first day is left out where there is another.
        ({"2026-11-18": 1, "2026-11-19": 30, "2026-11-20": 50}, "UTC", (2026, 11, 21, 0), 81, 10, (80, 2)),
        ({"2026-11-20": 50}, "UTC", (2026, 11, 21, 0), 50, 10, (50, 1)),
        # Its first day: until now.
        ({"2026-11-21": 6}, "UTC", (2026, 11, 21, 6), 6, 9.75, (6, 0.25)),
        ({}, "UTC", (2026, 11, 21, 6), 0, 9.75, (0, 0.25)),
        # The last day of a leap February; the first of a month rests on days of the month before.
        ({f"2028-02-{d:02d}": 10 for d in range(1, 29)}, "UTC", (2028, 2, 29, 0), 280, 1, (70, 7)),
        ({f"2028-02-{d:02d}": 10 for d in range(1, 30)}, "UTC", (2028, 3, 1, 0), 0, 31, (70, 7)),
        # Berlin, October: the month and its last week have an hour more.
        ({f"2026-10-{d:02d}": 10 for d in range(1, 31)}, "Europe/Berlin", (2026, 10, 30, 23), 300, 1, (70, 7 + 1 / 24)),
    ],
)
def test_forecast(tmp_path, spent_by_day, zone, now, spent, rest_days, basis):
    file = InFile(tmp_path)
    if spent_by_day:
        file.add([a_row(n, day=day, cost_nano_usd=cost) for n, (day, cost) in enumerate(spent_by_day.items())])
    now_ms = int(datetime(*now, tzinfo=UTC).timestamp() * 1000)
    found = reports.forecast(file.ask, Days(zone_of(zone)), now_ms, {})
    assert found.spent_nano_usd == spent
    assert found.left_ms == rest_days * 86_400_000
    assert (found.basis_nano_usd, found.basis_ms) == (basis[0], round(basis[1] * 86_400_000))
    assert found.forecast_nano_usd == spent + basis[0] * found.left_ms // found.basis_ms
    file.close()
