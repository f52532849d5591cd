"""Who changed what: one JSON line for each change by an operator, in a file that is only ever added to."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from sidecar.errors import StoreFailed

FILE = "audit.jsonl"


class Audit:
    """Without a folder nothing is written: then the log has it. A line is on the disk when `write` returns.

    `turn` is held by whoever changes something, so that what was before is what the change before left.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._path = Path()
        self._file = -1
        self._writer: ThreadPoolExecutor | None = None

    def open(self, folder: Path) -> None:
        """Add to the file in this folder, which is made if need be. Raises StoreFailed."""
        self._path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreFailed(f"cannot write {self._path} (server.data_dir): {error.strerror}") from None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")

    async def write(self, entry: Mapping[str, object]) -> None:
        """Add one line. Raises StoreFailed, and then it is not there."""
        if self._writer is not None:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._append, msgspec.json.encode(entry) + b"\n")

    def close(self) -> None:
        """Finish what is being written and leave the file."""
        if self._writer is not None:
            self._writer.shutdown()
            os.close(self._file)

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(0, "no room for a whole line")
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, end)
            raise StoreFailed(f"cannot write {self._path} (server.data_dir): {error.strerror}; nothing was changed") from None
