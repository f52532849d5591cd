"""When a simulation begins: at some noon, or so that it lives through the end of a day, a month, a year or summer time."""

from __future__ import annotations

from datetime import datetime
from random import Random
from zoneinfo import ZoneInfo

_NOON = ("UTC", 2026, 11, 21, 12)
_TURNS = (
    ("UTC", 2027, 1, 1, 0),
    ("UTC", 2028, 2, 29, 0),
    ("UTC", 2028, 3, 1, 0),
    ("UTC", 2026, 11, 23, 0),  # a Monday
    ("Asia/Seoul", 2026, 12, 1, 0),
    ("Europe/Berlin", 2026, 3, 29, 0),  # a day of 23 hours begins
    ("Europe/Berlin", 2026, 3, 29, 3),  # the moment after the gap
    ("Europe/Berlin", 2026, 3, 30, 0),
    ("Europe/Berlin", 2026, 10, 25, 2),  # this hour comes twice
    ("Europe/Berlin", 2026, 10, 26, 0),
    ("America/New_York", 2026, 11, 2, 0),
    ("America/Havana", 2026, 3, 8, 1),  # midnight does not exist
    ("America/Havana", 2026, 11, 1, 0),  # midnight comes twice
    ("Australia/Lord_Howe", 2026, 4, 5, 2),  # half an hour comes twice
    ("Australia/Lord_Howe", 2026, 4, 6, 0),
)


def begin_ns(random: Random, seconds: float) -> int:
    """Unix time at which it begins; what turns does so within `seconds`."""
    if random.random() < 0.4:
        return _at(*_NOON)
    return _at(*random.choice(_TURNS)) - int(random.uniform(0, seconds) * 1e9)


def _at(zone: str, year: int, month: int, day: int, hour: int) -> int:
    return int(datetime(year, month, day, hour, tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000_000
