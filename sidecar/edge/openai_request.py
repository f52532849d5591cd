"""OpenAI's requests for chat completions and embeddings, put into ours."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sidecar.counting.encodings import decoded
from sidecar.edge.dialect import Words, image, model_of, on_cut_of, schema_format, shaped, signature_of, sort
from sidecar.errors import InvalidRequest
from sidecar.request import EmbedRequest, GenerateRequest, Message, Part, ResponseFormat, Text, Tool, ToolCall, ToolChoice, ToolResult

_ONE_ANSWER = "an answer is one text; call again for another"
_NO_PROBABILITIES = "probabilities of tokens are not carried"
_NO_AUDIO = "sound is not carried"
_USE_TOOLS = "use tools and tool_choice"

CHAT = Words(
    known=frozenset(
        (
            "messages",
            "model",
            "max_completion_tokens",
            "max_tokens",
            "metadata",
            "response_format",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "temperature",
            "tool_choice",
            "tools",
            "top_p",
            "user",
        )
    ),
    meaningless={
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logit_bias": {},
        "store": False,
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "service_tier": "auto",
    },
    refused={
        "n": _ONE_ANSWER,
        "logprobs": _NO_PROBABILITIES,
        "top_logprobs": _NO_PROBABILITIES,
        "audio": _NO_AUDIO,
        "modalities": _NO_AUDIO,
        "functions": _USE_TOOLS,
        "function_call": _USE_TOOLS,
        "web_search_options": "what the provider looked up is not carried",
        "moderation": "its verdict is not carried",
    },
)
EMBEDDINGS = Words(
    known=frozenset(("input", "model", "dimensions", "encoding_format", "user")),
    meaningless={},
    refused={},
)

# Our names of fields, and OpenAI's, for errors of the pipeline.
NAMES = (
    (r"^inputs\b", "input"),
    (r"^prompt$", "messages"),
    (r"^caller\.user$", "user"),
    (r"^caller\.tags$", "metadata"),
    (r"^(messages\[\d+\])\.parts\[(\d+)\](\.tool_result\.tool_call_id)$", r"\1.tool_call_id"),
    (r"^(messages\[\d+\])\.parts\b", r"\1.content"),
    (r"^tools\[(\d+)\]\.", r"tools[\1].function."),
    (r"^tool_choice\.name$", "tool_choice.function.name"),
)


class _Text(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str
    annotations: list[Any] = []  # SDKs send back what they were sent


class _Refusal(Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    refusal: str


class _Address(Struct, forbid_unknown_fields=True):
    url: str
    detail: str = ""


class _Image(Struct, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    image_url: _Address


class _Called(Struct, forbid_unknown_fields=True):
    name: str
    arguments: str = "{}"


class _ToolCall(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    id: str
    function: _Called
    index: int = 0  # SDKs leave it in what they put together from a stream; the order says it too
    extra_content: dict[str, Any] = {}


_Words = str | list[_Text]


class _System(Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: _Words
    name: None = None


class _Developer(_System, tag_field="role", tag="developer", forbid_unknown_fields=True):
    pass


class _User(Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | list[_Text | _Image]
    name: None = None


class _Assistant(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """Also as SDKs send back what they were sent: with empty fields, and with the reasoning, which no provider wants to see again."""

    content: str | list[_Text | _Refusal] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    reasoning_content: str | None = None
    name: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


class _Tool(Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    tool_call_id: str
    content: _Words
    name: str | None = None  # of the tool: what the call it answers says too


class _Function(Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _FunctionTool(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    function: _Function


class _Name(Struct, forbid_unknown_fields=True):
    name: str


class _NamedChoice(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    function: _Name


class _Schema(Struct, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _FormatText(Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    pass


class _FormatObject(Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    pass


class _FormatSchema(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    json_schema: _Schema


class _StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = False
    include_obfuscation: bool | None = False


class _Chat(Struct, forbid_unknown_fields=True):
    messages: list[_System | _Developer | _User | _Assistant | _Tool]
    model: str = ""
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    metadata: dict[str, str] = {}
    response_format: _FormatText | _FormatObject | _FormatSchema | None = None
    seed: int | None = None
    stop: str | list[str] = []
    stream: bool = False
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    tool_choice: str | _NamedChoice | None = None
    tools: list[_FunctionTool] = []
    top_p: float | None = None
    user: str = ""


class _Embeddings(Struct, forbid_unknown_fields=True):
    input: str | list[str]
    model: str = ""
    dimensions: int | None = None
    encoding_format: str = "float"
    user: str = ""


class Chat(Struct, frozen=True):
    """What was asked, and how it shall be told."""

    request: GenerateRequest
    is_streamed: bool
    with_usage: bool  # a stream ends with a chunk that holds the usage
    limit_name: str  # the one of two names by which the caller limits the answer


def chat(body: bytes, *, may_pass: bool) -> Chat:
    """Raises InvalidRequest, its field in OpenAI's words."""
    asked = sort(body, CHAT, may_pass=may_pass)
    said = shaped(asked.said, _Chat)
    if not said.messages:
        raise InvalidRequest("messages is empty; expected at least one", field="messages")
    if said.stream_options is not None and not said.stream:
        raise InvalidRequest("stream_options is set, but stream is not", field="stream_options")
    if said.stream_options is not None and said.stream_options.include_obfuscation:
        raise InvalidRequest(
            "stream_options.include_obfuscation cannot be served; leave it out", field="stream_options.include_obfuscation"
        )
    request = replace(
        asked.extra,
        caller=asked.caller(said.user, said.metadata),
        messages=tuple(_message(m, f"messages[{i}]") for i, m in enumerate(said.messages)),
        model=model_of(said.model),
        temperature=said.temperature,
        top_p=said.top_p,
        max_output_tokens=_limit(said),
        stop=(said.stop,) if isinstance(said.stop, str) else tuple(said.stop),
        seed=said.seed,
        response_format=_format(said.response_format),
        tools=tuple(_tool(tool.function) for tool in said.tools),
        tool_choice=_choice(said.tool_choice),
        on_cut=on_cut_of(asked.extra),
        provider_options=asked.options,
    )
    with_usage = said.stream_options is not None and bool(said.stream_options.include_usage)
    return Chat(request, said.stream, with_usage, "max_completion_tokens" if said.max_tokens is None else "max_tokens")


