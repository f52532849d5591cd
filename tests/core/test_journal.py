"""The ledger's journal from Python: restarts against the model, processes killed with -9, a full disk, damage and repair.

What is cut off or changed at every single byte is tested in `rust_core/tests/journal_files.rs`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import rule

from sidecar._core import Ledger, Reservation, Rule, check_journal, repair_journal
from tests.core.test_ledger import LedgerMachine

MEMORY = Path("/dev/shm")  # where tests that open journals hundreds of times do it, if there is such a folder
OPEN = Rule()


def post(ledger: Ledger, account: str, nano_usd: int, now_ns: int = 1, call: str = "c") -> None:
    held = ledger.reserve([(account, OPEN)], nano_usd, 1, 100, now_ns)
    assert isinstance(held, Reservation)
    ledger.post(held.id, nano_usd, 1, now_ns, call)


def used(ledger: Ledger, account: str) -> int:
    balance = ledger.balance(account, 1)
    return 0 if balance is None else balance.used_nano_usd


def copy_as_a_kill_leaves_it(folder: Path, to: Path) -> None:
    """Segments first: entries go from the handover into them."""
    to.mkdir()
    for file in sorted(folder.iterdir(), key=lambda file: file.name == "handover"):
        shutil.copy(file, to)


# --- against the model ----------------------------------------------------------------------------------------------------------


class JournalMachine(LedgerMachine):
    """The ledger's machine with restarts: whatever was posted, topped up, frozen or closed before is as it was."""

    def make(self) -> Ledger:
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.lives = 0
        return self.open()

    def open(self) -> Ledger:
        ledger, notices = Ledger.open(self.folder / str(self.lives), fsync="never", segment_bytes=2000)
        assert notices == []
        return ledger

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        assert self.ledger.close()
        self.ledger = self.open()
        self.model.restart()

    @rule()
    def be_killed(self) -> None:
        before = self.folder / str(self.lives)
        self.lives += 1
        copy_as_a_kill_leaves_it(before, self.folder / str(self.lives))
        self.ledger.close()
        self.ledger = self.open()
        self.model.restart()

    def check_count(self) -> None:
        """After a restart there may be accounts that would have been dropped as idle, and a snapshot drops those that are."""

    def meaning(self, balance: Any) -> object:
        """So an account of which nothing is known and one with nothing on it are the same here."""
        used, limits, counts = (balance[:4], balance[4:8], balance[9:11]) if balance else ((), (), ())
        return balance if any((*used, *limits[2:], *counts)) else None


JournalMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestJournalMachine = JournalMachine.TestCase

# --- kill -9 --------------------------------------------------------------------------------------------------------------------

SPENDER = """
import sys
from sidecar._core import Ledger, Rule
ledger, _ = Ledger.open(sys.argv[1], fsync=sys.argv[2], segment_bytes=20_000)
rule, turn = Rule(), int(sys.argv[3])
while True:
    turn += 1
    held = ledger.reserve([("all", rule), (f"tenant-{turn % 50}", rule)], turn, 1, 10**9, 1)
    ledger.post(held.id, turn, 1, 1, f"call-{turn}")
    sys.stdout.write(f"{turn}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("fsync", ["settle", "interval", "never"])
def test_kill_9_at_any_moment_loses_no_settled_call(tmp_path: Path, fsync: str) -> None:
    """Whoever has been told of a post finds it after the restart, and at most the one post that was under way besides."""
    chance, posted = random.Random(fsync), 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", SPENDER, str(tmp_path / "journal"), fsync, str(posted)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = posted
        for _ in range(chance.randrange(1, 1500)):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines(keepends=True)
        told = max([told, *(int(line) for line in rest if line.endswith("\n"))])
        process.wait()
        report = check_journal(tmp_path / "journal")
        assert report.damage == ""
        assert told <= report.posts <= told + 1
        posted = report.posts
        ledger, notices = Ledger.open(tmp_path / "journal")
        # A kill in the middle of a write leaves a torn end; the handover has the whole entry.
        assert all("torn entry" in notice for notice in notices)
        assert used(ledger, "all") == posted * (posted + 1) // 2
        assert used(ledger, "tenant-7") == sum(range(7, posted + 1, 50))
        assert ledger.close()


# --- a full disk ----------------------------------------------------------------------------------------------------------------

FULL = """
import resource, sys, time
from sidecar._core import Ledger, Rule

