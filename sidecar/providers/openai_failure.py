"""What an error in OpenAI's format means. The word counts, not the number: one 429 is a short wait, another an empty account."""

from __future__ import annotations

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
    ProviderTimeout,
    ProviderUnavailable,
    ProviderWrongType,
)
from sidecar.json_text import UNREADABLE
from sidecar.providers.http import head, retry_after_ms, scrubbed
from sidecar.providers.statuses import by_status, garbled
from sidecar.providers.words import ContentFiltered, by_words, wait_in_words_ms

# The words of `code` and `type`, in lower case, of OpenAI and of the servers and gateways that speak its format.
_WORDS: Mapping[str, type[ProviderError]] = {
    "insufficient_quota": ProviderQuotaExhausted,
    "insufficient_user_quota": ProviderQuotaExhausted,
    "exceeded_current_quota_error": ProviderQuotaExhausted,  # Moonshot
    "credit_balance_exhausted": ProviderQuotaExhausted,
    "organization_spend_limit_exceeded": ProviderQuotaExhausted,
    "organization_usage_limit_exceeded": ProviderQuotaExhausted,
    "project_spend_limit_exceeded": ProviderQuotaExhausted,
    "billing_hard_limit_reached": ProviderQuotaExhausted,
    "billing_limit_user_error": ProviderQuotaExhausted,
    "billing_not_active": ProviderQuotaExhausted,
    "budget_exceeded": ProviderQuotaExhausted,  # LiteLLM
    "context_length_exceeded": ProviderContextExceeded,
    "exceed_context_size_error": ProviderContextExceeded,
    "contextwindowexceedederror": ProviderContextExceeded,
    "string_above_max_length": ProviderContextExceeded,
    "tokens_limit_reached": ProviderContextExceeded,
    "request_too_large": ProviderContextExceeded,
    "model_not_found": ProviderModelUnknown,
    "model_not_available": ProviderModelUnknown,  # Together
    "model_decommissioned": ProviderModelUnknown,  # Groq
    "model_deprecated": ProviderModelUnknown,
    "invalid_model": ProviderModelUnknown,  # Mistral
    "unknown_model": ProviderModelUnknown,
    "deploymentnotfound": ProviderModelUnknown,  # Azure
    "rate_limit_exceeded": ProviderRateLimited,
    "rate_limit_error": ProviderRateLimited,
    "too_many_requests": ProviderRateLimited,
    "slow_down": ProviderRateLimited,
    "invalid_api_key": ProviderAuthFailed,
    "authentication_error": ProviderAuthFailed,
    "permission_error": ProviderAuthFailed,
    "account_deactivated": ProviderAuthFailed,
    "server_is_overloaded": ProviderUnavailable,
    "overloaded_error": ProviderUnavailable,
    "overloaded": ProviderUnavailable,
    "unavailable_error": ProviderUnavailable,
    "service_unavailable": ProviderUnavailable,
    "capacity_exceeded": ProviderUnavailable,  # Groq's 498
    "server_error": ProviderUnavailable,
    "timeout": ProviderTimeout,
    "timeout_error": ProviderTimeout,
    "not_supported_error": ProviderRejected,  # llama.cpp's 501: this server was not started for it
    "tool_use_failed": ProviderGarbled,  # Groq's 400 for what its own model wrote
    "json_validate_failed": ProviderGarbled,
    "output_parse_failed": ProviderGarbled,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "data_inspection_failed": ContentFiltered,  # Qwen
}


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
            return ProviderWrongType(f"{whose}: answered {status} with JSON that is neither a stream nor an error", status=status)
        # An error inside a 200 carries its number in `code`, if anywhere.
        meaning = classify(int(code) if code.isdecimal() and len(code) == 3 else status, code, kind, message)
    else:
        meaning = classify(status, code, kind, message)
    word = code if code and not code.isdecimal() else kind
    wait_ms = retry_after_ms(headers)
    if wait_ms is None:
        wait_ms = wait_in_words_ms(message)
    if status == 404 and not (code or "model" in message.lower()):
        message = f"{message or _unsaid(status, body)}; is its base URL right?"
    message = message or _unsaid(status, body)
    return meaning(
        scrubbed(f"{whose}: {status}{' ' if word else ''}{word}: {message}", key, limit=400),
        status=status,
        code=scrubbed(word, key, limit=80),
        retry_after_ms=wait_ms,
        request_id=head(headers, key).request_id,
    )


def classify(status: int, code: str, kind: str, message: str) -> type[ProviderError]:
    """The class for `error.code`, `error.type` and `error.message`; `status` decides only where they are silent."""
    said = next((_WORDS[word] for word in (code.lower(), kind.lower()) if word in _WORDS), None)
    # A rate limit's words tell a moment's from a day's and from a request that is larger than a minute's allowance.
    if said is ProviderUnavailable and by_status(status) is ProviderTimeout:
        return ProviderTimeout  # "a server's error" is what the number says better
    if said is not None and said is not ProviderRateLimited:
        return said
    meant = by_words(429 if said else status, message)
    if meant is not None or said is not None:
        return meant or said or ProviderRateLimited
    if status < 300:
        return ProviderRejected if "invalid_request" in kind.lower() or "badrequest" in kind.lower() else ProviderUnavailable
    return by_status(status)


def _told(content: Any) -> tuple[str, str, str]:
    # {"error": {...}} of OpenAI, {"error": "..."} of some, the error itself at the top of older vLLM, {"detail": ...} of FastAPI.
    if isinstance(content, list) and content:
        content = content[0]  # Google's, in this format
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
