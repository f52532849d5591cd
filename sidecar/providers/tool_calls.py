"""Tool calls of wires that send each call whole, perhaps without an id, perhaps in several events (Google, Ollama).

One event cannot know how many calls came before it, nor that `stop` at the end follows calls in an earlier event. `WholeCalls` sees
one whole answer, numbers its calls through and turns such a `stop` into `tool_calls`.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec.structs import replace

from sidecar.call import Chunk, ToolDelta


def made_id(*what: str) -> str:
    """An id for a call that came without one: the same for the same answer, different in every other."""
    return "call_" + blake2b("\0".join(what).encode(), digest_size=12).hexdigest()


class WholeCalls:
    """One answer's calls, in the order they came."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def __call__(self, chunk: Chunk) -> Chunk:
        if chunk.tool_calls:
            chunk = replace(chunk, tool_calls=tuple(map(self._numbered, chunk.tool_calls)))
        if self._ids and chunk.finish == "stop":
            chunk = replace(chunk, finish="tool_calls")
        return chunk

    def _numbered(self, call: ToolDelta) -> ToolDelta:
        index = len(self._ids)
        # The same call made twice in one answer, in different events: a made id cannot differ there, a client needs it to.
        name = call.id if call.id not in self._ids else made_id(call.id, str(index))
        self._ids.add(name)
        return replace(call, index=index, id=name)
