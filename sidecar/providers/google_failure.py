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
    ProviderContextExceeded,
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
_SPENT: Final = ("spending cap", "prepayment credits", "prepaid credits")
_TOO_LONG: Final = ("exceeds the maximum number of tokens", "exceeds the maximum number of input tokens")


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
    wait_ms = _retry_delay_ms(error.details)
    if wait_ms is None:
        wait_ms = retry_after_ms(headers)
    words = scrubbed(error.message, key) if error.message else no_words(status, "Google")
    return kind(
        f"{whose}: {words}",
        status=status,
        code=next(filter(None, reasons), error.status),
        retry_after_ms=wait_ms if kind in (ProviderRateLimited, ProviderUnavailable) else None,
        request_id=head(headers).request_id,
    )


def _meaning(status: int, error: _Error, reasons: list[str]) -> type[ProviderError]:
    words = error.message.lower()
    if any(reason.startswith("API_KEY_") for reason in reasons) or any(part in words for part in _BAD_KEY):
        return ProviderAuthFailed
    if "BILLING_DISABLED" in reasons or any(part in words for part in _SPENT):
        return ProviderQuotaExhausted
    if status == 429 and ("QUOTA_EXHAUSTED" in reasons or any("PerDay" in quota for quota in _quotas(error.details))):
        return ProviderQuotaExhausted
    if any(part in words for part in _TOO_LONG):
        return ProviderContextExceeded
    if error.status in _STATES:
        return _STATES[error.status]
    return by_status(status)


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
