"""Ollama over its own API: lines of JSON from /api/chat, vectors from /api/embed, with our own HTTP client.

Left to itself Ollama cuts the beginning off a prompt that does not fit the model's `num_ctx`, and answers as if nothing had happened;
we send `truncate: false` and `shift: false`, which make that an error and a `length`. (Servers before 0.12.6 know neither for chats.)
Facts: Ollama's api/types.go and docs/api.md, v0.12 to v0.40.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw, Struct, field
from msgspec.structs import replace

from sidecar.call import Chunk, EmbedAsk, Emit, Feature, Finish, GenerateAsk, ToolDelta, Usage, Vectors
from sidecar.errors import (
    ProviderError,
    ProviderGarbled,
    ProviderModelUnknown,
    ProviderQuotaExhausted,
    ProviderRateLimited,
    ProviderUnavailable,
)
from sidecar.json_text import UNREADABLE, text_of
from sidecar.providers import Provider, turns
from sidecar.providers.http import Client, head, retry_after_ms, scrubbed
from sidecar.providers.listing import require_list
from sidecar.providers.reading import AnswerStream, check_vectors, emit_whole
from sidecar.providers.sse import Lines
from sidecar.providers.statuses import by_status, garbled, no_words
from sidecar.providers.tool_calls import WholeCalls, made_id
from sidecar.providers.words import by_words, wait_in_words_ms
from sidecar.request import Image, Message, Text, ToolCall, ToolResult

if TYPE_CHECKING:
    from sidecar.settings.routing import ProviderSettings

# Not strict_schema: keywords that Ollama's grammar does not know are dropped without a word. Not tool_choice: no such field.
FEATURES: Final[frozenset[Feature]] = frozenset(
    {"generate", "embed", "system", "image", "tools", "json_object", "json_schema", "stop", "seed", "sampling", "dimensions"}
)

FINISHES: Final[dict[str, Finish]] = {"stop": "stop", "length": "length"}

DEFAULT_URL: Final = "http://127.0.0.1:11434"


def request(ask: GenerateAsk) -> dict[str, Any]:
    """The body of POST /api/chat."""
    options: dict[str, Any] = {"num_predict": ask.max_output_tokens}
    if ask.temperature is not None:
        options["temperature"] = ask.temperature
    if ask.top_p is not None:
        options["top_p"] = ask.top_p
    if ask.seed is not None:
        options["seed"] = ask.seed
    if ask.stop:
        options["stop"] = list(ask.stop)
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [said for message in ask.messages for said in _messages(message)],
        "stream": ask.stream,
        "options": options,
        "truncate": False,
        "shift": False,
    }
    if ask.response_format is not None and ask.response_format.kind != "text":
        body["format"] = "json" if ask.response_format.kind == "json_object" else ask.response_format.schema
    if ask.tools and (ask.tool_choice is None or ask.tool_choice.mode != "none"):
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": t.name,
                    "description": t.description,
                    "parameters": t.parameters or {"type": "object", "properties": {}},
                },
            }
            for t in ask.tools
        ]
    return turns.with_options(body, ask.options)


def _messages(message: Message) -> list[dict[str, Any]]:
    """One message of ours is one of Ollama's, but for tool results: those are a message each."""
    said: list[dict[str, Any]] = [_result(p) for p in message.parts if isinstance(p, ToolResult)]
    texts = [p.text for p in message.parts if isinstance(p, Text)]
    images = [base64.b64encode(p.data).decode() for p in message.parts if isinstance(p, Image)]
    calls = [p for p in message.parts if isinstance(p, ToolCall)]
    if texts or images or calls:
        one: dict[str, Any] = {"role": message.role, "content": "\n\n".join(texts)}
        if images:
            one["images"] = images
        if calls:
            one["tool_calls"] = [{"id": c.id, "function": {"name": c.name, "arguments": turns.object_of(c)}} for c in calls]
        said.append(one)
    return said


def _result(result: ToolResult) -> dict[str, Any]:
    # There is no field for a tool's failure, only words.
    content = f"Error: {result.content}" if result.is_error else result.content
    one = {"role": "tool", "content": content, "tool_call_id": result.tool_call_id}
    return one | {"tool_name": result.name} if result.name else one


def embed_request(ask: EmbedAsk) -> dict[str, Any]:
    """The body of POST /api/embed; an input that is too long is an error, not cut."""
    body: dict[str, Any] = {"model": ask.model, "input": list(ask.inputs), "truncate": False}
    if ask.dimensions is not None:
        body["dimensions"] = ask.dimensions
    return turns.with_options(body, ask.options)


class _Function(Struct):
    name: str
    arguments: Raw = Raw(b"{}")


class _ToolCall(Struct):
    function: _Function
    id: str | None = None


