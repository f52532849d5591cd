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
    """A period lasts from one change of state to the next; only outcomes of permits of this period count.

    A place is what a trial, or a permit given while the ramp lasts, takes up; `ramp` is how many places the ramp has, None without one.
    """

    def __init__(
        self, failures: int, open_ns: int, trials: int, rate_percent: int = 0, window_ns: int = 60_000_000_000, least_calls: int = 20
    ) -> None:
        self.failures, self.open_ns, self.trials = failures, open_ns, trials
        self.rate_percent, self.tenth_ns, self.least_calls = rate_percent, -(-window_ns // 10), least_calls
        self.permits: list[ModelPermit] = []
        self.counted: list[tuple[int, bool]] = []  # the tenth of the window and whether it failed, of each call
        self.period, self.phase, self.until_ns, self.in_a_row = 1, "closed", 0, 0
        self.hinted = False
        self.ramp: int | None = None
        self.closed_at_ns = self.steps = 0
        self.why: str | None = None
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
            self._begin("half_open", "time_over")
        self._grow()
        if self.ramp is not None and self.ramp >= 64:
            self.ramp = None
        if not self.forced and self._out() >= self._room():
            return ("refused", None)
        self.permits.append(ModelPermit(self.period))
        return len(self.permits)

    def shorten(self, until_ns: int) -> None:
        if self.phase == "open":
            self.until_ns = min(self.until_ns, until_ns)

    def _out(self) -> int:
        return sum(p.period == self.period and p.state == "out" for p in self.permits)

    def _succeeded(self) -> int:
        return sum(p.period == self.period and p.outcome == "success" for p in self.permits)

    def _room(self) -> float:
        if self.phase == "half_open":
            return self.trials - self._succeeded()
        return float("inf") if self.ramp is None else self.ramp

    def _grow(self) -> None:
        """Twice the room for each 5 s since it closed."""
        steps = (self.latest_ns - self.closed_at_ns) // 5_000_000_000
        if self.ramp is not None and self.ramp < 64:
            self.ramp <<= min(steps - self.steps, 6)
            self.steps = steps

    def report(self, number: int, outcome: str, now_ns: int, open_for_ns: int | None = None) -> None:
        """One of success, failure and ignore; the second outcome of a permit that had a place is not heard."""
        self.latest_ns = max(self.latest_ns, now_ns)
        if not 1 <= number <= len(self.permits):
            raise ValueError(f"permit {number} was never given")
        permit = self.permits[number - 1]
        placed = self.phase == "half_open" or self.ramp is not None
        if permit.period != self.period or self.forced or (placed and permit.state == "back"):
            return
        permit.state, permit.outcome = "back", outcome
        if outcome == "success":
            self._succeed()
        elif outcome == "failure":
            self._fail(open_for_ns)

    def _succeed(self) -> None:
        self.in_a_row, self.hinted = 0, False
        if self.phase == "half_open" and self._succeeded() == self.trials:
            self._begin("closed", "trials_succeeded")
            self.ramp, self.closed_at_ns, self.steps = 2 * self.trials, self.latest_ns, 0
        elif self.phase == "closed":
            self.counted.append((self.latest_ns // self.tenth_ns, False))
            self._grow()
            self.ramp = None if self.ramp is None else self.ramp + 1

    def _fail(self, open_for_ns: int | None) -> None:
        self.in_a_row += 1
        self.counted.append((self.latest_ns // self.tenth_ns, True))
        why = (
            "trial_failed"
            if self.phase == "half_open"
            else "asked"
            if open_for_ns is not None
            else "failures"
            if self.in_a_row >= self.failures
            else "hint"
            if self.hinted
            else "rate"
            if self._rate_is_over()
            else ""
        )
        if why:
            self._begin("open", why)
            self.until_ns = self.latest_ns + (self.open_ns if open_for_ns is None else open_for_ns)

    def _rate_is_over(self) -> bool:
        window = [failed for tenth, failed in self.counted if tenth > self.latest_ns // self.tenth_ns - 10]
        return self.rate_percent > 0 and len(window) >= self.least_calls and sum(window) * 100 > self.rate_percent * len(window)

    def hint(self, now_ns: int) -> None:
        """One more failure is enough, until a success."""
        self.latest_ns = max(self.latest_ns, now_ns)
        if self.phase == "closed" and not self.forced:
            self.hinted = True

    def state(self, now_ns: int) -> str:
        """An open breaker whose time is over is half_open."""
        if self.forced:
            return self.forced
        if self.phase == "open" and max(now_ns, self.latest_ns) >= self.until_ns:
            return "half_open"
        return self.phase

    def retry_at_ns(self, now_ns: int) -> int | None:
        """When it is half_open by time alone."""
        return self.until_ns if self.state(now_ns) == "open" and not self.forced else None

    def force(self, state: str | None) -> None:
        """Hold it in a state, or (None) let it go, closed."""
        if state != self.forced:
            self.forced = state
            self._begin("closed", "held" if state else "let_go")

    def reset(self) -> None:
        """Closed and not forced."""
        self.forced = None
        self._begin("closed", "let_go")

    def _begin(self, phase: str, why: str) -> None:
        self.phase, self.why, self.in_a_row = phase, why, 0
        self.hinted, self.ramp = False, None
        self.counted.clear()
        self.period += 1
