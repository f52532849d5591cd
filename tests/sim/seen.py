"""What is written down of one call: each question to a provider, what it said, and what the caller was sent."""

from __future__ import annotations

from contextvars import ContextVar

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


class One:
    """One question to a provider. `text` is what it has said, `whole` that it came to its end; `outcome` is what the call made of it."""

    def __init__(self, number, caller, target, deed, at, epoch, state):
        self.number = number
        self.caller = caller
        self.target = target
        self.deed = deed
        self.began = at
        self.ended = None
        self.heard_at = at  # when it last said something
        self.has_head = False
        self.has_begun = False
        self.epoch = epoch
        self.state = state
        self.text = ""
        self.finish = None
        self.whole = False
        self.fits = True
        self.usage = None
        self.vectors = None
        self.retry_after_ms = None
        self.outcome = None

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


class Caller:
    """One call and all that was seen of it. It goes away after `patience_s` (how: `hangs_up`, see `World._leave`), and reads each piece
    for `pause_s`.
    """

    def __init__(self, name, request, deadline_s, *, streams, patience_s, pause_s, hangs_up):
        self.name = name
        self.request = request
        self.deadline_s = deadline_s
        self.streams = streams
        self.patience_s = patience_s
        self.pause_s = pause_s
        self.hangs_up = hangs_up
        self.on_cut = ""
        self.call = None
        self.began_at = None
        self.task = None
        self.gone_at = None
        self.done_at = None
        self.result = None
        self.ones = []
        self.segments = []  # what was sent on: one list of pieces for each Start
        self.reported = 0
        self.holds = 0
        self.posted = []  # (nano-USD, tokens)
        self.deaf = False
        self.is_killed = False
        self.row_lost = False

    def __str__(self):
        return self.name
