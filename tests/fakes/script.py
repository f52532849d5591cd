"""What the fake provider is told to do with a request: answer, fail, stall, hang up, talk nonsense.

A step is neutral; `wires.py` says it in the words of the provider that was called.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Literal

from msgspec import Struct

Cut = Literal["", "reset", "close", "no_finish", "no_end"]


class Tokens(Struct, frozen=True):
    """Disjoint buckets; each wire adds them up the way its provider does."""

    input: int = 11
    cached: int = 0
    cache_write: int = 0
    output: int = 7
    reasoning: int = 0


class Tool(Struct, frozen=True):
    """A tool call. A stream sends `arguments` in pieces of `piece` characters."""

    name: str
    arguments: str = "{}"
    id: str = "call_1"
    piece: int = 8


class Say(Struct, frozen=True):
    """An answer. Delays are in milliseconds, before each text piece; a unary reply waits `first_delay_ms` and joins the pieces.

    `finish` is stop, length, tool_calls, content_filter or refusal; `raw_finish` replaces the provider's word for it. `cut` breaks the
    stream after `cut_after` pieces by a `reset` connection or by a clean `close`; or it leaves out the finish reason (`no_finish`) or the
    protocol's own end (`no_end`). `error_after` sends an error under HTTP 200 after so many pieces (0: in place of the answer), `error` in
    the provider's words. `gate` holds the answer before piece `hold_after` until the test sets it. `split` writes the body in slices of
    so many bytes, wherever they fall.
    """

    pieces: tuple[str, ...] = ("Hello", ", ", "world", "!")
    first_delay_ms: float = 0
    delay_ms: float = 0
    reasoning: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    finish: str = "stop"
    raw_finish: str = ""
    tokens: Tokens | None = Tokens()
    cut: Cut = ""
    cut_after: int = 1
    error_after: int | None = None
    error: Fail | None = None
    gate: asyncio.Event | None = None
    hold_after: int = 0
    unknown_events: bool = False
    split: int = 0
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Vectors(Struct, frozen=True):
    """Embeddings of `size` numbers unless the request says how many. `missing` vectors are left out at the end, `extra` ones added.

    The last one is `empty`, shorter than the others (`ragged`), or holds a figure that is not a number (`nan`); `twice` gives all the same
    index.
    """

    size: int = 8
    missing: int = 0
    extra: int = 0
    backwards: bool = False
    empty: bool = False
    ragged: bool = False
    nan: bool = False
    twice: bool = False
    tokens: int = 5
    first_delay_ms: float = 0


class Fail(Struct, frozen=True):
    """An HTTP error with the provider's own error body, or with `body` as it is."""

    status: int
    message: str = "scripted failure"
    code: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str = "application/json"


class Raw(Struct, frozen=True):
    """A body as it is, whatever was asked. `promised` is a Content-Length that may be a lie; `then` says what follows the body.

    `split` and `delay_ms` write it in slices of so many bytes, so many milliseconds apart.
    """

    body: bytes = b""
    content_type: str = "application/json"
    status: int = 200
    promised: int | None = None
    then: Literal["end", "reset", "stall"] = "end"
    split: int = 0
    delay_ms: float = 0.5


class Stall(Struct, frozen=True):
    """Take the request and never answer, or send headers and nothing else; with `pings_ms`, the wire's sign of life so often."""

    after_headers: bool = False
    pings_ms: float = 0


class HangUp(Struct, frozen=True):
    """Take the request and reset the connection, before or after the headers."""

    after_headers: bool = False


Step = Say | Vectors | Fail | Raw | Stall | HangUp


def vector_of(text: str, size: int) -> list[float]:
    """The vector the fake gives a text: exact in float32, the same every time, different for different texts."""
    digest = hashlib.sha256(text.encode()).digest()
    return [(digest[i % 32] - 128 + i // 32) / 256 for i in range(size)]
