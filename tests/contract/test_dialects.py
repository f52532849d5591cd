"""What errors mean in the dialects of real providers and gateways: the words decide, the number only where they are silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sidecar.call import Chunk
from sidecar.providers import anthropic_wire, google_failure, google_wire, ollama, openai_failure, openai_reply

FAILURES = {
    "openai": openai_failure.failure,
    "anthropic": anthropic_wire.failure,
    "google": google_failure.failure,
    "ollama": ollama.failure,
}


def of_openai(message: str, code: Any = None, kind: str | None = "invalid_request_error", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


def of_anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def of_google(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "39s"}
PER_DAY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
}
GROQ = "in organization `org_1` service tier `on_demand` on tokens per"

# name: wire, status, body, class, how long to wait in ms
SAID: dict[str, tuple[str, int, Any, str, int | None]] = {
    # a moment, or a day
    "OpenAI's minute": (
        "openai",
        429,
        of_openai(
            f"Rate limit reached for gpt-4o {GROQ} min (TPM): Limit 30000. Please try again in 6.5s.", "rate_limit_exceeded", "tokens"
        ),
        "ProviderRateLimited",
        6500,
    ),
    "OpenAI's milliseconds": (
        "openai",
        429,
        of_openai("Rate limit reached for requests. Please try again in 20ms.", "rate_limit_exceeded", "requests"),
        "ProviderRateLimited",
        20,
    ),
    "Azure's seconds": (
        "openai",
        429,
        of_openai("Requests have exceeded call rate limit of your tier. Please retry after 12 seconds.", "429", None),
        "ProviderRateLimited",
        12_000,
    ),
    "Groq's day": (
        "openai",
        429,
        of_openai(
            f"Rate limit reached for model `llama` {GROQ} day (TPD): Limit 100000. Please try again in 9m38.016s.", "rate_limit_exceeded"
        ),
        "ProviderQuotaExhausted",
        578_016,
    ),
    "OpenRouter's day": ("openai", 429, of_openai("Rate limit exceeded: free-models-per-day", 429, None), "ProviderQuotaExhausted", None),
    "Groq's minute is smaller than the request": (
        "openai",
        413,
        of_openai(f"Request too large for model `llama` {GROQ} minute (TPM): Limit 6000, Requested 12328", "rate_limit_exceeded", "tokens"),
        "ProviderContextExceeded",
        None,
    ),
    "OpenAI's minute is smaller than the request": (
        "openai",
        429,
        of_openai("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 41000.", "rate_limit_exceeded", "tokens"),
        "ProviderContextExceeded",
        None,
    ),
    "Anthropic's day": (
        "anthropic",
        429,
        of_anthropic("rate_limit_error", "Number of request tokens has exceeded your daily rate limit"),
        "ProviderQuotaExhausted",
        None,
    ),
    "Google's minute": (
        "google",
        429,
        of_google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan.", RETRY_INFO),
        "ProviderRateLimited",
        39_000,
    ),
    "Google's minute in words": (
        "google",
        429,
        of_google(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please retry in 20.04466179s."),
        "ProviderRateLimited",
        20_045,
    ),
    "Google's day, whatever it says of seconds": (
        "google",
        429,
        of_google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", PER_DAY, RETRY_INFO),
        "ProviderQuotaExhausted",
        None,
    ),
    "Google's quota that was never given": (
        "google",
        429,
        of_google(429, "RESOURCE_EXHAUSTED", "* Quota exceeded for metric: free_tier_requests, limit: 0, model: gemini-2.5-pro"),
        "ProviderQuotaExhausted",
        None,
    ),
    "Google's minute through OpenAI's format": (
        "openai",
        429,
        [of_google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota. Please retry in 7s.")],
        "ProviderRateLimited",
        7_000,
    ),
    # out of money
    "LiteLLM's budget": (
        "openai",
        400,
        of_openai("Budget has been exceeded! Current cost: 26.0, Max budget: 0.25", "400", "budget_exceeded"),
        "ProviderQuotaExhausted",
        None,
    ),
    "LiteLLM's budget of an end user": (
        "openai",
        400,
        of_openai("ExceededBudget: End User=u over budget. Spend=0.0008, Budget=0.0001", 400, "auth_error"),
        "ProviderQuotaExhausted",
        None,
    ),
    "OpenRouter's credits": (
        "openai",
        402,
        of_openai("This request requires more credits, or fewer max_tokens.", 402, None),
        "ProviderQuotaExhausted",
        None,
    ),
    "OpenRouter's credits under 200": ("openai", 200, of_openai("Insufficient credits", 402, None), "ProviderQuotaExhausted", None),
    "OpenRouter's key": ("openai", 403, of_openai("Key limit exceeded (total limit).", 403, None), "ProviderQuotaExhausted", None),
    "DeepSeek's balance": (
        "openai",
        402,
        of_openai("Insufficient Balance", "invalid_request_error", "unknown_error"),
        "ProviderQuotaExhausted",
        None,
    ),
    "OpenAI's hard limit": (
        "openai",
        400,
        of_openai("Billing hard limit has been reached", "billing_hard_limit_reached"),
        "ProviderQuotaExhausted",
        None,
    ),
    "a quota under 500": ("openai", 500, of_openai("x", "insufficient_quota", "insufficient_quota"), "ProviderQuotaExhausted", None),
    "Anthropic's balance": (
        "anthropic",
        400,
        of_anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        "ProviderQuotaExhausted",
        None,
    ),
    # too long
    "vLLM's context": (
        "openai",
        400,
        {"object": "error", "message": "This model's maximum context length is 131072 tokens. However, you requested 156632", "code": 400},
        "ProviderContextExceeded",
        None,
    ),
    "Together's context": (
        "openai",
        400,
        of_openai("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 80125 `inputs` tokens"),
        "ProviderContextExceeded",
        None,
    ),
    "text-generation-inference's context": (
        "openai",
        422,
        {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1500", "error_type": "validation"},
        "ProviderContextExceeded",
        None,
    ),
    "LiteLLM's context": (
        "openai",
        400,
        of_openai("litellm.ContextWindowExceededError: prompt", "400", None),
        "ProviderContextExceeded",
        None,
    ),
    "Anthropic's context": (
        "anthropic",
        400,
        of_anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
        "ProviderContextExceeded",
        None,
    ),
    "Google's context": (
        "google",
        400,
        of_google(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        "ProviderContextExceeded",
        None,
    ),
    "Google's context under 500": (
        "google",
        500,
        of_google(500, "INTERNAL", "Your input context is too long."),
        "ProviderContextExceeded",
        None,
    ),
    "Ollama's context": ("ollama", 500, {"error": "the input length exceeds the context length"}, "ProviderContextExceeded", None),
    # no such model
    "Groq's retired model": (
        "openai",
        400,
        of_openai("The model `mixtral-8x7b` has been decommissioned and is no longer supported.", "model_decommissioned"),
        "ProviderModelUnknown",
        None,
    ),
    "DeepSeek's unknown model": ("openai", 400, of_openai("Model Not Exist", "invalid_request_error"), "ProviderModelUnknown", None),
    "Mistral's unknown model": (
        "openai",
        400,
        {"object": "error", "message": "Invalid model: foo", "type": "invalid_model", "param": None, "code": "1500"},
        "ProviderModelUnknown",
        None,
    ),
    "OpenRouter's unknown model": ("openai", 400, of_openai("foo/bar is not a valid model ID", 400, None), "ProviderModelUnknown", None),
    "OpenRouter's withdrawn model": ("openai", 404, of_openai("No endpoints found for foo/bar.", 404, None), "ProviderModelUnknown", None),
    "xAI's unknown model": (
        "openai",
        404,
        {"code": "Some requested entity was not found", "error": "The model foo does not exist or your team has no access to it."},
        "ProviderModelUnknown",
        None,
    ),
    "LiteLLM's unknown model": (
        "openai",
        400,
        {"error": "/chat/completions: Invalid model name passed in model=foo. Call `/v1/models`"},
        "ProviderModelUnknown",
        None,
    ),
    "Azure's unknown deployment": (
        "openai",
        404,
        of_openai("The API deployment does not exist.", "DeploymentNotFound"),
        "ProviderModelUnknown",
        None,
    ),
    "a page of an ingress": ("openai", 404, "default backend - 404", "ProviderModelUnknown", None),
    "gone": ("openai", 410, {}, "ProviderModelUnknown", None),
    "a page of an ingress, Google": ("google", 404, "<html>", "ProviderModelUnknown", None),
    "Google's retired model": (
        "google",
        404,
        of_google(404, "NOT_FOUND", "models/gemini-2.0-flash is no longer available."),
        "ProviderModelUnknown",
        None,
    ),
    # the filter: an answer
    "Azure's filter": (
        "openai",
        400,
        of_openai(
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.", "content_filter", None
        ),
        "ContentFiltered",
        None,
    ),
    "LiteLLM's filter": (
        "openai",
        400,
        of_openai("litellm.ContentPolicyViolationError: AzureException - The response was filtered", "400", None),
        "ContentFiltered",
        None,
    ),
    "OpenRouter's moderation is no refused key": (
        "openai",
        403,
        of_openai('openai/o1 requires moderation on OpenInference. Your input was flagged for "harassment".', 403, None),
        "ContentFiltered",
        None,
    ),
    "Anthropic's filter": (
        "anthropic",
        400,
        of_anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        "ContentFiltered",
        None,
    ),
    "Anthropic's filter in a stream": (
        "anthropic",
        200,
        of_anthropic("api_error", "Output blocked by content filtering policy"),
        "ContentFiltered",
        None,
    ),
    # the model wrote nonsense: its own failure
    "Groq's tool call": ("openai", 400, of_openai("Failed to call a function.", "tool_use_failed"), "ProviderGarbled", None),
    # not now
    "Groq's capacity": ("openai", 498, of_openai("Flex tier capacity exceeded.", "capacity_exceeded", None), "ProviderUnavailable", None),
    "TGI's overload": ("openai", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, "ProviderUnavailable", None),
    "LiteLLM's last deployment": (
        "openai",
        429,
        of_openai("No deployments available for selected model, Try again in 60 seconds.", "429", "None"),
        "ProviderRateLimited",
        60_000,
    ),
    "llama.cpp loads": ("openai", 503, of_openai("Loading model", 503, "unavailable_error"), "ProviderUnavailable", None),
    "Anthropic's conflict": ("anthropic", 409, of_anthropic("conflict_error", "Conflict"), "ProviderUnavailable", None),
    "Anthropic's overload": ("anthropic", 529, of_anthropic("overloaded_error", "Overloaded"), "ProviderUnavailable", None),
    "Ollama's queue": (
        "ollama",
        503,
        {"error": "server busy, please try again.  maximum pending requests exceeded"},
        "ProviderUnavailable",
        None,
    ),
    "Ollama's memory": (
        "ollama",
        500,
        {"error": "model requires more system memory (5.3 GiB) than is available (3.5 GiB)"},
        "ProviderUnavailable",
        None,
    ),
    # the caller's or the key's
    "a request that is wrong": ("openai", 400, of_openai("Invalid value: 'foo'. Supported values are: 'auto'."), "ProviderRejected", None),
    "a tool that is not there": ("openai", 400, of_openai("Tool call `call_1` not found in the messages."), "ProviderRejected", None),
    "more output than a model has": (
        "anthropic",
        400,
        of_anthropic("invalid_request_error", "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens"),
        "ProviderRejected",
        None,
    ),
    "Google's wrong key under 400": (
        "google",
        400,
        of_google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", {"reason": "API_KEY_INVALID"}),
        "ProviderAuthFailed",
        None,
    ),
    "Google's country": (
        "google",
        400,
        of_google(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        "ProviderAuthFailed",
        None,
    ),
    "a model that this key may not use": (
        "openai",
        403,
        of_openai("Project `proj_x` does not have access to model `gpt-4o`", "model_not_found"),
        "ProviderModelUnknown",
        None,
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_words_decide(name: str) -> None:
    wire, status, body, kind, wait_ms = SAID[name]
    data = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
    error = FAILURES[wire](status, {}, data)
    assert (type(error).__name__, error.retry_after_ms) == (kind, wait_ms)


@pytest.mark.parametrize("wire", FAILURES)
def test_a_header_wins_over_words(wire: str) -> None:
    body = {
        "openai": of_openai("Please try again in 20ms.", "rate_limit_exceeded"),
        "anthropic": of_anthropic("rate_limit_error", "Please try again in 20ms."),
        "google": of_google(429, "RESOURCE_EXHAUSTED", "Please try again in 20ms."),
        "ollama": {"error": "too many requests, try again in 20ms"},
    }[wire]
    error = FAILURES[wire](429, {"retry-after": "3"}, msgspec.json.encode(body))
    assert (type(error).__name__, error.retry_after_ms) == ("ProviderRateLimited", 3000)


@pytest.mark.parametrize("wire", FAILURES)
def test_a_key_that_is_repeated_is_struck_out(wire: str) -> None:
    key = "AIzaSyFakeFakeFakeFake-0123456789"
    body = {
        "openai": of_openai(f"Incorrect API key provided: {key}.", key, key),
        "anthropic": of_anthropic(key, f"invalid x-api-key {key}"),
        "google": of_google(401, key, f"key {key}", {"reason": key}),
        "ollama": {"error": f"unauthorized: {key}"},
    }[wire]
    error = FAILURES[wire](401, {}, msgspec.json.encode(body), key=key)
    assert type(error).__name__ == "ProviderAuthFailed"
    assert key not in f"{error.message} {error.code} {error.request_id}"


# Servers and gateways written with other libraries send null for what the provider itself leaves out.
NULLS: dict[str, tuple[Callable[[bytes], Chunk | None], str]] = {
    "google's piece": (
        google_wire.chunk,
        '{"candidates":[{"content":{"parts":[{"text":"x","thought":null,"functionCall":null}]},"finishReason":null}],"usageMetadata":null,'
        '"promptFeedback":null,"modelVersion":null,"responseId":null,"error":null}',
    ),
    "google's whole answer": (
        google_wire.reply,
        '{"candidates":[{"content":{"parts":[{"text":"x"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":null}}',
    ),
    "ollama's piece": (
        ollama.chunk,
        '{"model":null,"message":{"role":"assistant","content":"x","thinking":null,"tool_calls":null},"done":false,"done_reason":null,"error":null}',
    ),
    "anthropic's piece": (
        anthropic_wire.chunk,
        '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x","partial_json":null,"stop_reason":null},"usage":null}',
    ),
    "anthropic's whole answer": (
        anthropic_wire.reply,
        '{"type":"message","model":null,"content":[{"type":"text","text":"x","id":null,"name":null}],"stop_reason":"end_turn","usage":null}',
    ),
    "openai's piece": (
        openai_reply.Reader(),
        '{"choices":[{"index":0,"delta":{"content":"x","tool_calls":null,"refusal":null},"finish_reason":null}],"usage":null,"error":null}',
    ),
}


@pytest.mark.parametrize("name", NULLS)
def test_null_is_nothing(name: str) -> None:
    read, body = NULLS[name]
    chunk = read(body.encode())
    assert chunk is not None
    assert chunk.text == "x"
