"""Cuts a byte stream into messages: server-sent events, or lines of JSON.

Both are fed whatever one network read brought, often one event, sometimes a hundred, and may be cut anywhere, inside a UTF-8
character too: they work on bytes and leave decoding to whoever reads a whole message.
"""

from __future__ import annotations

from sidecar.errors import ProviderGarbled

MOST_BYTES = 16 * 1024 * 1024  # of one message; what grows beyond this is no answer but a fault

_BOM = b"\xef\xbb\xbf"


class Events:
    """Splits a stream of server-sent events into their data.

    Data is given without the white space around it, several data lines of one event joined by LF, empty data left out. Comments and
    the fields event, id and retry are skipped: every provider repeats the event's name inside its JSON. Bare JSON where an event should
    be, against the format, is given as it is: it is how some gateways say an error once they have promised a stream. Work is linear in the
    bytes fed, however small the pieces: an unfinished event is kept in parts and joined once. Raises ProviderGarbled for an event
    above `MOST_BYTES`. Source: HTML Living Standard, 9.2.6 "Interpreting an event stream".
    """

    __slots__ = ("_after_cr", "_fresh", "_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # the unfinished event, LF only, none of the parts empty
        self._size = 0
        self._fresh = True  # nothing read yet but perhaps the beginning of a byte order mark
        self._after_cr = False  # the last byte was CR: an LF that follows belongs to it

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, in order."""
        if self._fresh:
            data = self._opened(data)
        elif (
            data[:7] == b"data: {"
            and data[-2:] == b"\n\n"
            and data.count(b"\n") == 2
            and not (self._parts or self._after_cr or b"\r" in data)
        ):
            return [data[6:-2].strip()]  # one event of one line, as nearly every network read
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if not data:
            return []
        parts = self._parts
        if parts:
            # The blank line that ends an event may itself be cut in two.
            ends = b"\n\n" in data or (data[0] == 10 and parts[-1][-1] == 10)
            parts.append(data)
            if not ends:
                self._size = _grown(self._size, data)
                return []
            data = b"".join(parts)
            self._parts = []
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        if rest:
            self._parts = [rest]
            self._size = len(rest)
        return [payload for block in blocks if (payload := _payload(block))]

    def end(self) -> list[bytes]:
        """The last event if the stream ended without the blank line behind it, cut or not: no more than its reader can tell."""
        payload = _payload(b"".join(self._parts))
        self._parts = []
        return [payload] if payload else []

    def _opened(self, data: bytes) -> bytes:
        data = b"".join((*self._parts, data))
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._parts = [data] if data else []
            return b""
        self._parts = []
        self._fresh = False
        return data.removeprefix(_BOM)

    def _with_lf(self, data: bytes) -> bytes:
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data:
            self._after_cr = data[-1] == 13
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class Lines:
    """Splits newline-delimited JSON into its lines, without the white space around them; empty ones are left out.

    Linear as `Events` is. Raises ProviderGarbled for a line above `MOST_BYTES`.
    """

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, in order."""
        if b"\n" not in data:
            self._parts.append(data)
            self._size = _grown(self._size, data)
            return []
        if self._parts:
            data = b"".join((*self._parts, data))
        lines = data.split(b"\n")
        rest = lines.pop()
        self._parts = [rest] if rest else []
        self._size = len(rest)
        return [stripped for line in lines if (stripped := line.strip())]

    def end(self) -> list[bytes]:
        """The last line if the stream ended without the newline behind it."""
        line = b"".join(self._parts).strip()
        self._parts = []
        return [line] if line else []


def _payload(block: bytes) -> bytes:
    if b"\n" not in block and block.startswith(b"data:"):
        return block[5:].strip()
    if block.lstrip()[:1] in (b"{", b"["):
        return block.strip()
    return b"\n".join(line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")).strip()


def _grown(size: int, data: bytes) -> int:
    size += len(data)
    if size > MOST_BYTES:
        raise ProviderGarbled(f"one event of the stream is larger than {MOST_BYTES} bytes and has no end yet")
    return size
