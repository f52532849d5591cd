"""May they: is the request well-formed, and what does it need of a model?"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from sidecar import schemas
from sidecar.call import Call, Feature
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest
from sidecar.json_text import UNREADABLE
from sidecar.request import EmbedRequest, GenerateRequest, Image, Message, ResponseFormat, Text, Tool, ToolCall, ToolResult

_MOST_INPUTS = 2048
_MOST_TOOLS = 128
_MOST_STOPS = 4
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_JSON_OBJECT = ResponseFormat(kind="json_object")


def check(engine: Engine, call: Call) -> None:
    """Refuse what is wrong in itself, before anything is counted or spent.

    Writes messages (the prompt as a message, system text first, tool results with their tool's name), response_format and needs.
    Raises InvalidRequest with the field, what was found and what is allowed.
    """
    if call.request.provider_options:
        _check_options(call.request.provider_options)
    if isinstance(call.request, EmbedRequest):
        _check_embed(call, call.request, engine.settings.server.max_prompt_bytes)
        return
    request = call.request
    if request.prompt_name or request.idempotency_key:
        _check_texts(request)
    call.messages = _messages(request)
    _check_size(call.messages, engine.settings.server.max_prompt_bytes)
    _check_numbers(request)
    needs: set[Feature] = {"generate"}
    if request.temperature is not None or request.top_p is not None:
        needs.add("sampling")
    if request.system or len(call.messages) > 1 or any(type(part) is not Text for part in call.messages[0].parts):
        needs |= _message_needs(call.messages)
    if request.tools or request.tool_choice is not None:
        needs |= _tool_needs(request)
    if request.stop:
        needs.add("stop")
        if len(request.stop) > _MOST_STOPS or not all(request.stop):
            raise InvalidRequest(f"stop has {len(request.stop)} entries; at most {_MOST_STOPS}, none empty, are allowed", field="stop")
    if request.seed is not None:
        needs.add("seed")
    call.response_format = _response_format(call, request)
    if call.response_format is not None:
        needs |= _format_needs(call.response_format)
    call.needs = frozenset(needs)


# Keys of the providers' wires, without underscores and in small letters (Google takes both spellings), that say what a field of the
# request says, and on which money, policy or the reading of the answer rests.
_OWNED = {
    **dict.fromkeys(("model", "models"), "model; policy, price and budget go by it"),
    **dict.fromkeys(("messages", "contents", "prompt"), "prompt or messages"),
    **dict.fromkeys(("input", "content"), "inputs, prompt or messages"),
    **dict.fromkeys(("system", "systeminstruction"), "system"),
    **dict.fromkeys(("maxtokens", "maxcompletiontokens", "maxoutputtokens", "numpredict", "npredict"), "max_output_tokens"),
}
_CALLS = ("stream", "streamoptions")
_ANSWERS = ("n", "candidatecount")
_NESTS = ("generationconfig", "options", "extrabody")  # objects of the wires in which these keys stand too


def _check_options(options: Mapping[str, Any], path: str = "provider_options") -> None:
    """Options win over what the sidecar writes, but for what it has to know: whom it pays, how much, and how it must listen."""
    for key, value in options.items():
        name, field = key.replace("_", "").lower(), f"{path}.{key}"
        if name in _OWNED:
            raise InvalidRequest(f"{field} {_found(name, value)}; leave it out and set {_OWNED[name]}", field=field)
        if name in _CALLS:
            raise InvalidRequest(f"{field} {_found(name, value)}; leave it out and call Generate or Stream", field=field)
        if name in _ANSWERS and value != 1:
            raise InvalidRequest(f"{field} {_found(name, value)}; expected 1: an answer is one text, call again for another", field=field)
        if name in _NESTS and isinstance(value, Mapping):
            _check_options(value, field)


def _found(name: str, value: object) -> str:
    """The value where it is a number or the model's name: others may be a prompt, which no message holds."""
    return f"is {str(value)[:100]!r}" if name == "model" or isinstance(value, int | float) else "is set"


def _check_embed(call: Call, request: EmbedRequest, most_bytes: int) -> None:
    count = len(request.inputs)
    if not 1 <= count <= _MOST_INPUTS:
        raise InvalidRequest(f"inputs has {count} entries; expected 1 to {_MOST_INPUTS}", field="inputs")
    size = 0
    for index, text in enumerate(request.inputs):
        if not text or text.isspace():
            raise InvalidRequest(
                f"inputs[{index}] is empty or only white space; providers refuse empty texts: leave it out", field=f"inputs[{index}]"
            )
        size += len(text)
    if size > most_bytes:
        raise InvalidRequest(f"inputs hold {size} characters; at most {most_bytes} are allowed (server.max_prompt_bytes)", field="inputs")
    needs: set[Feature] = {"embed"}
    if request.dimensions is not None:
        if not 1 <= request.dimensions <= 65536:
            raise InvalidRequest(f"dimensions is {request.dimensions}; expected 1 to 65536, or not set", field="dimensions")
        needs.add("dimensions")
    call.needs = frozenset(needs)


def _messages(request: GenerateRequest) -> tuple[Message, ...]:
    if not request.messages:
        if not request.prompt:
            raise InvalidRequest("prompt and messages are both empty; set one of them", field="prompt")
        if request.prompt.isspace():
            raise InvalidRequest("prompt is only white space; say something", field="prompt")
        turn = Message("user", (Text(request.prompt),))
        return (Message("system", (Text(request.system),)), turn) if request.system else (turn,)
    if request.prompt:
        raise InvalidRequest("prompt and messages are both set; set one of them", field="prompt")
    turns = request.messages
    if request.system:
        if turns[0].role == "system":
            raise InvalidRequest("system is set and messages[0] is ROLE_SYSTEM too; set one of them", field="system")
        turns = (Message("system", (Text(request.system),)), *turns)
    return _checked_turns(turns, offset=1 if request.system else 0)


def _checked_turns(turns: tuple[Message, ...], offset: int) -> tuple[Message, ...]:
    """Each part where it belongs, and each tool result with the name of the tool that it answers."""
    tools: dict[str, str] = {}
    waiting: dict[str, str] = {}  # calls without a result so far, and where they are
    result: list[Message] = []
    talking = False
    for position, turn in enumerate(turns):
        field = f"messages[{position - offset}]"
        if turn.role == "system":
            if talking:
                raise InvalidRequest(f"{field}.role is ROLE_SYSTEM after a message of another role; put instructions first", field=field)
        else:
            talking = True
        if turn.role != "tool":
            _require_answered(waiting)
        if not turn.parts:
            raise InvalidRequest(f"{field}.parts is empty; expected at least one part", field=f"{field}.parts")
        parts = turn.parts
        for index, part in enumerate(parts):
            where = f"{field}.parts[{index}]"
            kind = type(part)
            if kind is not _BELONGS.get(turn.role) and not (kind is Text and turn.role != "tool"):
                raise InvalidRequest(f"{where} is {_WORDS[kind]}, which does not belong in a ROLE_{turn.role.upper()} message", field=where)
            if isinstance(part, Image):
                _check_image(part, where)
            elif isinstance(part, ToolCall):
                _check_tool_call(part, where)
                tools[part.id] = part.name
                waiting[part.id] = where
            elif isinstance(part, ToolResult):
                if part.tool_call_id not in tools:
                    raise InvalidRequest(
                        f"{where}.tool_result.tool_call_id is {part.tool_call_id[:100]!r}, but no earlier tool_call has that id",
                        field=where,
                    )
                waiting.pop(part.tool_call_id, None)
        if turn.role == "tool":
            parts = tuple(ToolResult(p.tool_call_id, tools[p.tool_call_id], p.content, p.is_error) for p in parts if type(p) is ToolResult)
            turn = Message("tool", parts)
        result.append(turn)
    if turns[-1].role not in ("user", "tool"):
        raise InvalidRequest(
            f"messages ends with ROLE_{turns[-1].role.upper()}; the last message must be ROLE_USER or ROLE_TOOL", field="messages"
        )
    _require_answered(waiting)
    if all(type(p) is Text and not p.text.strip() for turn in turns if turn.role == "user" for p in turn.parts) and not tools:
        raise InvalidRequest("messages hold no text, image or tool result to answer; say something", field="messages")
    return tuple(result)


def _require_answered(waiting: Mapping[str, str]) -> None:
    for name, where in waiting.items():
        raise InvalidRequest(
            f"{where}.tool_call has the id {name[:100]!r} and no tool_result; answer it in a ROLE_TOOL message right after, "
            "with is_error if it failed",
            field=where,
        )


_BELONGS: dict[str, type] = {"user": Image, "assistant": ToolCall, "tool": ToolResult}
_WORDS: dict[type, str] = {Text: "text", Image: "an image", ToolCall: "a tool_call", ToolResult: "a tool_result"}


def _check_image(image: Image, where: str) -> None:
    if image.data:
        if image.mime_type not in _IMAGES:
            raise InvalidRequest(
                f"{where}.image.mime_type is {image.mime_type!r}; expected one of {', '.join(sorted(_IMAGES))}",
                field=f"{where}.image.mime_type",
            )
    elif not image.url.startswith(("https://", "http://")):
        raise InvalidRequest(f"{where}.image has neither data nor an http(s) url", field=f"{where}.image")
    if image.detail not in ("", "low", "high", "auto"):
        raise InvalidRequest(f"{where}.image.detail is {image.detail!r}; expected low, high, auto or empty", field=f"{where}.image.detail")


def _check_tool_call(call: ToolCall, where: str) -> None:
    if not call.id or not call.name:
        raise InvalidRequest(f"{where}.tool_call needs an id and a name", field=f"{where}.tool_call")
    try:
        arguments = schemas.parse(call.arguments)
    except UNREADABLE as error:
        raise InvalidRequest(f"{where}.tool_call.arguments is no JSON: {error}", field=f"{where}.tool_call.arguments") from None
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"{where}.tool_call.arguments is no JSON object", field=f"{where}.tool_call.arguments")


