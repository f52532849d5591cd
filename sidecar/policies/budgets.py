"""Which accounts pay for a call, and what each allows."""

from __future__ import annotations

from sidecar._core import Rule
from sidecar.call import Call
from sidecar.days import zone_of
from sidecar.policies.windows import Windows
from sidecar.settings import Limits


class Budgets:
    """The tenant's day: money and tokens, from settings (`limits`), from midnight to midnight in `limits.time_zone`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._days = Windows("day", zone_of(limits.time_zone))
        self._tenant_day: Rule | None = None
        self._today: tuple[int, int] | None = None

    def accounts(self, call: Call, now_ns: int) -> tuple[tuple[str, Rule], ...]:
        """Names and rules, in the windows that `now_ns` (Unix time) is in."""
        today = self._days.at(now_ns)
        if self._tenant_day is None or today is not self._today:
            limits, self._today = self._limits, today
            self._tenant_day = Rule(
                limit_nano_usd=limits.tenant_day_nano_usd,
                limit_tokens=limits.tenant_day_tokens,
                window=today,
                warn_percent=limits.warn_percent,
            )
        return ((f"tenant:{call.tenant}:day", self._tenant_day),)
