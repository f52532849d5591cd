"""`sidecar journal check` and `repair`: the journal of what was spent, looked over while no sidecar uses it.

Exit status: 0 whole (or repaired), 1 damaged, in use or unreadable, 2 the settings cannot be read or name no folder.
"""

import sys
from pathlib import Path
from typing import Literal

from sidecar._core import JournalReport, check_journal, repair_journal
from sidecar.errors import SettingsError
from sidecar.settings import Settings
from sidecar.store.journal import FOLDER


def journal(action: Literal["check", "repair"], settings: Settings, data_dir: str | None) -> int:
    """Prints what it found and returns the exit status 0 or 1. `data_dir` stands in for the settings' own. Raises SettingsError."""
    folder = data_dir or settings.server.data_dir
    if folder is None:
        expected = "is not set, expected the folder of the journal, here or in --data-dir"
        raise SettingsError(settings.origin("server", "data_dir"), "", expected)
    path = Path(folder, FOLDER)
    try:
        report = repair_journal(path) if action == "repair" else check_journal(path)
    except OSError as error:
        sys.stderr.write(f"sidecar: {error}\n")
        return 1
    sys.stdout.write("".join(line + "\n" for line in _lines(path, report)))
    return 1 if report.damage and not report.moved_to else 0


def _lines(path: Path, report: JournalReport) -> list[str]:
    if report.damage and not report.moved_to:
        return [f"damaged: {report.damage}"]
    held = f"{report.last} entries, {report.accounts} accounts, {report.frozen} frozen; posted since the beginning: {report.posts} calls, "
    held += f"{report.posted_nano_usd // 10**9}.{report.posted_nano_usd % 10**9:09d} USD, {report.posted_tokens} tokens"
    if report.moved_to:
        lost = [f"lost: {what}" for what in report.lost]
        return [f"was damaged: {report.damage}", *lost, f"repaired: {held}", f"the damaged files are in {report.moved_to}"]
    return [f"whole: {path}: {held}", *(f"note: {notice}" for notice in report.notices)]
