"""What is written down of one call: each question to a provider, what it said, and what the caller was sent."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field

from sidecar.call import Call, Usage
from sidecar.request import EmbedRequest, GenerateRequest

GRACE_S = 0.25  # how long after its deadline a call may still be ending
CURRENT: ContextVar[Caller] = ContextVar("caller")


class Notes:
    """What happened, and which rules were broken: sentences that name second and caller; the world adds the seed."""

    def __init__(self, loop):
        self._loop = loop
        self.breaks = []
        self.trace = []
        self.callers = []
        self.numbers = 0

    @property
    def now(self) -> float:
        return self._loop.seconds

    def note(self, who, what) -> None:
        self.trace.append((self.now, who, what))

    def broken(self, who, what) -> None:
        self.breaks.append(f"at {self.now:.6f} s, {who}: {what}")
        self.note(who, f"BROKEN: {what}")


@dataclass(eq=False)
class One:
    """One question to a provider. `text` is what it has said, `whole` that it came to its end; `outcome` is what the call made of it."""

    number: int
    caller: Caller
    target: str
    deed: str
    began: float
    epoch: int
    state: str
    ended: float | None = None
    has_head: bool = False
    has_begun: bool = False
    text: str = ""
    finish: str | None = None
    whole: bool = False
    fits: bool = True
    usage: Usage | None = None
    vectors: list[list[float]] | None = None
    retry_after_ms: int | None = None
    outcome: str | None = None

    def __post_init__(self):
        self.heard_at = self.began  # when it last said something

    def say(self, text, *, finish=None, whole=False):
        self.text += text
        self.finish = finish or self.finish
        self.whole = self.whole or whole

    @property
    def provider(self):
        return self.target.partition("/")[0].partition("#")[0]

    @property
    def endpoint(self):
        return self.target.partition("/")[0]

    @property
    def model(self):
        return self.target.partition("/")[2]

    @property
    def is_answer(self):
        """May this be passed on as a success?"""
        if self.vectors is not None:
            return self.whole
        if not self.whole or (self.finish == "stop" and not self.text):
            return False
        return self.fits or self.finish in ("content_filter", "refusal")


@dataclass(eq=False)
class Caller:
    """One call and all that was seen of it. It goes away after `patience_s` (how: `hangs_up`, see `World._leave`), and reads each piece
    for `pause_s`.
    """

    name: str
    request: GenerateRequest | EmbedRequest
    deadline_s: float
    streams: bool
    patience_s: float | None
    pause_s: float
    hangs_up: bool
    on_cut: str = ""
    call: Call | None = None
    began_at: float | None = None
    task: asyncio.Task | None = None
    gone_at: float | None = None
    done_at: float | None = None
    result: str | None = None
    ones: list[One] = field(default_factory=list)
    segments: list[list] = field(default_factory=list)  # what was sent on: one list of pieces for each Start
    reported: int = 0
    holds: int = 0
    posted: list[tuple[int, int]] = field(default_factory=list)  # (nano-USD, tokens)
    deaf: bool = False
    is_killed: bool = False
    row_lost: bool = False

    def begin(self, now, clock_s, send):
        """It calls; `now` is the world's time, `clock_s` the process'."""
        self.began_at = now
        self.call = Call(
            id=self.name,
            operation="embed" if isinstance(self.request, EmbedRequest) else "stream" if self.streams else "generate",
            request=self.request,
            metadata={},
            arrived=clock_s,
            deadline=clock_s + self.deadline_s,
            send=send if self.streams else None,
        )
        return self.call

    @property
    def spent(self):
        """All that was posted for it."""
        return sum(nano_usd for nano_usd, _ in self.posted), sum(tokens for _, tokens in self.posted)

    def __str__(self):
        return self.name
