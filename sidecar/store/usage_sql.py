# ruff: noqa: S608  (all names in these statements are our own; values are handed over apart)
"""The usage log's questions and changes in SQL that SQLite and PostgreSQL both understand; `?` stands for a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidecar.store.usage_rows import COLUMNS, DAY_KEYS, FEEDBACK_SUMS, SUMS

# What a report can be grouped and filtered by, and its column. Those of DAY_KEYS are summed by day already and kept the longest.
GROUPS: dict[str, str] = {
    **{name: name for name in DAY_KEYS},
    **{name: name for name in ("plan", "run", "agent", "operation", "status", "cache", "endpoint", "prompt_name", "prompt_version")},
    "user": "user_id",
}
_KEYS = ", ".join(DAY_KEYS)


def calls_table(more: str) -> str:
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    return f"CREATE TABLE IF NOT EXISTS llm_calls ({columns}, {more})"


def days_table(more: str = "") -> str:
    keys = ", ".join(f"{name} TEXT NOT NULL" for name in DAY_KEYS)
    sums = ", ".join(f"{name} BIGINT NOT NULL DEFAULT 0" for name in SUMS)
    return f"CREATE TABLE IF NOT EXISTS llm_days ({keys}, {sums}, PRIMARY KEY ({_KEYS}){more})"


def add_to_days(source: str) -> str:
    """Sum the rows of `source` (a table or more, with its WHERE) up into their days. Keys in order, so that pods do not lock crosswise."""
    sums = ", ".join(f"SUM({value})" for value in SUMS.values())
    more = ", ".join(f"{name} = llm_days.{name} + excluded.{name}" for name in SUMS)
    return (
        f"INSERT INTO llm_days ({_KEYS}, {', '.join(SUMS)}) SELECT {_KEYS}, {sums} FROM {source} GROUP BY {_KEYS} ORDER BY {_KEYS} "
        f"ON CONFLICT ({_KEYS}) DO UPDATE SET {more}"
    )


def feedback(*, sign: int) -> str:
    """Add (1) or take away (-1) what one call's feedback is in its day's sums. Value: the call's id, once for each sum and once more."""
    changes = ", ".join(f"{name} = {name} + ({sign}) * (SELECT {SUMS[name]} FROM llm_calls WHERE id = ?)" for name in FEEDBACK_SUMS)
    return f"UPDATE llm_days SET {changes} WHERE ({_KEYS}) = (SELECT {_KEYS} FROM llm_calls WHERE id = ?)"


FEEDBACK_VALUES = len(FEEDBACK_SUMS) + 1
ONE_CALL = f"SELECT {', '.join(COLUMNS)} FROM llm_calls WHERE id = ?"
SET_FEEDBACK = "UPDATE llm_calls SET quality_ppm = COALESCE(?, quality_ppm), vote = COALESCE(?, vote) WHERE id = ?"


def report(
    by: Sequence[str], where: Mapping[str, str], days: tuple[str, str], bounds_ms: tuple[int, int], limit: int
) -> tuple[str, list[object]]:
    """Sums by `by`, dearest first (by day where that is asked), for the days from `days[0]` to before `days[1]`.

    What the days' sums can tell is told by them; the rest by the rows, between `bounds_ms`.
    """
    summed = set(by) | set(where) <= set(DAY_KEYS)
    columns = [GROUPS[name] for name in by]
    values: list[object] = [*days] if summed else [*bounds_ms]
    conditions = ["day >= ?", "day < ?"] if summed else ["time_ms >= ?", "time_ms < ?"]
    for name, wanted in where.items():
        conditions.append(f"{GROUPS[name]} = ?")
        values.append(wanted)
    sums = ", ".join(f"CAST(COALESCE(SUM({name if summed else value}), 0) AS BIGINT) AS {name}_" for name, value in SUMS.items())
    order = [column for column in columns if column == "day"] + ["cost_nano_usd_ DESC", "calls_ DESC", *columns]
    group = f" GROUP BY {', '.join(columns)} ORDER BY {', '.join(order)} LIMIT {limit:d}" if by else ""
    table = "llm_days" if summed else "llm_calls"
    return f"SELECT {', '.join([*columns, sums])} FROM {table} WHERE {' AND '.join(conditions)}{group}", values


FIRST_DAY = "SELECT MIN(day) FROM llm_days"


def calls(
    where: Mapping[str, str], bounds_ms: tuple[int, int], before: tuple[int, str] | None, limit: int, *, is_failed: bool
) -> tuple[str, list[object]]:
    """Rows, newest first; `before` is time and id of the last one seen."""
    conditions = ["time_ms >= ?", "time_ms < ?"]
    values: list[object] = [*bounds_ms]
    for name, wanted in where.items():
        conditions.append(f"{'id' if name == 'id' else GROUPS[name]} = ?")
        values.append(wanted)
    if is_failed:
        conditions.append("status <> 'ok'")
    if before is not None:
        conditions.append("(time_ms < ? OR (time_ms = ? AND id < ?))")
        values += [before[0], before[0], before[1]]
    order = f"ORDER BY time_ms DESC, id DESC LIMIT {limit:d}"
    return f"SELECT {', '.join(COLUMNS)} FROM llm_calls WHERE {' AND '.join(conditions)} {order}", values
