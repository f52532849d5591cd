"""`openai` and `compatible` connected, against a fake on a real socket: answers, streams, faults, cancelling, one request a call."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from sidecar.call import Chunk, EmbedAsk, GenerateAsk
from sidecar.errors import (
    ProviderAuthFailed,
    ProviderError,
    ProviderGarbled,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderWrongType,
    StreamCut,
)
from sidecar.providers import Provider, compatible, openai
from sidecar.request import Message, Text
from sidecar.settings.routing import ProviderSettings
from tests.contract.fake import Emitted, FakeProvider, Script

KEY = "a-key-of-our-own-7351"
SSE = {"Content-Type": "text/event-stream; charset=utf-8", "x-request-id": "req_1", "x-ratelimit-remaining-tokens": "99"}
REPLY = msgspec.json.encode(
    {"model": "m-1", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
)

Connect = Callable[[str], Awaitable[Provider]]


@pytest.fixture(params=["openai", "compatible"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Connects the provider to a base URL, and closes what it connected."""
    module = {"openai": openai, "compatible": compatible}[request.param]
    opened: list[Provider] = []

    async def connected(url: str) -> Provider:
        settings = msgspec.convert(
            {"name": request.param, "kind": request.param, "api_key": KEY, "base_url": f"{url}/v1/", "connect_timeout_ms": 300,
             "headers": {"X-Team": "axiom"}}, ProviderSettings
        )  # fmt: skip
        opened.append(await module.connect(settings))
        return opened[-1]

    yield connected
    for provider in opened:
        await provider.close()


def ask(stream: bool = False) -> GenerateAsk:
    return GenerateAsk(model="m", messages=(Message("user", (Text("Hello"),)),), stream=stream, max_output_tokens=10)


def event(text: str | None = None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"model": "m-1", "choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"


ANSWER = event("Grüß") + event(" Gott ☂") + event(finish="stop")
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"


async def failing(connect: Connect, script: Script, *, stream: bool = False) -> tuple[ProviderError, Emitted, FakeProvider]:
    async with FakeProvider(script) as fake:
        provider = await connect(fake.url)
        emitted = Emitted()
        with pytest.raises(ProviderError) as caught:
            await asyncio.wait_for(provider.generate(ask(stream), emitted), 5)
    assert KEY not in str(caught.value)
    return caught.value, emitted, fake


async def test_a_whole_answer(connect: Connect) -> None:
    async with FakeProvider(Script([REPLY], headers={"x-request-id": "req_1", "X-RateLimit-Remaining-Tokens": "99"})) as fake:
        provider = await connect(fake.url)
        emitted = Emitted()
        await provider.generate(ask(), emitted)
    [chunk] = emitted
    assert (chunk.text, chunk.finish, chunk.last, chunk.model) == ("Hi", "stop", True, "m-1")
    assert chunk.head is not None
    assert (chunk.head.request_id, chunk.head.limits) == ("req_1", {"x-ratelimit-remaining-tokens": "99"})
    [asked] = fake.asked
    headers = {name.lower(): value for name, value in asked.headers.items()}
    assert asked.path == "/v1/chat/completions"
    assert asked.body["messages"] == [{"role": "user", "content": "Hello"}]
    wanted = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "accept-encoding": "identity", "x-team": "axiom"}
    assert {name: headers[name] for name in wanted} == wanted


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_cut_anywhere_into_reads(connect: Connect, size: int) -> None:
    body = ANSWER + USAGE + DONE
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    if size == 1:  # one byte at a time around the first character that is two bytes long
        at = body.index("ü".encode())
        pieces = [body[: at - 1], *(body[i : i + 1] for i in range(at - 1, at + 4)), body[at + 4 :]]
    async with FakeProvider(Script(pieces, headers=SSE)) as fake:
        emitted = Emitted()
        await (await connect(fake.url)).generate(ask(stream=True), emitted)
    answer = emitted.answer()
    answer.prove("test", may_be_empty=False)
    assert answer.text == "Grüß Gott ☂"
    assert emitted[0].head is not None
    assert (emitted[0].head.request_id, emitted[0].head.limits) == ("req_1", {"x-ratelimit-remaining-tokens": "99"})
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 4)


async def test_a_line_of_a_megabyte(connect: Connect) -> None:
    async with FakeProvider(Script([event("x" * 1_000_000) + event(finish="stop") + DONE], headers=SSE)) as fake:
        emitted = Emitted()
        await (await connect(fake.url)).generate(ask(stream=True), emitted)
    assert len(emitted.answer().text) == 1_000_000


@pytest.mark.parametrize("body", [b"", event("Par"), event("Par") + event(finish="stop"), event("Par") + b'data: {"choices":[{"del'])
async def test_a_stream_that_simply_ends_proves_nothing(connect: Connect, body: bytes) -> None:
    async with FakeProvider(Script([body] if body else [], headers=SSE)) as fake:
        emitted = Emitted()
        await (await connect(fake.url)).generate(ask(stream=True), emitted)
    answer = emitted.answer()
    assert answer.text == ("Par" if body else "")
    with pytest.raises(StreamCut):
        answer.prove("test", may_be_empty=False)


async def test_a_stream_whose_connection_is_lost_is_cut(connect: Connect) -> None:
    error, emitted, _ = await failing(connect, Script([event("Par"), None], headers=SSE), stream=True)
    assert type(error) is StreamCut
    assert emitted.answer().text == "Par"


async def test_what_came_before_an_error_event_is_emitted(connect: Connect) -> None:
    broken = event("Par") + b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'
    error, emitted, _ = await failing(connect, Script([broken], headers=SSE), stream=True)
    assert type(error) is ProviderUnavailable
    assert error.request_id == "req_1"
    assert emitted.answer().text == "Par"


