"""One circuit breaker for each service and target, made when first needed; every change of state is told once, whoever made it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from sidecar._core import Breaker, Refusal
from sidecar.settings import Settings
from sidecar.settings.routing import Service

_MOST = 1_000  # callers choose the names of models at open servers; the memory must not grow with them
_MS = 1_000_000

State = Literal["closed", "open", "half_open"]

_WHY = {
    "failures": "it failed too often in a row",
    "rate": "too many of its latest calls failed",
    "hint": "it failed, and others had seen it fail",
    "asked": "the provider asked to be left alone",
    "time_over": "its pause is over, and calls let through now decide",
    "trial_failed": "a call let through to try it failed",
    "trials_succeeded": "the calls let through to try it succeeded",
    "held": "an operator holds it so",
    "let_go": "an operator let it go",
}


class Change(Struct, frozen=True):
    """A breaker changed its state, or an operator held it or let it go (then `before` and `after` may be the same).

    `open_ns` is how long it will be open; None where it is not, or an operator holds it. `why` as `sidecar._core.Breaker.why` has it.
    """

    service: str
    target: str
    before: State
    after: State
    why: str
    open_ns: int | None

    @property
    def message(self) -> str:
        """In a sentence, for operators."""
        service = f" for service {self.service}" if self.service else ""
        return f"the breaker of {self.target}{service} is {self.after.replace('_', ' ')}: {_WHY[self.why]}"


class BreakerFacts(Struct, frozen=True):
    """A breaker as operators see it. `open_left_ns` is the time to its trial; None: it is not open, or it is held (`forced`)."""

    service: str
    target: str
    state: State
    forced: bool
    open_left_ns: int | None
    changes: int


class TargetBreaker:
    """The core's breaker of one service and target, which tells of its changes. Switched off (`breaker_off`), only an operator opens it.

    The core counts its changes, so that a call without one pays for one comparison.
    """

    __slots__ = ("_before", "_core", "_generation", "_hinted_until_ns", "_is_off", "_tell", "service", "target")

    def __init__(self, service: str, target: str, rule: Service, tell: Callable[[Change], None], hinted_until_ns: int = 0) -> None:
        self.service = service
        self.target = target
        self._core = Breaker(
            failures=rule.breaker_failures,
            open_ns=rule.breaker_open_ms * _MS,
            trials=rule.breaker_trials,
            rate_percent=rule.breaker_rate_percent,
            window_ns=rule.breaker_window_ms * _MS,
            least_calls=rule.breaker_least_calls,
        )
        self._is_off = rule.breaker_off
        self._hinted_until_ns = hinted_until_ns  # a hint from before this breaker was made
        self._tell = tell
        self._before: State = "closed"
        self._generation = self._core.generation

    def permit(self, now_ns: int) -> int | Refusal:
        """A permit, to be handed back exactly once with `success`, `failure` or `ignore`; or until when there is none."""
        if self._hinted_until_ns:
            if now_ns < self._hinted_until_ns:
                self._core.hint(now_ns)
            self._hinted_until_ns = 0
        permit = self._core.permit(now_ns)
        if self._core.generation != self._generation:
            self._changed("half_open", now_ns)
        return permit

    def success(self, permit: int, now_ns: int) -> None:
        """The call went well."""
        self._core.success(permit, now_ns)
        if self._core.generation != self._generation:
            self._changed("closed", now_ns)

    def failure(self, permit: int, now_ns: int, open_for_ns: int | None = None) -> bool:
        """The call failed. `open_for_ns` opens at once and for that long, as a provider's Retry-After asks for.

        Returns whether it was the one failure too many; not so where the provider asked for a pause, or a trial failed.
        """
        if self._is_off:
            self._core.ignore(permit, now_ns)
            return False
        self._core.failure(permit, now_ns, open_for_ns)
        if self._core.generation == self._generation:
            return False
        self._changed("open", now_ns)
        return self._core.why in ("failures", "rate")

    def shorten(self, until_ns: int) -> None:
        """Where it is open, let a trial through at `until_ns` at the latest."""
        self._core.shorten(until_ns)

    def ignore(self, permit: int, now_ns: int) -> None:
        """The outcome says nothing about the provider."""
        self._core.ignore(permit, now_ns)

    def hint(self, now_ns: int) -> None:
        """Somebody else saw the provider fail: while closed, the next failure opens it; a success says otherwise."""
        self._core.hint(now_ns)

    def force(self, state: Literal["open", "closed"] | None) -> None:
        """Hold it open or closed whatever the outcomes; None lets it go, closed and with nothing counted, whether or not it was held."""
        if state is None:
            self._core.reset()
        else:
            self._core.force(state)
        if self._core.generation != self._generation:
            self._changed(state or "closed", 0)

    def state(self, now_ns: int) -> State:
        """An open breaker whose time is over is half_open: the next caller is a trial."""
        return self._core.state(now_ns)

    def retry_at_ns(self, now_ns: int) -> int | None:
        """When an open breaker lets a trial through. None: it is not open, or an operator holds it."""
        return self._core.retry_at_ns(now_ns)

    @property
    def forced(self) -> bool:
        return self._core.forced

    def facts(self, now_ns: int) -> BreakerFacts:
        """All that operators see of it."""
        at_ns = self._core.retry_at_ns(now_ns)
        left_ns = None if at_ns is None else at_ns - now_ns
        return BreakerFacts(self.service, self.target, self.state(now_ns), self.forced, left_ns, self._generation - 1)

    def _changed(self, after: State, now_ns: int) -> None:
        # What the core did, not its state now: asked to open for no time at all, it has opened, and is half open by now.
        before, self._before = self._before, after
        self._generation = self._core.generation
        at_ns = self._core.retry_at_ns(now_ns)
        self._tell(Change(self.service, self.target, before, after, self._core.why or "", None if at_ns is None else at_ns - now_ns))


class Breakers:
    """Per service, because services differ in how soon they want to be warned off; per target, because models fail alone.

    `on_change` are told of every change, in the call that made it: they must neither wait nor raise.
    """

    def __init__(self, settings: Settings) -> None:
        self._services = settings.services
        self._default = Service()
        self._breakers: OrderedDict[tuple[str, str], TargetBreaker] = OrderedDict()  # the longest unused first
        self._hints: dict[str, int] = {}  # target → until when its new breakers are to know of it
        self.on_change: list[Callable[[Change], None]] = []

    def of(self, service: str, target: str) -> TargetBreaker:
        """`target` is a candidate's. A service that settings do not name shares one set of breakers with its like."""
        service = service if service in self._services else ""
        key = (service, target)
        found = self._breakers.get(key)
        if found is None:
            if len(self._breakers) >= _MOST:
                self._forget_one()
            rule = self._services.get(service, self._default)
            found = self._breakers[key] = TargetBreaker(service, target, rule, self._tell, self._hints.get(target, 0))
        else:
            self._breakers.move_to_end(key)
        return found

    def find(self, service: str, target: str) -> TargetBreaker | None:
        """The one in use under exactly these names, as `listing` has them."""
        return self._breakers.get((service, target))

    def is_open(self, service: str, target: str, now_ns: int) -> bool:
        """Is nobody of this service to ask this target now? Makes none: what was never asked is closed."""
        found = self._breakers.get((service if service in self._services else "", target))
        return found is not None and found.state(now_ns) == "open"

    def hint(self, target: str, now_ns: int, left_ns: int = 0) -> None:
        """Another process saw this target fail: each service's breaker of it opens at its next failure.

        `left_ns` is for how long this is to be remembered for breakers that are not in use yet.
        """
        if left_ns > 0:
            self._hints = {name: until_ns for name, until_ns in self._hints.items() if until_ns > now_ns}
            if len(self._hints) < _MOST:
                self._hints[target] = now_ns + left_ns
        for breaker in self._breakers.values():
            if breaker.target == target:
                breaker.hint(now_ns)

    def listing(self, now_ns: int) -> list[BreakerFacts]:
        """Each breaker in use, by service and target."""
        return [breaker.facts(now_ns) for _, breaker in sorted(self._breakers.items())]

    def states(self, now_ns: int) -> list[tuple[str, str, str]]:
        """(service, target, state) of each breaker in use, for metrics."""
        # A copy: metrics may be read in a thread of their own.
        return [(service, target, breaker.state(now_ns)) for (service, target), breaker in list(self._breakers.items())]

    def _tell(self, change: Change) -> None:
        for told in self.on_change:
            told(change)

    def _forget_one(self) -> None:
        """The longest unused one that is closed and that no operator holds; one that protects somebody only where there is no other."""
        # At time 0 no pause is over, so that an open one is open even if its trial is due.
        closed = (key for key, breaker in self._breakers.items() if breaker.state(0) == "closed" and not breaker.forced)
        free = (key for key, breaker in self._breakers.items() if not breaker.forced)
        del self._breakers[next(closed, None) or next(free, None) or next(iter(self._breakers))]
