"""More calls than places, over a real socket: who waits, who is refused, who goes first, and that nobody is asked for whoever has gone."""

from __future__ import annotations

import asyncio
import signal

import grpc
import pytest

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import Sidecar, model_row, provider_tables, serving
from tests.fakes.script import Say
from tests.flow.reading import account, failed, failure, stream_failed

NARROW = """
[services.narrow]
concurrency = 1
queue = 2
"""


def ask(prompt: str, model: str = "", tenant: str = "", service: str = "narrow", priority: int = 0) -> pb.GenerateRequest:
    caller = pb.Caller(service=service, tenant=tenant, priority=priority)
    return pb.GenerateRequest(prompt=prompt, model=model and f"compatible/{model}", caller=caller, max_output_tokens=100)


def asked(upstream, model):
    """The prompts that reached the provider, in their order."""
    return [exchange.body["messages"][-1]["content"] for exchange in upstream.asked(model)]


async def shows(sidecar, value, name, within_s=20, **labels):
    """Wait until this metric is so high."""
    async with asyncio.timeout(within_s):
        while (await sidecar.metrics())(name, **labels) != value:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)


async def shed_events(sidecar):
    """When shedding began and ended, newest first; the latter tell how many were refused."""
    return (await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(kind="shed"))).events


async def queued(sidecar, service, count, within_s=20):
    """Wait until so many calls of this service wait for a place."""
    await shows(sidecar, count, "llm_queue_length", within_s, service=service)


@pytest.fixture
def busy(upstream, fresh):
    """A model of this test's own that answers nobody before the gate is opened."""
    model, gate = fresh("compatible"), asyncio.Event()
    upstream.on(model, Say(pieces=("done",), gate=gate))
    return model, gate


async def narrow(start_sidecar, upstream, model) -> tuple[Sidecar, asyncio.Task]:
    """A sidecar whose service has one place, and the call that has it."""
    sidecar = await start_sidecar(NARROW)
    first = asyncio.ensure_future(sidecar.llm.Generate(ask("0", model), timeout=60))
    await upstream.request(model)
    return sidecar, first


async def test_shipped_limit_of_synapse_lets_the_fourth_wait(start_sidecar, upstream, busy):
    model, gate = busy
    sidecar = await start_sidecar()
    calls = [asyncio.ensure_future(sidecar.llm.Generate(ask(f"{i}", model, service="synapse"), timeout=60)) for i in range(3)]
    await upstream.request(model, 2)
    calls.append(asyncio.ensure_future(sidecar.llm.Generate(ask("3", model, service="synapse"), timeout=60)))
    await queued(sidecar, "synapse", 1)
    assert sorted(asked(upstream, model)) == ["0", "1", "2"]
    gate.set()
    assert [reply.text for reply in await asyncio.gather(*calls)] == ["done"] * 4
    assert len(upstream.asked(model)) == 4
    await queued(sidecar, "synapse", 0)


