"""Life and death of the process: ready only when it can answer, draining, grace, the impatient second signal, and starts that cannot be."""

from __future__ import annotations

import asyncio
import json
import signal
import socket

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc, ops_pb2
from tests.fakes.running import free_port, spawn
from tests.fakes.script import Say, Stall
from tests.flow.reading import account, failed, stream_failed

SERVICES = ("", "sidecar.v1.LLMService", "sidecar.v1.OpsService")


def ask(model: str = "", tenant: str = "") -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="hi", model=model and f"compatible/{model}", caller=pb.Caller(tenant=tenant))


async def http(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status, await reply.text()


async def not_serving(sidecar, within_s: float = 2) -> None:
    async with asyncio.timeout(within_s):
        while await sidecar.serving():  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)


# --- birth ------------------------------------------------------------------------------------------------------------------------


async def test_ready_only_when_it_can_answer(start_sidecar):
    sidecar = await start_sidecar(wait=False)
    request = health_pb2.HealthCheckRequest()
    async with asyncio.timeout(20):
        while True:
            try:
                status = (await sidecar.health.Check(request, timeout=1)).status
            except grpc.aio.AioRpcError:  # nobody listens yet
                assert sidecar.process.returncode is None, sidecar.log
                await asyncio.sleep(0.01)
                continue
            if status == health_pb2.HealthCheckResponse.SERVING:
                break
            assert status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await sidecar.llm.Generate(ask(), timeout=5)).text == "Hello, world!"
    assert await http(f"{sidecar.ops_url}/readyz") == (200, "ready\n")
    assert (await http(f"{sidecar.ops_url}/healthz"))[0] == 200


async def test_health_knows_each_service(sidecar):
    for service in SERVICES:
        assert await sidecar.serving(service), service
    unknown = await failed(sidecar.health.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert unknown.code == grpc.StatusCode.NOT_FOUND


async def test_unix_socket_is_a_door_too(start_sidecar, tmp_path):
    path = tmp_path / "s.sock"
    await start_sidecar(server=f'socket = "{path}"')
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        reply = await llm_pb2_grpc.LLMServiceStub(channel).Generate(ask(), timeout=5)
    assert reply.text == "Hello, world!"


async def test_environment_wins_over_the_file(upstream, tmp_path):
    from tests.fakes.running import Sidecar

    port, ops_port = free_port(), free_port()
    settings = tmp_path / "settings.toml"
    settings.write_text('[server]\nlisten = "127.0.0.1:1"\n')
    environ = {
        "SIDECAR_SERVER__LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_SERVER__OPS_LISTEN": f"127.0.0.1:{ops_port}",
        "OPENAI_API_KEY": "sk-test-openai-000000",
        "SIDECAR_PROVIDERS__OPENAI__BASE_URL": f"{upstream.url}/v1",
        "MODEL_RAG_ANSWER": "gpt-4o-mini",
    }
    sidecar = Sidecar(await spawn(settings, tmp_path / "log", environ), port, ops_port, tmp_path / "log")
    try:
        await sidecar.until_serving()
        asked = pb.GenerateRequest(prompt="hi", caller=pb.Caller(node="rag.answer"))
        reply = await sidecar.llm.Generate(asked, timeout=5)
        assert (reply.model, reply.provider) == ("gpt-4o-mini", "openai")
        explained = await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=asked))
        assert "MODEL_RAG_ANSWER" in explained.candidates[0].reason
    finally:
        await sidecar.stop()


async def test_newcomer_without_a_key_is_answered_by_echo(tmp_path):
    from tests.fakes.running import start

    sidecar = await start(tmp_path, "")
    try:
        await sidecar.until_serving()
        reply = await sidecar.llm.Generate(pb.GenerateRequest(prompt="Is anybody there?"), timeout=5)
        assert (reply.provider, reply.text) == ("echo", "Is anybody there?")
        assert any("OPENAI_API_KEY" in notice for notice in reply.notices)
    finally:
        assert await sidecar.stop() == 0


# --- what operators see -----------------------------------------------------------------------------------------------------------


