"""How answers end on the wire, or are hung up on, and what becomes of their connections: all providers, over sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace

from sidecar.call import Chunk, GenerateAsk
from sidecar.errors import ProviderError, ProviderQuotaExhausted, StreamCut
from sidecar.providers import Provider, anthropic, compatible, google, ollama, openai
from sidecar.request import Message, Text
from sidecar.settings.routing import ProviderSettings
from tests.contract.fake import Emitted, FakeProvider, Script

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"

CHAT = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)  # fmt: skip
MESSAGES = (
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"Hi"}}\n\n'
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
    b'data: {"type":"message_stop"}\n\n',
)
LINES = (
    b'{"model":"m","message":{"content":"Hi"}}\n',
    b'{"model":"m","message":{"content":""},"done":true,"done_reason":"stop"}\n',
)
CONTENTS = (
    b'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}\r\n\r\n',
    b'data: {"candidates":[{"finishReason":"STOP"}]}\r\n\r\n',
)


class Wire(NamedTuple):
    """A provider, and a stream of its format up to its end, and that end."""

    connect: Callable[[ProviderSettings], Awaitable[Provider]]
    content_type: str
    begin: bytes
    end: bytes


WIRES = {
    "openai": Wire(openai.connect, SSE, *CHAT),
    "compatible": Wire(compatible.connect, SSE, *CHAT),
    "anthropic": Wire(anthropic.connect, SSE, *MESSAGES),
    "google": Wire(google.connect, SSE, *CONTENTS),
    "ollama": Wire(ollama.connect, NDJSON, *LINES),
}
ASK = GenerateAsk(model="m", messages=(Message("user", (Text("Hello"),)),), stream=True, max_output_tokens=10)

every_wire = pytest.mark.parametrize("name", WIRES)


async def connected(name: str, url: str) -> Provider:
    given: dict[str, Any] = {"name": name, "kind": name, "api_key": "a-key", "base_url": url, "connect_timeout_ms": 1000}
    return await WIRES[name].connect(msgspec.convert(given, ProviderSettings))


async def said(provider: Provider) -> str:
    emitted = Emitted()
    async with asyncio.timeout(10):  # not wait_for, whose task gives the loop a turn between two calls
        await provider.generate(ASK, emitted)
    answer = emitted.answer()
    answer.prove("test", may_be_empty=False)
    return answer.text


@every_wire
async def test_a_body_that_is_never_closed_is_not_waited_for(name: str) -> None:
    wire = WIRES[name]
    async with FakeProvider(Script([wire.begin + wire.end], headers={"Content-Type": wire.content_type}, hold=True)) as fake:
        provider = await connected(name, fake.url)
        assert await said(provider) == "Hi"
        await asyncio.wait_for(fake.left.wait(), 5)
        await provider.close()


@every_wire
async def test_a_connection_whose_body_ends_is_used_again(name: str) -> None:
    wire = WIRES[name]
    async with FakeProvider(Script([wire.begin, wire.end], headers={"Content-Type": wire.content_type})) as fake:
        provider = await connected(name, fake.url)
        for _ in range(3):
            assert await said(provider) == "Hi"
        await provider.close()
    assert (len(fake.asked), len(fake.peers)) == (3, 1)


@every_wire
async def test_a_connection_lost_after_the_end_breaks_no_answer(name: str) -> None:
    wire = WIRES[name]
    async with FakeProvider(Script([wire.begin + wire.end, None], headers={"Content-Type": wire.content_type})) as fake:
        provider = await connected(name, fake.url)
        assert await said(provider) == "Hi"
        await provider.close()


@every_wire
async def test_an_end_cut_in_its_middle_is_a_cut(name: str) -> None:
    wire = WIRES[name]
    cut = wire.end[: len(wire.end.rstrip()) - 1]
    async with FakeProvider(Script([wire.begin + cut], headers={"Content-Type": wire.content_type})) as fake:
        provider = await connected(name, fake.url)
        with pytest.raises(StreamCut):
            await said(provider)
        await provider.close()


@every_wire
@pytest.mark.parametrize("where", ["in a stream", "in a body", "before the answer"])
async def test_a_cancelled_call_hangs_up_at_once(name: str, where: str) -> None:
    wire = WIRES[name]
    script = {
        "in a stream": Script([wire.begin], headers={"Content-Type": wire.content_type}, hold=True),
        "in a body": Script([b"{"], hold=True),
        "before the answer": Script([], hold=True),
    }[where]
    async with FakeProvider(script) as fake:
        provider = await connected(name, fake.url)
        emitted = Emitted()
        call = asyncio.create_task(provider.generate(replace(ASK, stream=where == "in a stream"), emitted))
        await asyncio.wait_for(fake.holding.wait(), 5)
        while where == "in a stream" and not emitted:  # noqa: ASYNC110 - what is emitted is a list
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(fake.left.wait(), 5)
        await provider.close()


@pytest.mark.parametrize("name", ["compatible", "google", "ollama"])
async def test_a_server_that_hangs_up_after_each_stream_without_a_word(name: str) -> None:
    wire = WIRES[name]
    body = wire.begin + wire.end
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        asked.append(await reader.readexactly(int(length.partition(b":")[2])))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % wire.content_type.encode())
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        provider = await connected(name, f"http://{host}:{port}")
        for _ in range(20):
            assert await said(provider) == "Hi"
        await provider.close()
    assert len(asked) == 20


@every_wire
async def test_headers_are_told_before_the_body_begins(name: str) -> None:
    """So that "no headers yet" and "headers, but no token" are two limits of time."""
    wire = WIRES[name]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % wire.content_type.encode())
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        provider = await connected(name, f"http://{host}:{port}")
        told = asyncio.Event()

        async def emit(chunks: Sequence[Chunk]) -> None:
            assert [chunk.head is not None and not chunk.text for chunk in chunks] == [True]
            told.set()

        call = asyncio.create_task(provider.generate(ASK, emit))
        await asyncio.wait_for(told.wait(), 5)
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await provider.close()


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("openai", 400, b'{"error":{"message":"m","type":null,"param":"prompt","code":"content_filter"}}'),
        ("compatible", 403, b'{"error":{"message":"Your input was flagged","code":403}}'),
        (
            "anthropic",
            400,
            b'{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}',
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_filter_that_is_told_as_an_error_is_an_answer(name: str, status: int, body: bytes, stream: bool) -> None:
    async with FakeProvider(Script([body], status=status)) as fake:
        provider = await connected(name, fake.url)
        emitted = Emitted()
        await provider.generate(replace(ASK, stream=stream), emitted)
        await provider.close()
    answer = emitted.answer()
    answer.prove(name, may_be_empty=False)
    assert (answer.finish, answer.text, len(fake.asked)) == ("content_filter", "", 1)


async def test_anthropics_filter_in_the_middle_of_a_stream_ends_the_answer() -> None:
    wire = WIRES["anthropic"]
    blocked = (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"Output blocked by content filtering policy"}}\n\n'
    )
    async with FakeProvider(Script([wire.begin.partition(b"\n\n")[0] + b"\n\n", blocked], headers={"Content-Type": SSE})) as fake:
        provider = await connected("anthropic", fake.url)
        emitted = Emitted()
        await provider.generate(ASK, emitted)
        await provider.close()
    answer = emitted.answer()
    answer.prove("anthropic", may_be_empty=False)
    assert (answer.finish, answer.text) == ("content_filter", "Hi")


BARE = {
    "openai": (b'{"error":{"message":"m","type":"x","code":"insufficient_quota"}}', "ProviderQuotaExhausted"),
    "compatible": (b'{\n  "error": {"message": "m", "code": 402}\n}\n\n', "ProviderQuotaExhausted"),
    "anthropic": (b'{"type":"error","error":{"type":"authentication_error","message":"m"}}', "ProviderAuthFailed"),
    "google": (b'[{\n  "error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}\n}]\n', "ProviderRateLimited"),
    "ollama": (b'{"error":"too many tokens"}', "ProviderContextExceeded"),
}


@pytest.mark.parametrize("name", BARE)
async def test_an_error_that_is_sent_bare_in_a_promised_stream_is_read(name: str) -> None:
    body, kind = BARE[name]
    async with FakeProvider(Script([body], headers={"Content-Type": WIRES[name].content_type})) as fake:
        provider = await connected(name, fake.url)
        with pytest.raises(ProviderError) as caught:
            await said(provider)
        await provider.close()
    assert type(caught.value).__name__ == kind


@every_wire
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_whose_words_are_cut_off_has_its_status(name: str, stream: bool) -> None:
    """A refused key is no lost connection, which would be tried again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"error"')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        provider = await connected(name, f"http://{host}:{port}")
        with pytest.raises(ProviderError) as caught:
            await provider.generate(replace(ASK, stream=stream), Emitted())
        await provider.close()
    expected = (
        "ProviderAuthFailed" if name in ("compatible", "google", "ollama") or (name, stream) == ("openai", True) else "ProviderUnavailable"
    )
    assert type(caught.value).__name__ == expected


async def test_openrouters_error_of_the_provider_behind_it() -> None:
    behind = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"code":402,"message":"Provider"}}]}\n\n'
    async with FakeProvider(Script([behind], headers={"Content-Type": SSE})) as fake:
        provider = await connected("compatible", fake.url)
        with pytest.raises(ProviderQuotaExhausted):
            await said(provider)
        await provider.close()
