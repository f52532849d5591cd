"""Anthropic's requests for messages, put into ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sidecar.edge.dialect import Asked, Words, base64, model_of, on_cut_of, schema_format, shaped, signature_of, sort
from sidecar.errors import InvalidRequest
from sidecar.request import GenerateRequest, Image, Message, Part, ResponseFormat, Text, Tool, ToolCall, ToolChoice, ToolResult

_MESSAGES = frozenset(
    (
        "messages",
        "model",
        "max_tokens",
        "metadata",
        "output_config",
        "output_format",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_p",
    )
)
_MEANINGLESS = {"service_tier": "auto", "thinking": {"type": "disabled"}, "mcp_servers": [], "speed": "standard"}
_REFUSED = {"container": "code is not run", "mcp_servers": "tools are the caller's own", "prefill": "an answer begins at its beginning"}
MESSAGES = Words(_MESSAGES, _MEANINGLESS, _REFUSED)

# Our names of fields, and Anthropic's, for errors of the pipeline; places in `messages` are told apart by `Messages.places`.
NAMES = (
    (r"^max_output_tokens$", "max_tokens"),
    (r"^prompt$", "messages"),
    (r"^stop$", "stop_sequences"),
    (r"^seed$", "sidecar.provider_options"),
    (r"^caller\.user$", "metadata.user_id"),
    (r"^response_format\.json_schema\b.*", "output_config.format"),
    (r"^(tools\[\d+\])\.parameters\b", r"\1.input_schema"),
    (r"^(messages\[\d+\])\.parts\b", r"\1.content"),
)


class _CacheControl(Struct, forbid_unknown_fields=True):
    type: Literal["ephemeral"] = "ephemeral"
    ttl: str | None = None


class _Block(Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    cache_control: _CacheControl | None = None


class _Text(_Block, tag="text", forbid_unknown_fields=True):
    text: str
    citations: None = None


class _Base64(Struct, tag_field="type", tag="base64", forbid_unknown_fields=True):
    media_type: str
    data: str


class _Url(Struct, tag_field="type", tag="url", forbid_unknown_fields=True):
    url: str


class _Image(_Block, tag="image", forbid_unknown_fields=True):
    source: _Base64 | _Url


class _ToolUse(_Block, tag="tool_use", forbid_unknown_fields=True):
    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None  # who called: SDKs send back what they were sent
    extra_content: dict[str, Any] = {}


class _ToolResult(_Block, tag="tool_result", forbid_unknown_fields=True):
    tool_use_id: str
    content: str | list[_Text] | None = None
    is_error: bool | None = None


class _Thinking(Struct, tag_field="type", tag="thinking", forbid_unknown_fields=True):
    thinking: str
    signature: str = ""


class _User(Struct, tag_field="role", tag="user", forbid_unknown_fields=True):
    content: str | list[_Text | _Image | _ToolResult]


class _Assistant(Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """Also with its thinking, as clients send it back: no provider is shown it again."""

    content: str | list[_Text | _ToolUse | _Thinking]


class _Tool(Struct, forbid_unknown_fields=True):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: str | None = None  # custom; other types are Anthropic's own tools
    strict: bool | None = None
    cache_control: _CacheControl | None = None


class _Choice(Struct, forbid_unknown_fields=True):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Metadata(Struct, forbid_unknown_fields=True):
    user_id: str | None = None


class _Format(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    schema: dict[str, Any]


class _OutputConfig(Struct, forbid_unknown_fields=True):
    format: _Format | None = None
    effort: None = None


class _Messages(Struct, forbid_unknown_fields=True):
    messages: list[_User | _Assistant]
    model: str = ""
    max_tokens: int | None = None
    metadata: _Metadata | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    stop_sequences: list[str] = []
    stream: bool = False
    system: str | list[_Text] = ""
    temperature: float | None = None
    thinking: dict[str, Any] | None = None
    tool_choice: _Choice | None = None
    tools: list[_Tool] = []
    top_p: float | None = None


class Messages(Struct, frozen=True):
    """What was asked, and how it shall be told.

    `places` has for each of our messages the number of the one it was made of: a turn with tool results and text becomes two.
    `notices` say what was read and is not handed on.
    """

    request: GenerateRequest
    is_streamed: bool
    shows_thinking: bool
    places: tuple[int, ...]
    notices: tuple[str, ...]

    @property
    def names(self) -> Sequence[tuple[str, str]]:
        """Patterns of our fields' names, and Anthropic's for them."""
        moved = ((rf"^messages\[{ours}\]", f"messages[{theirs}]") for ours, theirs in enumerate(self.places) if ours != theirs)
        return (*NAMES, *moved)


def messages(body: bytes, *, may_pass: bool, counts_only: bool = False) -> Messages:
    """Raises InvalidRequest, its field in Anthropic's words. `counts_only`: nothing is to be answered, so `max_tokens` is not needed."""
    asked = sort(body, MESSAGES, may_pass=may_pass)
    said = shaped(asked.said, _Messages)
    if not said.messages:
        raise InvalidRequest("messages is empty; expected at least one", field="messages")
    if said.max_tokens is None and not counts_only:
        raise InvalidRequest("max_tokens is missing; expected how long the answer may be", field="max_tokens")
    turns: list[Message] = []
    places: list[int] = []
    for place, message in enumerate(said.messages):
        for turn in _turns(message, f"messages[{place}]"):
            turns.append(turn)
            places.append(place)
    thinks, options = _thinking(said, asked, may_pass=may_pass)
    request = replace(
        asked.extra,
        caller=asked.caller((said.metadata.user_id or "") if said.metadata is not None else "", {}),
        system=said.system if isinstance(said.system, str) else "\n\n".join(block.text for block in said.system),
        messages=tuple(turns),
        model=model_of(said.model),
        temperature=said.temperature,
        top_p=said.top_p,
        max_output_tokens=said.max_tokens,
        stop=tuple(said.stop_sequences),
        response_format=_format(said),
        tools=tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(said.tools)),
        tool_choice=_choice(said.tool_choice),
        on_cut=on_cut_of(asked.extra),
        provider_options=options,
    )
    return Messages(request, said.stream, thinks, tuple(places), tuple(_notices(said)))


