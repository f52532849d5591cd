"""What an error answer of Google's means: `google.rpc.Status` as JSON, with its details. Pure.

The HTTP status says little: a wrong key is 400, and 429 is both "a moment, please" and "come back tomorrow"; the details tell. A day's
quota wins over a minute's when both are named. Source: cloud.google.com/apis/design/errors, and bodies in issues of python-genai.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from sidecar.errors import (
    ProviderAuthFailed,
    ProviderError,
    ProviderModelUnknown,
    ProviderQuotaExhausted,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from sidecar.json_text import UNREADABLE
from sidecar.providers.http import head, retry_after_ms, scrubbed
from sidecar.providers.statuses import by_status, no_words
from sidecar.providers.words import by_words, wait_in_words_ms

_STATES: Final[dict[str, type[ProviderError]]] = {
    "INVALID_ARGUMENT": ProviderRejected,
    "FAILED_PRECONDITION": ProviderRejected,
    "OUT_OF_RANGE": ProviderRejected,
    "UNIMPLEMENTED": ProviderRejected,
    "ALREADY_EXISTS": ProviderRejected,
    "UNAUTHENTICATED": ProviderAuthFailed,
    "PERMISSION_DENIED": ProviderAuthFailed,
    "NOT_FOUND": ProviderModelUnknown,
    "RESOURCE_EXHAUSTED": ProviderRateLimited,
    "CANCELLED": ProviderUnavailable,
    "ABORTED": ProviderUnavailable,
    "INTERNAL": ProviderUnavailable,
    "UNKNOWN": ProviderUnavailable,
    "DATA_LOSS": ProviderUnavailable,
    "UNAVAILABLE": ProviderUnavailable,
    "DEADLINE_EXCEEDED": ProviderTimeout,
}

_BAD_KEY: Final = ("api key not valid", "api key expired", "api key not found")
# States that are used for much; only the words tell which it is.
_BROAD: Final = (None, ProviderRejected, ProviderRateLimited, ProviderUnavailable)


class _Error(Struct):
    code: int = 0
    message: str = ""
    status: str = ""
    details: list[dict[str, Any]] = field(default_factory=list)


class _Body(Struct):
    error: _Error


_read_body = msgspec.json.Decoder(_Body | list[_Body]).decode


def failure(status: int, headers: Mapping[str, str], body: bytes, *, whose: str = "google", key: str | None = None) -> ProviderError:
    """The class an error answer means, or an error event under HTTP 200. Never raises."""
    try:
        read = _read_body(body)
    except UNREADABLE:
        read = []
    error = _Error()
    if read:
        error = read[0].error if isinstance(read, list) else read.error
    if status < 300 and error.code:
        status = error.code
    reasons = [str(detail.get("reason", "")) for detail in error.details]
    kind = _meaning(status, error, reasons)
    wait_ms = None
    if kind in (ProviderRateLimited, ProviderUnavailable):  # of a day's quota it says a wait of seconds, too
        waits_ms = (_retry_delay_ms(error.details), retry_after_ms(headers), wait_in_words_ms(error.message))
        wait_ms = next((wait_ms for wait_ms in waits_ms if wait_ms is not None), None)
    words = scrubbed(error.message, key) if error.message else no_words(status, "Google")
    return kind(
        f"{whose}: {words}",
        status=status,
        code=scrubbed(next(filter(None, reasons), error.status), key, limit=80),
        retry_after_ms=wait_ms,
        request_id=head(headers, key).request_id,
    )


def _meaning(status: int, error: _Error, reasons: list[str]) -> type[ProviderError]:
    words = error.message.lower()
    if any(reason.startswith("API_KEY_") for reason in reasons) or any(part in words for part in _BAD_KEY):
        return ProviderAuthFailed
    if "BILLING_DISABLED" in reasons:
        return ProviderQuotaExhausted
    if status == 429 and ("QUOTA_EXHAUSTED" in reasons or any("PerDay" in quota for quota in _quotas(error.details))):
        return ProviderQuotaExhausted
    kind = _STATES.get(error.status)
    meant = by_words(429 if kind is ProviderRateLimited else status, error.message) if kind in _BROAD else None
    meaning = meant or kind
    if meaning is not None:
        return meaning
    return ProviderUnavailable if status < 300 and error.message else by_status(status)


def _quotas(details: list[dict[str, Any]]) -> list[str]:
    """The names of the quotas that are used up, from QuotaFailure and ErrorInfo."""
    named = []
    for detail in details:
        violations = detail.get("violations")
        if isinstance(violations, list):
            named += [str(one.get("quotaId", "")) for one in violations if isinstance(one, dict)]
        metadata = detail.get("metadata")
        if isinstance(metadata, dict):
            named.append(str(metadata.get("quota_limit", "")))
    return named


def _retry_delay_ms(details: list[dict[str, Any]]) -> int | None:
    """RetryInfo's `retryDelay`, a protobuf Duration as JSON: `47s`, `0.5s`."""
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                return max(0, round(float(delay[:-1]) * 1000))
            except (ValueError, OverflowError):
                return None
    return None
