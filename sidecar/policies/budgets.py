"""Which accounts pay for a call, and what each allows."""

from __future__ import annotations

from sidecar._core import Rule
from sidecar.call import Call
from sidecar.settings import Limits

_DAY_NS = 86_400_000_000_000


class Budgets:
    """The tenant's day: money and tokens, from settings (`limits`), resetting at midnight UTC."""

    def __init__(self, limits: Limits) -> None:
        self._tenant_day = Rule(
            limit_nano_usd=limits.tenant_day_nano_usd,
            limit_tokens=limits.tenant_day_tokens,
            window_ns=_DAY_NS,
            warn_percent=limits.warn_percent,
        )

    def accounts(self, call: Call) -> tuple[tuple[str, Rule], ...]:
        return ((f"tenant:{call.tenant}:day", self._tenant_day),)
