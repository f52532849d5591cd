"""What the usage log can tell: sums by day, service, model …; single calls; what the month will cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from msgspec import Struct

from sidecar.days import Days, month_begin, next_month
from sidecar.errors import InvalidRequest
from sidecar.settings.reading import nearest
from sidecar.store import usage_sql as sql
from sidecar.store.usage_rows import SUMS, Row

Ask = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]

_DAY = re.compile(r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}")
EVER = date(1970, 1, 1)
_BASIS_DAYS = 7  # a week has every weekday once


class Sums(Struct, frozen=True):
    """The sums of one group: `keys` as asked for, `figures` by the names in `usage_rows.SUMS`."""

    keys: tuple[str, ...]
    figures: dict[str, int]


class Forecast(Struct, frozen=True):
    """What a month will cost if the rest of it costs as much per hour as the basis did. Nano-USD, ms, the first day and the one after."""

    month: tuple[date, date]
    spent_nano_usd: int
    forecast_nano_usd: int
    left_ms: int
    basis: tuple[date, date]
    basis_nano_usd: int
    basis_ms: int


def period(from_day: str, to_day: str, first: date, today: date) -> tuple[date, date]:
    """The first day and the one after the last: as told, YYYY-MM-DD, else `first` and today. Raises InvalidRequest."""
    begin = _day(from_day, "filter.from_day") if from_day else first
    last = _day(to_day, "filter.to_day") if to_day else max(today, begin)
    if not from_day:
        begin = min(begin, last)
    if begin > last:
        raise InvalidRequest(f"to_day is {last}, before from_day {begin}; expected the same day or a later one", field="filter.to_day")
    return begin, last + timedelta(1)


def _day(text: str, field: str) -> date:
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise InvalidRequest(f"{field} is {text[:40]!r}; expected a day like 2026-11-21", field=field)


def checked_groups(names: Iterable[str], field: str, more: Sequence[str] = ()) -> list[str]:
    """Raises InvalidRequest for a name that nothing is grouped or filtered by. `more`: names that are good here as well."""
    found = list(names)
    known = (*sql.GROUPS, *more)
    for name in found:
        if name not in known:
            expected = f"expected one of {', '.join(known)}"
            raise InvalidRequest(f"{field} names {name[:40]!r}{nearest(name, known)}; {expected}", field=field)
    if len(set(found)) < len(found):
        raise InvalidRequest(f"{field} names one of {', '.join(found)} twice", field=field)
    return found


def report(
    ask: Ask, days: Days, begin: date, end: date, by: Sequence[str], where: Mapping[str, str], limit: int
) -> tuple[list[Sums], Sums]:
    """The groups, at most `limit`, dearest first, and the sum of all, for the days from `begin` to before `end`."""
    days_text = (begin.isoformat(), end.isoformat())
    bounds = (days.begin_ms(begin), days.begin_ms(end))
    groups = [_sums(row, len(by)) for row in ask(*sql.report(by, where, days_text, bounds, limit))] if by else []
    (total,) = ask(*sql.report((), where, days_text, bounds, 1))
    return groups, _sums(total, 0)


def _sums(row: tuple[Any, ...], keys: int) -> Sums:
    return Sums(row[:keys], dict(zip(SUMS, row[keys:], strict=True)))


def calls(
    ask: Ask, days: Days, begin: date, end: date, where: Mapping[str, str], before: tuple[int, str] | None, limit: int, *, is_failed: bool
) -> list[Row]:
    """Rows, newest first; `before` is time_ms and id of the last one that was seen."""
    bounds = (days.begin_ms(begin), days.begin_ms(end))
    return [Row(*row) for row in ask(*sql.calls(where, bounds, before, limit, is_failed=is_failed))]


def forecast(ask: Ask, days: Days, now_ms: int, where: Mapping[str, str]) -> Forecast:
    """Spent so far + cost of the basis x time left in the month / time of the basis.

    The basis are the last 7 whole days, or as many as the log has; its first day, which is seldom whole, is left out where there is
    another. On the log's first day it is that day until now.
    """
    today = days.of(now_ms)
    month = month_begin(today), next_month(today)

    def cost(begin: date, end: date) -> int:
        return report(ask, days, begin, end, (), where, 1)[1].figures["cost_nano_usd"]

    spent = cost(month[0], today + timedelta(1))
    ((first_text,),) = ask(sql.FIRST_DAY, ())
    first = date.fromisoformat(first_text) if first_text else today
    begin = max(first, today - timedelta(_BASIS_DAYS))
    if begin == first and begin + timedelta(1) < today:
        begin += timedelta(1)
    end = today if begin < today else today + timedelta(1)
    begin = min(begin, today)
    basis_ms = min(days.begin_ms(end), now_ms) - days.begin_ms(begin)
    basis_nano_usd = cost(begin, end)
    left_ms = days.begin_ms(month[1]) - now_ms
    more = basis_nano_usd * left_ms // basis_ms if basis_ms > 0 else 0
    return Forecast(month, spent, spent + more, left_ms, (begin, end), basis_nano_usd, basis_ms)
