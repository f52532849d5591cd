"""Asks the HTTP door, reads server-sent events as a client would, and says what came."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp


class Event(NamedTuple):
    """One event; a comment has the kind `:`."""

    kind: str
    data: Any
    id: str = ""


def ask(model: str, tenant: str = "", **fields: Any) -> dict[str, Any]:
    return {"prompt": "Tell me a story.", "model": model, "caller": {"tenant": tenant}, **fields}


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a response, one by one, as they come."""
    kind, data, found = "", "", ""
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        name, _, value = line.partition(": ")
        if line.startswith(":"):
            yield Event(":", line[1:])
        elif line:
            kind, data, found = (value if name == key else old for key, old in (("event", kind), ("data", data), ("id", found)))
            if name == "retry":
                kind, data = "retry", value
        elif kind:
            yield Event(kind, json.loads(data), found)
            kind, data, found = "", "", ""