def _turns(message: _User | _Assistant, field: str) -> Iterable[Message]:
    """One turn of Anthropic's; tool results, which it has in the user's turns, come before what else the user says."""
    role: Literal["user", "assistant"] = "user" if isinstance(message, _User) else "assistant"
    if isinstance(message.content, str):
        yield Message(role, (Text(message.content),))
        return
    results: list[Part] = []
    parts: list[Part] = []
    for index, block in enumerate(message.content):
        match block:
            case _Text():
                parts.append(Text(block.text))
            case _Image():
                parts.append(_image(block, f"{field}.content[{index}].source"))
            case _ToolUse():
                parts.append(ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode(), signature_of(block.extra_content)))
            case _ToolResult():
                if parts:
                    raise InvalidRequest(
                        f"{field}.content[{index}] is a tool_result after other content; put tool results first", field=f"{field}.content"
                    )
                results.append(_result(block))
    if results:
        yield Message("tool", tuple(results))
    if parts or not results:
        yield Message(role, tuple(parts))


def _image(block: _Image, field: str) -> Image:
    if isinstance(block.source, _Url):
        return Image(url=block.source.url)
    return Image(data=base64(block.source.data, f"{field}.data"), mime_type=block.source.media_type)


def _result(block: _ToolResult) -> ToolResult:
    content = block.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return ToolResult(block.tool_use_id, content=text, is_error=bool(block.is_error))


def _thinking(said: _Messages, asked: Asked, *, may_pass: bool) -> tuple[bool, dict[str, Any]]:
    """Whether thinking is shown, and the options. What a model thought is not handed back to it, so thinking has to be let pass."""
    wanted = said.thinking
    if wanted is None or wanted.get("type") == "disabled":
        return "thinking" in asked.options, asked.options
    if not may_pass:
        raise InvalidRequest(
            "thinking cannot be served: providers differ in it; leave it out, or hand it to the provider in sidecar.provider_options",
            field="thinking",
        )
    return True, {"thinking": wanted, **asked.options}


def _tool(tool: _Tool, field: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(f"{field}.type is {tool.type[:60]!r}; expected custom: tools are the caller's own", field=f"{field}.type")
    return Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))


def _choice(choice: _Choice | None) -> ToolChoice | None:
    if choice is None:
        return None
    if choice.disable_parallel_tool_use:
        field = "tool_choice.disable_parallel_tool_use"
        raise InvalidRequest(f"{field} cannot be served: providers differ in it; leave it out", field=field)
    match choice.type:
        case "auto":
            return ToolChoice("auto")
        case "any":
            return ToolChoice("required")
        case "none":
            return ToolChoice("none")
        case "tool":
            return ToolChoice("tool", choice.name)
    raise InvalidRequest(f"tool_choice.type is {choice.type[:40]!r}; expected auto, any, tool or none", field="tool_choice.type")


def _format(said: _Messages) -> ResponseFormat | None:
    """Anthropic guarantees its schemas, so they are strict here too."""
    wanted = said.output_format
    if said.output_config is not None and said.output_config.format is not None:
        wanted = said.output_config.format
    return None if wanted is None else schema_format("", wanted.schema, True, "output_config.format.schema")


def _notices(said: _Messages) -> Iterable[str]:
    blocks: list[Any] = [*said.tools, *(said.system if isinstance(said.system, list) else ())]
    for message in said.messages:
        if isinstance(message.content, list):
            blocks += message.content
    marked = sum(getattr(block, "cache_control", None) is not None for block in blocks)
    if marked:
        yield f"cache_control on {marked} blocks was not handed on: it changes what a prompt costs, not the answer"
