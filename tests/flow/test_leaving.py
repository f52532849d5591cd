"""Callers who leave and callers whose time is up: the provider's call ends with them, and is settled all the same, once.

Bounds: a cancelled caller's provider call ends within 1 s; a deadline is kept within 250 ms. `NOISE_S` is added to the latter, because
these tests share two busy cores with other processes; it is no part of the requirement.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest

from sidecar.v1 import llm_pb2 as pb
from tests.fakes.script import Fail, Say, Stall
from tests.flow import raw_http2
from tests.flow.reading import account, failed, settled_once, stream_failed, streamed

ALL = ("openai", "anthropic", "google", "ollama", "compatible")
DEADLINE_S = 0.25
NOISE_S = 0.25


def ask(model: str, tenant: str = "", node: str = "", **fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="Tell me a story.", model=model, caller=pb.Caller(tenant=tenant, node=node), **fields)


# --- the caller goes away ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ALL)
async def test_cancelled_unary_call_stops_the_provider(sidecar, upstream, fresh, tenant, provider):
    model = fresh(provider)
    upstream.on(model, Stall())
    call = sidecar.llm.Generate(ask(model, tenant))
    exchange = await upstream.request(model)
    held = await account(sidecar, tenant)
    assert held.pending_nano_usd > 0
    call.cancel()
    await exchange.hung_up()
    assert await settled_once(sidecar, model, "CANCELLED", tenant) > 0  # the prompt was sent, and is billed


@pytest.mark.parametrize("provider", ALL)
async def test_cancelled_stream_stops_the_provider(sidecar, upstream, fresh, tenant, provider):
    model = fresh(provider)
    upstream.on(model, Say(pieces=(" word",) * 1000, delay_ms=10))
    stream = sidecar.llm.Stream(ask(model, tenant))
    while (await stream.read()).WhichOneof("event") != "text_delta":
        pass
    exchange = await upstream.request(model)
    stream.cancel()
    await exchange.hung_up()
    assert await settled_once(sidecar, model, "CANCELLED", tenant) > 0


async def test_cancelled_while_waiting_to_retry(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Fail(503))
    call = sidecar.llm.Generate(ask(model, tenant))
    await (await upstream.request(model)).ended(within_s=5)
    call.cancel()
    assert await settled_once(sidecar, model, "CANCELLED", tenant) == 0  # a 503 costs nothing
    assert len(upstream.asked(model)) == 1


async def test_cancelled_embedding(sidecar, upstream, fresh, tenant):
    model = fresh("openai")
    upstream.on(model, Stall())
    call = sidecar.llm.Embed(pb.EmbedRequest(inputs=["x"], model=model, caller=pb.Caller(tenant=tenant)))
    exchange = await upstream.request(model)
    call.cancel()
    await exchange.hung_up()
    await settled_once(sidecar, model, "CANCELLED", tenant)


async def test_caller_whose_machine_died(sidecar, upstream, fresh, tenant):
    """The connection is simply gone: nobody says goodbye."""
    model = fresh("compatible")
    upstream.on(model, Stall())
    message = ask(model, tenant).SerializeToString()
    call = asyncio.ensure_future(raw_http2.call(sidecar.target, "/sidecar.v1.LLMService/Stream", message))
    exchange = await upstream.request(model)
    call.cancel()  # closes the socket
    await exchange.hung_up()
    await settled_once(sidecar, model, "CANCELLED", tenant)


async def test_cancelled_by_a_caller_who_does_not_read(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("x" * 50_000,) * 500))
    stream = sidecar.llm.Stream(ask(model, tenant))
    await stream.read()
    await asyncio.sleep(0.3)  # everything between provider and caller is full by now
    exchange = await upstream.request(model)
    assert exchange.pieces_sent < 500
    stream.cancel()
    await exchange.hung_up()
    assert await settled_once(sidecar, model, "CANCELLED", tenant) > 0


async def test_storm_of_cancellations_leaves_nothing_behind(sidecar, upstream, fresh, tenant):
    model, many = fresh("compatible"), 150
    upstream.on(model, Say(pieces=(" word",) * 50, delay_ms=5))

    async def impatient(patience_s: float) -> None:
        stream = sidecar.llm.Stream(ask(model, tenant))
        try:
            await asyncio.wait_for(streamed(stream), patience_s)
        except TimeoutError:
            stream.cancel()

    await asyncio.gather(*(impatient(0.004 * number) for number in range(many)))
    await sidecar.until_idle()
    paid = await account(sidecar, tenant)
    assert (paid.pending_nano_usd, paid.pending_tokens) == (0, 0)
    metric = await sidecar.metrics()
    ended = metric("llm_request_total", model=model)
    assert ended == metric("llm_request_total", model=model, status="ok") + metric("llm_request_total", model=model, status="CANCELLED")
    assert len(upstream.asked(model)) <= ended <= many  # the most impatient left before their calls arrived
    assert metric("llm_cost_nano_usd_total", model=model) == paid.used_nano_usd > 0


# --- the time is up ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ALL)
@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_deadline_is_kept(sidecar, upstream, fresh, tenant, provider, way):
    model, deadline_s = fresh(provider), 0.8
    upstream.on(model, Stall())
    began_at = asyncio.get_running_loop().time()
    if way == "Generate":
        got = await failed(sidecar.llm.Generate(ask(model, tenant), timeout=deadline_s))
    else:
        got = await stream_failed(sidecar.llm.Stream(ask(model, tenant), timeout=deadline_s))
    took_s = asyncio.get_running_loop().time() - began_at
    assert got.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert got.reason in ("DEADLINE_EXCEEDED", "")  # empty where the client's own clock was faster
    assert took_s < deadline_s + DEADLINE_S + NOISE_S
    exchange = await upstream.request(model)
    await exchange.ended(within_s=5)
    assert exchange.closed_at - began_at < deadline_s + DEADLINE_S + NOISE_S
    await settled_once(sidecar, model, "DEADLINE_EXCEEDED", tenant)


async def test_deadline_in_the_middle_of_a_stream_tells_what_came(sidecar, upstream, fresh, tenant):
    model, gate = fresh("compatible"), asyncio.Event()
    upstream.on(model, Say(pieces=("Once ", "upon "), gate=gate, hold_after=1))
    got = await stream_failed(sidecar.llm.Stream(ask(model, tenant), timeout=2))
    assert got.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert got.streamed.text == "Once "
    cost = await settled_once(sidecar, model, "DEADLINE_EXCEEDED", tenant)
    assert cost > 0
    if got.partial is not None:  # absent where the client's own clock was faster
        assert (got.partial.text, got.partial.cost.nano_usd) == ("Once ", cost)
    gate.set()


async def test_no_retry_that_cannot_be_in_time(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Fail(429, headers=(("Retry-After", "60"),)))
    got = await failed(sidecar.llm.Generate(ask(model), timeout=20))
    assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "PROVIDER_RATE_LIMITED")
    assert 55 < got.retry_after_s <= 76
    assert len(upstream.asked(model)) == 1
