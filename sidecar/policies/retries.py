"""What to do after a failed attempt: the table of failures, as data, and how much of a provider's traffic retries may be.

Try the same model again (how often, after how long), go on to the next one, or tell the caller at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from sidecar.errors import (
    ProviderAuthFailed,
    ProviderContextExceeded,
    ProviderError,
    ProviderGarbled,
    ProviderModelUnknown,
    ProviderQuotaExhausted,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    SchemaViolated,
    SidecarError,
    StreamCut,
)
from sidecar.settings import Settings
from sidecar.settings.kinds import FailureName
from sidecar.settings.routing import Retries as Rows
from sidecar.settings.routing import RetryRow

T = TypeVar("T")

_LEAST_JITTER_MS = 100  # upon what a provider asked for, so that those whom it told the same do not come back together


class Rule(Struct, frozen=True, gc=False):
    """`retries` of the same model after the first try, before the n-th of them at most `waits_ms[n]` (the last figure repeats).

    `others_first`: untried candidates go before another try. `then`: who may be asked when retries are used up: the next candidate, the
    next one of another model (this one will fail everywhere), the provider's other endpoints (another key), or nobody.
    """

    retries: int = 0
    waits_ms: tuple[int, ...] = (1000,)
    others_first: bool = False
    then: str = "next"  # next, other_model, other_endpoint, nobody


NEXT = Rule()  # also where nothing was asked: the breaker is open

# The shipped rows: the customer's written policy. `first_token` and `timeout` differ in what was waited for.
TABLE: Mapping[str, Rule] = {
    "rate_limited": Rule(3, (1000, 2000, 4000)),
    "unavailable": Rule(3),
    "garbled": Rule(3),
    "stream_cut": Rule(3),
    "timeout": Rule(3, others_first=True),
    "first_token": Rule(2, others_first=True),
    "schema_violated": NEXT,
}
_NAMES: Mapping[type[SidecarError], str] = {
    ProviderRateLimited: "rate_limited",
    ProviderUnavailable: "unavailable",
    ProviderGarbled: "garbled",
    StreamCut: "stream_cut",
    ProviderTimeout: "timeout",
    SchemaViolated: "schema_violated",
}
# What no figure of a deployment changes: asking again cannot help.
_FIXED: Mapping[type[SidecarError], Rule] = {
    RateLimited: NEXT,
    ProviderQuotaExhausted: NEXT,
    ProviderModelUnknown: Rule(then="other_model"),
    ProviderContextExceeded: Rule(then="other_model"),
    ProviderAuthFailed: Rule(then="other_endpoint"),
    ProviderRejected: Rule(then="nobody"),
}


class Retries:
    """The table of each service, and one budget of retries per provider.

    The budget is a purse: each call puts `budget_percent` of a retry into its provider's, time puts in a little more, each retry takes a
    whole one. When a provider is down for everybody, retries are then about that share of the calls instead of a multiple of them.
    """

    def __init__(self, settings: Settings) -> None:
        self._default = _table(TABLE, settings.retries)
        self._services = {name: _table(self._default, row.retries) for name, row in settings.services.items() if row.retries}
        self._most_attempts = {name: row.most_attempts for name, row in settings.services.items()}
        self._figures = settings.retries
        self._purses: dict[str, _Purse] = {}

    def rule(self, service: str, error: SidecarError) -> Rule | None:
        """What to do after this failure. None: it is no failure of a provider's, and ends the call."""
        fixed = _of(_FIXED, error)
        if fixed is not None:
            return fixed
        name = _of(_NAMES, error)
        if name is None:
            return None
        if isinstance(error, ProviderTimeout) and error.first_token:
            name = "first_token"
        return self._services.get(service, self._default)[name]

    def most_attempts(self, service: str) -> int:
        """In one call, all candidates together."""
        return self._most_attempts.get(service, 6)

    def count_call(self, provider: str, now_ns: int) -> None:
        """A call asked this provider for the first time."""
        self._purse(provider, now_ns).earn(self._figures, now_ns, self._figures.budget_percent / 100)

    def take(self, provider: str, now_ns: int) -> bool:
        """May there be one more retry at this provider? Then it is paid for."""
        purse = self._purse(provider, now_ns)
        purse.earn(self._figures, now_ns, 0.0)
        if purse.retries < 1:
            return False
        purse.retries -= 1
        return True

    def _purse(self, provider: str, now_ns: int) -> _Purse:
        found = self._purses.get(provider)
        if found is None:  # as many as there are providers in settings
            found = self._purses[provider] = _Purse(float(self._figures.budget_most), now_ns)
        return found


def _of(table: Mapping[type[SidecarError], T], error: SidecarError) -> T | None:
    """The row of the error's class, or of the nearest class above it."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


class _Purse:
    __slots__ = ("_at_ns", "retries")

    def __init__(self, retries: float, now_ns: int) -> None:
        self.retries = retries
        self._at_ns = now_ns

    def earn(self, figures: Rows, now_ns: int, more: float) -> None:
        passed_s = max(0, now_ns - self._at_ns) / 1e9
        self._at_ns = max(self._at_ns, now_ns)
        self.retries = min(float(figures.budget_most), self.retries + more + passed_s * figures.budget_per_second)


def _table(below: Mapping[str, Rule], rows: Rows | Mapping[FailureName, RetryRow]) -> dict[str, Rule]:
    """`rows` over the rules below them, key by key."""
    table = {}
    for name, rule in below.items():
        row = (rows.get(cast("FailureName", name)) if isinstance(rows, Mapping) else getattr(rows, name)) or RetryRow()
        own = {key: value for key in row.__struct_fields__ if (value := getattr(row, key)) is not None}
        table[name] = replace(rule, **own)
    return table


def wait_ms(rule: Rule, error: SidecarError, retry: int, random: Callable[[], float]) -> float:
    """How long to wait before retry number `retry` (from 0): what the provider asked for and a little more, else a random share of the
    table's figure (full jitter), so that callers who failed together do not come back together.

    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    asked = error.retry_after_ms
    if asked:
        return asked + random() * max(asked / 4, _LEAST_JITTER_MS)
    return rule.waits_ms[min(retry, len(rule.waits_ms) - 1)] * random() if rule.waits_ms else 0.0


def counts_against(error: SidecarError) -> bool:
    """Does this failure say that the model is unwell? A caller's own error, a refused key, an empty account, a wrong name does not."""
    if isinstance(error, ProviderTimeout) and error.hurried:
        return False
    return isinstance(error, ProviderError) and not isinstance(
        error, ProviderRejected | ProviderAuthFailed | ProviderContextExceeded | ProviderQuotaExhausted | ProviderModelUnknown
    )
