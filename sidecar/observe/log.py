"""JSON lines on standard error: what an operator's log collector reads. Never a key; content only if settings ask for it."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from msgspec.json import Encoder

from sidecar.request import GenerateRequest, Text

if TYPE_CHECKING:
    from sidecar.call import Call

Level = Literal["debug", "info", "warning", "error"]
_ORDER = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_encode = Encoder().encode
_MOST_WAITING = 10_000
_FLUSH_S = 0.2


class Log:
    """Lines are gathered and written together, off the call's path; a log that cannot keep up loses lines and says how many."""

    def __init__(self, level: Level = "info", *, content: bool = False) -> None:
        """`content`: a call's line holds its prompt and answer too (settings: `logging.content`)."""
        self._content = content
        self._least = _ORDER[level]
        self._waiting: list[bytes | tuple[Call, float, float]] = []
        self._flush_due = False
        self.dropped = 0

    def write(self, level: Level, message: str, **facts: Any) -> None:
        if _ORDER[level] >= self._least:
            self._add(_encode({"time": _at(time.time()), "level": level, "message": message, **facts}))

    def call(self, call: Call, duration_s: float) -> None:
        """The line of one call that has ended. It is put into words with the others that wait, which costs less than one at a time."""
        if _ORDER["info" if call.error is None else "warning"] >= self._least:
            self._add((call, duration_s, time.time()))

    def defect(self, known_as: str, error: BaseException) -> None:
        """An exception that nobody foresaw, under the id that its caller was told."""
        self.write("error", "defect", id=known_as, error=type(error).__name__, raised_at=_places(error))

    def _add(self, line: bytes | tuple[Call, float, float]) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(line)
        if not self._flush_due:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
                return
            self._flush_due = True
            loop.call_later(_FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what waits. A closed or full standard error costs the lines, never the process."""
        self._flush_due = False
        waiting, self._waiting = self._waiting, []
        if self.dropped:
            told = {"time": _at(time.time()), "level": "error", "message": "log lines dropped", "count": self.dropped}
            waiting.append(_encode(told))
            self.dropped = 0
        if not waiting:
            return
        lines = [line if isinstance(line, bytes) else _line(*line, content=self._content) for line in waiting]
        try:
            sys.stderr.buffer.write(b"\n".join(lines) + b"\n")
            sys.stderr.buffer.flush()
        except (OSError, ValueError):
            self.dropped += len(lines)


class _CallLine(Struct, omit_defaults=True):
    """What is said of one call; what has a default is said only where it is something else."""

    time: str
    level: Level
    message: str
    id: str
    operation: str
    service: str
    node: str
    tenant: str
    provider: str
    model: str
    status: str
    duration_ms: float
    input_tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cost_nano_usd: int
    first_token_ms: float | None = None
    user: str = ""
    plan: str = ""
    run: str = ""
    agent: str = ""
    trace_id: str = ""
    prompt_name: str = ""
    prompt_version: str = ""
    idempotency_key: str = ""
    tags: Mapping[str, str] = {}
    estimated: bool = False
    fallback: bool = False
    cache: str = ""
    cache_source: str = ""
    saved_nano_usd: int | None = None
    cache_would_be: str = ""  # a similar answer that was not given
    cache_score: float | None = None
    attempts: list[str] | None = None
    prompt: list[str] | None = None
    answer: str | None = None
    error: str | None = None
    raised_at: list[str] | None = None


def _line(call: Call, duration_s: float, unix_s: float, *, content: bool) -> bytes:
    """Of one call; with `content` its prompt and answer too."""
    error, served, usage, request = call.error, call.served, call.usage, call.request
    line = _CallLine(
        _at(unix_s),
        "info" if error is None else "warning",
        "call",
        call.id,
        call.operation,
        call.service,
        call.node_name,
        call.tenant,
        served.model.provider if served else "",
        served.model.id if served else "",
        "ok" if error is None else error.reason,
        round(duration_s * 1000, 1),
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        call.nano_usd,
        None if call.first_piece is None else round((call.first_piece - call.arrived) * 1000, 1),
        call.user,
        call.plan,
        call.run,
        call.agent,
        call.trace_id,
    )
    if isinstance(request, GenerateRequest):
        line.prompt_name, line.prompt_version, line.idempotency_key = request.prompt_name, request.prompt_version, request.idempotency_key
    line.tags, line.estimated, line.fallback = request.caller.tags, call.estimated, served is not None and served.fallback
    if call.recalled is not None:
        line.cache, line.cache_source, line.saved_nano_usd = call.recalled.kind, call.recalled.source, call.saved_nano_usd
    elif call.caching is not None and call.caching.would_be is not None:
        line.cache_would_be, line.cache_score = call.caching.would_be.entry.call_id, round(call.caching.would_be.score, 4)
    if len(call.attempts) > 1 or error is not None:
        line.attempts = [f"{t.candidate.model.id}: {t.outcome}" for t in call.attempts]
    if content:
        line.prompt = [p.text for m in call.messages for p in m.parts if isinstance(p, Text)] or list(getattr(request, "inputs", ()))
        line.answer = call.answer.text if call.answer is not None else ""
    if error is not None:
        line.error = error.message
        if error.__cause__ is not None:
            line.raised_at = _places(error.__cause__)
    return _encode(line)


def _places(error: BaseException) -> list[str]:
    """Where a defect came from, innermost last; places only, because an exception's text may hold what a caller wrote."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-8:]]


def _at(unix_s: float) -> str:
    ms = int(unix_s * 1000)
    return f"{_second(ms // 1000)}.{ms % 1000:03d}+00:00"


@lru_cache(maxsize=4)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
