"""Windows of the calendar: they hold the moment, follow each other without a gap, and are as long as people say they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.days import zone_of
from sidecar.policies.windows import Windows

SECOND = 1_000_000_000
HOUR = 3600 * SECOND


def ns(text: str, zone: str = "UTC") -> int:
    """A local time in nanoseconds of Unix time; `@1` behind it: the second time that the clock shows it."""
    local, _, fold = text.partition("@")
    return int(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=int(fold or 0)).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("kind", "zone", "now", "start", "end", "hours"),
    [
        ("minute", "Asia/Seoul", "2026-03-01 12:34:56", "2026-03-01 12:34:00", "2026-03-01 12:35:00", None),
        ("hour", "UTC", "2026-03-01 12:34:56", "2026-03-01 12:00", "2026-03-01 13:00", 1),
        ("hour", "Asia/Kolkata", "2026-03-01 12:34:56", "2026-03-01 12:30", "2026-03-01 13:30", 1),  # of UTC, everywhere
        ("day", "Asia/Seoul", "2026-03-01 00:00", "2026-03-01", "2026-03-02", 24),
        ("day", "Asia/Seoul", "2026-02-28 23:59:59", "2026-02-28", "2026-03-01", 24),
        ("day", "Europe/Berlin", "2026-03-29 12:00", "2026-03-29", "2026-03-30", 23),
        ("day", "Europe/Berlin", "2026-10-25 02:30@1", "2026-10-25", "2026-10-26", 25),
        ("day", "America/Sao_Paulo", "2018-11-04 12:00", "2018-11-04 01:00", "2018-11-05", 23),  # midnight did not exist
        ("day", "America/Havana", "2025-11-02 00:30@1", "2025-11-02", "2025-11-03", 25),  # the hour after midnight came twice
        ("day", "America/Goose_Bay", "2010-11-06 23:30@1", "2010-11-07", "2010-11-08", 25),  # put back over midnight: yesterday again
        ("day", "Pacific/Apia", "2011-12-29 12:00", "2011-12-29", "2011-12-31", 24),  # the 30th was left out
        ("day", "UTC", "2028-02-29 12:00", "2028-02-29", "2028-03-01", 24),
        ("week", "Europe/Berlin", "2026-03-29 23:59", "2026-03-23", "2026-03-30", 7 * 24 - 1),
        ("week", "Asia/Seoul", "2026-01-01 00:00", "2025-12-29", "2026-01-05", 7 * 24),
        ("month", "Asia/Seoul", "2026-01-31 23:59:59", "2026-01-01", "2026-02-01", 31 * 24),
        ("month", "UTC", "2028-02-29 23:59:59", "2028-02-01", "2028-03-01", 29 * 24),
        ("month", "UTC", "2026-12-31 23:59:59", "2026-12-01", "2027-01-01", 31 * 24),
        ("month", "America/New_York", "2026-11-15 00:00", "2026-11-01", "2026-12-01", 30 * 24 + 1),
    ],
)
def test_window(kind, zone, now, start, end, hours):
    window = Windows(kind, zone_of(zone)).at(ns(now, zone))
    assert window == (ns(start, zone), ns(end, zone))
    assert hours is None or window[1] - window[0] == hours * HOUR


def test_a_run_and_no_window_have_no_bounds():
    for kind in ("run", "none"):
        assert Windows(kind, UTC).at(ns("2026-01-01")) is None


def test_a_window_is_the_same_object_for_as_long_as_it_lasts():
    days = Windows("day", UTC)
    first = days.at(ns("2026-01-01 00:00"))
    assert days.at(ns("2026-01-01 23:59:59")) is first
    assert days.at(ns("2026-01-02 00:00")) == (first[1], first[1] + 24 * HOUR)
    assert days.at(ns("2026-01-01 12:00")) == first  # a clock that goes back


ZONES = sorted(available_timezones())


@settings(max_examples=300, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    kind=st.sampled_from(["minute", "hour", "day", "week", "month"]),
    now_s=st.integers(int(datetime(1995, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())),
    offset_ns=st.integers(0, SECOND - 1),
)
def test_every_moment_of_every_zone_is_in_one_window(zone, kind, now_s, offset_ns):
    windows, now_ns = Windows(kind, ZoneInfo(zone)), now_s * SECOND + offset_ns
    start_ns, end_ns = windows.at(now_ns)
    assert start_ns <= now_ns < end_ns
    assert windows.at(start_ns) == windows.at(end_ns - 1) == (start_ns, end_ns)
    assert windows.at(end_ns)[0] == end_ns
    assert windows.at(start_ns - 1)[1] == start_ns


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/Goose_Bay", "Pacific/Apia", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Tehran"]
)
def test_the_days_of_thirty_years_follow_each_other(zone):
    windows, now = Windows("day", ZoneInfo(zone)), ns("1995-06-01", zone)
    end, count = ns("2026-06-01", zone), 0
    while now < end:
        start_ns, next_ns = windows.at(now)
        assert start_ns <= now < next_ns
        assert timedelta(hours=22) <= timedelta(microseconds=(next_ns - start_ns) // 1000) <= timedelta(hours=26)
        now, count = next_ns, count + 1
    days = (datetime(2026, 6, 1) - datetime(1995, 6, 1)).days
    assert count == (days - 1 if zone == "Pacific/Apia" else days)  # it left one out