def _check_size(messages: tuple[Message, ...], most_bytes: int) -> None:
    size = 0
    for message in messages:
        for part in message.parts:
            if type(part) is Text:
                size += len(part.text)
            elif type(part) is ToolCall:
                size += len(part.arguments) + len(part.signature)
            elif type(part) is ToolResult:
                size += len(part.content)
    if size > most_bytes:
        raise InvalidRequest(
            f"the prompt holds {size} characters of text; at most {most_bytes} are allowed (server.max_prompt_bytes)", field="prompt"
        )


def _check_numbers(request: GenerateRequest) -> None:
    temperature, top_p, most = request.temperature, request.top_p, request.max_output_tokens
    if temperature is not None and not 0 <= temperature <= 2:  # also refuses NaN
        raise InvalidRequest(f"temperature is {temperature}; expected 0 to 2", field="temperature")
    if top_p is not None and not 0 < top_p <= 1:
        raise InvalidRequest(f"top_p is {top_p}; expected above 0, at most 1", field="top_p")
    if most is not None and most < 1:
        raise InvalidRequest(f"max_output_tokens is {most}; expected at least 1", field="max_output_tokens")
    age = request.cache_max_age_ms
    if age is not None and (age < 0 or math.isnan(age)):
        raise InvalidRequest(f"cache.max_age is {age} ms; it cannot be negative", field="cache.max_age")


