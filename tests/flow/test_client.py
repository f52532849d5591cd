"""The Python client, by threads and by asyncio, over a real socket: to the real sidecar, and to a server that fails as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.resources import files
from typing import Any

import grpc
import pytest
import pytest_asyncio
import trustme
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

import sidecar.client as sidecar_client
from sidecar.client import (
    AsyncClient,
    Broken,
    Caller,
    CallFailed,
    Client,
    EmbedRequest,
    Exhausted,
    GenerateRequest,
    OutOfTime,
    Rejected,
    Unavailable,
)
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc
from sidecar.v1.errors_pb2 import Degradation
from tests.fakes.running import free_port
from tests.fakes.script import Fail, Say, Stall, Vectors, vector_of
from tests.flow.test_http_doors import start_tls, write_certificate

Ask = Callable[..., Awaitable[Any]]


class Both:
    """One client seen from asyncio: by threads or by asyncio, a test does not tell them apart."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def ask(self, verb: str, request: Any, **more: Any) -> Any:
        method = getattr(self.client, verb)
        if isinstance(self.client, AsyncClient):
            return await method(request, **more)
        return await asyncio.to_thread(method, request, **more)

    async def stream(self, request: Any, **more: Any) -> AsyncIterator[pb.StreamEvent]:
        if isinstance(self.client, AsyncClient):
            async for event in self.client.stream(request, **more):
                yield event
            return
        events: Iterator[pb.StreamEvent] = self.client.stream(request, **more)
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield event


@pytest_asyncio.fixture(params=[Client, AsyncClient], loop_scope="session")
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Both]]:
    """`connect(target, **arguments)`: a client of either kind."""
    opened: list[Client | AsyncClient] = []

    def one(target: str, **arguments: Any) -> Both:
        opened.append(request.param(target, **arguments))
        return Both(opened[-1])

    yield one
    for client in opened:
        if isinstance(client, AsyncClient):
            await client.close()
        else:
            client.close()


# --- the real sidecar -----------------------------------------------------------------------------------------------------------


async def test_a_text_is_a_prompt_and_the_client_says_who_asks(sidecar, upstream, fresh, connect, tenant):
    model = fresh("compatible")
    client = connect(sidecar.target, caller=Caller(service="flow", tenant=tenant, user="ann"))
    request = GenerateRequest(prompt="Hi", model=model, caller=Caller(user="bob"))
    answer = await client.ask("generate", request)
    assert (answer.text, answer.model) == ("Hello, world!", model)
    assert request.caller == Caller(user="bob")  # the request stays the user's own
    assert (await client.ask("generate", "Hi")).text == "Hello, world!"
    line = await sidecar.logged(f'"tenant":"{tenant}"')
    assert '"user":"bob"' in line
    assert '"service":"flow"' in line


async def test_pieces_arrive_while_the_provider_still_speaks(sidecar, upstream, fresh, connect):
    model, gate = fresh("compatible"), asyncio.Event()
    upstream.on(model, Say(pieces=("first", " second"), gate=gate, hold_after=1))
    kinds, text = [], ""
    async for event in connect(sidecar.target).stream(GenerateRequest(prompt="Hi", model=model)):
        kinds.append(event.WhichOneof("event"))
        text += event.text_delta
        if text == "first":
            gate.set()
    assert text == "first second"
    assert (kinds[0], kinds[-1]) == ("start", "end")


async def test_embeddings_and_counts(sidecar, upstream, fresh, connect):
    model = fresh("compatible")
    upstream.on(model, Vectors(size=4))
    client = connect(sidecar.target)
    found = await client.ask("embed", EmbedRequest(inputs=["one", "two"], model=model))
    assert [list(vector.values) for vector in found.vectors] == [vector_of("one", 4), vector_of("two", 4)]
    assert len((await client.ask("embed", ["one", "two", "three"])).vectors) == 3
    assert (await client.ask("count_tokens", GenerateRequest(prompt="Hi", model=model))).model == model
    assert (await client.ask("count_tokens", EmbedRequest(inputs=["Hi"], model=model))).input_tokens > 0


