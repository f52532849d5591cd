"""A played model that does what it is asked: it calls the tools it is given, fits the schema it is given, and otherwise says a sentence.

Standard tests of client libraries are written for a real model: they check that something sensible came, not what.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from tests.fakes.script import Fail, Say, Tool
from tests.fakes.upstream import Exchange, Upstream

_SENTENCE = ("Hello", " there,", " how", " are", " you", " today?")
_NAMED = re.compile(r"""["'`](\w+)["'`]""")


class Obedient(Upstream):
    """It speaks the fake provider's wires; each answer is made of its request."""

    async def _answered(
        self, request: web.Request, exchange: Exchange, refusal: Fail | None, kind: Callable[..., Any]
    ) -> web.StreamResponse:
        if "messages" in exchange.body:
            self.on(exchange.model, answer(exchange.body))
        return await super()._answered(request, exchange, refusal, kind)


def answer(body: Mapping[str, Any]) -> Say:
    """What it says to a request for a chat completion. Where a text is wanted, it says what it was told last."""
    told = _told(body["messages"])
    wanted = body.get("response_format", {})
    if wanted.get("type") == "json_schema":
        return _json(instance(wanted["json_schema"]["schema"], told))
    if wanted.get("type") == "json_object":
        return _json(dict.fromkeys(_NAMED.findall(told), "text"))
    tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools", ())}
    choice = body.get("tool_choice", "auto")
    if tools and choice != "none" and body["messages"][-1]["role"] != "tool":
        name = choice["function"]["name"] if isinstance(choice, dict) else next(iter(tools))
        arguments = msgspec.json.encode(instance(tools[name].get("parameters", {}), told)).decode()
        return Say(pieces=(), tools=(Tool(name, arguments),), finish="tool_calls")
    return Say(pieces=_SENTENCE)


def _told(messages: Sequence[Mapping[str, Any]]) -> str:
    said = [turn["content"] for turn in messages if turn["role"] == "user"]
    return said[-1] if said and isinstance(said[-1], str) else "text"


def instance(schema: Mapping[str, Any], text: str, root: Mapping[str, Any] | None = None) -> Any:
    """Something that fits a schema of the plain kind: the least of it, numbers are 3."""
    root = schema if root is None else root
    if "$ref" in schema:
        found: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return instance(found, text, root)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], text, root)
    properties = schema.get("properties", {})
    match schema.get("type"):
        case "object" | None:
            return {name: instance(properties[name], text, root) for name in schema.get("required", ()) if name in properties}
        case "array":
            return [instance(schema["items"], text, root)] if "items" in schema else []
        case "integer" | "number":
            return 3
        case "boolean":
            return True
        case "null":
            return None
    return text


def _json(value: Any) -> Say:
    text = msgspec.json.encode(value).decode()
    return Say(pieces=tuple(text[i : i + 7] for i in range(0, len(text), 7)))
