"""What an error in OpenAI's format means. The word counts, not the number: one 429 is a short wait, another an empty account."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
    ProviderUnavailable,
)
from sidecar.json_text import UNREADABLE
from sidecar.providers.http import head, retry_after_ms, scrubbed
from sidecar.providers.statuses import by_status

# The words of `code` and `type`, in lower case, of OpenAI and of the servers that speak its format (llama.cpp, vLLM, LiteLLM).
_WORDS: Mapping[str, type[ProviderError]] = {
    "insufficient_quota": ProviderQuotaExhausted,
    "credit_balance_exhausted": ProviderQuotaExhausted,
    "organization_spend_limit_exceeded": ProviderQuotaExhausted,
    "organization_usage_limit_exceeded": ProviderQuotaExhausted,
    "project_spend_limit_exceeded": ProviderQuotaExhausted,
    "billing_hard_limit_reached": ProviderQuotaExhausted,
    "billing_not_active": ProviderQuotaExhausted,
    "context_length_exceeded": ProviderContextExceeded,
    "exceed_context_size_error": ProviderContextExceeded,
    "contextwindowexceedederror": ProviderContextExceeded,
    "model_not_found": ProviderModelUnknown,
    "deploymentnotfound": ProviderModelUnknown,
    "rate_limit_exceeded": ProviderRateLimited,
    "slow_down": ProviderRateLimited,
    "invalid_api_key": ProviderAuthFailed,
    "authentication_error": ProviderAuthFailed,
    "permission_error": ProviderAuthFailed,
    "server_is_overloaded": ProviderUnavailable,
    "overloaded_error": ProviderUnavailable,
    "unavailable_error": ProviderUnavailable,
    "server_error": ProviderUnavailable,
    "not_supported_error": ProviderRejected,  # llama.cpp's 501: this server was not started for it
}

_CONTEXT = re.compile(r"context (?:size|window|length)|maximum (?:model|input) length|too many tokens", re.IGNORECASE)


def failure(status: int, headers: Mapping[str, str], body: bytes, *, whose: str = "openai", key: str | None = None) -> ProviderError:
    """The error an answer means: a status of 300 and more, an error inside a 200, or a 200 that is no answer at all."""
    try:
        content = msgspec.json.decode(body)
    except UNREADABLE as error:
        if status < 300:
            return garbled(body, error, whose)
        content = None
    code, kind, message = _told(content)
    if status < 300:
        if not (code or kind or message):
            return ProviderGarbled(f"{whose}: answered {status} with JSON that is neither a stream nor an error", status=status)
        # An error inside a 200 carries its number in `code`, if anywhere.
        meaning = classify(int(code) if code.isdecimal() and len(code) == 3 else status, code, kind, message)
    else:
        meaning = classify(status, code, kind, message)
    word = code if code and not code.isdecimal() else kind
    message = message or _unsaid(status, body)
    if status == 404 and meaning is ProviderRejected:
        message += "; is its base URL right?"
    return meaning(
        scrubbed(f"{whose}: {status}{' ' if word else ''}{word}: {message}", key, limit=400),
        status=status,
        code=scrubbed(word, key, limit=80),
        retry_after_ms=retry_after_ms(headers),
        request_id=head(headers).request_id,
    )


def classify(status: int, code: str, kind: str, message: str) -> type[ProviderError]:
    """The class for `error.code`, `error.type` and `error.message`; `status` decides only where they are silent."""
    for word in (code.lower(), kind.lower()):
        if word in _WORDS:
            return _WORDS[word]
    meaning = by_status(status)
    if meaning in (ProviderRejected, ProviderGarbled) and _CONTEXT.search(message):
        return ProviderContextExceeded
    if status == 404 and "model" in message.lower():
        return ProviderModelUnknown  # a server that knows its model but not this path says nothing of a model
    if status < 300:
        return ProviderRejected if "invalid_request" in kind.lower() or "badrequest" in kind.lower() else ProviderUnavailable
    return meaning


def garbled(body: bytes, error: Exception, whose: str) -> ProviderGarbled:
    """A 200 whose body cannot be read. The body is not shown: it may hold a caller's text."""
    start = body.lstrip()[:1]
    if not start:
        what = "an empty body"
    elif start == b"<":
        what = "HTML; is its base URL right?"
    elif isinstance(error, msgspec.ValidationError):
        what = f"JSON of another shape: {error}"
    else:
        what = f"broken JSON: {error}"
    return ProviderGarbled(f"{whose}: answered 200 with {what} ({len(body)} bytes)", status=200)


def _told(content: Any) -> tuple[str, str, str]:
    # {"error": {...}} of OpenAI, {"error": "..."} of some, the error itself at the top of older vLLM, {"detail": ...} of FastAPI.
    if not isinstance(content, dict):
        return "", "", ""
    error = content.get("error") or content
    if isinstance(error, str):
        return "", str(content.get("error_type") or ""), error
    if not isinstance(error, dict):
        return "", "", ""
    code, kind = error.get("code"), error.get("type")
    message = error.get("message") or error.get("detail") or ""
    if isinstance(message, list):
        message = "; ".join(f"{item.get('loc')}: {item.get('msg')}" for item in message if isinstance(item, dict))
    # Servers written with pydantic quote the value they refuse, which is a caller's text.
    message = str(message).partition("'input':")[0]
    return "" if code is None else str(code), "" if kind is None else str(kind), message


def _unsaid(status: int, body: bytes) -> str:
    if 300 <= status < 400:
        return "a redirect, which is not followed; set the base URL to where it leads"
    return f"no reason given ({len(body)} bytes{' of HTML' if body.lstrip()[:1] == b'<' else ''})"