async def test_a_wrong_request_names_its_field(sidecar, connect):
    with pytest.raises(Rejected) as caught:
        await connect(sidecar.target).ask("generate", GenerateRequest(prompt="Hi", temperature=7))
    error = caught.value
    assert (error.reason, error.field, error.partial, error.degradation) == ("INVALID_REQUEST", "temperature", None, None)
    assert len(error.facts["id"]) == 32
    assert str(error).startswith("INVALID_REQUEST: temperature is 7")


async def test_a_rate_limit_says_until_when(sidecar, upstream, fresh, connect):
    model = fresh("compatible")
    upstream.on(model, Fail(429, headers=(("retry-after", "3600"),)))
    with pytest.raises(Exhausted) as caught:
        await connect(sidecar.target).ask("generate", GenerateRequest(prompt="Hi", model=model))
    assert caught.value.retry_after == pytest.approx(3600, abs=5)
    assert caught.value.degradation is not None
    assert caught.value.degradation.action


async def test_a_broken_answer_brings_what_came_and_what_it_cost(sidecar, upstream, fresh, connect):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("half an ", "answer"), cut="reset"))
    text = ""

    async def read() -> None:
        nonlocal text
        async for event in connect(sidecar.target).stream(GenerateRequest(prompt="Hi", model=model)):
            text += event.text_delta

    with pytest.raises(Broken) as caught:
        await read()
    partial = caught.value.partial
    assert partial is not None
    assert partial.text == text == "half an "
    assert partial.cost.nano_usd > 0
    assert len(upstream.asked(model)) == 1


async def test_time_is_up(sidecar, upstream, fresh, connect):
    model = fresh("compatible")
    upstream.on(model, Stall())
    with pytest.raises(OutOfTime) as caught:
        await connect(sidecar.target).ask("generate", GenerateRequest(prompt="Hi", model=model), timeout_s=0.5)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("way", ["threads", "asyncio"])
async def test_who_stops_reading_ends_the_providers_call(sidecar, upstream, fresh, way):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("first", " second"), gate=asyncio.Event(), hold_after=1))
    request = GenerateRequest(prompt="Hi", model=model)

    def read_one() -> None:
        with Client(sidecar.target) as client, contextlib.closing(client.stream(request)) as events:  # type: ignore[type-var]
            assert next(event for event in events if event.text_delta).text_delta == "first"

    if way == "threads":
        await asyncio.to_thread(read_one)
    else:
        async with AsyncClient(sidecar.target) as client, contextlib.aclosing(client.stream(request)) as events:  # type: ignore[type-var]
            async for event in events:
                if event.text_delta:
                    break
    exchange = await upstream.request(model)
    await exchange.ended(within_s=5)
    assert exchange.closed_at is not None


async def test_it_may_be_made_before_there_is_a_loop(sidecar):
    program = f"""
import asyncio
from sidecar.client import AsyncClient, GenerateRequest
client = AsyncClient({sidecar.target!r})
async def main():
    async with client:
        print((await client.generate(GenerateRequest(prompt="hi", model="echo/echo"))).text)
asyncio.run(main())
"""
    assert await _output("-c", program) == "hi\n"


