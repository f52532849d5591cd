"""What an HTTP status means where a provider's own words do not say it: a proxy's answer, a gateway's, a server's without a code.

The one table for all providers. What each of them says in its own words goes first, in its own file, since the same number
means different things there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

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
    ProviderWrongType,
)

_MEANINGS: Final[Mapping[int, type[ProviderError]]] = {
    401: ProviderAuthFailed,
    402: ProviderQuotaExhausted,
    403: ProviderAuthFailed,
    404: ProviderModelUnknown,  # nothing at this address: a model, or all of it; somebody else may have it
    408: ProviderTimeout,  # somebody on the way waited too long, as with 504 and 524
    409: ProviderUnavailable,  # in conflict with another request: not with the next one
    410: ProviderModelUnknown,
    413: ProviderContextExceeded,  # too large for this server; another may take it
    425: ProviderUnavailable,
    429: ProviderRateLimited,
    499: ProviderUnavailable,  # somebody on the way hung up
    501: ProviderRejected,  # this server cannot do it, however often it is asked
    504: ProviderTimeout,
    524: ProviderTimeout,  # Cloudflare's 504
}


def by_status(status: int) -> type[ProviderError]:
    """The class for a status alone.

    A redirect is an answer that is none, since it is not followed. What is left of 4xx is the request's fault, of 5xx the server's; under
    2xx an answer was promised and something else came.
    """
    known = _MEANINGS.get(status)
    if known is not None:
        return known
    if status >= 500:
        return ProviderUnavailable
    if status >= 400:
        return ProviderRejected
    return ProviderGarbled if status >= 300 else ProviderWrongType


def no_words(status: int, of: str) -> str:
    """What to say of such an answer, where an error in the format of `of` was expected."""
    if status < 300:
        return "answered with something that is neither an answer nor a stream"
    if status < 400:
        return f"answered HTTP {status}, a redirect, which is not followed; set the base URL to where it leads"
    hint = "; is the base URL right?" if status < 500 else ""
    return f"answered HTTP {status} with a body that is no error of {of}'s{hint}"


def garbled(body: bytes, error: Exception, whose: str) -> ProviderGarbled:
    """A 200 whose body cannot be read, as `error` says. The body is not shown: it may hold a caller's text."""
    start = body.lstrip()[:1]
    if start == b"<":
        return ProviderWrongType(f"{whose}: answered 200 with HTML ({len(body)} bytes); is its base URL right?", status=200)
    if not start:
        what = "an empty body"
    elif isinstance(error, msgspec.ValidationError):
        what = f"JSON of another shape: {error}"
    else:
        what = f"broken JSON: {error}"
    return ProviderGarbled(f"{whose}: answered 200 with {what} ({len(body)} bytes)", status=200)
