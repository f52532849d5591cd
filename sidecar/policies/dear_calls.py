"""What becomes of calls that cost much: a log line, an alert, the cheap model for a while."""

from __future__ import annotations

from typing import Literal

from sidecar.call import Call
from sidecar.settings.operation import Limits

_MOST_REMEMBERED = 10_000  # tenants' nodes that are throttled or of which an alert has just been given

Dear = Literal["", "log", "notify", "throttle"]
Whose = tuple[str, str, str]  # tenant, service, node


class DearCalls:
    """`limits.call_*` for calls that have ended; what could cost more than `call_halt_usd` is not asked at all: see the choose stage.

    `now_ns` is the monotonic clock.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._least = min(limits.call_log_nano_usd, limits.call_notify_nano_usd, limits.call_throttle_nano_usd)
        self._throttled: dict[Whose, int] = {}
        self._notified: dict[Whose, int] = {}
        self._halted: dict[Whose, int] = {}

    def saw(self, call: Call, now_ns: int) -> Dear:
        """What this call's cost asks for; with `throttle` it has begun. An alert, or the end of one throttling, has its time of rest."""
        limits, cost = self._limits, call.nano_usd
        if cost <= self._least:
            return ""
        whose = (call.tenant, call.service, call.node_name)
        if cost > limits.call_throttle_nano_usd:
            was_throttled = self.is_throttled(call, now_ns)
            _remember(self._throttled, whose, now_ns + limits.call_throttle_ms * 1_000_000, now_ns)
            if not was_throttled:
                return "throttle"
        if cost > limits.call_notify_nano_usd and now_ns >= self._notified.get(whose, 0):
            _remember(self._notified, whose, now_ns + limits.call_notify_every_ms * 1_000_000, now_ns)
            return "notify"
        return "log" if cost > limits.call_log_nano_usd else ""

    def halted(self, call: Call, now_ns: int) -> bool:
        """A call was refused because it could cost too much: whether that needs telling, or was told of this tenant's node a while ago."""
        whose = (call.tenant, call.service, call.node_name)
        if now_ns < self._halted.get(whose, 0):
            return False
        _remember(self._halted, whose, now_ns + self._limits.call_notify_every_ms * 1_000_000, now_ns)
        return True

    def is_throttled(self, call: Call, now_ns: int) -> bool:
        """This tenant's calls of this node go to the cheapest model that can answer them."""
        return bool(self._throttled) and now_ns < self._throttled.get((call.tenant, call.service, call.node_name), 0)


def _remember(table: dict[Whose, int], whose: Whose, until_ns: int, now_ns: int) -> None:
    """Bounded: what is over goes first, then whoever came first."""
    if whose not in table and len(table) >= _MOST_REMEMBERED:
        for old in [key for key, ends_ns in table.items() if ends_ns <= now_ns] or [next(iter(table))]:
            del table[old]
    table[whose] = until_ns
