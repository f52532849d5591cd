"""What operators set and how runs are, on the disk; and the list of who changed what."""

from __future__ import annotations

import json
import os
import stat

import pytest

from sidecar.errors import StoreFailed
from sidecar.store.audit import Audit
from sidecar.store.budget_file import BudgetFile

KEY = ("budget", "tenant:acme:day")


async def test_what_is_kept_is_there_at_the_next_start(tmp_path):
    file = BudgetFile()
    assert file.open(tmp_path / "new") == {}
    await file.keep({KEY: "1", ("run", "r"): "2", ("run", "s"): "3"})
    await file.keep({KEY: "4", ("run", "r"): None, ("run", "never"): None})
    file.close()
    again = BudgetFile()
    assert again.open(tmp_path / "new") == {KEY: "4", ("run", "s"): "3"}
    again.close()
    assert stat.S_IMODE((tmp_path / "new/budgets.db").stat().st_mode) == 0o600


async def test_without_a_folder_nothing_is_kept_and_nothing_fails():
    file, audit = BudgetFile(), Audit()
    await file.keep({KEY: "1"})
    await audit.write({"action": "x"})
    file.close()
    audit.close()


async def test_a_disk_that_fails_changes_nothing(tmp_path):
    file = BudgetFile()
    file.open(tmp_path)
    await file.keep({KEY: "1"})
    file._file.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreFailed, match="nothing was changed"):
        await file.keep({KEY: "2"})
    file.close()
    again = BudgetFile()
    assert again.open(tmp_path) == {KEY: "1"}
    again.close()


def test_a_file_that_is_none_is_told(tmp_path):
    (tmp_path / "budgets.db").write_bytes(b"no database at all, whatever its name says" * 100)
    with pytest.raises(StoreFailed, match=r"budgets\.db \(server\.data_dir\).*repair it or move it away"):
        BudgetFile().open(tmp_path)


async def test_audit_lines_are_added_and_never_changed(tmp_path):
    for number in (1, 2):
        audit = Audit()
        audit.open(tmp_path)
        await audit.write({"action": "SetBudget", "number": number})
        audit.close()
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2]
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


async def test_a_line_for_which_there_is_no_room_is_not_left_in_half(tmp_path, monkeypatch):
    audit = Audit()
    audit.open(tmp_path)
    await audit.write({"number": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))
    with pytest.raises(StoreFailed, match="nothing was changed"):
        await audit.write({"number": 2})
    monkeypatch.undo()
    await audit.write({"number": 3})
    audit.close()
    assert [json.loads(line)["number"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()] == [1, 3]
