"""Doors under abuse: connections that say nothing, too slowly, too much, too often or no HTTP at all. The server goes on."""

from __future__ import annotations

import asyncio
import json
import struct

import aiohttp
import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc
from tests.fakes.running import Sidecar
from tests.fakes.script import Say
from tests.flow.reading import account

QUICK = "header_ms = 600\nbody_ms = 600\nidle_ms = 1200\nmax_connections = 30\nmax_header_bytes = 4096"
HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HI = HEAD + b'Content-Length: 38\r\n\r\n{"prompt": "hi", "model": "echo/echo"}'
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


@pytest_asyncio.fixture(loop_scope="session")
async def strict(start_sidecar):
    """A sidecar of little patience."""
    return await start_sidecar(http=QUICK)


async def connect(sidecar: Sidecar) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = sidecar.http_url.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def told(reader: asyncio.StreamReader, within_s: float = 10) -> bytes:
    """All that comes until the connection is closed."""
    said = b""
    async with asyncio.timeout(within_s):
        try:
            while more := await reader.read(65536):
                said += more
        except ConnectionResetError:
            pass
    return said


async def goes_on(sidecar: Sidecar) -> None:
    """Both doors answer, and nothing is left behind."""
    assert sidecar.process.returncode is None, sidecar.log
    async with (
        aiohttp.ClientSession() as session,
        session.post(sidecar.http_url + "/v1/generate", json={"prompt": "hi", "model": "echo/echo"}) as response,
    ):
        assert (await response.json())["text"] == "hi"
    assert (await sidecar.llm.Generate(pb.GenerateRequest(prompt="hi", model="echo/echo"), timeout=10)).text == "hi"
    await sidecar.until_idle()
    lines = [json.loads(line) for line in sidecar.log.splitlines()]  # nothing but our own lines
    assert not [line for line in lines if line["message"] == "defect"]


async def trickle(writer: asyncio.StreamWriter, text: bytes) -> None:
    """One byte at a time, never so long apart that it would count as silence."""
    for i in range(len(text)):
        writer.write(text[i : i + 1])
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("said", [b"", HEAD], ids=["silent", "slow header"])
async def test_header_that_does_not_come(strict, said):
    """Slowloris: many connections whose headers trickle. They end, and others are answered meanwhile."""
    pairs = [await connect(strict) for _ in range(20)]
    writing = [asyncio.ensure_future(trickle(writer, said * 20)) for _, writer in pairs]
    await goes_on(strict)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*(told(reader) for reader, _ in pairs)) == [b""] * 20
    for task in writing:
        task.cancel()
    await goes_on(strict)


async def test_next_header_on_a_connection_that_does_not_come(strict):
    reader, writer = await connect(strict)
    writer.write(HI)
    assert b"200 OK" in await reader.readuntil(b"}]")
    writing = asyncio.ensure_future(trickle(writer, HEAD * 20))
    await told(reader, 5)
    writing.cancel()
    await goes_on(strict)


async def test_idle_connection_is_closed(strict):
    reader, writer = await connect(strict)
    writer.write(HI)
    assert b'"text":"hi"' in await told(reader, 5)


async def test_body_that_does_not_come(strict):
    reader, writer = await connect(strict)
    writer.write(HEAD + b"Content-Length: 1000\r\n\r\n")
    writing = asyncio.ensure_future(trickle(writer, b"x" * 1000))
    said = await told(reader)
    writing.cancel()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"http.body_ms" in said
    await goes_on(strict)


