"""Reads OpenAI's chat and embeddings format into the neutral words: whole answers, events of a stream, vectors.

`whose` is provider and model, for messages; `key` is struck out of them. Facts, checked against recorded exchanges: usage comes in a
last chunk with no choices; `prompt_tokens` includes cached and cache-written tokens, `completion_tokens` includes reasoning; a forced
tool ends with `stop`, and so does a refusal. A finish reason unknown to us leaves `finish` empty and `raw_finish` filled: nobody can say
that such an answer is whole, so it ends in ProviderGarbled, but only once its usage was read too.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from sidecar.call import Chunk, Finish, Head, ToolDelta, Usage, Vectors
from sidecar.errors import ProviderGarbled
from sidecar.json_text import UNREADABLE
from sidecar.providers.openai_failure import failure
from sidecar.providers.reading import check_vectors
from sidecar.providers.statuses import garbled

_FINISH: Mapping[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # Words of servers that speak the format with an accent (text-generation-inference, Mistral).
    "eos_token": "stop",
    "stop_sequence": "stop",
    "model_length": "length",
}


def reply(body: bytes, head: Head | None = None, whose: str = "openai", *, key: str | None = None) -> Chunk:
    """A whole answer. Raises ProviderGarbled for what is none, the class of the error it carries otherwise."""
    answer = _decoded(body, whose, key, _ANSWER)
    choice = _only(answer, whose)
    if choice is None or choice.message is None:
        raise ProviderGarbled(f"{whose}: answered 200 with JSON that holds no message; is its base URL right?")
    said = Reader(whose).chunk(choice, choice.message, answer.usage, answer.model)
    return Chunk(
        text=said.text,
        reasoning=said.reasoning,
        tool_calls=said.tool_calls,
        finish=said.finish,
        raw_finish=said.raw_finish,
        usage=said.usage,
        model=said.model,
        head=head,
        last=True,
    )


class Reader:
    """Reads the events of one stream. It remembers what the finish reason does not tell: refusals, tool calls, their numbers."""

    __slots__ = ("_calls", "_key", "_refused", "_whose")

    def __init__(self, whose: str = "openai", key: str | None = None) -> None:
        self._whose = whose
        self._key = key
        self._refused = False
        self._calls: dict[int, tuple[str, str]] = {}  # id and name of each call, by its index

    def __call__(self, event: bytes) -> Chunk | None:
        """One event's data. Raises ProviderGarbled for broken JSON, the class of the error for an event that carries one."""
        if event == b"[DONE]":
            return _DONE
        answer = _decoded(event, self._whose, self._key, _ANSWER)
        choice = _only(answer, self._whose)
        if choice is None:
            # The usage at the end; or nothing at all: Azure begins with an event that holds only its content filter's opinion.
            return Chunk(usage=_usage(answer.usage), model=answer.model or "") if answer.usage is not None else None
        delta = choice.delta or choice.message or _NOTHING
        chunk = self.chunk(choice, delta, answer.usage, answer.model)
        return chunk if chunk.text or chunk.raw_finish or chunk.tool_calls or chunk.reasoning or chunk.usage is not None else None

    def chunk(self, choice: _Choice, said: _Message, usage: _Usage | None, model: str | None) -> Chunk:
        """What one choice says, a whole one or a piece."""
        text = said.content or ""
        if said.refusal:
            text += said.refusal
            self._refused = True
        calls: tuple[ToolDelta, ...] = ()
        if said.tool_calls:
            calls = tuple(self._call(call) for call in said.tool_calls)
        elif said.function_call is not None:
            calls = (self._call(_ToolCall(index=0, function=said.function_call)),)
        raw = choice.finish_reason or ""
        finish = _FINISH.get(raw) if raw else None
        if finish == "stop":
            finish = "refusal" if self._refused else "tool_calls" if self._calls else "stop"
        return Chunk(
            text=text,
            reasoning=said.reasoning_content or said.reasoning or "",
            tool_calls=calls,
            finish=finish,
            raw_finish=raw,
            usage=None if usage is None else _usage(usage),
            model=model or "",
        )

    def _call(self, call: _ToolCall) -> ToolDelta:
        if call.function is None and call.type not in (None, "function"):
            raise ProviderGarbled(f"{self._whose}: called a tool of type {call.type[:40]!r}, expected function")
        function = call.function or _NO_FUNCTION
        call_id, name = call.id or "", function.name or ""
        index = call.index
        if index is None:  # a whole answer's calls have none, nor have the pieces of some servers: an id or a name begins a call
            index = len(self._calls) if call_id or name or not self._calls else len(self._calls) - 1
        known = self._calls.get(index)
        if known is None:
            self._calls[index] = (call_id, name)
        else:
            known_id, known_name = known
            if call_id and known_id and call_id != known_id:
                raise ProviderGarbled(f"{self._whose}: two tool calls, {known_id[:60]!r} and {call_id[:60]!r}, share the index {index}")
            self._calls[index] = (known_id or call_id, known_name or name)
            # Some servers repeat both in every piece.
            call_id = "" if known_id else call_id
            name = "" if known_name else name
        return ToolDelta(index=index, id=call_id, name=name, arguments=function.arguments or "")


