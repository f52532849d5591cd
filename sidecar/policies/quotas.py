"""Requests and tokens per minute of each model at each endpoint: as settings give them, and as providers state them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal

from msgspec import Struct

from sidecar._core import Exceeded, Limiter
from sidecar.billing import tokens
from sidecar.call import Candidate, Usage

Unit = Literal["requests", "tokens", "input-tokens", "output-tokens"]

# Where each unit is counted: in which limiter, as what. Anthropic limits input and output apart.
_UNITS: dict[Unit, tuple[int, Literal["requests", "tokens"]]] = {
    "requests": (0, "requests"),
    "tokens": (0, "tokens"),
    "input-tokens": (1, "tokens"),
    "output-tokens": (2, "tokens"),
}
_MOST_STATED = 1_000  # callers choose the names of models at open servers; the memory must not grow with them
_MINUTE_NS = 60_000_000_000
_SURE_NS = 10 * _MINUTE_NS  # within a longer one at least one a minute is tried: a day's quota may flow in, or come back at midnight
_LONGEST_NS = 7 * 86_400 * 1_000_000_000  # a reset later than in a week is no figure
_GO_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:h|ms|us|µs|ns|m|s))+")
_GO_PART = re.compile(r"([0-9.]+)(h|ms|us|µs|ns|m|s)")
_GO_NS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "µs": 1_000, "ns": 1}


class Standing(Struct, frozen=True, gc=False):
    """How one limit stands. `reset_after_ns`: until all of it is there again, as the provider states it or as it flows in."""

    target: str  # as `Candidate.target`
    unit: Unit
    limit: int
    remaining: int
    reset_after_ns: int


class _Statement(Struct, frozen=True, gc=False):
    """What a provider's headers say of one unit; each part may be missing."""

    unit: Unit
    limit: int | None
    remaining: int | None
    reset_after_ns: int | None