@pytest.mark.parametrize("way", ["threads", "asyncio"])
async def test_by_tls_with_a_certificate_and_by_a_unix_socket(tmp_path, way):
    ca = trustme.CA()
    write_certificate(ca, tmp_path, "127.0.0.1")
    shown = ca.issue_cert("oracle@example.com")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    sidecar = await start_tls(tmp_path, f'client_ca_file = "{tmp_path}/ca.crt"', f'socket = "{tmp_path}/door"')
    chain = b"".join(blob.bytes() for blob in shown.cert_chain_pems)
    known = grpc.ssl_channel_credentials(ca.cert_pem.bytes(), shown.private_key_pem.bytes(), chain)
    request = GenerateRequest(prompt="hi", model="echo/echo")
    try:
        for target, credentials in ((sidecar.target, known), (f"unix:{tmp_path}/door", None)):
            if way == "asyncio":
                async with AsyncClient(target, credentials=credentials) as client:
                    text = (await client.generate(request)).text
            else:
                with Client(target, credentials=credentials) as client:
                    text = (await asyncio.to_thread(client.generate, request)).text
            assert text == "hi"
        async with AsyncClient(sidecar.target, credentials=grpc.ssl_channel_credentials(ca.cert_pem.bytes()), retries=0) as client:
            with pytest.raises(Unavailable):
                await client.generate(request)
    finally:
        await sidecar.stop()


# --- a server that fails as it is told -------------------------------------------------------------------------------------------


