"""Google's Gemini API in our words: the bodies to send, one whole reply, one stream event, vectors, one failure. Pure, no network.

Facts that shape this file (ai.google.dev, API reference; types of google-genai 3.4; exchanges recorded by others):
every `usageMetadata` is the whole account so far, a missing figure is zero; `promptTokenCount` includes cached tokens,
`candidatesTokenCount` excludes thoughts; a function call comes whole, often without an id; a stream has no closing event, its last
candidate has a `finishReason`; a blocked prompt has no candidates at all; a wrong key is HTTP 400.
"""

from __future__ import annotations

import base64
import math
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from sidecar.call import Chunk, EmbedAsk, Feature, Finish, GenerateAsk, Head, ToolDelta, Usage, Vectors
from sidecar.errors import ProviderError, ProviderGarbled
from sidecar.json_text import UNREADABLE, text_of
from sidecar.providers import turns
from sidecar.providers.google_failure import failure
from sidecar.providers.statuses import garbled
from sidecar.providers.tool_calls import WholeCalls, made_id
from sidecar.request import Image, Part, Text, ToolCall, ToolChoice

__all__ = ["FEATURES", "FINISHES", "chunk", "embed_request", "failure", "model_path", "reply", "request", "vectors"]

# Not image_url: Google fetches only what has been uploaded to it, or wants the type beside the address. Not strict_tools: no such field.
FEATURES: Final[frozenset[Feature]] = frozenset(
    {
        "generate",
        "embed",
        "system",
        "image",
        "tools",
        "tool_choice",
        "json_object",
        "json_schema",
        "strict_schema",
        "stop",
        "seed",
        "sampling",
        "dimensions",
    }
)

# What is missing here (OTHER, MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL, MISSING_THOUGHT_SIGNATURE, MALFORMED_RESPONSE, NO_IMAGE, ...)
# is no whole answer.
FINISHES: Final[dict[str, Finish]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "TOO_MANY_TOOL_CALLS": "length",  # the provider's own tool loop hit its limit
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "ESCALATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
}

_CALLING_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}

# Gemini 3 and later refuse a turn whose first function call lacks the signature it came with. For a call that has none, since its
# caller dropped it or another model made it, this value is Google's documented way to say so; the model goes on without those thoughts.
_NO_SIGNATURE: Final = "skip_thought_signature_validator"
_UNSIGNED: Final = ("gemini-1", "gemini-2")

_NULL: Final = Raw(b"null")


def model_path(model: str) -> str:
    """The model as paths and bodies name it."""
    return model if "/" in model else f"models/{model}"


def request(ask: GenerateAsk) -> dict[str, Any]:
    """The body of POST {model}:generateContent and :streamGenerateContent, which name the model."""
    signed = not model_path(ask.model).rpartition("/")[2].startswith(_UNSIGNED)
    body: dict[str, Any] = {
        "contents": [
            {"role": "user" if who == "user" else "model", "parts": _parts(parts, signed)}
            for who, parts in turns.speaking_turns(ask.messages)
        ],
        "generationConfig": _config(ask),
    }
    if system := turns.system_texts(ask.messages):
        body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
    if ask.tools:
        body["tools"] = [
            {
                "functionDeclarations": [
                    {"name": t.name, "description": t.description} | ({"parametersJsonSchema": t.parameters} if t.parameters else {})
                    for t in ask.tools
                ]
            }
        ]
        if ask.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _calling(ask.tool_choice)}
    return turns.with_options(body, ask.options)


def _config(ask: GenerateAsk) -> dict[str, Any]:
    config: dict[str, Any] = {"maxOutputTokens": ask.max_output_tokens}
    if ask.temperature is not None:
        config["temperature"] = ask.temperature
    if ask.top_p is not None:
        config["topP"] = ask.top_p
    if ask.stop:
        config["stopSequences"] = list(ask.stop)
    if ask.seed is not None:
        config["seed"] = ask.seed
    if ask.response_format is not None and ask.response_format.kind != "text":
        config["responseMimeType"] = "application/json"
        if ask.response_format.kind == "json_schema":
            config["responseJsonSchema"] = ask.response_format.schema
    return config


def _calling(choice: ToolChoice) -> dict[str, Any]:
    mode = {"mode": _CALLING_MODES[choice.mode]}
    return {**mode, "allowedFunctionNames": [choice.name]} if choice.mode == "tool" else mode


def _parts(parts: list[Part], signed: bool) -> list[dict[str, Any]]:
    said = [_part(part) for part in parts]
    if signed and (first := next((one for one in said if "functionCall" in one), None)) is not None:
        first.setdefault("thoughtSignature", _NO_SIGNATURE)
    return said


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Image):
        return {"inlineData": {"mimeType": part.mime_type, "data": base64.b64encode(part.data).decode()}}
    if isinstance(part, ToolCall):
        called: dict[str, Any] = {"functionCall": {"id": part.id, "name": part.name, "args": turns.object_of(part)}}
        return called | {"thoughtSignature": part.signature} if part.signature else called
    answer = {"error" if part.is_error else "output": part.content}
    return {"functionResponse": {"id": part.tool_call_id, "name": part.name, "response": answer}}


