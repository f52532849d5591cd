"""Callers who leave, and callers whose time is up, in each stage of a call at each wire: headers, body, stream, pause, fallback.

A cancel reaches the provider within 1 s and nothing is sent after it; a deadline is kept within 250 ms (and `NOISE_S`, for machines that
are busy with other tests). Waiting for a place is in `test_admission.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import grpc
import pytest

from sidecar.v1 import llm_pb2 as pb
from tests.fakes.script import Fail, Raw, Say, Stall, Step
from tests.flow.reading import account, failed, stream_failed

WIRES = ("openai", "anthropic", "google", "ollama", "compatible")
DEADLINE_S = 0.25
NOISE_S = 0.25


class Stage(NamedTuple):
    """Where a call is held: `way` of the call, and what the provider does."""

    way: str
    steps: tuple[Step, ...]
    on_cut: int = pb.ON_CUT_UNSPECIFIED


LONG = Say(pieces=("word ",) * 2000, delay_ms=20)
STAGES = {
    "waiting for headers": Stage("Generate", (Stall(),)),
    "waiting for a body": Stage("Generate", (Stall(after_headers=True),)),
    "within a body": Stage("Generate", (Raw(b'{"id": "x", ', then="stall"),)),
    "waiting for a stream's headers": Stage("Stream", (Stall(),)),
    "waiting for a first token": Stage("Stream", (Stall(after_headers=True, pings_ms=20),)),
    "within a stream": Stage("Stream", (LONG,)),
    "within a held stream": Stage("Stream", (LONG,), pb.ON_CUT_HOLD),
    "in the second try": Stage("Stream", (Fail(503, headers=(("retry-after-ms", "10"),)), Stall())),
    "waiting for vectors": Stage("Embed", (Stall(),)),
}
CASES = [(wire, name) for name, stage in STAGES.items() for wire in WIRES if (wire, stage.way) != ("anthropic", "Embed")]


def begin(sidecar, stage: Stage, model: str, tenant: str, timeout: float | None = None) -> Any:
    caller = pb.Caller(tenant=tenant)
    if stage.way == "Embed":
        return sidecar.llm.Embed(pb.EmbedRequest(inputs=["x"], model=model, caller=caller), timeout=timeout)
    ask = pb.GenerateRequest(prompt="Tell me a story.", model=model, caller=caller, on_cut=stage.on_cut)
    return getattr(sidecar.llm, stage.way)(ask, timeout=timeout)


async def held(upstream, stage: Stage, model: str):
    """The exchange in which the call is held."""
    exchange = await upstream.request(model, len(stage.steps) - 1)
    if stage.steps[-1] is LONG:
        while exchange.pieces_sent < 2:  # noqa: ASYNC110  (another task's counter)
            await asyncio.sleep(0.01)
    return exchange


@pytest.mark.parametrize(("wire", "name"), CASES)
async def test_a_cancel_reaches_the_provider_and_nothing_follows(sidecar, upstream, fresh, tenant, wire, name):
    stage, model = STAGES[name], fresh(wire)
    upstream.on(model, *stage.steps)
    call = begin(sidecar, stage, model, tenant)
    exchange = await held(upstream, stage, model)
    call.cancel()
    await exchange.hung_up()
    await sidecar.until_idle()
    assert len(upstream.asked(model)) == len(stage.steps)
    paid = await account(sidecar, tenant)
    assert (paid.pending_nano_usd, paid.pending_tokens) == (0, 0)


@pytest.mark.parametrize(("wire", "name"), CASES)
async def test_a_deadline_is_kept_and_closes_what_is_open(sidecar, upstream, fresh, tenant, wire, name):
    stage, model, deadline_s = STAGES[name], fresh(wire), 0.6
    upstream.on(model, *stage.steps)
    began_at = asyncio.get_running_loop().time()
    call = begin(sidecar, stage, model, tenant, deadline_s)
    got = await (stream_failed(call) if stage.way == "Stream" else failed(call))
    took_s = asyncio.get_running_loop().time() - began_at
    assert got.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert took_s < deadline_s + DEADLINE_S + NOISE_S
    exchange = await upstream.request(model, len(stage.steps) - 1)
    await exchange.ended(within_s=5)
    assert exchange.closed_at - began_at < deadline_s + DEADLINE_S + NOISE_S
    await sidecar.until_idle()
    assert len(upstream.asked(model)) == len(stage.steps)
    paid = await account(sidecar, tenant)
    assert (paid.pending_nano_usd, paid.pending_tokens) == (0, 0)


async def test_a_wait_that_does_not_fit_is_not_begun(sidecar, upstream, fresh):
    """The provider asks for 3 s where 2 are left: the caller is told at once."""
    model = fresh("compatible")
    upstream.on(model, Fail(503, headers=(("Retry-After", "3"),)))
    began_at = asyncio.get_running_loop().time()
    call = sidecar.llm.Generate(pb.GenerateRequest(prompt="x", model=model), timeout=2)
    got = await failed(call)
    assert asyncio.get_running_loop().time() - began_at < 1.5
    assert (got.code, got.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, 3.0)
    assert len(upstream.asked(model)) == 1


async def test_a_caller_who_leaves_in_a_pause_is_not_asked_for(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Fail(503, headers=(("Retry-After", "1"),)), Say())
    call = sidecar.llm.Generate(pb.GenerateRequest(prompt="x", model=model, caller=pb.Caller(tenant=tenant)))
    await (await upstream.request(model)).ended(within_s=5)
    await asyncio.sleep(0.1)
    call.cancel()
    await sidecar.until_idle()
    await asyncio.sleep(1.5)
    assert len(upstream.asked(model)) == 1


async def test_a_caller_who_leaves_the_fallback_leaves_it(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Fail(400, "context_length_exceeded", "context_length_exceeded"))
    upstream.on("compatible-default", Stall())
    try:
        before = len(upstream.asked("compatible-default"))
        caller = pb.Caller(tenant=tenant, node="flow.chain")
        call = sidecar.llm.Generate(pb.GenerateRequest(prompt="x", model=model, caller=caller))
        exchange = await upstream.request("compatible-default", before)
        call.cancel()
        cancelled_at = asyncio.get_running_loop().time()
        await exchange.hung_up()
        await sidecar.until_idle()
        assert len(upstream.asked("compatible-spare")) == 0 or upstream.asked("compatible-spare")[-1].arrived_at < cancelled_at
    finally:
        upstream.on("compatible-default", Say())
