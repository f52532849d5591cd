"""Anthropic's Messages API in our words: the body to send, one whole reply, one stream event, one failure. Pure, no network.

Facts that shape this file (platform.claude.com, API reference and errors page; SDK 2.11 types):
`input_tokens` excludes both cache figures; `message_start` says the input, `message_delta` the output, cumulative; `thinking_tokens`
is a share of `output_tokens`; an error can come as an event under HTTP 200; unknown events must be tolerated.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from sidecar.call import Chunk, EmbedAsk, Feature, Finish, GenerateAsk, ToolDelta, Usage
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
)
from sidecar.json_text import UNREADABLE, text_of
from sidecar.providers import turns
from sidecar.providers.http import head, retry_after_ms, scrubbed
from sidecar.providers.statuses import by_status, garbled, no_words
from sidecar.providers.words import by_words, wait_in_words_ms
from sidecar.request import Image, Part, Text, ToolCall, ToolChoice

FEATURES: Final[frozenset[Feature]] = frozenset(
    {"generate", "system", "image", "image_url", "tools", "tool_choice", "strict_tools", "json_schema", "strict_schema", "stop", "sampling"}
)

FINISHES: Final[dict[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # the provider's own tool loop hit its limit: unfinished, and to be continued
    "tool_use": "tool_calls",
    "refusal": "refusal",
}

_NOT_IN_ID: Final = re.compile(r"[^A-Za-z0-9_-]")

TOOL_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}


def request(ask: GenerateAsk) -> dict[str, Any]:
    """The body of POST /v1/messages. A schema is always strict here. Raises ProviderRejected for a temperature above 1."""
    if ask.temperature is not None and ask.temperature > 1:
        raise ProviderRejected(f"temperature is {ask.temperature:g}; Anthropic takes 0 to 1")
    body: dict[str, Any] = {
        "model": ask.model,
        "max_tokens": ask.max_output_tokens,
        "messages": [{"role": who, "content": [_block(p) for p in parts]} for who, parts in turns.speaking_turns(ask.messages)],
    }
    if ask.stream:
        body["stream"] = True
    if system := turns.system_texts(ask.messages):
        body["system"] = [{"type": "text", "text": text} for text in system]
    if ask.temperature is not None:
        body["temperature"] = ask.temperature
    if ask.top_p is not None:
        body["top_p"] = ask.top_p
    if ask.stop:
        body["stop_sequences"] = list(ask.stop)
    if ask.response_format is not None and ask.response_format.kind == "json_schema":
        body["output_config"] = {"format": {"type": "json_schema", "schema": ask.response_format.schema}}
    if ask.tools:
        body["tools"] = [
            {"name": t.name, "input_schema": t.parameters or {"type": "object"}}
            | ({"description": t.description} if t.description else {})
            | ({"strict": True} if t.strict else {})
            for t in ask.tools
        ]
        if ask.tool_choice is not None:
            body["tool_choice"] = _choice(ask.tool_choice)
    if ask.cache_marks:
        _mark(body, ask.cache_marks)
    return turns.with_options(body, ask.options)


def _mark(body: dict[str, Any], marks: tuple[int, ...]) -> None:
    """Have the provider keep for five minutes what stands before these blocks; it takes at most four marks."""
    blocks = [*body.get("system", ()), *(block for turn in body["messages"] for block in turn["content"])]
    for mark in marks:
        block = body["tools"][-1] if mark < 0 else blocks[mark]
        block["cache_control"] = {"type": "ephemeral"}


def _choice(choice: ToolChoice) -> dict[str, str]:
    kind = TOOL_CHOICES[choice.mode]
    return {"type": kind, "name": choice.name} if kind == "tool" else {"type": kind}


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        if part.url:
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        data = base64.b64encode(part.data).decode()
        return {"type": "image", "source": {"type": "base64", "media_type": part.mime_type, "data": data}}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": _id(part.id), "name": part.name, "input": turns.object_of(part)}
    return {"type": "tool_result", "tool_use_id": _id(part.tool_call_id), "content": part.content} | (
        {"is_error": True} if part.is_error else {}
    )


def _id(given: str) -> str:
    """A call's id as Anthropic allows it; one that another provider made may have other characters."""
    return _NOT_IN_ID.sub("_", given)


