"""The neutral conversation in the shape that wires other than OpenAI's want: system text apart, turns that alternate.

Anthropic and Google know two roles, and a tool's result is something the user says. `with_options` is what `provider_options` means
for a body, and `object_of` reads the JSON text of a tool call for wires that carry it as an object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from sidecar.request import Message, Part, Text, ToolCall

Speaker = Literal["user", "assistant"]


def system_texts(messages: Sequence[Message]) -> list[str]:
    """The system text, one string per part; empty strings are left out, since Anthropic refuses them."""
    return [p.text for m in messages if m.role == "system" for p in m.parts if isinstance(p, Text) and p.text]


def speaking_turns(messages: Sequence[Message]) -> list[tuple[Speaker, list[Part]]]:
    """All but the system messages, neighbours of one speaker joined, empty texts and then empty turns left out."""
    turns: list[tuple[Speaker, list[Part]]] = []
    for message in messages:
        if message.role == "system":
            continue
        parts = [p for p in message.parts if not (isinstance(p, Text) and not p.text)]
        if not parts:
            continue
        speaker: Speaker = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1][0] == speaker:
            turns[-1][1].extend(parts)
        else:
            turns.append((speaker, parts))
    return turns


def object_of(call: ToolCall) -> dict[str, Any]:
    """A tool call's arguments as an object, which the check stage has made sure that they are."""
    return msgspec.json.decode(call.arguments.strip() or "{}", type=dict[str, Any])


def with_options(body: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Lays `options` over `body`: they win; an object is laid over an object key by key, so that a neighbour's key is not lost."""
    for key, value in options.items():
        ours = body.get(key)
        body[key] = with_options(dict(ours), value) if isinstance(ours, Mapping) and isinstance(value, Mapping) else value
    return body