async def test_status_models_and_explain(sidecar, upstream, fresh, tenant):
    model = fresh("openai")
    status = await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())
    assert {p.name: (p.kind, p.configured, p.has_key) for p in status.providers} == {
        "anthropic": ("anthropic", True, True),
        "compatible": ("compatible", True, False),
        "echo": ("echo", True, False),
        "google": ("google", True, True),
        "ollama": ("ollama", True, False),
        "openai": ("openai", True, True),
    }
    assert status.version
    assert status.uptime.ToNanoseconds() > 0
    assert (status.calls_in_flight, status.draining, status.environment) == (0, False, "local")
    listed = {m.name: m for m in (await sidecar.ops.ListModels(ops_pb2.ListModelsRequest(provider="openai"))).models}
    assert (listed[model].input_usd_per_million, listed[model].output_usd_per_million) == ("1", "4")
    assert (listed[model].context_tokens, listed[model].available, listed[model].price_as_of) == (100_000, True, "2026-01-02")
    assert all(m.provider == "openai" for m in listed.values())
    request = pb.GenerateRequest(prompt="hi", model=model, max_output_tokens=100, caller=pb.Caller(node="flow.chain", tenant=tenant))
    explained = await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=request))
    assert [(c.model, c.fallback) for c in explained.candidates] == [
        (model, False), ("compatible-default", True), ("compatible-spare", True),
    ]  # fmt: skip
    first = explained.candidates[0]
    assert first.max_output_tokens == 100
    assert first.max_cost.nano_usd >= first.input_tokens * 1_000 + 100 * 4_000
    assert (explained.service, explained.node) == ("flow", "chain")
    assert upstream.asked(model) == []
    assert explained.accounts[0].pending_nano_usd == 0


async def test_calls_in_flight_are_counted(sidecar, upstream, fresh):
    model, gate = fresh("compatible"), asyncio.Event()
    upstream.on(model, Say(gate=gate))
    calls = [asyncio.ensure_future(sidecar.llm.Generate(pb.GenerateRequest(prompt="hi", model=model))) for _ in range(3)]
    await upstream.request(model, 2)
    assert (await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())).calls_in_flight == 3
    assert (await sidecar.metrics())("llm_calls_in_flight") == 3
    gate.set()
    await asyncio.gather(*calls)
    await sidecar.until_idle()
    assert (await sidecar.metrics())("llm_calls_in_flight") == 0


async def test_log_has_a_line_per_call_and_no_content(start_sidecar, upstream):
    sidecar = await start_sidecar()
    upstream.on("secretive", Say(pieces=("the answer is Rumpelstiltskin",)))
    request = pb.GenerateRequest(
        prompt="my secret is Rapunzel", model="compatible/secretive", caller=pb.Caller(tenant="grimm", service="tales")
    )
    reply = await sidecar.llm.Generate(request)
    assert await sidecar.stop() == 0
    lines = [json.loads(line) for line in sidecar.log.splitlines()]
    (line,) = [entry for entry in lines if entry.get("id") == reply.id]
    assert (line["tenant"], line["service"], line["status"], line["model"]) == ("grimm", "tales", "ok", "compatible/secretive")
    assert (line["input_tokens"], line["output_tokens"], line["cost_nano_usd"]) == (11, 7, 0)
    assert "Rapunzel" not in sidecar.log
    assert "Rumpelstiltskin" not in sidecar.log


# --- death ------------------------------------------------------------------------------------------------------------------------


async def test_sigterm_lets_calls_in_flight_finish_and_takes_no_new_ones(start_sidecar, upstream):
    sidecar = await start_sidecar()
    gate = asyncio.Event()
    upstream.on("patient", Say(pieces=("first", " last"), gate=gate, hold_after=1))
    stream = sidecar.llm.Stream(ask("patient"))
    assert (await stream.read()).WhichOneof("event") == "start"
    assert (await stream.read()).text_delta == "first"
    sidecar.process.send_signal(signal.SIGTERM)
    await not_serving(sidecar)
    for service in SERVICES:
        assert not await sidecar.serving(service)
    assert (await http(f"{sidecar.ops_url}/readyz"))[0] == 503
    assert (await http(f"{sidecar.ops_url}/healthz"))[0] == 200
    for got in (
        await failed(sidecar.llm.Generate(ask())),
        await stream_failed(sidecar.llm.Stream(ask())),
        await failed(sidecar.llm.Embed(pb.EmbedRequest(inputs=["x"]))),
    ):
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert got.retry_after_s is not None
    gate.set()
    assert (await stream.read()).text_delta == " last"
    assert (await stream.read()).WhichOneof("event") == "end"
    assert await asyncio.wait_for(sidecar.process.wait(), 5) == 0