def vectors(
    body: bytes,
    head: Head | None = None,
    whose: str = "openai",
    *,
    key: str | None = None,
    count: int | None = None,
    dimensions: int | None = None,
) -> Vectors:
    """An embedding reply, whose vectors come as base64 of little-endian float32 or as text, put in the order of the inputs.

    Raises ProviderGarbled unless there are `count` vectors of one length (`dimensions`, if given), all finite, their indexes 0 to count-1.
    """
    answer = _decoded(body, whose, key, _EMBEDDINGS)
    if not answer.data:
        raise ProviderGarbled(f"{whose}: answered 200 with JSON that holds no embeddings; is its base URL right?")
    found: dict[int, array[float]] = {}
    for item in answer.data:
        found[item.index] = _vector(item, whose)
    if len(found) != len(answer.data) or max(found) >= len(found) or min(found) < 0:
        shown = ", ".join(str(item.index) for item in answer.data[:8])
        raise ProviderGarbled(f"{whose}: {len(answer.data)} vectors came, whose indexes do not count them: {shown}")
    usage = Usage() if answer.usage is None else _usage(answer.usage)
    vectors = Vectors(vectors=[found[index] for index in range(len(found))], usage=usage, model=answer.model or "", head=head)
    return check_vectors(vectors, len(found) if count is None else count, dimensions, whose)


Count = Annotated[int, Meta(ge=0)]


# Of figures that cannot be true, below zero for example, billing judges: the answer is good all the same.
class _InputDetails(Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    index: Count | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Message(Struct, gc=False):
    """A whole message, or the `delta` that is a piece of one."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # vLLM until 0.11, llama.cpp, DeepSeek
    reasoning: str | None = None  # vLLM since, OpenRouter
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None  # the older form of one tool call, for those who ask for `functions`


class _Choice(Struct, gc=False):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    error: Any = None  # OpenRouter's, of the provider behind it


class _Answer(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None
    object: str | None = None


class _Embedding(Struct, gc=False):
    index: int
    embedding: str | list[float]


class _Embeddings(Struct, gc=False):
    data: list[_Embedding] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None
    object: str | None = None


_Read = TypeVar("_Read", _Answer, _Embeddings)

_ANSWER = msgspec.json.Decoder(_Answer)
_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)
_NOTHING = _Message()
_NO_FUNCTION = _Function()
_DONE = Chunk(last=True)


def _decoded(body: bytes, whose: str, key: str | None, decoder: msgspec.json.Decoder[_Read]) -> _Read:
    try:
        answer = decoder.decode(body)
    except UNREADABLE as error:
        raise garbled(body, error, whose) from error
    if answer.error or answer.object == "error":
        raise failure(200, {}, body, whose=whose, key=key)
    if isinstance(answer, _Answer) and answer.choices and answer.choices[0].error:
        raise failure(200, {}, msgspec.json.encode({"error": answer.choices[0].error}), whose=whose, key=key)
    return answer


def _only(answer: _Answer, whose: str) -> _Choice | None:
    choices = answer.choices
    if not choices:
        return None
    choice = choices[0]
    if len(choices) > 1 or choice.index != 0:
        raise ProviderGarbled(f"{whose}: answered with a second choice, which nobody asked for")
    return choice


def _usage(usage: _Usage) -> Usage:
    whole_input, whole_output = usage.prompt_tokens, usage.completion_tokens
    inputs, outputs = usage.prompt_tokens_details, usage.completion_tokens_details
    cached = (inputs.cached_tokens or 0) if inputs is not None else 0
    written = (inputs.cache_write_tokens or 0) if inputs is not None else 0
    reasoning = (outputs.reasoning_tokens or 0) if outputs is not None else 0
    apart = 0 if reasoning == 0 or usage.total_tokens == (whole_input or 0) + (whole_output or 0) + reasoning else reasoning
    return Usage(
        input_tokens=None if whole_input is None else max(min(0, whole_input), whole_input - cached - written),
        cached_input_tokens=None if whole_input is None else cached,
        cache_write_tokens=None if whole_input is None else written,
        # Some servers (xAI) leave reasoning out of completion_tokens; their total tells.
        output_tokens=None if whole_output is None else max(min(0, whole_output), whole_output - apart),
        reasoning_tokens=None if whole_output is None else reasoning,
    )


def _vector(item: _Embedding, whose: str) -> array[float]:
    if isinstance(item.embedding, str):
        try:
            vector = array("f", b64decode(item.embedding, validate=True))
        except ValueError as error:
            raise ProviderGarbled(f"{whose}: the vector of input {item.index} is no base64 of float32: {error}") from error
        if sys.byteorder == "big":
            vector.byteswap()
    else:
        vector = array("f", item.embedding)
    return vector
