"""What a counter cannot say to somebody who looks once: the share of errors lately, and the day's cost."""

from __future__ import annotations

Where = tuple[str, str, str, str]  # service, node, provider, model

_WINDOW_MINUTES = 5  # the alert rule "errors above 10 % over 5 minutes"
_DAY_S = 86_400


class Recent:
    """Sums per minute and per UTC day. `unix_s` comes from the caller, so that a test can drive it."""

    def __init__(self) -> None:
        self._minutes: dict[int, dict[Where, list[int]]] = {}  # minute → where → [calls, errors]
        self._day = 0
        self._cost: dict[Where, int] = {}  # nano-USD

    def add(self, where: Where, *, failed: bool, nano_usd: int, unix_s: float) -> None:
        """Count one ended call."""
        minute = int(unix_s) // 60
        calls = self._minutes.get(minute)
        if calls is None:
            calls = self._minutes[minute] = {}
            for old in [m for m in self._minutes if not minute - _WINDOW_MINUTES < m <= minute]:
                del self._minutes[old]
        sums = calls.setdefault(where, [0, 0])
        sums[0] += 1
        sums[1] += failed
        self._turn(unix_s)
        if nano_usd:
            self._cost[where] = self._cost.get(where, 0) + nano_usd

    def error_rates(self, unix_s: float) -> dict[Where, float]:
        """Failed calls among all of the last five minutes, 0 to 1."""
        minute = int(unix_s) // 60
        sums: dict[Where, list[int]] = {}
        for number, calls in list(self._minutes.items()):
            if minute - _WINDOW_MINUTES < number <= minute:
                for where, (count, failed) in list(calls.items()):
                    total = sums.setdefault(where, [0, 0])
                    total[0] += count
                    total[1] += failed
        return {where: failed / count for where, (count, failed) in sums.items()}

    def cost_today(self, unix_s: float) -> dict[Where, int]:
        """Nano-USD since midnight UTC."""
        return dict(self._cost) if int(unix_s) // _DAY_S == self._day else {}

    def _turn(self, unix_s: float) -> None:
        day = int(unix_s) // _DAY_S
        if day > self._day:  # a clock that goes back does not bring yesterday back
            self._day = day
            self._cost.clear()