async def test_grace_over_ends_calls_with_what_they_have(start_sidecar, upstream):
    sidecar = await start_sidecar(server="grace_ms = 400")
    gate = asyncio.Event()
    upstream.on("endless", Say(pieces=("Once ", "upon"), gate=gate, hold_after=1))
    upstream.on("stalled", Stall())
    stream = asyncio.ensure_future(stream_failed(sidecar.llm.Stream(ask("endless"))))
    unary = asyncio.ensure_future(failed(sidecar.llm.Generate(ask("stalled"))))
    exchanges = await upstream.request("endless"), await upstream.request("stalled")
    sidecar.process.send_signal(signal.SIGTERM)
    cut, never = await asyncio.wait_for(asyncio.gather(stream, unary), 5)
    assert (cut.code, cut.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert cut.partial.text == cut.streamed.text == "Once "
    assert cut.partial.usage.output_tokens > 0
    assert (never.code, never.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    for exchange in exchanges:
        await exchange.ended(within_s=1)
    assert await asyncio.wait_for(sidecar.process.wait(), 5) == 0
    log = [json.loads(line) for line in sidecar.log.splitlines()]
    assert sorted(line["model"] for line in log if line["message"] == "call") == ["compatible/endless", "compatible/stalled"]


async def test_second_sigterm_ends_at_once(start_sidecar, upstream):
    sidecar = await start_sidecar(server="grace_ms = 60000")
    upstream.on("stuck", Stall())
    waiting = asyncio.ensure_future(failed(sidecar.llm.Generate(ask("stuck"))))
    await upstream.request("stuck")
    sidecar.process.send_signal(signal.SIGTERM)
    await not_serving(sidecar)
    assert sidecar.process.returncode is None
    sidecar.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(sidecar.process.wait(), 1) != 0
    assert (await waiting).code == grpc.StatusCode.UNAVAILABLE


async def test_sigint_is_an_orderly_end_too(start_sidecar):
    sidecar = await start_sidecar()
    sidecar.process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(sidecar.process.wait(), 5) == 0
    assert "Traceback" not in sidecar.log


async def test_drain_stops_new_calls_and_leaves_the_process(start_sidecar, upstream, tenant):
    sidecar = await start_sidecar()
    gate = asyncio.Event()
    upstream.on("going", Say(gate=gate))
    going = asyncio.ensure_future(sidecar.llm.Generate(ask("going", tenant)))
    await upstream.request("going")
    assert (await sidecar.ops.Drain(ops_pb2.DrainRequest())).calls_in_flight == 1
    await not_serving(sidecar)
    got = await failed(sidecar.llm.Generate(ask()))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    gate.set()
    assert (await going).text == "Hello, world!"
    assert (await sidecar.ops.Drain(ops_pb2.DrainRequest())).calls_in_flight == 0
    assert (await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())).draining
    assert (await account(sidecar, tenant)).used_tokens == 18
    assert sidecar.process.returncode is None


# --- starts that cannot be --------------------------------------------------------------------------------------------------------


async def ended(settings, folder, environ: dict[str, str] | None = None) -> tuple[int, str]:
    process = await spawn(settings, folder / "stderr", environ)
    status = await asyncio.wait_for(process.wait(), 20)
    return status, (folder / "stderr").read_text()


def one_line(said: str) -> str:
    """What a person reads: everything but log lines is one line."""
    lines = [line for line in said.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.parametrize("key", ["listen", "ops_listen"])
async def test_port_taken(tmp_path, key):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"listen": free_port(), "ops_listen": free_port()} | {key: port}
        settings = tmp_path / "settings.toml"
        settings.write_text("[server]\n" + "".join(f'{name} = "127.0.0.1:{number}"\n' for name, number in ports.items()))
        status, said = await ended(settings, tmp_path)
    assert status == 1
    assert str(port) in one_line(said)
    assert key in one_line(said)


async def test_settings_file_that_is_not_there(tmp_path):
    status, said = await ended(tmp_path / "nowhere.toml", tmp_path)
    assert status == 2
    assert "nowhere.toml" in one_line(said)


async def test_settings_that_are_no_file(tmp_path):
    status, said = await ended(tmp_path, tmp_path)
    assert status == 2
    assert str(tmp_path) in one_line(said)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server\n", ("settings.toml", "TOML")),
        ("[server]\nlisen = 1\n", ("server", "lisen", "listen")),
        ('[server]\ngrace_ms = "long"\n', ("server.grace_ms", "long")),
        ('[server]\nlisten = "0.0.0.0:50051"\n', ("server.listen", "0.0.0.0")),
        ('[nodes.a.b]\nprimary = "gpt-4oo"\n', ("nodes.a.b.primary", "gpt-4oo", "gpt-4o")),
        ("\x00\xff", ("settings.toml",)),
    ],
)
async def test_settings_that_are_wrong(tmp_path, text, named):
    settings = tmp_path / "settings.toml"
    settings.write_text(text, "latin-1")
    status, said = await ended(settings, tmp_path)
    assert status == 2
    for word in named:
        assert word in one_line(said)


async def test_wrong_variable_is_named(tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text("")
    status, said = await ended(settings, tmp_path, {"SIDECAR_SERVER__GRACE_MS": "soon"})
    assert status == 2
    assert "SIDECAR_SERVER__GRACE_MS" in one_line(said)
    assert "soon" in one_line(said)


async def test_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'[server]\nlisten = "127.0.0.1:{free_port()}"\nops_listen = "127.0.0.1:{free_port()}"\ndata_dir = "{tmp_path}/file/data"\n'
    )
    status, said = await ended(settings, tmp_path)
    assert status == 1
    assert f"{tmp_path}/file/data" in one_line(said)
    assert "data_dir" in one_line(said)
