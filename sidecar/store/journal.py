"""The ledger's journal in `server.data_dir`: opened at start, and watched while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sidecar._core import Ledger
from sidecar.errors import StoreFailed
from sidecar.settings import Settings
from sidecar.settings.operation import Journal

FOLDER = "journal"


def open_ledger(settings: Settings) -> tuple[Ledger, list[str]]:
    """The ledger as the last process left it, and notices of what was found; without `server.data_dir` an empty one, kept in memory.

    Raises StoreFailed if the journal is damaged, in use, or cannot be read or written.
    """
    if settings.server.data_dir is None:
        return Ledger(), []
    journal = settings.journal
    try:
        return Ledger.open(Path(settings.server.data_dir, FOLDER), fsync=journal.fsync, interval_ms=journal.fsync_interval_ms)
    except (OSError, ValueError) as error:
        raise StoreFailed(f"{error} (server.data_dir)") from None


class JournalWatch:
    """Says when the journal's disk takes no more and when it does again, and how many posts were not written down in between."""

    def __init__(self, ledger: Ledger, settings: Journal, tell: Callable[..., None]) -> None:
        """`tell` is `Meter.event`: it is given a kind of event, a message, a level and facts."""
        self._ledger = ledger
        self._refuses = settings.on_full == "refuse"
        self._tell = tell
        self._trouble = ""
        self._lost = 0

    def look(self) -> None:
        """Tell what has changed since the last look."""
        status = self._ledger.journal()
        if status is None:
            return
        if status.trouble != self._trouble:
            then = "calls are refused" if self._refuses else "calls go on, and what they cost is kept in memory"
            if status.degraded:
                self._tell("journal", f"{status.trouble}; until there is room {then} (journal.on_full)", "error")
            elif status.trouble:
                self._tell("journal", status.trouble, "warning")
            else:
                self._tell("journal", "the journal is written again", "info")
            self._trouble = status.trouble
        if status.lost > self._lost:
            lost, self._lost = status.lost - self._lost, status.lost
            self._tell(
                "journal",
                f"{lost} posts were not written down: too much waited for the disk; balances are made whole when there is room",
                "error",
                key="posts",
            )
