"""When a budget's window begins and ends. The ledger has no calendar: it is handed the two moments."""

from __future__ import annotations

from datetime import date, datetime, timedelta, tzinfo
from typing import Literal

from sidecar.days import Days, next_month

Kind = Literal["minute", "hour", "day", "week", "month", "run", "none"]
_FIXED_NS = {"minute": 60_000_000_000, "hour": 3_600_000_000_000}


class Windows:
    """Windows of one kind, each remembered until it is over.

    `day`, `week` (from Monday) and `month` begin at midnight in the zone, so that a day may have 23 or 25 hours; where midnight does not
    exist they begin with the moment after the gap. `minute` and `hour` are those of UTC, everywhere. `run` and `none` have no window: the
    one ends when somebody closes the account, the other never.
    """

    def __init__(self, kind: Kind, zone: tzinfo) -> None:
        self._kind = kind
        self._days = Days(zone)
        self._now: tuple[int, int] | None = None

    def at(self, now_ns: int) -> tuple[int, int] | None:
        """Start and end of the window that the moment is in, in nanoseconds of Unix time; the same object for as long as it lasts."""
        if self._kind in ("run", "none"):
            return None
        if self._now is None or not self._now[0] <= now_ns < self._now[1]:
            self._now = self._window(now_ns)
        return self._now

    def _window(self, now_ns: int) -> tuple[int, int]:
        if length_ns := _FIXED_NS.get(self._kind):
            start_ns = now_ns - now_ns % length_ns
            return start_ns, start_ns + length_ns
        first, after = self._dates(datetime.fromtimestamp(now_ns // 1_000_000_000, self._days.zone).date())
        while self._begin_ns(after) <= now_ns:  # a clock put back over midnight, as Goose Bay's was, shows yesterday's date again
            first, after = self._dates(after)
        return self._begin_ns(first), self._begin_ns(after)

    def _dates(self, day: date) -> tuple[date, date]:
        if self._kind == "month":
            return day.replace(day=1), next_month(day)
        first = day - timedelta(day.weekday()) if self._kind == "week" else day
        return first, first + timedelta(7 if self._kind == "week" else 1)

    def _begin_ns(self, day: date) -> int:
        return self._days.begin_ms(day) * 1_000_000