def until(truth):
    for _ in range(3000):
        if truth():
            return
        time.sleep(0.01)
    sys.exit("waited in vain: " + repr(ledger.journal()))

def spend(times):
    for _ in range(times):
        held = ledger.reserve([("a", Rule()), ("b", Rule())], 3, 1, 10**9, 1)
        ledger.post(held.id, 3, 1, 1, "call")

most_waiting_bytes = int(sys.argv[2])
ledger, _ = Ledger.open(sys.argv[1], fsync="settle", most_waiting_bytes=most_waiting_bytes, segment_bytes=int(sys.argv[3]))
spend(10)
until(lambda: ledger.journal().synced == 10)
assert not ledger.degraded
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))  # a disk that takes no more
spend(10)
until(lambda: ledger.degraded)
until(lambda: "cannot write" in ledger.journal().trouble and "segment-" in ledger.journal().trouble)
spend(1000)
status = ledger.journal()
assert status.waiting_bytes > 0 and status.last + status.lost == 1020, status
assert (status.lost > 0) == (most_waiting_bytes < 10_000), status
if sys.argv[4] == "room":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: not ledger.degraded)
    ledger.expire(2)  # as housekeeping does: what was lost is made up for
    until(lambda: ledger.journal().trouble == "")
    assert ledger.close()
else:
    assert not ledger.close()
"""


@pytest.mark.parametrize(("most_waiting_bytes", "segment_bytes"), [(1_000_000, 1_000_000), (5000, 1_000_000), (1_000_000, 300)])
def test_a_full_disk_is_a_state_and_when_there_is_room_again_nothing_is_missing(
    tmp_path: Path, most_waiting_bytes: int, segment_bytes: int
) -> None:
    folder = tmp_path / "journal"
    subprocess.run([sys.executable, "-c", FULL, str(folder), str(most_waiting_bytes), str(segment_bytes), "room"], check=True)
    report = check_journal(folder)
    assert (report.damage, report.notices) == ("", [])
    assert report.posts == 1020 if most_waiting_bytes > 5000 else report.posts < 1020
    ledger, _ = Ledger.open(folder)
    # Posts that could not be kept are counted as lost, but the balances are whole.
    assert (used(ledger, "a"), used(ledger, "b")) == (3060, 3060)
    ledger.close()


def test_a_process_that_ends_while_the_disk_is_full_has_lost_nothing_that_the_handover_holds(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    subprocess.run([sys.executable, "-c", FULL, str(folder), "1000000", "1000000", "none"], check=True)
    ledger, _ = Ledger.open(folder)
    assert used(ledger, "a") == 3060
    ledger.close()


# --- the rest -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Closed, with three posts on two accounts."""
    folder = tmp_path / "journal"
    ledger, notices = Ledger.open(folder)
    assert notices == []
    for account, nano_usd in (("a", 5), ("b", 7), ("a", 11)):
        post(ledger, account, nano_usd)
    assert ledger.close()
    return folder


def test_a_restart_finds_everything_as_it_was(tmp_path: Path) -> None:
    folder, day = tmp_path / "journal", Rule(limit_nano_usd=100, window=(0, 1000))
    ledger, _ = Ledger.open(folder, fsync="interval", interval_ms=1)
    assert isinstance(ledger.reserve([("a", day)], 90, 1, 100, 1), Reservation)
    assert ledger.post(1, 120, 3, 2, "call").overrun_nano_usd == 30
    ledger.top_up("a", day, 50, 0, 3)
    ledger.freeze("a")
    assert isinstance(ledger.reserve([("b", day)], 90, 1, 100, 1), Reservation)  # never posted
    before = ledger.balance("a", 4)
    assert ledger.close()
    again, _ = Ledger.open(folder)
    assert repr(again.balance("a", 4)) == repr(before)
    assert again.balance("b", 4) is None
    assert again.pending() == 0
    again.unfreeze("a")
    held = again.reserve([("a", day)], 30, 1, 100, 4)
    assert isinstance(held, Reservation)
    assert held.id == 1
    again.close()