# What is not there is left out by Ollama itself, and null with some of the servers that speak as it does.
class _Message(Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(Struct):
    done: bool = False
    error: str | None = None
    message: _Message | None = None
    model: str | None = None
    created_at: str | None = None
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None


class _Embedded(Struct):
    embeddings: list[list[float]] = field(default_factory=list)
    error: str = ""
    model: str = ""
    prompt_eval_count: int | None = None


class _Failure(Struct):
    error: str


_read_line = msgspec.json.Decoder(_Line).decode
_read_embedded = msgspec.json.Decoder(_Embedded).decode
_read_failure = msgspec.json.Decoder(_Failure).decode


def reply(body: bytes, whose: str = "ollama", key: str | None = None) -> Chunk:
    """A whole answer, which is one line. Raises ProviderGarbled, or the class of an `{"error": ...}` under HTTP 200."""
    read = chunk(body, whose, key)
    if read is None or not read.last:
        raise ProviderGarbled(f"{whose}: the answer is not done, though no stream was asked for")
    return WholeCalls()(read)


def chunk(event: bytes, whose: str = "ollama", key: str | None = None) -> Chunk | None:
    """One line; None for one that says nothing known here.

    Raises ProviderGarbled, or the class of an `{"error": ...}` line, which may come in the middle of a stream.
    """
    try:
        line = _read_line(event)
    except UNREADABLE as error:
        raise garbled(event, error, whose) from error
    if line.error:
        raise failure(200, {}, event, whose=whose, key=key)
    if line.message is None and not line.done:
        return None
    said = line.message or _Message()
    calls = tuple(
        ToolDelta(
            index=i,
            id=call.id or made_id(line.created_at or "", str(i), call.function.name),
            name=call.function.name,
            arguments=text_of(call.function.arguments),
        )
        for i, call in enumerate(said.tool_calls or ())
    )
    text, thinking, model, ended = said.content or "", said.thinking or "", line.model or "", line.done_reason or ""
    if not line.done:
        return Chunk(text=text, reasoning=thinking, tool_calls=calls, model=model)
    return Chunk(
        text=text,
        reasoning=thinking,
        tool_calls=calls,
        finish=FINISHES.get(ended),
        raw_finish=ended,
        # A prompt that was cached whole has no count; thinking is part of eval_count and not told apart.
        usage=Usage(input_tokens=line.prompt_eval_count, output_tokens=line.eval_count),
        model=model,
        last=True,
    )


def vectors(body: bytes, whose: str = "ollama", key: str | None = None) -> Vectors:
    """An answer of /api/embed. Raises ProviderGarbled, or the class of an `{"error": ...}` under HTTP 200."""
    try:
        read = _read_embedded(body)
    except UNREADABLE as error:
        raise garbled(body, error, whose) from error
    if read.error:
        raise failure(200, {}, body, whose=whose, key=key)
    if not read.embeddings:
        raise ProviderGarbled(f"{whose}: answered 200 with JSON that holds no embeddings; is its base URL right?")
    return Vectors(vectors=read.embeddings, usage=Usage(input_tokens=read.prompt_eval_count, output_tokens=0), model=read.model)


def failure(status: int, headers: Mapping[str, str], body: bytes, *, whose: str = "ollama", key: str | None = None) -> ProviderError:
    """What an error answer, or an error line under HTTP 200, means. Never raises."""
    try:
        words = _read_failure(body).error
    except UNREADABLE:
        words = ""
    kind = _meaning(status, words)
    hint = " (ollama pull it first)" if kind is ProviderModelUnknown and "pull" not in words else ""
    said = scrubbed(words, key) + hint if words else no_words(status, "Ollama")
    wait_ms = None
    if kind in (ProviderRateLimited, ProviderUnavailable, ProviderQuotaExhausted):
        wait_ms = retry_after_ms(headers)
        if wait_ms is None:
            wait_ms = wait_in_words_ms(words)
    return kind(f"{whose}: {said}", status=status, retry_after_ms=wait_ms, request_id=head(headers, key).request_id)


def _meaning(status: int, words: str) -> type[ProviderError]:
    meant = by_words(status, words)
    if meant is not None:
        return meant
    # An error in the middle of a stream is the runner's.
    return ProviderUnavailable if words and status < 300 else by_status(status)


async def connect(settings: ProviderSettings) -> Provider:
    """A pool of connections; nothing to import and nothing to warm up. Raises SettingsError for a base URL that is none."""
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    client = Client(
        settings.base_url or DEFAULT_URL,
        name=settings.name,
        headers={**headers, **settings.headers},
        connect_timeout_ms=settings.connect_timeout_ms,
        failure=failure,
        key=settings.api_key,
    )
    return Ollama(settings.name, client, settings.api_key)


class Ollama:
    """One Ollama server."""

    features = FEATURES

    def __init__(self, name: str, client: Client, key: str | None) -> None:
        self.name = name
        self._client = client
        self._key = key
        self._chat = client.url("api/chat")
        self._embed = client.url("api/embed")
        self._tags = client.url("api/tags")

    async def generate(self, ask: GenerateAsk, emit: Emit) -> None:
        body = msgspec.json.encode(request(ask))
        whose = f"{self.name}/{ask.model}"
        if ask.stream:
            stream = AnswerStream(Lines(), partial(chunk, whose=whose, key=self._key), emit, whose, WholeCalls())
            await self._client.stream(self._chat, body, whose, stream)
        else:
            data, said = await self._client.post(self._chat, body, whose)
            await emit_whole(replace(reply(data, whose, self._key), head=said), emit, whose)

    async def embed(self, ask: EmbedAsk) -> Vectors:
        whose = f"{self.name}/{ask.model}"
        data, said = await self._client.post(self._embed, msgspec.json.encode(embed_request(ask)), whose)
        return replace(check_vectors(vectors(data, whose, self._key), len(ask.inputs), ask.dimensions, whose), head=said)

    async def check(self) -> None:
        data, _ = await self._client.get(self._tags, self.name)
        require_list(data, "models", self.name)

    async def close(self) -> None:
        await self._client.close()
