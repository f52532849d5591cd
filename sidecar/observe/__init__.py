"""What operators see: one metric update and one log line per call, without content."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.observe.events import Event, Events
from sidecar.observe.log import Level, Log
from sidecar.observe.metrics import Metrics

if TYPE_CHECKING:
    from sidecar._core import Posting
    from sidecar.call import Call
    from sidecar.errors import SidecarError

__all__ = ["Event", "Events", "Log", "Meter", "Metrics", "ProviderRecord"]


class ProviderRecord:
    """How one provider has fared since the start."""

    __slots__ = ("attempts", "failures", "last_error", "last_error_at")

    def __init__(self) -> None:
        self.attempts = 0
        self.failures = 0
        self.last_error = ""
        self.last_error_at = 0.0  # time.monotonic()


class Meter:
    """Where stages report. Nothing here waits, and nothing here fails a call."""

    def __init__(self, log: Log, metrics: Metrics, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.log = log
        self.metrics = metrics
        self.events = Events()
        self.providers: dict[str, ProviderRecord] = {}
        self.on_call: Callable[[Call, float], None] | None = None  # is told of each ended call and how many seconds it took
        self._clock_ns = clock_ns

    def event(self, kind: str, message: str, level: Level = "warning", **facts: str) -> None:
        """Something that an operator will want to know of: a log line, a count and an entry in the list of events."""
        self.log.write(level, message, event=kind, **facts)
        self.metrics.events.labels(kind).inc()
        self.events.add(self._clock_ns() / 1e9, kind, message, facts)

    def attempt(self, provider: str, error: SidecarError | None) -> None:
        """One attempt at a provider ended."""
        record = self.providers.get(provider)
        if record is None:
            record = self.providers[provider] = ProviderRecord()
        record.attempts += 1
        if error is not None:
            record.failures += 1
            record.last_error = f"{error.reason}: {error.message}"
            record.last_error_at = self._clock_ns() / 1e9
            if error.reason == "PROVIDER_AUTH_FAILED":
                self.event("alert", f"provider {provider} refused its key", "error", provider=provider, error=error.message)

    def warn_budgets(self, accounts: list[str], call: Call) -> None:
        """Accounts reached their warning threshold, the first time in their window."""
        for account in accounts:
            self.log.write("warning", "budget threshold reached", account=account, call=call.id)
            self.metrics.budget_warnings.inc()

    def overrun(self, posting: Posting, call: Call) -> None:
        """A call cost more than was held for it."""
        self.log.write("warning", "overrun", call=call.id, nano_usd=posting.overrun_nano_usd, tokens=posting.overrun_tokens)
        self.metrics.overruns.inc()

    def call(self, call: Call) -> None:
        """One call ended, well or not."""
        duration_s = self._clock_ns() / 1e9 - call.arrived
        self.metrics.call(call, duration_s)
        self.log.call(call, duration_s)
        if self.on_call is not None:
            self.on_call(call, duration_s)
