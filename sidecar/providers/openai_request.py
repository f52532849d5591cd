"""Writes OpenAI's chat and embeddings format, which half the world speaks, from the neutral words.

`openai` and `compatible` share it. They differ in the name of the token limit and in a few switches, given to each function.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sidecar.call import EmbedAsk, Feature, GenerateAsk
from sidecar.errors import ProviderRejected
from sidecar.providers.turns import with_options
from sidecar.request import Image, Message, Part, Text, Tool, ToolCall, ToolResult

FEATURES: frozenset[Feature] = frozenset(
    (
        "generate", "embed", "system", "image", "image_url", "tools", "tool_choice", "strict_tools", "json_object", "json_schema",
        "strict_schema", "stop", "seed", "sampling", "dimensions",
    )
)  # fmt: skip

encode = msgspec.json.Encoder().encode


def request(ask: GenerateAsk, *, limit_name: str, stream_options: Mapping[str, bool]) -> dict[str, Any]:
    """The body of POST /chat/completions."""
    body: dict[str, Any] = {"model": ask.model, "messages": _messages(ask.messages), limit_name: ask.max_output_tokens}
    if ask.stream:
        body["stream"] = True
        body["stream_options"] = stream_options
    if ask.temperature is not None:
        body["temperature"] = ask.temperature
    if ask.top_p is not None:
        body["top_p"] = ask.top_p
    if ask.stop:
        body["stop"] = ask.stop
    if ask.seed is not None:
        body["seed"] = ask.seed
    if ask.response_format is not None and ask.response_format.kind != "text":
        wanted = ask.response_format
        body["response_format"] = {"type": wanted.kind}
        if wanted.kind == "json_schema":
            schema = {"name": wanted.name or "answer", "schema": wanted.schema or {}, "strict": wanted.strict}
            body["response_format"]["json_schema"] = schema
    if ask.tools:
        body["tools"] = [_tool(tool) for tool in ask.tools]
    if ask.tool_choice is not None:
        choice = ask.tool_choice
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}} if choice.mode == "tool" else choice.mode
    return with_options(body, ask.options)


def embedding(ask: EmbedAsk, *, encoding_format: str | None) -> dict[str, Any]:
    """The body of POST /embeddings. `encoding_format` None: the server's habit, which is text."""
    body: dict[str, Any] = {"model": ask.model, "input": ask.inputs}
    if ask.dimensions is not None:
        body["dimensions"] = ask.dimensions
    if encoding_format is not None:
        body["encoding_format"] = encoding_format
    return with_options(body, ask.options)


def _messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    for message in messages:
        parts = message.parts
        if len(parts) == 1 and isinstance(parts[0], Text):
            written.append({"role": message.role, "content": parts[0].text})
        elif message.role == "assistant":
            written.append(_assistant(parts))
        else:
            written += (_result(part) for part in parts if isinstance(part, ToolResult))
            content = [_content(part) for part in parts if not isinstance(part, ToolResult)]
            if content:
                written.append({"role": message.role, "content": content})
    return written


def _assistant(parts: Iterable[Part]) -> dict[str, Any]:
    content = [_content(part) for part in parts if isinstance(part, Text | Image)]
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in parts
        if isinstance(part, ToolCall)
    ]
    written: dict[str, Any] = {"role": "assistant", "content": content or None}
    if len(content) == 1 and content[0]["type"] == "text":
        written["content"] = content[0]["text"]  # the form every chat template understands
    if calls:
        written["tool_calls"] = calls
    return written


def _result(part: ToolResult) -> dict[str, Any]:
    # The wire has no place for `is_error`; the model must read it.
    return {"role": "tool", "tool_call_id": part.tool_call_id, "content": f"Error: {part.content}" if part.is_error else part.content}


def _content(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        image = {"url": part.url or f"data:{part.mime_type};base64,{b64encode(part.data).decode()}"}
        if part.detail:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    raise ProviderRejected(f"a tool call ({part.name!r}) can only be in a message of the role assistant")


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description:
        function["description"] = tool.description
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}
