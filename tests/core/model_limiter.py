"""The limiter as a small plain model in exact fractions, nanosecond rates and all."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass
class ModelBucket:
    """`slow` is what flows in per nanosecond until `slow_until_ns`."""

    limit: int
    level: Fraction
    slow: Fraction = Fraction(0)
    slow_until_ns: int = 0

    def after(self, from_ns: int, wait_ns: int, window_ns: int) -> Fraction:
        """The level after a wait."""
        slow_ns = max(0, min(self.slow_until_ns, from_ns + wait_ns) - from_ns)
        inflow = slow_ns * self.slow + (wait_ns - slow_ns) * Fraction(self.limit, window_ns)
        return min(Fraction(self.limit), self.level + inflow)


class ModelLimiter:
    """Buckets by unit; a unit without one has no limit."""

    def __init__(self, requests: int | None, tokens: int | None, window_ns: int) -> None:
        self.window_ns, self.latest_ns = window_ns, 0
        self.configured = {"requests": requests, "tokens": tokens}
        self.buckets = {unit: ModelBucket(limit, Fraction(limit)) for unit, limit in self.configured.items() if limit is not None}

    def at(self, now_ns: int) -> None:
        """Lets time pass up to now; never back."""
        wait_ns = max(0, now_ns - self.latest_ns)
        for bucket in self.buckets.values():
            bucket.level = bucket.after(self.latest_ns, wait_ns, self.window_ns)
        self.latest_ns += wait_ns

    def fits(self, tokens: int, wait_ns: int) -> bool:
        """Whether a request could be taken after a wait."""
        asked = {"requests": 1, "tokens": tokens}
        return all(b.after(self.latest_ns, wait_ns, self.window_ns) >= asked[unit] for unit, b in self.buckets.items())

    def short(self, tokens: int) -> set[str]:
        """The units in which a request does not fit now."""
        asked = {"requests": 1, "tokens": tokens}
        return {unit for unit, bucket in self.buckets.items() if bucket.level < asked[unit]}

    def take(self, tokens: int) -> None:
        """Takes a request that fits."""
        for unit, asked in (("requests", 1), ("tokens", tokens)):
            if unit in self.buckets:
                self.buckets[unit].level -= asked

    def give_back(self, tokens: int, requests: int) -> None:
        """Up to the limit."""
        for unit, given in (("requests", requests), ("tokens", tokens)):
            if unit in self.buckets:
                self.buckets[unit].level = min(Fraction(self.buckets[unit].limit), self.buckets[unit].level + given)

    def observe(self, unit: str, limit: int | None, remaining: int | None, reset_after_ns: int | None) -> None:
        """What a provider states; its bucket's steady pace is rounded down to 1/window per nanosecond."""
        if limit:
            mine = self.configured[unit]
            bucket = self.buckets.setdefault(unit, ModelBucket(limit, Fraction(limit)))
            bucket.limit = limit if mine is None else min(mine, limit)
            bucket.level = min(bucket.level, Fraction(bucket.limit))
            bucket.slow = min(bucket.slow, Fraction(bucket.limit, self.window_ns))
        if unit not in self.buckets:
            return
        bucket = self.buckets[unit]
        if remaining is not None:
            bucket.level = min(bucket.level, Fraction(remaining))
        if reset_after_ns is not None:
            missing = (bucket.limit - bucket.level) * self.window_ns
            steps = min(bucket.limit, missing // reset_after_ns) if reset_after_ns else bucket.limit
            bucket.slow, bucket.slow_until_ns = Fraction(steps, self.window_ns), self.latest_ns + reset_after_ns