class Failing(llm_pb2_grpc.LLMServiceServicer):
    """Fails as often as there are `failures`, then answers; `begins`: a stream sends one piece before it fails."""

    def __init__(self) -> None:
        self.failures: list[tuple[grpc.StatusCode, tuple[Any, ...]]] = []
        self.begins = False
        self.asked = 0
        self.metadata: dict[str, Any] = {}

    async def _fail(self, context: Any) -> None:
        self.asked += 1
        self.metadata = dict(context.invocation_metadata())
        if self.failures:
            code, details = self.failures.pop(0)
            packed = []
            for detail in details:
                packed.append(Packed())
                packed[-1].Pack(detail)
            status = Status(code=code.value[0], message="told to", details=packed)
            await context.abort(code, "told to", (("grpc-status-details-bin", status.SerializeToString()),))

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:  # noqa: N802
        await self._fail(context)
        return pb.GenerateResponse(text="at last")

    async def Stream(self, request: pb.GenerateRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        if self.begins:
            await context.write(pb.StreamEvent(start=pb.StreamStart(model="m")))
        await self._fail(context)
        await context.write(pb.StreamEvent(text_delta="at last"))
        await context.write(pb.StreamEvent(end=pb.GenerateResponse(model="m")))


@pytest_asyncio.fixture(loop_scope="session")
async def failing() -> AsyncIterator[tuple[Failing, str]]:
    server, service = grpc.aio.server(), Failing()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, f"127.0.0.1:{port}"
    await server.stop(None)


DOWN = (grpc.StatusCode.UNAVAILABLE, (ErrorInfo(reason="DRAINING", metadata={"retryable": "true"}),))


@pytest.mark.parametrize("way", ["generate", "stream"])
async def test_unavailable_is_tried_again_before_the_first_piece(failing, connect, way):
    service, target = failing
    service.failures = [DOWN, DOWN]
    client = connect(target, token="secret")
    if way == "generate":
        assert (await client.ask("generate", "Hi")).text == "at last"
    else:
        assert [e.WhichOneof("event") async for e in client.stream("Hi")] == ["text_delta", "end"]
    assert service.asked == 3
    assert service.metadata["authorization"] == "Bearer secret"


async def test_after_the_first_event_nothing_is_tried_again(failing, connect):
    service, target = failing
    service.failures, service.begins = [DOWN], True
    with pytest.raises(Unavailable):
        [event async for event in connect(target).stream("Hi")]
    assert service.asked == 1


@pytest.mark.parametrize(
    ("failures", "retries", "asked"),
    [
        ([DOWN] * 3, 2, 3),
        ([DOWN], 0, 1),
        ([(grpc.StatusCode.UNAVAILABLE, (ErrorInfo(reason="X", metadata={"retryable": "false"}),))], 2, 1),
        ([(grpc.StatusCode.UNAVAILABLE, (*DOWN[1], Degradation(action="skip", most_retries=0)))], 2, 1),
        ([(grpc.StatusCode.UNAVAILABLE, (*DOWN[1], Degradation(action="retry_later", most_retries=1)))] * 2, 2, 2),
        ([(grpc.StatusCode.RESOURCE_EXHAUSTED, DOWN[1])], 2, 1),
        ([(grpc.StatusCode.DATA_LOSS, DOWN[1])], 2, 1),
    ],
    ids=["used up", "none", "not retryable", "not allowed", "allowed once", "exhausted", "broken"],
)
async def test_how_often(failing, connect, failures, retries, asked):
    service, target = failing
    service.failures = list(failures)
    with pytest.raises(CallFailed):
        await connect(target, retries=retries).ask("generate", "Hi")
    assert service.asked == asked


async def test_a_wait_that_does_not_fit_the_time_is_not_waited(failing, connect):
    service, target = failing
    wait = RetryInfo()
    wait.retry_delay.FromSeconds(60)
    service.failures = [(grpc.StatusCode.UNAVAILABLE, (*DOWN[1], wait))]
    with pytest.raises(Unavailable) as caught:
        await connect(target, timeout_s=5).ask("generate", "Hi")
    assert (caught.value.retry_after, service.asked) == (60, 1)


@pytest.mark.parametrize("way", ["generate", "stream"])
async def test_a_sidecar_that_comes_back_is_reached(connect, way):
    port, server = free_port(), grpc.aio.server()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(Failing(), server)
    client = connect(f"127.0.0.1:{port}", retries=20)

    async def ask() -> str:
        if way == "generate":
            return str((await client.ask("generate", "Hi")).text)
        return "".join([event.text_delta async for event in client.stream("Hi")])

    asked = asyncio.create_task(ask())
    await asyncio.sleep(0.3)
    assert not asked.done()
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    assert await asked == "at last"
    await server.stop(None)


async def test_a_connection_may_take_its_time_to_come_about(failing, connect):
    """A server that takes a connection and is slow to say anything on it, as over TLS, far away or on a busy machine."""
    host, _, port = failing[1].rpartition(":")

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        back, forth = await asyncio.open_connection(host, int(port))
        await asyncio.gather(hand_on(reader, forth), hand_on(back, writer))

    async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    between = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with between:
        target = f"127.0.0.1:{between.sockets[0].getsockname()[1]}"
        assert (await connect(target, retries=0).ask("generate", "Hi")).text == "at last"


async def test_nobody_there(connect):
    with pytest.raises(Unavailable) as caught:
        await connect("127.0.0.1:1", retries=1, timeout_s=10).ask("generate", "Hi")
    assert (caught.value.reason, caught.value.facts) == ("", {})


async def test_many_threads_share_one_client(failing):
    _, target = failing
    texts: list[str] = []

    def all_at_once() -> None:
        with Client(target) as client:
            threads = [threading.Thread(target=lambda: texts.append(client.generate("Hi").text)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    await asyncio.to_thread(all_at_once)
    assert texts == ["at last"] * 8


async def _output(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    said = await process.stdout.read()
    assert await process.wait() == 0
    return said.decode()


async def test_the_example_of_its_documentation(sidecar):
    words = sidecar_client.__doc__ or ""
    program = textwrap.dedent(words[words.index("    from sidecar.client") : words.index("\n`AsyncClient`")])
    assert '"127.0.0.1:50051"' in program
    said = await _output("-c", program.replace("127.0.0.1:50051", sidecar.target))
    assert said == "Hello, world!\n2\nHello, world!"


async def test_type_checkers_may_rely_on_its_types():
    assert files("sidecar").joinpath("py.typed").is_file()  # PEP 561; without it they take everything for Any


async def test_it_brings_nothing_of_the_server_along():
    loaded = (await _output("-c", "import sys, sidecar.client; print(*sys.modules)")).split()
    assert "sidecar.client" in loaded
    own = [name for name in loaded if name.startswith("sidecar.") and name.split(".")[1] not in ("client", "v1")]
    assert own + [name for name in loaded if name in ("aiohttp", "msgspec", "prometheus_client", "uvloop")] == []
