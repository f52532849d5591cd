"""Reads the golden cases: one JSON file is one feature of one provider, stated by hand.

    ask, body       a neutral ask, and the exact body to send for it
    embed, body     the same for embeddings
    reply, chunk    the body of a whole answer, and the chunk it is
    events, chunks  the events of a stream, and the chunks they are, after the whole answer has been seen to
    vectors, found  the body of an embedding answer, and what it is
    failures        [status, headers, body, class, what else the error says]

Chunks are written without the fields that have their default.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec

from sidecar.call import EmbedAsk, GenerateAsk
from sidecar.request import Image, Message, Part, ResponseFormat, Text, Tool, ToolCall, ToolChoice, ToolResult

# What no provider's reader may take for an answer, nor fail on in any other way than by ProviderGarbled.
HOSTILE = [b'{"x":' + b"[" * 200_000, b'"\xff"', b"\xff\xfe", b"null", b"1"]

HERE = Path(__file__).parent


def cases(provider: str, kind: str) -> list[Any]:
    """The cases of one provider that have `kind` in them, as (name, case)."""
    import pytest

    files = sorted((HERE / provider).glob("*.json"))
    found = [(f.stem, json.loads(f.read_text("utf-8"))) for f in files]
    return [pytest.param(case, id=name) for name, case in found if kind in case]


def embed_ask_of(plain: dict[str, Any]) -> EmbedAsk:
    """A neutral ask for embeddings as a case writes it."""
    return msgspec.convert(plain, EmbedAsk)


def ask_of(plain: dict[str, Any]) -> GenerateAsk:
    """A neutral ask for text as a case writes it."""
    kinds: dict[str, Any] = {
        "tools": tuple[Tool, ...],
        "tool_choice": ToolChoice,
        "response_format": ResponseFormat,
        "stop": tuple[str, ...],
    }
    given: dict[str, Any] = {name: msgspec.convert(value, kinds[name]) if name in kinds else value for name, value in plain.items()}
    given["messages"] = tuple(Message(role=m["role"], parts=tuple(part_of(p) for p in m["parts"])) for m in plain["messages"])
    whole: dict[str, Any] = {"stream": False, "max_output_tokens": 100, "model": "a-model", **given}
    return GenerateAsk(**whole)


def part_of(plain: dict[str, Any]) -> Part:
    [(kind, value)] = plain.items()
    if kind == "text":
        return Text(value)
    if kind == "image":
        return Image(data=base64.b64decode(value["data"]), mime_type=value["mime_type"])
    if kind == "image_url":
        return Image(url=value)
    return msgspec.convert(value, ToolCall) if kind == "tool_call" else msgspec.convert(value, ToolResult)


def plain_of(struct: msgspec.Struct) -> dict[str, Any]:
    """A chunk as a case writes it."""
    told: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if value == (field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()):
            continue
        if isinstance(value, msgspec.Struct):
            value = plain_of(value)
        elif isinstance(value, tuple):
            value = [plain_of(v) if isinstance(v, msgspec.Struct) else v for v in value]
        told[field.name] = value
    return told


def wire(value: Any) -> bytes:
    """A body or an event as a case writes it: JSON, or text that is none."""
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)