def _check_texts(request: GenerateRequest) -> None:
    for field, value in (
        ("idempotency_key", request.idempotency_key),
        ("prompt_ref.name", request.prompt_name),
        ("prompt_ref.version", request.prompt_version),
    ):
        if len(value) > 256:
            raise InvalidRequest(f"{field} has {len(value)} characters; at most 256 are allowed", field=field)


def _message_needs(messages: tuple[Message, ...]) -> set[Feature]:
    needs: set[Feature] = set()
    for message in messages:
        if message.role == "system":
            needs.add("system")
        for part in message.parts:
            if isinstance(part, Image):
                needs.add("image")
                if part.url:
                    needs.add("image_url")
            elif isinstance(part, ToolCall | ToolResult):
                needs.add("tools")
    return needs


def _tool_needs(request: GenerateRequest) -> set[Feature]:
    needs: set[Feature] = {"tools"}
    if len(request.tools) > _MOST_TOOLS:
        raise InvalidRequest(f"tools has {len(request.tools)} entries; at most {_MOST_TOOLS} are allowed", field="tools")
    names: set[str] = set()
    for index, tool in enumerate(request.tools):
        _check_tool(tool, f"tools[{index}]", names)
        names.add(tool.name)
        if tool.strict:
            needs.add("strict_tools")
    choice = request.tool_choice
    if choice is not None and choice.mode != "auto":
        if not names:
            raise InvalidRequest(f"tool_choice is {choice.mode}, but tools is empty", field="tool_choice")
        if choice.mode == "tool" and choice.name not in names:
            raise InvalidRequest(
                f"tool_choice.name is {choice.name!r}; expected one of {', '.join(sorted(names))}", field="tool_choice.name"
            )
        needs.add("tool_choice")
    return needs if names else set()


def _check_tool(tool: Tool, where: str, names: set[str]) -> None:
    if not _NAME.fullmatch(tool.name):
        raise InvalidRequest(f"{where}.name is {tool.name[:70]!r}; expected 1 to 64 letters, digits, _ or -", field=f"{where}.name")
    if tool.name in names:
        raise InvalidRequest(f"{where}.name is {tool.name!r} for the second time; names must differ", field=f"{where}.name")
    if tool.parameters:
        schemas.require_valid(tool.parameters, f"{where}.parameters")
        if tool.parameters.get("type", "object") != "object":
            raise InvalidRequest(f"{where}.parameters has type {tool.parameters['type']!r}; expected object", field=f"{where}.parameters")


def _response_format(call: Call, request: GenerateRequest) -> ResponseFormat | None:
    wanted = request.response_format
    node = call.node
    if node is not None and node.structured:
        if node.structured == "strict_schema" and (wanted is None or wanted.kind != "json_schema" or not wanted.strict):
            raise InvalidRequest(
                f"node {call.service}.{call.node_name} answers only by a strict schema; set response_format.json_schema with strict true",
                field="response_format",
            )
        if node.structured == "json_object" and wanted is None:
            return _JSON_OBJECT
    if wanted is None or wanted.kind == "text":
        return None
    if wanted.kind == "json_schema":
        if wanted.name and not _NAME.fullmatch(wanted.name):
            raise InvalidRequest(
                f"response_format.json_schema.name is {wanted.name[:70]!r}; expected 1 to 64 letters, digits, _ or -",
                field="response_format.json_schema.name",
            )
        schemas.require_valid(wanted.schema, "response_format.json_schema.schema")
        if not wanted.name:
            return ResponseFormat("json_schema", "answer", wanted.schema, wanted.strict)
    return wanted


def _format_needs(wanted: ResponseFormat) -> set[Feature]:
    if wanted.kind == "json_object":
        return {"json_object"}
    return {"json_schema", "strict_schema"} if wanted.strict else {"json_schema"}
