"""What the last calls cost, in memory that outlives the process: kill -9 takes no row of a call that was posted.

A row of the usage log is written a moment after its call has ended, off the calls' path. Until then its figures are here: a file that is
mapped into memory, so that handing over costs microseconds and no system call. A power cut may take them; the journal says what that means.

The file has two halves. One is written to; the other's rows are in the log by now, and it is emptied when that is certain. Each half is
a row of frames: length, CRC-32 and content, ended by a length of 0.
"""

from __future__ import annotations

import mmap
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from sidecar.errors import StoreFailed

FILE: Final = "usage.shield"
_HALF: Final = 4 * 1024 * 1024  # some seconds of a thousand calls a second; a page that is not written to takes no memory
_HEAD: Final = Struct("<II")
_CERTAIN_S: Final = 5.0  # a call's own row follows its figures at once, in the same thread


class Shield:
    """`found` is what the last process left. `put` is for the calls' thread, `turn` for the one that writes rows."""

    def __init__(self, folder: Path, half: int = _HALF) -> None:
        """Raises StoreFailed."""
        self._half = half
        path = folder / FILE
        try:
            file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                os.ftruncate(file, 2 * half)
                self._map = mmap.mmap(file, 2 * half)
            finally:
                os.close(file)
        except OSError as error:
            raise StoreFailed(f"cannot write {path}: {error.strerror} (server.data_dir)") from None
        self.found = [*self._read(0), *self._read(half)]
        self._lock = threading.Lock()
        self._begins = 0  # where the half begins that is written to
        self._at = 0
        self._turned_s = 0.0
        self._other_is_empty = not self.found

    def put(self, content: bytes) -> bool:
        """False: there is no room, and a kill would take this row."""
        with self._lock:
            at, end = self._at, self._at + _HEAD.size + len(content)
            if end + _HEAD.size > self._begins + self._half:
                return False
            # The length comes last: a frame that was cut short has none.
            self._map[at + _HEAD.size : end] = content
            _HEAD.pack_into(self._map, end, 0, 0)
            _HEAD.pack_into(self._map, at, len(content), zlib.crc32(content))
            self._at = end
            return True

    def turn(self, now_s: float, *, all_written: bool) -> None:
        """Now and then: begin the other half if it is empty; empty it when every row that there was is in the log."""
        with self._lock:
            other = self._half - self._begins
            if not self._other_is_empty:
                if all_written and now_s - self._turned_s > _CERTAIN_S:
                    _HEAD.pack_into(self._map, other, 0, 0)
                    self._other_is_empty = True
            elif self._at > self._begins:
                self._begins = self._at = other
                self._turned_s, self._other_is_empty = now_s, False

    def clear(self) -> None:
        """What was found is in the log."""
        with self._lock:
            for begins in (0, self._half):
                _HEAD.pack_into(self._map, begins, 0, 0)
            self._begins = self._at = 0
            self._other_is_empty = True

    def close(self) -> None:
        with self._lock:
            self._map.close()

    def _read(self, begins: int) -> Iterator[bytes]:
        at, ends = begins, begins + self._half
        while at + _HEAD.size <= ends:
            length, checksum = _HEAD.unpack_from(self._map, at)
            content = self._map[at + _HEAD.size : at + _HEAD.size + length]
            if not length or at + _HEAD.size + length > ends or zlib.crc32(content) != checksum:
                return
            yield content
            at += _HEAD.size + length