def test_a_late_post_counts_in_its_window_after_a_restart_too(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "journal", Rule(window=(0, 100)), Rule(window=(100, 200))
    ledger, _ = Ledger.open(folder)
    for now_ns in (98, 99):
        assert isinstance(ledger.reserve([("a", first)], 5, 1, 100, now_ns), Reservation)
    ledger.post(1, 5, 1, 99)
    assert isinstance(ledger.reserve([("a", second)], 5, 1, 100, 100), Reservation)
    ledger.post(2, 5, 1, 101)
    ledger.close()
    again, _ = Ledger.open(folder)
    balance = again.balance("a", 99)  # a clock that went back
    assert balance is not None
    assert balance.used_nano_usd == 10
    again.close()


def test_after_the_close_nothing_is_written_any_more(journal: Path) -> None:
    ledger, _ = Ledger.open(journal)
    assert ledger.close()
    assert ledger.journal() is None
    assert not ledger.degraded
    post(ledger, "a", 1)
    assert ledger.close()
    assert check_journal(journal).posts == 3


def test_a_damaged_journal_is_refused_with_the_place_and_repaired(journal: Path) -> None:
    segment = journal / "segment-00000000000000000001"
    (journal / "handover").unlink()
    spoilt = bytearray(segment.read_bytes())
    spoilt[40] ^= 1
    segment.write_bytes(spoilt)
    message = (
        r"segment-00000000000000000001: damaged at byte 16: no valid entry begins here; `sidecar journal repair` keeps what can be kept"
    )
    with pytest.raises(ValueError, match=message):
        Ledger.open(journal)
    assert "damaged at byte 16" in check_journal(journal).damage
    report = repair_journal(journal)
    assert (report.last, report.posts, report.accounts) == (3, 2, 2)
    assert any("entries 1 to 1" in lost for lost in report.lost)
    assert (Path(report.moved_to) / segment.name).read_bytes() == spoilt
    ledger, notices = Ledger.open(journal)
    assert (notices, used(ledger, "a"), used(ledger, "b")) == ([], 16, 7)
    post(ledger, "a", 1)
    assert ledger.close()
    assert check_journal(journal).last == 4
    assert repair_journal(journal).moved_to == ""


def test_a_journal_in_use_is_left_alone(journal: Path) -> None:
    ledger, _ = Ledger.open(journal)
    for use in (Ledger.open, check_journal, repair_journal):
        with pytest.raises(OSError, match="another process uses it"):
            use(journal)
    ledger.close()


def test_what_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        check_journal(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OSError, match="file"):
        Ledger.open(file)
    with pytest.raises(OSError, match="no folder"):
        check_journal(file)
    (tmp_path / "segment-00000000000000000001").write_text("something else, and longer than a header")
    with pytest.raises(ValueError, match=r"damaged at byte 0: it does not begin as a file of this version's journal"):
        Ledger.open(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fsync": "sometimes"}, 'fsync: found "sometimes", expected "settle", "interval" or "never"'),
        ({"interval_ms": 0}, "interval_ms: found 0, expected 1 to 3600000"),
        ({"most_waiting_bytes": -1}, "most_waiting_bytes: found -1, expected 0 to"),
        ({"segment_bytes": 0}, "segment_bytes: found 0, expected 1 to"),
    ],
)
def test_bad_arguments_of_open(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ledger.open(tmp_path / "journal", **arguments)
    assert not (tmp_path / "journal").exists()


def test_every_settle_reaches_the_disk_without_being_waited_for(tmp_path: Path) -> None:
    ledger, _ = Ledger.open(tmp_path / "journal", fsync="settle")
    post(ledger, "a", 1)
    limit = time.monotonic() + 30
    while (status := ledger.journal()) and status.synced < 1:
        assert time.monotonic() < limit, status
        time.sleep(0.005)
    assert os.path.getsize(tmp_path / "journal" / "segment-00000000000000000001") > 16
    ledger.close()