@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_full_queue_is_refused_with_the_wait_and_the_setting(start_sidecar, upstream, busy, way):
    model, gate = busy
    sidecar, first = await narrow(start_sidecar, upstream, model)
    waiting = [asyncio.ensure_future(sidecar.llm.Generate(ask(f"{i}", model), timeout=60)) for i in (1, 2)]
    await queued(sidecar, "narrow", 2)
    refused = failed(sidecar.llm.Generate(ask("3", model))) if way == "Generate" else stream_failed(sidecar.llm.Stream(ask("3", model)))
    got = await refused
    assert (got.code, got.reason, got.facts["retryable"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "true")
    assert 0.1 <= got.retry_after_s <= 60
    assert "services.narrow.concurrency" in got.message
    assert "services.narrow.queue" in got.message
    gate.set()
    await asyncio.gather(first, *waiting)
    assert asked(upstream, model) == ["0", "1", "2"]
    metric = await sidecar.metrics()
    assert metric("llm_refused_total", service="narrow", reason="queue") == 1


async def test_critical_call_overtakes_and_pushes_out(start_sidecar, upstream, busy):
    model, gate = busy
    sidecar = await start_sidecar(NARROW)
    calls = {}

    async def call(prompt, priority, waiting):
        calls[prompt] = asyncio.ensure_future(sidecar.llm.Generate(ask(prompt, model, priority=priority), timeout=60))
        await (queued(sidecar, "narrow", waiting) if waiting else upstream.request(model))

    await call("under way", pb.PRIORITY_NORMAL, 0)
    await call("optional", pb.PRIORITY_OPTIONAL, 1)
    await call("normal", pb.PRIORITY_NORMAL, 2)
    await call("critical", pb.PRIORITY_CRITICAL, 2)
    got = await failed(calls.pop("optional"))
    assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert got.retry_after_s is not None
    gate.set()
    await asyncio.gather(*calls.values())
    assert asked(upstream, model) == ["under way", "critical", "normal"]


async def test_tenants_take_turns(start_sidecar, upstream, busy):
    model, gate = busy
    sidecar = await start_sidecar("[services.narrow]\nconcurrency = 1\nqueue = 50\n")
    calls = [asyncio.ensure_future(sidecar.llm.Generate(ask("first", model, "many"), timeout=60))]
    await upstream.request(model)
    calls += [asyncio.ensure_future(sidecar.llm.Generate(ask(f"many {i}", model, "many"), timeout=60)) for i in range(30)]
    await queued(sidecar, "narrow", 30)
    calls += [asyncio.ensure_future(sidecar.llm.Generate(ask("lone", model, "lone"), timeout=60))]
    await queued(sidecar, "narrow", 31)
    gate.set()
    await asyncio.gather(*calls)
    assert asked(upstream, model).index("lone") == 2  # one of the many had its turn before


@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_cancelled_in_the_queue_frees_it_and_reaches_nobody(start_sidecar, upstream, busy, tenant, way):
    model, gate = busy
    sidecar, first = await narrow(start_sidecar, upstream, model)
    leaving = getattr(sidecar.llm, way)(ask("leaving", model, tenant), timeout=60)
    reading = asyncio.ensure_future(leaving.read()) if way == "Stream" else None  # a stream begins when somebody reads
    await queued(sidecar, "narrow", 1)
    leaving.cancel()
    if reading is not None:
        await asyncio.wait([reading])
    await queued(sidecar, "narrow", 0, within_s=1)
    gate.set()
    await first
    await sidecar.until_idle()
    assert asked(upstream, model) == ["0"]
    left = await account(sidecar, tenant)
    assert (left.used_nano_usd, left.pending_nano_usd) == (0, 0)
    await sidecar.llm.Generate(ask("next", model), timeout=60)


@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_deadline_in_the_queue_is_kept_and_reaches_nobody(start_sidecar, upstream, busy, tenant, way):
    model, gate = busy
    sidecar, first = await narrow(start_sidecar, upstream, model)
    began_at = asyncio.get_running_loop().time()
    late = ask("late", model, tenant)
    failing = failed(sidecar.llm.Generate(late, timeout=0.8)) if way == "Generate" else stream_failed(sidecar.llm.Stream(late, timeout=0.8))
    got = await failing
    assert asyncio.get_running_loop().time() - began_at < 0.8 + 0.5  # 250 ms, and as much for a busy machine
    assert got.code == grpc.StatusCode.DEADLINE_EXCEEDED
    await queued(sidecar, "narrow", 0)
    gate.set()
    await first
    await sidecar.until_idle()
    assert asked(upstream, model) == ["0"]
    assert (await account(sidecar, tenant)).used_nano_usd == 0


async def test_thousand_callers_at_once(start_sidecar, upstream, busy, tenant):
    """Five places and 400 in the queue: the rest is refused at once, nobody is lost, and no sixth call reaches the provider."""
    model, gate = busy
    sidecar = await start_sidecar("[services.narrow]\nconcurrency = 5\nqueue = 400\n")
    calls = [sidecar.llm.Generate(ask(f"{i}", model, f"{tenant}{i % 7}"), timeout=100) for i in range(1_000)]
    await shows(sidecar, 400, "llm_queue_length", service="narrow")
    await shows(sidecar, 595, "llm_refused_total", service="narrow", reason="queue")
    await upstream.request(model, 4)
    assert len(upstream.asked(model)) == 5
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert [error.code() for error in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 595
    assert [result.text for result in results if isinstance(result, pb.GenerateResponse)] == ["done"] * 405
    assert len(set(asked(upstream, model))) == len(upstream.asked(model)) == 405
    await sidecar.until_idle()
    await shows(sidecar, 0, "llm_queue_length", service="narrow")
    held = [await account(sidecar, f"{tenant}{number}") for number in range(7)]
    assert sum(one.pending_nano_usd for one in held) == 0
    await sidecar.llm.Generate(ask("next", model), timeout=60)


async def test_tenants_minute_is_waited_for_where_that_fits_and_refused_where_not(upstream, tmp_path, tenant):
    """6,000 tokens a minute are 100 a second; the first call holds nearly all of them until it ends."""
    model, gate = "minute", asyncio.Event()
    upstream.on(model, Say(pieces=("done",), gate=gate))
    limits = "[limits]\ntenant_tokens_per_minute = 6_000\n"
    tables = provider_tables(upstream.url, "compatible") + model_row(model, "compatible") + limits
    async with serving(tmp_path, tables) as sidecar:
        first = ask("0", model, tenant)
        first.max_output_tokens = 5_800
        second = ask("1", model, tenant)
        second.max_output_tokens = 1_200
        calls = [asyncio.ensure_future(sidecar.llm.Generate(first, timeout=60))]
        await upstream.request(model)
        calls.append(asyncio.ensure_future(sidecar.llm.Generate(second, timeout=60)))
        got = await failed(sidecar.llm.Generate(second, timeout=10))
        while "1 of its calls wait" not in got.message:  # the one before had not arrived yet
            got = await failed(sidecar.llm.Generate(second, timeout=10))
        assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert "limits.tenant_tokens_per_minute" in got.message
        assert 5 < got.retry_after_s < 30
        assert len(upstream.asked(model)) == 1
        gate.set()
        assert [reply.text for reply in await asyncio.gather(*calls)] == ["done"] * 2
        metric = await sidecar.metrics()
        assert metric("llm_refused_total", reason="tenant_limit") >= 1


async def test_sidecar_that_falls_behind_refuses_optional_calls_and_says_when(start_sidecar, upstream, fresh):
    """The process gets 40 ms of time in 300: its event loop is late at each look."""
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("done",)))
    sidecar = await start_sidecar("[admission]\nlag_optional_ms = 100\nlag_normal_ms = 60_000\n")
    slow = True

    async def slow_down():
        while slow:
            sidecar.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.26)
            sidecar.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.04)

    slowing = asyncio.create_task(slow_down())
    got = None
    async with asyncio.timeout(60):
        while got is None:
            try:
                await sidecar.llm.Generate(ask("optional", model, priority=pb.PRIORITY_OPTIONAL), timeout=30)
            except grpc.aio.AioRpcError as error:
                got = failure(error)
    assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert "admission.lag_optional_ms" in got.message
    assert got.retry_after_s >= 1
    for priority in (pb.PRIORITY_UNSPECIFIED, pb.PRIORITY_CRITICAL):
        await sidecar.llm.Generate(ask("let through", model, priority=priority), timeout=60)
    slow = False
    await slowing
    async with asyncio.timeout(30):
        while "refused" not in (events := await shed_events(sidecar))[0].facts:  # noqa: ASYNC110  (the latest is not yet an end)
            await asyncio.sleep(0.05)
    assert ["refused" in event.facts for event in events] == [True, False] * (len(events) // 2)
    assert sum(int(event.facts.get("refused", 0)) for event in events) >= 1
    await sidecar.llm.Generate(ask("optional", model, priority=pb.PRIORITY_OPTIONAL), timeout=30)
    assert (await sidecar.metrics())("llm_refused_total", reason="shed") >= 1