def embed_request(ask: EmbedAsk) -> dict[str, Any]:
    """Raises ProviderRejected: Anthropic has no embeddings (and `embed` is missing from FEATURES)."""
    raise ProviderRejected("Anthropic has no embeddings; choose an embedding model of another provider")


class _CacheCreation(Struct):
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(Struct):
    thinking_tokens: int | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


# What is not there is left out by Anthropic itself, and null with some of the servers that speak as it does.
class _Block(Struct):
    type: str
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    input: Raw = Raw(b"{}")


class _Delta(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Message(Struct):
    content: list[_Block] | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Reply(_Message):
    type: str = ""


class _Event(Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


class _Kind(Struct):
    type: str


class _Error(Struct):
    type: str = ""
    message: str = ""
    details: Any = None


class _Failure(Struct):
    error: _Error = field(default_factory=_Error)
    request_id: str | None = None


_read_reply = msgspec.json.Decoder(_Reply).decode
_read_event = msgspec.json.Decoder(_Event).decode
_read_kind = msgspec.json.Decoder(_Kind).decode
_read_failure = msgspec.json.Decoder(_Failure).decode

_KNOWN: Final = {"message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop"}


def _usage(sent: _Usage | None) -> Usage | None:
    if sent is None:
        return None
    thinking = sent.output_tokens_details.thinking_tokens if sent.output_tokens_details else None
    output = sent.output_tokens
    return Usage(
        input_tokens=sent.input_tokens,
        cached_input_tokens=sent.cache_read_input_tokens,
        cache_write_tokens=sent.cache_creation_input_tokens,
        cache_write_1h_tokens=sent.cache_creation.ephemeral_1h_input_tokens if sent.cache_creation else None,
        output_tokens=output if output is None or thinking is None else max(output - thinking, 0),
        reasoning_tokens=thinking,
    )


def reply(body: bytes, whose: str = "anthropic", key: str | None = None) -> Chunk:
    """A whole answer. Raises ProviderGarbled for anything that is no message, the class of an error sent under HTTP 200."""
    try:
        message = _read_reply(body)
    except UNREADABLE as error:
        raise garbled(body, error, whose) from error
    if message.type == "error":
        raise failure(200, {}, body, whose=whose, key=key)
    if message.type != "message":
        raise ProviderGarbled(f"{whose}: the answer is no message: its type is {message.type!r}")
    if message.content is None:
        raise ProviderGarbled(f"{whose}: the answer is a message without content")
    calls = tuple(
        ToolDelta(index=i, id=b.id or "", name=b.name or "", arguments=text_of(b.input))
        for i, b in enumerate(message.content)
        if b.type == "tool_use"
    )
    raw = message.stop_reason or ""
    return Chunk(
        text="".join(b.text or "" for b in message.content if b.type == "text"),
        reasoning="".join(b.thinking or "" for b in message.content if b.type == "thinking"),
        tool_calls=calls,
        finish=FINISHES.get(raw),
        raw_finish=raw,
        usage=_usage(message.usage),
        model=message.model or "",
        last=True,
    )


def chunk(event: bytes, whose: str = "anthropic", key: str | None = None) -> Chunk | None:
    """One event's data. Raises ProviderGarbled, or the class of an `error` event."""
    try:
        read = _read_event(event)
    except UNREADABLE as error:
        _tolerate(event, error, whose, key)
        return None
    match read:
        case _Event(type="content_block_delta", delta=_Delta() as delta):
            return _piece(read.index, delta)
        case _Event(type="content_block_start", content_block=_Block() as block):
            return _opening(read.index, block)
        case _Event(type="message_start", message=_Message() as message):
            return Chunk(model=message.model or "", usage=_usage(message.usage))
        case _Event(type="message_delta", delta=_Delta() as delta):
            raw = delta.stop_reason or ""
            return Chunk(finish=FINISHES.get(raw), raw_finish=raw, usage=_usage(read.usage))
        case _Event(type="message_stop"):
            return Chunk(last=True)
        case _Event(type="error"):
            raise failure(200, {}, event, whose=whose, key=key)
    if read.type in _KNOWN:
        raise ProviderGarbled(f"{whose}: the {read.type} event lacks what it is there for")
    return None


def _tolerate(event: bytes, error: Exception, whose: str, key: str | None) -> None:
    """An event of a kind unknown here may use our field names for other types; any other unreadable event is garbage."""
    try:
        kind = _read_kind(event).type
    except UNREADABLE:
        kind = "message_stop"
    if kind in _KNOWN:
        raise ProviderGarbled(f"{whose}: sent an event that cannot be read: {error}") from error
    if kind == "error":
        raise failure(200, {}, event, whose=whose, key=key)


def _piece(index: int, delta: _Delta) -> Chunk | None:
    match delta.type:
        case "text_delta":
            return Chunk(text=delta.text or "")
        case "thinking_delta":
            return Chunk(reasoning=delta.thinking or "")
        case "input_json_delta":
            return Chunk(tool_calls=(ToolDelta(index=index, arguments=delta.partial_json),)) if delta.partial_json else None
    return None


def _opening(index: int, block: _Block) -> Chunk | None:
    match block.type:
        case "text" if block.text:
            return Chunk(text=block.text)
        case "thinking" if block.thinking:
            return Chunk(reasoning=block.thinking)
        case "tool_use":
            given = text_of(block.input)  # `{}` in a stream, where the pieces follow; some servers send all of it here
            arguments = "" if given == "{}" else given
            return Chunk(tool_calls=(ToolDelta(index=index, id=block.id or "", name=block.name or "", arguments=arguments),))
    return None


_KINDS: Final[dict[str, type[ProviderError]]] = {
    "invalid_request_error": ProviderRejected,
    "authentication_error": ProviderAuthFailed,
    "billing_error": ProviderQuotaExhausted,
    "permission_error": ProviderAuthFailed,
    "not_found_error": ProviderModelUnknown,
    "conflict_error": ProviderUnavailable,  # with another request: not with the next one
    "request_too_large": ProviderContextExceeded,
    "rate_limit_error": ProviderRateLimited,
    "timeout_error": ProviderTimeout,
    "api_error": ProviderUnavailable,
    "overloaded_error": ProviderUnavailable,
}

# `error.details.error_code` of a 429 or 400 that no wait of minutes cures.
_SPENT: Final = {"enforced_spend_limit_reached", "contract_spend_limit_reached", "linked_organization_spend_limit_reached"}

# Types that are used for much; only the words tell which it is.
_BROAD: Final = (None, ProviderRejected, ProviderRateLimited, ProviderUnavailable)


def failure(status: int, headers: Mapping[str, str], body: bytes, *, whose: str = "anthropic", key: str | None = None) -> ProviderError:
    """What an error answer means, by its type first, since an `error` event arrives under HTTP 200. Never raises."""
    try:
        said = _read_failure(body)
    except UNREADABLE:
        said = _Failure()
    error = said.error
    details = error.details if isinstance(error.details, dict) else {}
    code = str(details.get("error_code") or error.type)
    kind = _meaning(status, error, code)
    wait_ms = None
    if kind in (ProviderRateLimited, ProviderUnavailable, ProviderQuotaExhausted):
        wait_ms = retry_after_ms(headers)
        if wait_ms is None:
            wait_ms = wait_in_words_ms(error.message)
    words = scrubbed(error.message, key) if error.message else no_words(status, "Anthropic")
    return kind(
        f"{whose}: {words}",
        status=status,
        code=scrubbed(code, key, limit=80),
        retry_after_ms=wait_ms,
        request_id=said.request_id or head(headers, key).request_id,
    )


def _meaning(status: int, error: _Error, code: str) -> type[ProviderError]:
    if code in _SPENT:
        return ProviderQuotaExhausted
    if code == "organization_on_hold":
        return ProviderAuthFailed
    kind = _KINDS.get(error.type)
    meant = by_words(429 if kind is ProviderRateLimited else status, error.message) if kind in _BROAD else None
    meaning = meant or kind
    if meaning is ProviderUnavailable and by_status(status) is ProviderTimeout:
        return ProviderTimeout  # "an API error" is what the number says better
    if meaning is not None:
        return meaning
    return ProviderUnavailable if status < 300 and error.type else by_status(status)  # an error event of a type unknown here
