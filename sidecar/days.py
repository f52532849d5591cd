"""Days in a named time zone: where one begins and ends, days of 23 and 25 hours included."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo


def zone_of(name: str) -> tzinfo:
    """The time zone of an IANA name like `Asia/Seoul`. `UTC` needs no data of the system's. Raises ValueError."""
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found; a path; a folder
        raise ValueError(f"no time zone is called {name}") from None


class Days:
    """Unix milliseconds into days and back. The day asked for last is remembered: of calls in a row most are of one day."""

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone
        self._day = date.min
        self._from_ms = self._until_ms = 0

    def of(self, unix_ms: int) -> date:
        if not self._from_ms <= unix_ms < self._until_ms:
            self._day = datetime.fromtimestamp(unix_ms / 1000, self.zone).date()
            self._from_ms, self._until_ms = self.begin_ms(self._day), self.begin_ms(self._day + timedelta(1))
        return self._day

    def begin_ms(self, day: date) -> int:
        """The day's first moment. Where midnight does not exist (a clock that is put forward then) it is the moment after the gap."""
        return int(datetime(day.year, day.month, day.day, tzinfo=self.zone).timestamp()) * 1000


def month_begin(day: date) -> date:
    return day.replace(day=1)


def next_month(day: date) -> date:
    """The first day of the month after this day's."""
    return (day.replace(day=1) + timedelta(32)).replace(day=1)
