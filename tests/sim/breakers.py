"""What breakers promise: who they let through, when they open, and how callers come back, reckoned from the outcomes alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import inf

from sidecar.catalog import Model
from sidecar.settings.routing import Service
from tests.sim.seen import GRACE_S
from tests.sim.silence import was_hurried

# What says that a model is unwell. Callers' errors, refused keys, empty accounts, refusals and cancellations do not.
UNWELL = {
    "PROVIDER_RATE_LIMITED",
    "PROVIDER_UNAVAILABLE",
    "PROVIDER_TIMEOUT",
    "PROVIDER_GARBLED",
    "PROVIDER_EMPTY",
    "STREAM_CUT",
}


class BreakerRules:
    """Of one process, whose `watch` is told of what does not hold."""

    def __init__(self, watch, settings):
        self._watch = watch
        self._settings = settings
        self.flying = defaultdict(list)  # questions under way, by breaker
        self.epochs = Counter()  # changes of each breaker
        self.blocked_until = {}
        self._changed_at = {}
        self._streaks = Counter()
        self._held = {}
        self._vague = set()  # breakers of which it is not known what has been counted
        self._ramps = {}

    def key(self, caller, target):
        service = caller.call.service
        return (service if service in self._settings.services else "", target)

    def _rule(self, key):
        return self._settings.services.get(key[0]) or Service()

    def state(self, caller, target):
        engine = self._watch.engine
        return engine.breakers.of(caller.call.service, target).state(engine.clock_ns())

    def is_calm(self, key, caller):
        """Its breaker has let everybody through for as long as the call lasts."""
        return self._changed_at.get(key, -1) < caller.began_at and key not in self._held and key not in self._ramps

    def check(self, one, key):
        """It lets this question through."""
        caller, rule = one.caller, self._rule(key)
        if one.state == "open":
            self._watch.broken(caller, f"{one.target} is asked, and its breaker is open")
        if key in self._held:
            if self._held[key] == "open":
                self._watch.broken(caller, f"{one.target} is asked, and an operator holds its breaker open")
            return
        if self._watch.now < self.blocked_until.get(key, 0):
            self._watch.broken(caller, f"{one.target} is asked, and its breaker opened until {self.blocked_until[key]:.3f} s")
        flying = sum(o.epoch == one.epoch for o in self.flying[key]) + 1
        if one.state == "half_open" and flying > rule.breaker_trials:
            self._watch.broken(
                caller, f"{flying} questions at a time to {one.target}, whose breaker is half open and lets {rule.breaker_trials} through"
            )
        room = self._room(key)
        if one.state == "closed" and flying > room:
            self._watch.broken(caller, f"{flying} questions at a time to {one.target}, which has just come back: {room} are allowed")

    def check_haste(self, one):
        """Once a breaker is open, whoever waited for its model asks the next one within a second."""
        caller = one.caller
        if (
            not caller.ones
            or one.target in {o.target for o in caller.ones}
            or any(has_quota(candidate.model) for candidate in caller.call.candidates)
        ):
            return
        before = caller.ones[-1]
        key = self.key(caller, before.target)
        opened = max(self._changed_at.get(key, 0), *(one.ended or inf for one in caller.ones))
        state = self.state(caller, before.target)
        free = one.state == "closed" and self.is_calm(self.key(caller, one.target), caller)  # it could have been asked at once
        if state == "open" and free and self._watch.now - opened > 1 + GRACE_S:
            self._watch.broken(
                caller, f"{one.target} is asked {self._watch.now - opened:.3f} s after the breaker of {before.target} opened"
            )

    def _room(self, key):
        """How many may be out at a time after a breaker has closed: twice as many every 5 s; from 64 on as many as there are."""
        room, doubles_at = self._ramps.get(key, (64, inf))
        while room < 64 and self._watch.now >= doubles_at - 1e-9:
            room, doubles_at = room * 2, doubles_at + 5
        if room >= 64:
            self._ramps.pop(key, None)
            return inf
        self._ramps[key] = (room, doubles_at)
        return room

    def count(self, one, outcome):
        """A question ended so."""
        key = self.key(one.caller, one.target)
        rule = self._rule(key)
        if one.epoch != self.epochs[key] or rule.breaker_off or key in self._held:
            return
        if outcome == "ok":
            self._streaks[key] = 0
            self._vague.discard(key)
            if self._room(key) < inf:
                self._ramps[key] = (self._ramps[key][0] + 1, self._ramps[key][1])
        elif outcome in UNWELL:
            hurried = outcome == "PROVIDER_TIMEOUT" and was_hurried(one, self._settings.timeouts)
            if hurried is None:
                self._vague.add(key)
            if hurried or key in self._vague:
                return
            self._streaks[key] += 1
            if one.state == "half_open" or self._streaks[key] >= rule.breaker_failures:
                self._watch.broken(
                    one.caller, f"{one.target} failed {self._streaks[key]} times in a row ({one.state}), and its breaker did not open"
                )

    def change(self, change):
        """A breaker changed its state."""
        key = (change.service, change.target)
        rule = self._rule(key)
        self._watch.note("breaker", f"{change.service or '(any)'} {change.target}: {change.before} -> {change.after}, {change.why}")
        self.epochs[key] += 1
        self._changed_at[key] = self._watch.now
        streak, self._streaks[key] = self._streaks[key], 0
        self.blocked_until.pop(key, None)
        self._ramps.pop(key, None)
        self._held.pop(key, None)
        is_vague = key in self._vague
        self._vague.discard(key)
        if change.why == "held":
            self._held[key] = change.after
        elif change.after == "open":
            if rule.breaker_off:
                self._watch.broken("breaker", f"{key} is switched off and opened")
            if change.why == "failures" and not is_vague and streak + 1 != rule.breaker_failures:
                self._watch.broken("breaker", f"{key} opened after {streak + 1} failures in a row instead of {rule.breaker_failures}")
            least_s = rule.breaker_open_ms / 1000
            self.blocked_until[key] = self._watch.now + (change.open_ns or 0) / 1e9
            if change.why in ("failures", "rate", "hint") and (change.open_ns or 0) / 1e9 < least_s:
                self._watch.broken("breaker", f"{key} is open for {change.open_ns} ns instead of {least_s} s")
        elif change.why == "trials_succeeded":
            self._ramps[key] = (2 * rule.breaker_trials, self._watch.now + 5)


def has_quota(model: Model) -> bool:
    return model.requests_per_minute is not None or model.tokens_per_minute is not None
