"""What to do after a failed attempt: the table of failures, as data.

Try the same model again (how often, after how long), go on to the next one, or tell the caller at once.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

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


class Rule(Struct, frozen=True, gc=False):
    """`retries` of the same model after the first try, before the n-th of them `waits_ms[n]` (the last figure repeats).

    `others_first`: untried candidates go before another try. `move_on`: when retries are used up, the next candidate may answer.
    """

    retries: int
    waits_ms: tuple[int, ...] = (1000,)
    others_first: bool = False
    move_on: bool = True


_AT_ONCE = Rule(0, move_on=False)
NEXT = Rule(0)  # also where a breaker did not let the attempt be made

RULES: dict[type[SidecarError], Rule] = {
    ProviderRateLimited: Rule(3, (1000, 2000, 4000)),
    ProviderUnavailable: Rule(3),
    ProviderGarbled: Rule(3),
    StreamCut: Rule(3),
    ProviderTimeout: Rule(2, others_first=True),
    RateLimited: NEXT,
    ProviderQuotaExhausted: NEXT,
    ProviderModelUnknown: NEXT,
    ProviderContextExceeded: NEXT,
    SchemaViolated: NEXT,
    ProviderAuthFailed: _AT_ONCE,
    ProviderRejected: _AT_ONCE,
}


def wait_ms(rule: Rule, error: SidecarError, retry: int, random: Callable[[], float]) -> float:
    """How long to wait before retry number `retry` (from 0): what the provider asked for, else the table's figure, with jitter.

    Jitter is a quarter: below the table's figure, above the provider's, which must not be undercut.
    """
    asked = error.retry_after_ms
    if asked is not None:
        return asked * (1 + random() / 4)
    return rule.waits_ms[min(retry, len(rule.waits_ms) - 1)] * (1 - random() / 4)


def counts_against(error: SidecarError) -> bool:
    """Does this failure say that the model is unwell? A caller's own error, a refused key or an empty account does not."""
    return isinstance(error, ProviderError) and not isinstance(
        error, ProviderRejected | ProviderAuthFailed | ProviderContextExceeded | ProviderQuotaExhausted
    )
