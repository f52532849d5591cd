"""Opening the ledger from settings, and what is said of its journal while it runs."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from sidecar.errors import StoreFailed
from sidecar.settings import load
from sidecar.settings.operation import Journal
from sidecar.store.journal import JournalWatch, open_ledger


class Status(NamedTuple):
    trouble: str = ""
    degraded: bool = False
    lost: int = 0


class FakeLedger:
    """Says of its journal what it is told to."""

    def __init__(self):
        self.status = Status()

    def journal(self):
        return self.status


def test_without_a_folder_the_ledger_is_in_memory():
    ledger, notices = open_ledger(load(None, {}))
    assert (ledger.journal(), notices) == (None, [])


def test_with_a_folder_it_is_journaled_there(tmp_path):
    settings = load(None, {"SIDECAR_SERVER__DATA_DIR": str(tmp_path / "data"), "SIDECAR_JOURNAL__FSYNC": "never"})
    ledger, _ = open_ledger(settings)
    assert (tmp_path / "data" / "journal" / "handover").exists()
    assert ledger.close()


def test_a_folder_that_cannot_be_is_told_with_the_setting(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreFailed, match=rf"journal {tmp_path}/file/journal: Not a directory.*\(server\.data_dir\)"):
        open_ledger(load(None, {"SIDECAR_SERVER__DATA_DIR": str(tmp_path / "file")}))


@pytest.mark.parametrize(("on_full", "then"), [("refuse", "calls are refused"), ("go_on", "calls go on, and what they cost is kept")])
def test_what_changes_is_told_once(on_full, then):
    ledger, told = FakeLedger(), []
    watch = JournalWatch(ledger, Journal(on_full=on_full), lambda *what, **_: told.append(what))

    def look(status):
        told.clear()
        ledger.status = status
        watch.look()
        return list(told)

    assert look(Status()) == []
    ((kind, message, level),) = look(Status("cannot write f: full", degraded=True))
    assert (kind, level) == ("journal", "error")
    assert message.startswith("cannot write f: full; until there is room ")
    assert then in message
    assert look(Status("cannot write f: full", degraded=True)) == []
    ((_, message, level),) = look(Status("cannot write f: full", degraded=True, lost=3))
    assert message.startswith("3 posts were not written down")
    assert level == "error"
    assert look(Status(lost=3)) == [("journal", "the journal is written again", "info")]
    ((_, message, _),) = look(Status(lost=5))
    assert message.startswith("2 posts were not written down")
    assert look(Status("cannot make a snapshot: full", lost=5)) == [("journal", "cannot make a snapshot: full", "warning")]


def test_a_ledger_in_memory_has_nothing_to_tell():
    ledger, _ = open_ledger(load(None, {}))
    JournalWatch(ledger, Journal(), lambda *_: pytest.fail("told")).look()
