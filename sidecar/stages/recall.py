"""Answered before? Then answer from memory."""

from __future__ import annotations

from sidecar.call import Call, Chunk, GenerateRequest, Start
from sidecar.engine import Engine
from sidecar.errors import NotCached


async def recall(engine: Engine, call: Call) -> bool:
    """Look for an answer to exactly this question, if the caller lets the cache be used.

    Only calls that ask for it (`cache.mode`) are looked up; nothing is remembered unasked. Writes answer, served and
    recalled_age_ns, sends the answer on to a stream's reader, and returns True, where there is one. Raises NotCached in mode `only` where
    there is none.
    """
    request = call.request
    if not isinstance(request, GenerateRequest) or request.cache_mode not in ("default", "only"):
        return False
    found = engine.answers.find(call, engine.clock_ns())
    if found is None:
        if request.cache_mode == "only":
            raise NotCached("cache.mode is only, and this call has not been answered before; use default to ask a provider")
        return False
    call.served, call.answer, call.recalled_age_ns = served, answer, _ = found
    if call.send is not None:
        await call.send(Start(served))
        whole = Chunk(text=answer.text, reasoning=answer.reasoning, tool_calls=answer.tool_deltas(), finish=answer.finish)
        await call.send((whole,))
    return True
