"""The table that the benches print: what was measured, the aim, what was reached."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct


class Row(Struct, frozen=True):
    """One line. `is_met` None: there is no aim."""

    what: str
    reached: str
    aim: str = ""
    is_met: bool | None = None


def within(value: float, most: float | None) -> bool | None:
    return None if most is None else value <= most


def of(value: float, unit: str) -> str:
    """A figure with its unit, in three digits or so."""
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}" if value >= 10 else f"{value:.2f} {unit}"


def markdown(rows: Iterable[Row]) -> str:
    marks = {None: "", True: "yes", False: "**no**"}
    lines = ["| measured | reached | aim | met |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.reached} | {row.aim} | {marks[row.is_met]} |" for row in rows]
    return "\n".join(lines) + "\n"
