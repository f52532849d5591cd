"""What an HTTP status means where a provider's own words do not say it: a proxy's answer, a gateway's, a server's without a code.

The one table for all providers. What each of them says in its own words goes first, in its own file, since the same number
means different things there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.errors import (
    ProviderAuthFailed,
    ProviderContextExceeded,
    ProviderError,
    ProviderGarbled,
    ProviderQuotaExhausted,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)

_MEANINGS: Final[Mapping[int, type[ProviderError]]] = {
    401: ProviderAuthFailed,
    402: ProviderQuotaExhausted,
    403: ProviderAuthFailed,
    408: ProviderTimeout,  # somebody on the way waited too long, as with 504 and 524
    409: ProviderUnavailable,  # in conflict with another request: not with the next one
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

    A redirect is an answer that is none, since it is not followed. 404 is no unknown model: without the provider's words it is as likely
    the address that is wrong. What is left of 4xx is the request's fault, of 5xx the server's, and under 2xx nothing says what failed.
    """
    known = _MEANINGS.get(status)
    if known is not None:
        return known
    if status >= 500:
        return ProviderUnavailable
    return ProviderRejected if status >= 400 else ProviderGarbled


def no_words(status: int, of: str) -> str:
    """What to say of such an answer, where an error in the format of `of` was expected."""
    if status < 300:
        return "answered with something that is neither an answer nor a stream"
    if status < 400:
        return f"answered HTTP {status}, a redirect, which is not followed; set the base URL to where it leads"
    hint = "; is the base URL right?" if status < 500 else ""
    return f"answered HTTP {status} with a body that is no error of {of}'s{hint}"