class Quota:
    """What one model at one endpoint may still be asked this minute."""

    __slots__ = ("_limiters", "_limits", "_quiet_until_ns", "_resets_ns", "_set")

    def __init__(self, requests: int | None = None, tokens: int | None = None) -> None:
        """None is no limit, until the provider states one."""
        self._limiters = (Limiter(requests=requests, tokens=tokens), _unlimited(), _unlimited())
        self._set: dict[Unit, int | None] = {"requests": requests, "tokens": tokens}
        self._limits: dict[Unit, int] = {unit: limit for unit, limit in self._set.items() if limit is not None}  # in force
        self._resets_ns: dict[Unit, int] = {}
        self._quiet_until_ns = 0

    def is_worth_telling(self, now_ns: int) -> bool:
        """It is used up: operators hear of it once a minute."""
        if now_ns < self._quiet_until_ns:
            return False
        self._quiet_until_ns = now_ns + _MINUTE_NS
        return True

    def take(self, candidate: Candidate, now_ns: int) -> Exceeded | None:
        """Take one request with the most tokens it can cost, or nothing."""
        taken: list[tuple[Limiter, int]] = []
        for limiter, asked in zip(self._limiters, self._asked(candidate), strict=True):
            exceeded = limiter.take(asked, now_ns)
            if exceeded is not None:
                for earlier, amount in taken:
                    earlier.give_back(amount, now_ns, 1)
                return exceeded
            taken.append((limiter, asked))
        return None

    def give_back(self, candidate: Candidate, usage: Usage, now_ns: int) -> None:
        """What was taken for this candidate and not used. Input that was read from a cache is not limited by those who limit input."""
        asked, asked_input, _ = self._asked(candidate)
        self._limiters[0].give_back(max(0, asked - tokens(usage)), now_ns)
        self._limiters[1].give_back(max(0, asked_input - (usage.input_tokens or 0) - (usage.cache_write_tokens or 0)), now_ns)

    def _asked(self, candidate: Candidate) -> tuple[int, int, int]:
        """Tokens to take of all, of input and of output. What is more than a provider's whole minute takes all of that minute: our count
        may be too high, and then it would never be asked. What is more than settings allow stays so, and is refused.

        Of output one token is taken, to see that there is any: Anthropic counts it as it is written ("max_tokens does not factor into
        OTPM", https://docs.claude.com/en/api/rate-limits), and says what is left with each answer.
        """
        asked = candidate.input_tokens + candidate.max_output_tokens
        own = self._set["tokens"]
        if own is None or asked <= own:
            asked = min(asked, self._limits.get("tokens", asked))
        return asked, min(candidate.input_tokens, self._limits.get("input-tokens", candidate.input_tokens)), 1

    def remaining(self, now_ns: int) -> tuple[int | None, int | None]:
        """Requests and tokens; None where there is no limit."""
        return self._limiters[0].remaining(now_ns)

    def adopt(self, said: _Statement, now_ns: int) -> None:
        """The smaller limit holds, settings' or the provider's; what is left is only ever lowered. See `Limiter.observe`."""
        limiter, unit = _UNITS[said.unit]
        number = self._limiters[limiter]
        reset_ns = said.reset_after_ns
        if reset_ns is not None and reset_ns > _SURE_NS:
            missing = (said.limit or self._limits.get(said.unit, 0)) - (said.remaining or 0)
            reset_ns = min(reset_ns, max(_SURE_NS, missing * _MINUTE_NS))
        number.observe(unit, now_ns, limit=said.limit, remaining=said.remaining, reset_after_ns=reset_ns)
        if said.limit:
            own = self._set.get(said.unit)
            self._limits[said.unit] = said.limit if own is None else min(own, said.limit)
        if said.reset_after_ns is not None:
            self._resets_ns[said.unit] = now_ns + said.reset_after_ns

    def standings(self, target: str, now_ns: int) -> Iterator[Standing]:
        """One for each limit there is."""
        for unit, limit in self._limits.items():
            limiter, kind = _UNITS[unit]
            left = self._limiters[limiter].remaining(now_ns)[kind == "tokens"] or 0
            flowing_ns = -(-(limit - left) * _MINUTE_NS // limit) if limit else 0
            stated_ns = self._resets_ns.get(unit, now_ns) - now_ns
            yield Standing(target, unit, limit, left, max(flowing_ns, stated_ns) if left < limit else 0)


class Quotas:
    """A quota for each model at each endpoint that has one in settings, or whose provider has stated one. Bounded."""

    def __init__(self) -> None:
        self._set: dict[str, Quota] = {}  # as many as settings name
        self._stated: OrderedDict[str, Quota] = OrderedDict()  # the longest unused first

    def of(self, candidate: Candidate) -> Quota | None:
        """None: nobody has said that this model is limited."""
        model, target = candidate.model, candidate.target
        if model.requests_per_minute is None and model.tokens_per_minute is None:
            found = self._stated.get(target)
            if found is not None:
                self._stated.move_to_end(target)
            return found
        found = self._set.get(target)
        if found is None:
            found = self._set[target] = Quota(model.requests_per_minute, model.tokens_per_minute)
        return found

    def observe(self, candidate: Candidate, headers: Mapping[str, str], now_ns: int, wall_ns: int) -> None:
        """Adopt what a provider's reply headers (names in small letters) say, so that other processes with the same key count too.

        OpenAI's names are `x-ratelimit-remaining-requests`, its resets Go durations (`6m0s`); Anthropic's
        `anthropic-ratelimit-requests-remaining`, its resets RFC 3339 times: `wall_ns` is Unix time. What cannot be read is passed over.
        """
        said = list(_statements(headers, wall_ns))
        quota = self.of(candidate)
        if quota is None:
            if not any(statement.limit for statement in said):
                return
            if len(self._stated) >= _MOST_STATED:
                self._stated.popitem(last=False)
            quota = self._stated[candidate.target] = Quota()
        for statement in said:
            quota.adopt(statement, now_ns)

    def listing(self, now_ns: int) -> list[Standing]:
        """Every limit that is known of, for operators; one that settings give to a model appears with its first call."""
        both = (*self._set.items(), *self._stated.items())
        return [standing for target, quota in both for standing in quota.standings(target, now_ns)]


def _unlimited() -> Limiter:
    return Limiter(requests=None, tokens=None)


def _statements(headers: Mapping[str, str], wall_ns: int) -> Iterator[_Statement]:
    apart = "anthropic-ratelimit-input-tokens-limit" in headers
    for unit in _UNITS:
        if apart and unit == "tokens":
            continue  # it is no limit then but the sum of two, and counts no output before it is written
        limit, left, reset = (
            headers.get(f"x-ratelimit-{what}-{unit}") or headers.get(f"anthropic-ratelimit-{unit}-{what}")
            for what in ("limit", "remaining", "reset")
        )
        said = _Statement(unit, _number(limit), _number(left), _reset_after_ns(reset, wall_ns))
        if (said.limit, said.remaining, said.reset_after_ns) != (None, None, None):
            yield said


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None


def _reset_after_ns(text: str | None, wall_ns: int) -> int | None:
    """From a Go duration (https://pkg.go.dev/time#ParseDuration, without signs) or an RFC 3339 time."""
    if not text or len(text) > 64:
        return None
    if _GO_DURATION.fullmatch(text):
        after_ns = sum(float(number) * _GO_NS[unit] for number, unit in _GO_PART.findall(text))
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return None
        if at.tzinfo is None:
            return None
        after_ns = max(0.0, at.timestamp() * 1e9 - wall_ns)
    return round(after_ns) if after_ns <= _LONGEST_NS else None
