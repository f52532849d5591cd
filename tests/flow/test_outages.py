"""Outages as they happen: all down, one down and one slow, one that comes and goes, crowds when one dies and when it comes back.

Each test has a sidecar of its own and three models: `a` is wanted, `b` and `c` may stand in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from tests.fakes.running import Sidecar, model_row
from tests.fakes.script import Fail, HangUp, Say, Stall, Step, Tokens, Vectors
from tests.fakes.upstream import Exchange, Upstream
from tests.flow.reading import account, failed, stream_failed, streamed

CROWD = 1_000
SETTINGS = "".join(
    f"[retries.{name}]\nwaits_ms = [20]\n" for name in ("unavailable", "garbled", "rate_limited", "timeout", "first_token", "stream_cut")
)


class Scene(NamedTuple):
    sidecar: Sidecar
    upstream: Upstream
    a: str
    b: str
    c: str

    def play(self, *scripts: tuple[Step, ...]) -> None:
        """What a, b and c do."""
        for model, steps in zip((self.a, self.b, self.c), scripts, strict=False):
            self.upstream.on(model, *steps)

    def ask(self, *, alone: bool = False, tenant: str = "", **fields: Any) -> pb.GenerateRequest:
        caller = pb.Caller(node="" if alone else "out.chain", service="out", tenant=tenant)
        return pb.GenerateRequest(prompt="Tell me a story.", model=self.a, caller=caller, **fields)

    def asked(self) -> tuple[int, int, int]:
        a, b, c = (len(self.upstream.asked(model)) for model in (self.a, self.b, self.c))
        return a, b, c

    def tried(self, reply: Any) -> list[str]:
        names = {getattr(self, name): name for name in "abc"}
        return [f"{names[attempt.model]} {attempt.outcome}" for attempt in reply.attempts]


@pytest_asyncio.fixture(loop_scope="session")
async def scene(start_sidecar, upstream, tenant) -> Callable[[str], Awaitable[Scene]]:
    async def begin(tables: str = "") -> Scene:
        a, b, c = (f"{tenant}-{name}" for name in "abc")
        chain = f'[nodes.out.chain]\nprimary = "{b}"\nfallbacks = ["{c}"]\n'
        rows = "".join(model_row(name, "compatible") for name in (a, b, c))
        return Scene(await start_sidecar(SETTINGS + chain + rows + tables), upstream, a, b, c)

    return begin


@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_all_down_is_told_after_one_budget_of_tries(scene, way):
    set_up = await scene()
    set_up.play((Fail(503),), (HangUp(),), (Fail(500),))
    call = getattr(set_up.sidecar.llm, way)(set_up.ask())
    got = await (failed(call) if way == "Generate" else stream_failed(call))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE")
    assert len(got.partial.attempts) == sum(set_up.asked()) == 6
    assert got.partial.cost.nano_usd == 0


async def test_the_shortest_wait_of_all_is_told(scene):
    set_up = await scene()
    set_up.play(*((Fail(429, headers=(("Retry-After", wait),)),) for wait in ("3000", "400", "5000")))
    got = await failed(set_up.sidecar.llm.Generate(set_up.ask(), timeout=20))
    assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "PROVIDER_RATE_LIMITED")
    assert 390 < got.retry_after_s <= 400
    assert set_up.asked() == (1, 1, 1)


@pytest.mark.parametrize("first", [Fail(503), HangUp(), Stall(), Stall(after_headers=True)], ids=lambda step: repr(step)[:24])
@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_first_down_and_second_slow_is_answered_in_time(scene, way, first):
    set_up = await scene("[timeouts]\nfirst_token_ms = 1000\nanswer_ms = 5000\n")
    set_up.play((first,), (Say(first_delay_ms=400),))
    began_at = asyncio.get_running_loop().time()
    call = getattr(set_up.sidecar.llm, way)(set_up.ask(), timeout=2.5)
    reply = await call if way == "Generate" else (await streamed(call)).end
    assert asyncio.get_running_loop().time() - began_at < 2.5  # a silent first one leaves the second its share
    assert (reply.fallback, set_up.tried(reply)[-1]) == (True, "b ok")


async def test_one_that_comes_and_goes_never_fails_a_call(scene):
    set_up = await scene()
    set_up.play((Say(), Fail(503), Say(), HangUp()) * 25, (Say(),))
    replies = [await set_up.sidecar.llm.Generate(set_up.ask()) for _ in range(40)]
    assert all(reply.text == "Hello, world!" for reply in replies)
    most = max(len(reply.attempts) for reply in replies)
    assert most <= 4


@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_crowd_when_one_dies(scene, way):
    """Those who are on their way have asked; nobody asks a second time once three have failed in a row."""
    set_up = await scene()
    set_up.play((HangUp(),), (Say(),))
    stub = getattr(set_up.sidecar.llm, way)

    async def one() -> pb.GenerateResponse:
        call = stub(set_up.ask(), timeout=60)
        return await call if way == "Generate" else (await streamed(call)).end

    replies = await asyncio.gather(*(one() for _ in range(CROWD)))
    assert {(reply.fallback, set_up.tried(reply)[-1]) for reply in replies} == {(True, "b ok")}
    at_first, instead, _ = set_up.asked()
    assert instead == CROWD
    assert at_first <= CROWD + 20  # a retry may still have been let through before the breaker opened
    again = await set_up.sidecar.llm.Generate(set_up.ask())
    assert set_up.tried(again) == ["b ok"]


@pytest.mark.parametrize("alone", [False, True], ids=["with a fallback", "alone"])
async def test_crowd_when_it_comes_back(scene, alone):
    """One trial, whatever the number of callers; after it a few at a time, more with each success."""
    set_up = await scene("[services.out]\nbreaker_open_ms = 1500\n")
    set_up.play((Fail(503),), (Say(),))
    if alone:
        await failed(set_up.sidecar.llm.Generate(set_up.ask(alone=True)))
    else:
        await set_up.sidecar.llm.Generate(set_up.ask())
    opened = set_up.asked()[0]
    assert opened == (4 if alone else 3)  # with nobody to stand in the last retry is the first trial
    gate = asyncio.Event()
    set_up.upstream.on(set_up.a, Say(gate=gate), Say(first_delay_ms=20))
    await asyncio.sleep(1.6)
    crowd = [asyncio.create_task(_of(set_up.sidecar.llm.Generate(set_up.ask(alone=alone), timeout=60))) for _ in range(CROWD)]
    trial = await set_up.upstream.request(set_up.a, opened)
    await asyncio.sleep(1)
    assert set_up.asked()[0] == opened + 1, "while the trial is out nobody else asks"
    gate.set()
    replies = await asyncio.gather(*crowd)
    assert {reply.text for reply in replies} == {"Hello, world!"}
    assert_ramp(set_up.upstream.asked(set_up.a)[opened + 1 : 60], trial.ended_at)
    if alone:
        assert all(set_up.tried(reply) == ["a ok"] for reply in replies)
    else:
        assert sum(reply.fallback for reply in replies) > CROWD / 2


def assert_ramp(after: list[Exchange], began_at: float) -> None:
    """Two at a time at first, and one more with each success (twice as many after 5 s, which a busy machine may take)."""
    for place, one in enumerate(after):
        ended = sum(other.ended_at is not None and other.ended_at <= one.arrived_at for other in after)
        allowed = (2 + ended) * (1 if one.arrived_at - began_at < 4 else 4)
        assert place + 1 - ended <= allowed, f"request {place} after the trial found {place - ended} under way and {ended} answered"


async def _of(call: Awaitable[pb.GenerateResponse]) -> pb.GenerateResponse:
    return await call


async def test_a_trial_that_its_caller_left_frees_its_place(scene):
    set_up = await scene("[services.out]\nbreaker_open_ms = 300\n")
    set_up.play((Fail(503),))
    await failed(set_up.sidecar.llm.Generate(set_up.ask(alone=True)))
    set_up.play((Stall(), Say()))
    await asyncio.sleep(0.4)
    trial = set_up.sidecar.llm.Generate(set_up.ask(alone=True))
    await set_up.upstream.request(set_up.a, 4)
    trial.cancel()
    assert (await set_up.sidecar.llm.Generate(set_up.ask(alone=True), timeout=10)).text == "Hello, world!"


# --- what is paid -----------------------------------------------------------------------------------------------------------------


async def test_all_tries_are_paid_and_add_up(scene, tenant):
    """A held stream that was cut, one that was cut again, one that was whole: three tries were billed, and an error was not."""
    set_up = await scene()
    cut = Say(pieces=("Once ", "upon "), cut="close", cut_after=1, tokens=Tokens(input=50, output=9))
    set_up.play((cut, Fail(500), cut), (Say(tokens=Tokens(input=20, output=7)),))
    got = await streamed(set_up.sidecar.llm.Stream(set_up.ask(tenant=tenant, on_cut=pb.ON_CUT_HOLD)))
    assert set_up.tried(got.end) == ["a STREAM_CUT", "a PROVIDER_UNAVAILABLE", "a STREAM_CUT", "b ok"]
    assert (got.text, got.restarts) == ("Hello, world!", [])
    costs = [attempt.nano_usd for attempt in got.end.attempts]
    assert costs[1] == 0
    assert sum(costs) == got.end.cost.nano_usd == (await account(set_up.sidecar, tenant)).used_nano_usd
    assert got.end.usage.estimated


async def test_a_restart_tells_what_went_before_and_is_paid_for(scene, tenant):
    set_up = await scene()
    cut = Say(pieces=("Once ", "upon "), cut="reset", cut_after=1)
    set_up.play((cut,), (Say(pieces=("Twice.",)),))
    got = await streamed(set_up.sidecar.llm.Stream(set_up.ask(tenant=tenant, on_cut=pb.ON_CUT_RESTART)))
    assert (got.text, got.restarts, got.end.fallback) == ("Twice.", ["STREAM_CUT"], True)
    assert sum(attempt.nano_usd for attempt in got.end.attempts) == got.end.cost.nano_usd


async def test_another_space_of_vectors_is_marked(scene):
    set_up = await scene()
    set_up.play((Fail(500),), (Vectors(),))
    asked = pb.EmbedRequest(inputs=["x", "y"], model=set_up.a, caller=pb.Caller(node="out.chain"))
    reply = await set_up.sidecar.llm.Embed(asked)
    assert (reply.fallback, len(reply.vectors)) == (True, 2)
    assert any("another space" in notice for notice in reply.notices)


async def test_an_answer_that_breaks_its_strict_schema_is_nobodys_in_a_stream_too(scene):
    set_up = await scene()
    set_up.play((Say(pieces=('{"a": ', "1}")),), (Say(pieces=('{"a"', ': "x"}')),))
    strict = pb.ResponseFormat(
        json_schema=pb.JsonSchemaFormat(name="s", schema='{"type":"object","properties":{"a":{"type":"string"}}}', strict=True)
    )
    call = set_up.sidecar.llm.Stream(set_up.ask(alone=True, response_format=strict))
    got = await stream_failed(call)
    assert (got.code, got.reason, got.streamed.kinds) == (grpc.StatusCode.DATA_LOSS, "SCHEMA_VIOLATED", [])
    assert "/a" in got.message
    mended = await streamed(set_up.sidecar.llm.Stream(set_up.ask(response_format=strict)))
    assert (mended.text, set_up.tried(mended.end)) == ('{"a": "x"}', ["a SCHEMA_VIOLATED", "b ok"])


# --- what breakers count ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        Fail(400),
        Fail(422),
        Fail(400, code="context_length_exceeded"),
        Say(finish="content_filter"),
        Say(finish="refusal"),
        Say(finish="length"),
    ],
    ids=["400", "422", "too long", "content filter", "refusal", "length"],
)
async def test_what_is_no_fault_of_the_provider_opens_no_breaker(sidecar, upstream, fresh, step):
    model = fresh("compatible")
    upstream.on(model, *[step] * 6, Say())
    for _ in range(6):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await sidecar.llm.Generate(pb.GenerateRequest(prompt="x", model=model))
    assert (await sidecar.llm.Generate(pb.GenerateRequest(prompt="x", model=model))).text == "Hello, world!"
    assert len(upstream.asked(model)) == 7


async def test_callers_who_leave_open_no_breaker(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, *[Stall()] * 6, Say())
    for number in range(6):
        call = sidecar.llm.Generate(pb.GenerateRequest(prompt="x", model=model))
        exchange = await upstream.request(model, number)
        call.cancel()
        await exchange.ended(within_s=5)
    assert (await sidecar.llm.Generate(pb.GenerateRequest(prompt="x", model=model))).text == "Hello, world!"


async def test_cut_streams_open_the_breaker_of_one_model_only(scene):
    set_up = await scene()
    set_up.play((Say(cut="close", cut_after=1),), (Say(pieces=("From b.",)),))
    for _ in range(3):
        got = await stream_failed(set_up.sidecar.llm.Stream(set_up.ask()))
        assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_CUT")
    began_at = asyncio.get_running_loop().time()
    whole = await streamed(set_up.sidecar.llm.Stream(set_up.ask()))
    assert asyncio.get_running_loop().time() - began_at < 1
    assert (whole.text, whole.start.fallback, set_up.asked()[0]) == ("From b.", True, 3)
    closed = await failed(set_up.sidecar.llm.Generate(set_up.ask(alone=True)))
    assert (closed.code, closed.reason) == (grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE")
    assert 20 < closed.retry_after_s <= 30
    assert set_up.asked()[0] == 3