async def test_reader_who_takes_nothing(strict, upstream):
    upstream.on("compatible-default", Say(pieces=("x" * 50_000,) * 1000))
    body = json.dumps({"prompt": "hi", "model": "compatible-default", "caller": {"tenant": "stuck"}}).encode()
    _reader, writer = await connect(strict)  # one that is let go of closes the connection
    asked = len(upstream.asked("compatible-default"))
    writer.write(HEAD.replace(b"generate", b"stream") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    exchange = await upstream.request("compatible-default", asked)
    await exchange.ended(within_s=15)  # the sidecar has given the reader up
    assert exchange.pieces_sent < 500
    await strict.until_idle()
    paid = await account(strict, "stuck")
    assert paid.used_nano_usd > 0 == paid.pending_nano_usd
    writer.transport.abort()
    upstream.on("compatible-default", Say())


async def test_more_connections_than_there_may_be(strict):
    pairs = [await connect(strict) for _ in range(30)]
    for _, writer in pairs:
        writer.write(b"P")
    reader, _ = await connect(strict)
    said = await told(reader)
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After" in said
    for _, writer in pairs:
        writer.close()
    async with asyncio.timeout(5):
        while True:  # until the server has seen that they are gone
            reader, writer = await connect(strict)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if (await told(reader)).startswith(b"HTTP/1.1 404 "):
                break
    await goes_on(strict)


async def test_more_grpc_connections_than_there_may_be(start_sidecar):
    sidecar = await start_sidecar(server="max_connections = 10")
    await sidecar.channel.close()
    host, _, port = sidecar.target.rpartition(":")
    held = []
    async with asyncio.timeout(20):
        while True:  # one is let in as long as there is a place
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(PREFACE)
            try:
                said = await reader.read(64)
            except ConnectionResetError:
                said = b""
            if not said:
                break
            held.append(writer)
    assert len(held) in (9, 10)  # the test's own, closed a moment ago, may not be gone yet
    for writer in held:
        writer.close()
    async with grpc.aio.insecure_channel(sidecar.target) as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        answer = await stub.Generate(pb.GenerateRequest(prompt="hi", model="echo/echo"), timeout=10, wait_for_ready=True)
    assert answer.text == "hi"


NO_HTTP = {
    "noise": bytes(range(256)) * 8,
    "tls hello": bytes.fromhex("16030100a5010000a10303") + bytes(200),
    "http/2": PREFACE,
    "no version": b"GET /\r\n\r\n",
    "version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "header without colon": b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
    "header name": b"GET / HTTP/1.1\r\nHo\0st: x\r\n\r\n",
    "long line": b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 5_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(1_000)) + b"\r\n",
    "length": HEAD + b"Content-Length: minus\r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("kind", NO_HTTP)
async def test_what_is_no_http_is_refused(sidecar, kind):
    reader, writer = await connect(sidecar)
    writer.write(NO_HTTP[kind])
    writer.write_eof()
    said = await told(reader)
    # Where the request came in one piece with its end its sender counts as gone; a request without a version is one of HTTP/0.9.
    assert said == b"" or said.startswith((b"HTTP/0.9 404 ", b"HTTP/1.0 4", b"HTTP/1.1 4")), said[:200]
    assert b"aiohttp" not in said
    assert b"Traceback" not in said
    writer.close()
    await goes_on(sidecar)


async def test_requests_in_one_write_are_answered_in_order(sidecar):
    bodies = [json.dumps({"prompt": f"p{i}", "model": "echo/echo"}).encode() for i in range(100)]
    reader, writer = await connect(sidecar)
    writer.write(b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies))
    texts = []
    async with asyncio.timeout(20):
        for _ in bodies:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            texts.append(json.loads(await reader.readexactly(length))["text"])
    assert texts == [f"p{i}" for i in range(100)]
    writer.close()


@pytest.mark.parametrize("door", ["http", "grpc"])
async def test_ten_thousand_connections_that_come_and_go(sidecar, door):
    host, _, port = (sidecar.target if door == "grpc" else sidecar.http_url.removeprefix("http://")).rpartition(":")
    body = json.dumps({"prompt": "hi", "model": "echo/echo"}).encode()
    sayings = (b"", b"P", PREFACE if door == "grpc" else HEAD, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async def visit(many: int) -> None:
        for i in range(many):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(sayings[i % 4])
            if i % 2:
                writer.transport.abort()
            else:
                writer.close()

    async with asyncio.timeout(90):
        await asyncio.gather(*(visit(200) for _ in range(50)))
    await goes_on(sidecar)


async def test_http2_streams_that_are_opened_and_reset(sidecar):
    """Rapid reset (CVE-2023-44487): calls that are taken back as soon as they were made, as fast as a connection carries them."""
    host, _, port = sidecar.target.rpartition(":")
    message = pb.GenerateRequest(prompt="hi", model="echo/echo").SerializeToString()
    data = b"\0" + struct.pack(">I", len(message)) + message

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    names = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/sidecar.v1.LLMService/Generate"), (b":authority", b"x"))
    names += ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in names)
    for _ in range(5):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE)
        for stream in range(1, 4001, 2):
            writer.write(frame(1, 4, stream, block) + frame(0, 1, stream, data) + frame(3, 0, stream, struct.pack(">I", 8)))
        try:
            async with asyncio.timeout(5):
                await writer.drain()
                await reader.read(65536)
        except (TimeoutError, ConnectionResetError):
            pass
        writer.transport.abort()
    async with asyncio.timeout(30):
        await goes_on(sidecar)
