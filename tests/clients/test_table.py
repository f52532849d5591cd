"""The table in the repository is what the tests of this folder found; it is named so as to run after them."""

from __future__ import annotations

import pytest

from tests.clients.table import FILE, Table


async def test_the_table_is_what_was_found(table: Table, pytestconfig: pytest.Config) -> None:
    """Without every client, or with a failure, there is nothing to compare."""
    if not table.is_whole:
        pytest.skip("not every client was tested with every feature, so the table is not compared")
    if pytestconfig.getoption("--write-compatibility", default=False):
        FILE.write_text(table.text())
    assert FILE.read_text() == table.text(), "run make compatibility"
