"""Refusing the least important calls while the sidecar itself falls behind."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from sidecar.errors import Overloaded
from sidecar.request import Priority
from sidecar.settings.operation import Admission

_LOOK_MS = 50
_LOOKS = 3  # in a row: a single hiccup, a collection of garbage or a pause of the whole machine, sheds nothing
_RETRY_AFTER_MS = 1_000


class Tell(Protocol):
    """Where it is told that shedding begins or ends."""

    def __call__(self, message: str, level: Literal["info", "warning"], **facts: str) -> None: ...


class Shedding:
    """How far the event loop is behind, and whose calls are refused for it. Critical ones never are.

    The lag is the least of the last three looks, so that it takes three late ones to begin and one in time to end. Shedding begins at
    the settings' figure and ends below half of it, so that it does not begin and end all the time.
    """

    def __init__(self, settings: Admission, tell: Tell) -> None:
        self._tell = tell
        # Normal calls never suffer before optional ones.
        self._limits_ms: dict[Priority, int] = {
            "optional": min(settings.lag_optional_ms, settings.lag_normal_ms),
            "normal": settings.lag_normal_ms,
        }
        self._looks: deque[float] = deque([0.0] * _LOOKS, _LOOKS)
        self._refused: dict[Priority, int] = {}  # of the priorities that are shed now: how many calls were
        self.lag_ms = 0.0

    async def watch(self, clock_ns: Callable[[], int]) -> None:
        """Look how late the event loop is, for ever: a sleep of 50 ms ends as much later as others keep the loop busy."""
        while True:
            asked_ns = clock_ns()
            await asyncio.sleep(_LOOK_MS / 1000)
            self.look((clock_ns() - asked_ns) / 1e6 - _LOOK_MS)

    def look(self, late_ms: float) -> None:
        """One measurement. Whatever begins or ends by it is told once."""
        self._looks.append(max(0.0, late_ms))
        self.lag_ms = lag_ms = min(self._looks)
        for priority, limit_ms in self._limits_ms.items():
            facts = {"priority": priority, "lag_ms": f"{lag_ms:.0f}"}
            if priority not in self._refused and lag_ms >= limit_ms:
                self._refused[priority] = 0
                self._tell(
                    f"the sidecar falls behind: its event loop is {lag_ms:.0f} ms late; {priority} calls are refused", "warning", **facts
                )
            elif priority in self._refused and lag_ms < limit_ms / 2:
                refused = self._refused.pop(priority)
                self._tell(f"the sidecar keeps up again; {refused} {priority} calls were refused", "info", **facts, refused=str(refused))

    def require_calm(self, priority: Priority) -> None:
        """Raises Overloaded while calls of this priority are shed."""
        if priority not in self._refused:
            return
        self._refused[priority] += 1
        raise Overloaded(
            f"the sidecar falls behind: its event loop is {self.lag_ms:.0f} ms late, and {priority} calls are refused from "
            f"{self._limits_ms[priority]} ms on (admission.lag_{priority}_ms); try again after a moment",
            retry_after_ms=_RETRY_AFTER_MS + round(self.lag_ms),
        )
