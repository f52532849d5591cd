"""What OpenAI counts for a chat request. Text messages are exact; tools, tool calls and schemas come close and are never less.

Sources. Messages: OpenAI's cookbook, "How to count tokens with tiktoken": three tokens a message, its role, its text, three for the
primed reply. Functions: OpenAI turns them into a TypeScript namespace before the model sees them (said by an OpenAI engineer at
community.openai.com/t/266573; the layout and its nine tokens by experiment, github.com/hmarr/openai-chat-tokens). Schemas of answers:
text of the schema under its own heading, as models recite it. Held against recorded `prompt_tokens` by the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.json import encode

from sidecar.counting import images
from sidecar.counting.encodings import Count
from sidecar.request import Image, Message, ResponseFormat, Text, Tool, ToolCall, ToolResult

_MESSAGE = 4  # three around each message, and its role, which is one token in both encodings
_REPLY = 3
_REASONING_REPLY = 2  # models that think before they answer are primed one token earlier: the channel is theirs to choose
_FUNCTIONS = 9  # what surrounds the namespace: a system message of its own
_FUNCTIONS_IN_SYSTEM = 5  # or a part of the one that is there, which then ends with a line break
_CALL = 3  # "to=functions." before the name
_RESULT = 2  # "functions." before the name, which stands in the role's place; two samples say 1, the newest say 2
_SEVERAL_CALLS = 19  # several calls at once are wrapped in one of multi_tool_use.parallel
_EACH_OF_SEVERAL = 6

_COMMENTED = ("default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "format")


def prompt(count: Count, model: str, messages: Sequence[Message], tools: Sequence[Tool], wanted: ResponseFormat | None) -> tuple[int, bool]:
    """Tokens of the whole request, and whether any of them is an estimate."""
    tokens = _REASONING_REPLY if model.startswith(("gpt-5", "o1", "o3", "o4")) else _REPLY
    estimated = False
    ending = "\n" if tools else ""
    for message in messages:
        tokens += _MESSAGE
        calls = 0
        for part in message.parts:
            if type(part) is Text:
                if ending and message.role == "system":
                    tokens += count(part.text + ending)
                    ending = ""
                else:
                    tokens += count(part.text)
            else:
                estimated = True
                calls += type(part) is ToolCall
                tokens += _other(count, model, part)
        if calls > 1:
            tokens += _SEVERAL_CALLS + calls * (_EACH_OF_SEVERAL - _CALL)
    if tools:
        estimated = True
        tokens += count(namespace(tools)) + (_FUNCTIONS if ending else _FUNCTIONS_IN_SYSTEM)
    if wanted is not None and wanted.schema is not None:
        estimated = True
        tokens += count(f"# Response Formats\n\n## {wanted.name}\n\n{encode(wanted.schema).decode()}")
    return tokens, estimated


def _other(count: Count, model: str, part: Image | ToolCall | ToolResult | Text) -> int:
    if isinstance(part, ToolCall):
        return _CALL + count(part.name) + count(part.arguments)
    if isinstance(part, ToolResult):
        return _RESULT + count(part.name) + count(part.content)
    return images.openai(part, model) if isinstance(part, Image) else 0


def namespace(tools: Sequence[Tool]) -> str:
    """The functions as the model is shown them: TypeScript types, descriptions as comments."""
    lines = ["namespace functions {", ""]
    for tool in tools:
        if tool.description:
            lines.append(f"// {tool.description}")
        if tool.parameters.get("properties"):
            lines += [f"type {tool.name} = (_: {{", *_properties(tool.parameters, ""), "}) => any;", ""]
        else:
            lines += [f"type {tool.name} = () => any;", ""]
    lines.append("} // namespace functions")
    return "\n".join(lines)


def _properties(schema: Mapping[str, Any], indent: str) -> Iterator[str]:
    required = schema.get("required") or ()
    for name, inner in schema["properties"].items():
        if isinstance(inner, Mapping):
            if inner.get("description"):
                yield f"{indent}// {inner['description']}"
            yield from (f"{indent}// {key}: {inner[key]}" for key in _COMMENTED if key in inner)
        yield f"{indent}{name}{'' if name in required else '?'}: {_type(inner, indent)},"


def _type(schema: Any, indent: str) -> str:
    if not isinstance(schema, Mapping):  # true and false are schemas too
        return "any"
    kind = schema.get("type")
    if "enum" in schema:
        return " | ".join(encode(value).decode() for value in schema["enum"])
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " | ".join(_type(one, indent) for one in schema[union])
    if schema.get("properties"):
        return "\n".join(["{", *_properties(schema, indent + "  "), indent + "}"])
    if kind == "array":
        return f"{_type(schema.get('items'), indent)}[]"
    if isinstance(kind, list):
        return " | ".join(map(str, kind))
    if kind == "integer":
        return "number"
    # What has no type of its own ($ref, const, a bare object) is shown as it is.
    return str(kind) if kind and kind != "object" else encode(schema).decode() if schema else "any"