class Embeddings(Struct, frozen=True):
    """What was asked, in which form vectors shall be told (`float` or `base64`), and what there is to say of how it was read."""

    request: EmbedRequest
    form: str
    notices: tuple[str, ...]


def embeddings(body: bytes, *, may_pass: bool) -> Embeddings:
    """Raises InvalidRequest."""
    asked = sort(body, EMBEDDINGS, may_pass=may_pass, embed=True)
    notices: tuple[str, ...] = ()
    given = asked.said.get("input")
    if isinstance(given, list) and given and isinstance(given[0], int | list):
        asked.said["input"], notices = _detokenized(given)
    said = shaped(asked.said, _Embeddings)
    if said.encoding_format not in ("float", "base64"):
        raise InvalidRequest(f"encoding_format is {said.encoding_format[:40]!r}; expected float or base64", field="encoding_format")
    inputs = (said.input,) if isinstance(said.input, str) else tuple(said.input)
    caller = asked.caller(said.user, {})
    own = asked.extra
    asks = EmbedRequest(caller, inputs, model_of(said.model), said.dimensions, asked.options, own.cache_mode, own.cache_max_age_ms)
    return Embeddings(asks, said.encoding_format, notices)


def _detokenized(given: list[Any]) -> tuple[list[str], tuple[str, ...]]:
    """Texts for tokens of cl100k_base, which all of OpenAI's embedding models have; LangChain sends them unless it is told not to.

    Other providers take texts only, and it is the text that is counted, cached and logged. Raises InvalidRequest.
    """
    texts = given if isinstance(given[0], list) else [given]
    try:
        found = decoded("cl100k_base", msgspec.convert(texts, list[list[int]]))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"input holds numbers that are no tokens: {error}; send texts", field="input") from None
    inputs = [text.decode(errors="replace") for text in found]
    cut = sum(text.encode() != raw for text, raw in zip(inputs, found, strict=True))
    return inputs, (f"{cut} inputs begin or end within a character: the model sees U+FFFD there",) if cut else ()


def _limit(said: _Chat) -> int | None:
    new, old = said.max_completion_tokens, said.max_tokens
    if new is not None and old is not None and new != old:
        raise InvalidRequest(f"max_tokens is {old} and max_completion_tokens is {new}; set one of them", field="max_tokens")
    return old if new is None else new


def _message(message: _System | _User | _Assistant | _Tool, field: str) -> Message:
    match message:
        case _System():
            return Message("system", _texts(message.content))
        case _User():
            if isinstance(message.content, str):
                return Message("user", (Text(message.content),))
            return Message("user", tuple(_part(part, f"{field}.content[{i}]") for i, part in enumerate(message.content)))
        case _Tool():
            return Message("tool", (ToolResult(message.tool_call_id, content="".join(part.text for part in _texts(message.content))),))
    return Message("assistant", _assistant(message))


def _texts(content: _Words) -> tuple[Text, ...]:
    return (Text(content),) if isinstance(content, str) else tuple(Text(part.text) for part in content)


def _part(part: _Text | _Image, field: str) -> Part:
    if isinstance(part, _Text):
        return Text(part.text)
    return image(part.image_url.url, f"{field}.image_url.url", part.image_url.detail)


def _assistant(message: _Assistant) -> tuple[Part, ...]:
    parts: list[Part] = []
    if isinstance(message.content, list):
        parts += (Text(part.text if isinstance(part, _Text) else part.refusal) for part in message.content)
    elif message.content:
        parts.append(Text(message.content))
    elif message.refusal:
        parts.append(Text(message.refusal))
    for called in message.tool_calls or ():
        parts.append(ToolCall(called.id, called.function.name, called.function.arguments or "{}", signature_of(called.extra_content)))
    return tuple(parts) or (Text(""),)


def _tool(function: _Function) -> Tool:
    return Tool(function.name, function.description or "", function.parameters or {}, bool(function.strict))


def _choice(choice: str | _NamedChoice | None) -> ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, _NamedChoice):
        return ToolChoice("tool", choice.function.name)
    if choice == "auto":
        return ToolChoice("auto")
    if choice == "none":
        return ToolChoice("none")
    if choice == "required":
        return ToolChoice("required")
    raise InvalidRequest(f"tool_choice is {choice[:40]!r}; expected none, auto, required or a function by name", field="tool_choice")


def _format(wanted: _FormatText | _FormatObject | _FormatSchema | None) -> ResponseFormat | None:
    match wanted:
        case None:
            return None
        case _FormatText():
            return ResponseFormat("text")
        case _FormatObject():
            return ResponseFormat("json_object")
    one = wanted.json_schema
    schema = one.schema
    if one.description and schema is not None:  # a schema has a place for it too, and every provider shows that to its model
        inner = schema.get("description")
        schema = {**schema, "description": one.description if inner in (None, one.description) else f"{one.description}\n{inner}"}
    return schema_format(one.name, schema, bool(one.strict), "response_format.json_schema.schema")
