"""What operators see: one metric update and one log line per call, without content."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sidecar.observe.events import Event, Events
from sidecar.observe.log import Level, Log
from sidecar.observe.metrics import Metrics

if TYPE_CHECKING:
    from sidecar._core import Posting
    from sidecar.call import Call
    from sidecar.errors import BudgetExceeded, SidecarError

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
        self.on_event: list[Callable[[Event], None]] = []  # are told of each event; they must not wait, nor raise
        self._clock_ns = clock_ns

    def event(self, kind: str, message: str, level: Level = "warning", **facts: str) -> None:
        """Something that an operator will want to know of: a log line, a count and an entry in the list of events."""
        self.log.write(level, message, event=kind, **facts)
        self.metrics.events.labels(kind).inc()
        happened = Event(self._clock_ns() / 1e9, kind, message, facts, level)
        self.events.add(happened)
        for tell in self.on_event:
            tell(happened)

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

    def budget(self, message: str, facts: Mapping[str, str]) -> None:
        """An account reached its warning threshold or its limit, the first time in its window."""
        self.event("budget", message, "warning", **facts)
        self.metrics.budget_warnings.inc()

    def dear(self, what: str, call: Call) -> None:
        """A call cost more than `limits.call_*` find usual; `what` is log, notify or throttle."""
        where = f"{call.service}.{call.node_name}" if call.node_name else call.service
        facts = {"call": call.id, "tenant": call.tenant, "node": where, "nano_usd": str(call.nano_usd), "action": what}
        if what == "log":
            self.log.write("warning", "dear call", **facts)
            return
        then = "; its tenant's calls of that node go to the cheapest model for a while" if what == "throttle" else ""
        self.event("dear_call", f"a call of {where} cost {call.nano_usd / 1e9:.6f} USD{then}", "warning", **facts)

    def halted(self, call: Call, error: BudgetExceeded) -> None:
        """A call was refused because it could have cost more than `limits.call_halt_usd`."""
        where = f"{call.service}.{call.node_name}" if call.node_name else call.service
        facts = {"call": call.id, "tenant": call.tenant, "node": where, "nano_usd": str(error.asked), "action": "halt"}
        usd, most = error.asked / 1e9, error.limit / 1e9
        message = f"a call of {where} was refused: it could have cost {usd:.6f} USD, more than {most:.6f} (limits.call_halt_usd)"
        self.event("dear_call", message, "warning", **facts)

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
