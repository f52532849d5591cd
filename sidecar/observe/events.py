"""What happened lately, for operators who look later: breakers that changed, keys set aside, alerts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from msgspec import Struct

from sidecar.observe.log import Level

_KEPT = 1_000


class Event(Struct, frozen=True):
    """`at` is in seconds of the engine's clock; `message` and `facts` hold neither keys nor prompts."""

    at: float
    kind: str  # breaker, set_aside, alert, health, shed, certificate, budget, dear_call, audit, run, journal, alerts, cache
    message: str
    facts: Mapping[str, str]
    level: Level = "warning"


class Events:
    """The last 1,000 events, in memory."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEPT)

    def add(self, event: Event) -> None:
        self._events.append(event)

    def latest(self, limit: int, kind: str = "") -> list[Event]:
        """Newest first, at most `limit`; with `kind` only those."""
        found = (event for event in reversed(self._events) if kind in ("", event.kind))
        return [event for event, _ in zip(found, range(limit), strict=False)]