async def test_what_came_before_a_broken_event_is_emitted(connect: Connect) -> None:
    error, emitted, _ = await failing(connect, Script([event("Par") + b"data: {oops}\n\n"], headers=SSE), stream=True)
    assert type(error) is ProviderGarbled
    assert emitted.answer().text == "Par"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "content_type"), [(b"<html>Hello</html>", "text/html"), (b"{}", "application/json"), (b'{"choices":', "application/json")]
)
async def test_a_200_that_is_no_answer_is_garbage(connect: Connect, body: bytes, content_type: str, stream: bool) -> None:
    error, emitted, _ = await failing(connect, Script([body], headers={"Content-Type": content_type}), stream=stream)
    assert isinstance(error, ProviderGarbled)
    assert isinstance(error, ProviderWrongType) == (content_type == "text/html" or (stream and body == b"{}"))
    assert not emitted


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_finish_reason_is_garbage_that_was_billed(connect: Connect, stream: bool) -> None:
    body = event("Par") + event(finish="abort") + USAGE + DONE if stream else REPLY.replace(b'"stop"', b'"abort"')
    error, emitted, _ = await failing(connect, Script([body], headers=SSE if stream else {}), stream=stream)
    assert type(error) is ProviderGarbled
    assert "'abort'" in error.message
    assert emitted.answer().usage is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_rate_limit_says_when_to_come_back(connect: Connect, stream: bool) -> None:
    body = b'{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}'
    script = Script([body], status=429, headers={"Retry-After": "3", "x-request-id": "req_7"})
    error, _, fake = await failing(connect, script, stream=stream)
    assert type(error) is ProviderRateLimited
    assert (error.retry_after_ms, error.request_id, error.status) == (3000, "req_7", 429)
    assert len(fake.asked) == 1


async def test_a_wrong_key_is_not_repeated(connect: Connect) -> None:
    body = msgspec.json.encode({"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}})
    error, _, _ = await failing(connect, Script([body], status=401))
    assert type(error) is ProviderAuthFailed


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_asked_for_once(connect: Connect, stream: bool) -> None:
    error, _, fake = await failing(connect, Script([b"oops"], status=500, headers={"x-should-retry": "true"}), stream=stream)
    assert type(error) is ProviderUnavailable
    assert len(fake.asked) == 1


async def test_a_redirect_is_not_followed(connect: Connect) -> None:
    error, _, fake = await failing(connect, Script([], status=307, headers={"Location": "/v2/chat/completions"}))
    assert type(error) is ProviderGarbled
    assert "redirect" in error.message
    assert len(fake.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_lost_before_the_answer_is_unavailable(connect: Connect, stream: bool) -> None:
    error, _, fake = await failing(connect, Script([None]), stream=stream)
    assert type(error) is ProviderUnavailable
    assert len(fake.asked) == 1


async def test_an_answer_cut_in_its_body_is_unavailable(connect: Connect) -> None:
    error, emitted, _ = await failing(connect, Script([REPLY[:20], None]))
    assert type(error) is ProviderUnavailable
    assert not emitted


async def test_nobody_listening_is_unavailable(connect: Connect) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        provider = await connect(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ProviderUnavailable, match="m: could not be reached"):
            await provider.generate(ask(), Emitted())


async def test_a_connection_that_never_opens_is_a_timeout(connect: Connect) -> None:
    # TLS is spoken to a server that never answers: the TCP connection stands, the handshake does not end.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = await connect(f"https://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ProviderTimeout):
            await asyncio.wait_for(provider.generate(ask(), Emitted()), 5)


async def test_what_emit_raises_passes_through(connect: Connect) -> None:
    async def emit(chunks: Sequence[Chunk]) -> None:
        raise TimeoutError("the caller's time is up")

    async with FakeProvider(Script([ANSWER + DONE], headers=SSE)) as fake:
        provider = await connect(fake.url)
        with pytest.raises(TimeoutError, match="the caller's time is up"):
            await provider.generate(ask(stream=True), emit)


async def test_embeddings(connect: Connect) -> None:
    items: list[dict[str, Any]] = [{"index": 1, "embedding": [-1.0, 0.0]}, {"index": 0, "embedding": "AACAPwAAAEA="}]
    body = msgspec.json.encode({"data": items, "model": "m-1", "usage": {"prompt_tokens": 2}})
    async with FakeProvider(Script([body], headers={"x-request-id": "req_1"})) as fake:
        provider = await connect(fake.url)
        found = await provider.embed(EmbedAsk(model="m", inputs=("a", "b"), dimensions=2))
        with pytest.raises(ProviderGarbled, match="2 vectors came for 1 inputs"):
            await provider.embed(EmbedAsk(model="m", inputs=("a",)))
    assert [list(vector) for vector in found.vectors] == [[1.0, 2.0], [-1.0, 0.0]]
    assert found.head is not None
    assert (found.usage.input_tokens, found.head.request_id, fake.asked[0].path) == (2, "req_1", "/v1/embeddings")


async def test_a_proxy_of_the_environment_is_used(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with FakeProvider(Script([REPLY])) as fake:
        monkeypatch.setenv("http_proxy", fake.url.removeprefix("http://"))
        await (await connect("http://llm.example")).generate(ask(), Emitted())
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        await (await connect(fake.url)).generate(ask(), Emitted())
    assert [asked.headers["Host"] for asked in fake.asked] == ["llm.example", fake.url.removeprefix("http://")]
