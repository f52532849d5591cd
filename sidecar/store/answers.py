"""Whole answers, remembered for callers who ask for that: the exact cache."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict

from msgspec import Struct
from msgspec.msgpack import Encoder

from sidecar.answer import Answer
from sidecar.call import Call, Candidate, Chunk, GenerateRequest

# What an entry and one of its tool calls take beside their texts: key, candidate, usage, headers, places in lists. Measured with
# tracemalloc: 750 and 620 bytes, rounded up.
_ENTRY_BYTES = 1_000
_TOOL_CALL_BYTES = 700

_encode = Encoder(order="deterministic").encode


class _Kept(Struct, frozen=True):
    candidate: Candidate
    answer: Answer
    kept_ns: int
    size: int


class Answers:
    """In memory, bounded in bytes, the least recently used answer goes first."""

    def __init__(self, most_bytes: int = 8 * 1024 * 1024) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def find(self, call: Call, now_ns: int) -> tuple[Candidate, Answer, int] | None:
        """The answer to the same question of the same tenant, its model still a candidate, with its age in ns; or None."""
        request = call.request
        assert isinstance(request, GenerateRequest)  # noqa: S101  (embeddings are not kept)
        key = _key(call, request)
        kept = self._kept.get(key)
        if kept is None:
            return None
        age_ns = now_ns - kept.kept_ns
        if request.cache_max_age_ms is not None and age_ns > request.cache_max_age_ms * 1_000_000:
            return None
        if all(kept.candidate.model.id != c.model.id for c in call.candidates):
            return None
        self._kept.move_to_end(key)
        return kept.candidate, kept.answer, age_ns

    def keep(self, call: Call, now_ns: int) -> None:
        """Remember a whole answer, if its caller lets the cache be written. Only `stop` is whole: no cut, refusal or filtered answer."""
        request = call.request
        if not isinstance(request, GenerateRequest) or request.cache_mode not in ("default", "refresh"):
            return
        if call.recalled_age_ns is not None or call.served is None or call.answer is None or call.answer.finish != "stop":
            return
        key = _key(call, request)
        answer = _joined(call.answer)
        size = _bytes(answer)
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= before.size
        self._kept[key] = _Kept(call.served, answer, now_ns, size)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size


def _joined(answer: Answer) -> Answer:
    """The same answer with each text in one piece: the pieces of a stream take many times the bytes of their letters."""
    whole = Answer()
    whole.add(
        Chunk(
            text=answer.text,
            reasoning=answer.reasoning,
            tool_calls=answer.tool_deltas(),
            finish=answer.finish,
            raw_finish=answer.raw_finish,
            usage=answer.usage,
            model=answer.model,
            head=answer.head,
            last=answer.last,
        )
    )
    return whole


def _bytes(answer: Answer) -> int:
    """About what remembering it takes. Texts are measured, not their letters counted: a letter is one to four bytes."""
    texts = [answer.text, answer.reasoning]
    for called in answer.tool_calls:
        texts += (called.id, called.name, called.arguments, called.signature)
    return _ENTRY_BYTES + _TOOL_CALL_BYTES * len(answer.tool_calls) + sum(map(sys.getsizeof, texts))


def _key(call: Call, request: GenerateRequest) -> bytes:
    """Everything that the answer may depend on, the tenant first: an answer never crosses tenants."""
    return hashlib.sha256(
        _encode(
            (
                call.tenant,
                call.service,
                call.node_name,
                request.model,
                call.messages,
                request.temperature,
                request.top_p,
                request.max_output_tokens,
                request.stop,
                request.seed,
                call.response_format,
                request.tools,
                request.tool_choice,
                request.prompt_name,
                request.prompt_version,
                request.provider_options,
            )
        )
    ).digest()