def embed_request(ask: EmbedAsk) -> dict[str, Any]:
    """The body of POST {model}:batchEmbedContents: a request per input, `options` laid over each of them."""
    path = model_path(ask.model)
    shape = {} if ask.dimensions is None else {"outputDimensionality": ask.dimensions}
    return {
        "requests": [
            turns.with_options({"model": path, "content": {"parts": [{"text": text}]}, **shape}, ask.options) for text in ask.inputs
        ]
    }


# What is not there is left out by Google itself, and null with some of the gateways before it.
class _Call(Struct):
    name: str
    id: str | None = None
    args: Raw = Raw(b"{}")


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _Call | None = None
    thought_signature: str | None = None  # base64; sent back as it came


class _Content(Struct):
    parts: list[_Part] | None = None


class _Candidate(Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Account(Struct, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None


class _Feedback(Struct, rename="camel"):
    block_reason: str | None = None


class _Answer(Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Account | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Raw = _NULL


class _Vector(Struct):
    values: list[float]


class _Embedded(Struct, rename="camel"):
    embeddings: list[_Vector] = field(default_factory=list)
    usage_metadata: _Account | None = None
    error: Raw = _NULL


_read_answer = msgspec.json.Decoder(_Answer).decode
_read_embedded = msgspec.json.Decoder(_Embedded).decode


def reply(body: bytes, whose: str = "google", key: str | None = None) -> Chunk:
    """A whole answer. Raises ProviderGarbled, or the class of an error sent under HTTP 200."""
    read = chunk(body, whose, key)
    if read is None or not read.last:
        raise ProviderGarbled(f"{whose}: the answer has neither a finish reason nor a reason for blocking the prompt")
    return WholeCalls()(read)


def chunk(event: bytes, whose: str = "google", key: str | None = None) -> Chunk | None:
    """One event's data; None for one that says nothing known here. Raises ProviderGarbled, or the class of an error event."""
    try:
        answer = _read_answer(event)
    except UNREADABLE as error:
        raise _unreadable(event, error, whose, key) from error
    if bytes(answer.error) != b"null":
        raise failure(200, {}, event, whose=whose, key=key)
    usage = _usage(answer.usage_metadata)
    head = Head(request_id=answer.response_id) if answer.response_id else None
    model = answer.model_version or ""
    if not answer.candidates:
        blocked = answer.prompt_feedback.block_reason if answer.prompt_feedback is not None else ""
        if blocked:
            return Chunk(finish="content_filter", raw_finish=blocked, usage=usage, model=model, head=head, last=True)
        return None if usage is None else Chunk(usage=usage, model=model, head=head)
    candidate = answer.candidates[0]
    parts = (candidate.content.parts or []) if candidate.content is not None else []
    calls = [(part.function_call, part.thought_signature or "") for part in parts if part.function_call is not None]
    ended = candidate.finish_reason or ""
    return Chunk(
        text="".join(p.text for p in parts if p.text and not p.thought),
        reasoning="".join(p.text for p in parts if p.text and p.thought),
        tool_calls=tuple(_delta(call, i, signature, answer.response_id or "") for i, (call, signature) in enumerate(calls)),
        finish=FINISHES.get(ended),
        raw_finish=ended,
        usage=usage,
        model=model,
        head=head,
        last=bool(ended),
    )


def _delta(call: _Call, index: int, signature: str, response_id: str) -> ToolDelta:
    arguments = "{}" if bytes(call.args) == b"null" else text_of(call.args)
    call_id = call.id or made_id(response_id, str(index), call.name, arguments)
    return ToolDelta(index=index, id=call_id, name=call.name, arguments=arguments, signature=signature)


def _unreadable(event: bytes, error: Exception, whose: str, key: str | None) -> ProviderError:
    """Without `alt=sse` Google sends errors as an array of one, and a proxy may have taken that away."""
    if event.lstrip().startswith(b"[") and (meant := failure(200, {}, event, whose=whose, key=key)).code:
        return meant
    return garbled(event, error, whose)


def _usage(account: _Account | None) -> Usage | None:
    if account is None:
        return None
    cached = account.cached_content_token_count or 0
    return Usage(
        input_tokens=max((account.prompt_token_count or 0) - cached, 0) + (account.tool_use_prompt_token_count or 0),
        cached_input_tokens=cached,
        output_tokens=account.candidates_token_count or 0,
        reasoning_tokens=account.thoughts_token_count or 0,
    )


def vectors(body: bytes, whose: str = "google", key: str | None = None) -> Vectors:
    """An answer of batchEmbedContents, every vector of length 1: shortened ones come as the cut beginning of a longer one.

    Raises ProviderGarbled, or the class of an error sent under HTTP 200.
    """
    try:
        answer = _read_embedded(body)
    except UNREADABLE as error:
        raise garbled(body, error, whose) from error
    if bytes(answer.error) != b"null":
        raise failure(200, {}, body, whose=whose, key=key)
    if not answer.embeddings:
        raise ProviderGarbled(f"{whose}: answered 200 with JSON that holds no embeddings; is its base URL right?")
    usage = Usage() if answer.usage_metadata is None else Usage(input_tokens=answer.usage_metadata.prompt_token_count or 0, output_tokens=0)
    return Vectors(vectors=[_unit(one.values) for one in answer.embeddings], usage=usage)


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if length == 0 or abs(length - 1) < 1e-4:
        return vector
    return [figure / length for figure in vector]
