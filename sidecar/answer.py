"""The fold: chunks in, one answer out. Unary answers and streams, whole ones and broken ones, are all read here."""

from __future__ import annotations

from msgspec import Struct
from msgspec.json import decode

from sidecar.call import Chunk, Finish, Head, ToolDelta, Usage
from sidecar.errors import ProviderEmpty, ProviderGarbled, StreamCut
from sidecar.json_text import UNREADABLE
from sidecar.request import ToolCall


class _OpenToolCall(Struct):
    id: str
    name: str
    arguments: list[str]
    signature: str = ""


def merge(old: Usage | None, new: Usage) -> Usage:
    """A later event's figures replace an earlier one's, field by field; what it does not say stays."""
    if old is None:
        return new
    return Usage(
        new.input_tokens if new.input_tokens is not None else old.input_tokens,
        new.cached_input_tokens if new.cached_input_tokens is not None else old.cached_input_tokens,
        new.cache_write_tokens if new.cache_write_tokens is not None else old.cache_write_tokens,
        new.cache_write_1h_tokens if new.cache_write_1h_tokens is not None else old.cache_write_1h_tokens,
        new.output_tokens if new.output_tokens is not None else old.output_tokens,
        new.reasoning_tokens if new.reasoning_tokens is not None else old.reasoning_tokens,
    )


class Answer:
    """What one attempt has said so far."""

    __slots__ = ("_calls", "_reasoning", "_text", "finish", "head", "last", "model", "raw_finish", "usage")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _OpenToolCall] = {}
        self.finish: Finish | None = None
        self.raw_finish = ""
        self.usage: Usage | None = None
        self.model = ""
        self.head: Head | None = None
        self.last = False

    def add(self, chunk: Chunk) -> bool:
        """Take one chunk in. Returns whether it holds a piece of the answer that a stream's reader should get."""
        piece = False
        if chunk.text:
            self._text.append(chunk.text)
            piece = True
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
            piece = True
        for delta in chunk.tool_calls:
            call = self._calls.get(delta.index)
            if call is None:
                call = self._calls[delta.index] = _OpenToolCall("", "", [])
            call.id = delta.id or call.id
            call.name = delta.name or call.name
            call.signature = delta.signature or call.signature
            if delta.arguments:
                call.arguments.append(delta.arguments)
            piece = True
        if chunk.finish:
            self.finish = chunk.finish
            self.raw_finish = chunk.raw_finish
        if chunk.usage is not None:
            self.usage = merge(self.usage, chunk.usage)
        if chunk.model:
            self.model = chunk.model
        if chunk.head is not None:
            self.head = chunk.head
        if chunk.last:
            self.last = True
        return piece

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls in their order. A call without arguments gets `{}`, which is what every provider means by none."""
        if not self._calls:
            return ()
        return tuple(ToolCall(c.id, c.name, "".join(c.arguments) or "{}", c.signature) for _, c in sorted(self._calls.items()))

    def tool_deltas(self) -> tuple[ToolDelta, ...]:
        """All calls as one whole piece each."""
        return tuple(
            ToolDelta(index, c.id, c.name, c.arguments, c.signature) for index, c in zip(sorted(self._calls), self.tool_calls, strict=True)
        )

    def tool_index(self, index: int) -> int:
        """The place of a provider's tool-call index among this answer's calls, counted from 0."""
        return sorted(self._calls).index(index)

    def begun(self) -> bool:
        """Has anything of the answer come, so that the provider has billed for it?"""
        return bool(self._text or self._reasoning or self._calls or self.usage)

    def prove(self, provider: str, *, may_be_empty: bool) -> None:
        """Demand proof that the answer is whole: the provider's finish reason and its protocol's own end.

        No SDK notices a stream that ends cleanly but too early. Raises StreamCut; ProviderGarbled for a tool call without a name or whose
        arguments are no JSON although the provider says that it is done; ProviderEmpty for an end without a word, unless it
        `may_be_empty`: the caller's own stop text may be the first that a model has to say.
        """
        if self.finish is None or not self.last:
            missing = "a finish reason" if self.finish is None else "the end of the stream"
            raise StreamCut(f"{provider}: the answer stopped without {missing}, so it was cut")
        if self.finish == "stop" and not (self._text or self._calls or may_be_empty):
            raise ProviderEmpty(f"{provider}: the answer is whole and says nothing")
        if self.finish == "tool_calls" and not self._calls:
            raise ProviderGarbled(f"{provider}: the answer ended to call tools and names none")
        if self.finish != "length":
            for call in self.tool_calls:
                try:
                    decode(call.arguments)
                except UNREADABLE:
                    raise ProviderGarbled(f"{provider}: the arguments of tool call {call.name or '(no name)'!r} are no JSON") from None
                if not call.name:
                    raise ProviderGarbled(f"{provider}: a tool call has no name")
