"""The breaker as a small plain model: every permit is remembered with the period in which it was given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ModelPermit:
    """`state` is out or back."""

    period: int
    state: str = "out"
    outcome: str = ""


class ModelBreaker:
    """A period lasts from one change of state to the next; only outcomes of permits of this period count."""

    def __init__(self, failures: int, open_ns: int, trials: int) -> None:
        self.failures, self.open_ns, self.trials = failures, open_ns, trials
        self.permits: list[ModelPermit] = []
        self.period, self.phase, self.until_ns, self.in_a_row = 1, "closed", 0, 0
        self.forced: str | None = None
        self.latest_ns = 0

    def permit(self, now_ns: int) -> int | tuple[str, int | None]:
        """The permit's number, or ("refused", retry_at_ns)."""
        self.latest_ns = max(self.latest_ns, now_ns)
        if self.forced == "open":
            return ("refused", None)
        if self.phase == "open" and not self.forced:
            if self.latest_ns < self.until_ns:
                return ("refused", self.until_ns)
            self._begin("half_open")
        if self.phase == "half_open" and not self.forced:
            mine = [p for p in self.permits if p.period == self.period and p.outcome != "ignore"]
            if len(mine) >= self.trials:
                return ("refused", None)
        self.permits.append(ModelPermit(self.period))
        return len(self.permits)

    def report(self, number: int, outcome: str, now_ns: int, open_for_ns: int | None = None) -> None:
        """One of success, failure and ignore; a trial's second outcome is not heard."""
        self.latest_ns = max(self.latest_ns, now_ns)
        if not 1 <= number <= len(self.permits):
            raise ValueError(f"permit {number} was never given")
        permit = self.permits[number - 1]
        if permit.period != self.period or self.forced or (self.phase == "half_open" and permit.state == "back"):
            return
        permit.state, permit.outcome = "back", outcome
        if outcome == "success":
            self.in_a_row = 0
            good = [p for p in self.permits if p.period == self.period and p.outcome == "success"]
            if self.phase == "half_open" and len(good) == self.trials:
                self._begin("closed")
        elif outcome == "failure":
            self.in_a_row += 1
            if self.phase == "half_open" or self.in_a_row >= self.failures or open_for_ns is not None:
                self.until_ns = self.latest_ns + (self.open_ns if open_for_ns is None else open_for_ns)
                self._begin("open")

    def state(self, now_ns: int) -> str:
        """An open breaker whose time is over is half_open."""
        if self.forced:
            return self.forced
        if self.phase == "open" and max(now_ns, self.latest_ns) >= self.until_ns:
            return "half_open"
        return self.phase

    def force(self, state: str | None) -> None:
        """Hold it in a state, or (None) let it go, closed."""
        if state != self.forced:
            self.forced = state
            self._begin("closed")

    def reset(self) -> None:
        """Closed and not forced."""
        self.forced = None
        self._begin("closed")

    def _begin(self, phase: str) -> None:
        self.phase, self.in_a_row = phase, 0
        self.period += 1
