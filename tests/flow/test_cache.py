"""Asked before, answered from memory: only for callers who say so, never across tenants, models or settings of the question."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.script import Say
from tests.flow.reading import account, failed, streamed, tokens

DEFAULT, BYPASS, REFRESH, ONLY = 1, 2, 3, 4


def ask(model: str, mode: int, tenant: str = "", **fields: object) -> pb.GenerateRequest:
    caller = pb.Caller(tenant=tenant)
    return pb.GenerateRequest(**{"prompt": "What is it?", "model": model, "caller": caller, "cache": pb.CachePolicy(mode=mode)} | fields)


async def test_same_question_is_answered_from_memory_and_costs_nothing(sidecar, upstream, fresh, tenant):
    model = fresh("openai")
    upstream.on(model, Say(reasoning=("Hm.",), pieces=("It is ", "this.")), Say(pieces=("That.",)))
    first = await sidecar.llm.Generate(ask(model, DEFAULT, tenant))
    paid = (await account(sidecar, tenant)).used_nano_usd
    again = await sidecar.llm.Generate(ask(model, DEFAULT, tenant))
    assert first.cache.kind == pb.CacheResult.KIND_NONE
    assert (again.cache.kind, again.cache.similarity) == (pb.CacheResult.KIND_EXACT, 1.0)
    assert again.cache.age.ToNanoseconds() > 0
    assert (again.text, again.reasoning, again.model) == (first.text, first.reasoning, model)
    assert again.id != first.id
    assert tokens(again.usage) == (0, 0, 0, 0, 0)
    assert again.cost.nano_usd == 0
    assert list(again.attempts) == []
    assert len(upstream.asked(model)) == 1
    assert (await account(sidecar, tenant)).used_nano_usd == paid > 0


@pytest.mark.parametrize("first", ["Generate", "Stream"])
async def test_stream_is_answered_from_memory_piece_and_all(sidecar, upstream, fresh, first):
    model = fresh("compatible")
    upstream.on(model, Say(reasoning=("Hm.",), pieces=("It is ", "this.")), Say(pieces=("That.",)))
    if first == "Generate":
        await sidecar.llm.Generate(ask(model, DEFAULT))
    else:
        await streamed(sidecar.llm.Stream(ask(model, DEFAULT)))
    again = await streamed(sidecar.llm.Stream(ask(model, DEFAULT)))
    assert (again.text, again.reasoning) == ("It is this.", "Hm.")
    assert again.end.cache.kind == pb.CacheResult.KIND_EXACT
    assert again.start.model == model
    assert len(upstream.asked(model)) == 1


async def test_nothing_is_remembered_unasked(sidecar, upstream, fresh):
    model = fresh("compatible")
    for mode in (0, BYPASS, 0, BYPASS):
        assert (await sidecar.llm.Generate(ask(model, mode))).cache.kind != pb.CacheResult.KIND_EXACT
    assert len(upstream.asked(model)) == 4
    got = await failed(sidecar.llm.Generate(ask(model, ONLY)))
    assert (got.code, got.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_CACHED")
    assert len(upstream.asked(model)) == 4


async def test_refresh_asks_and_remembers(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("old",)), Say(pieces=("new",)))
    await sidecar.llm.Generate(ask(model, DEFAULT))
    assert (await sidecar.llm.Generate(ask(model, REFRESH))).text == "new"
    assert (await sidecar.llm.Generate(ask(model, ONLY))).text == "new"


async def test_never_across_tenants_models_or_settings(sidecar, upstream, fresh, tenant):
    model, other = fresh("compatible"), fresh("compatible")
    await sidecar.llm.Generate(ask(model, DEFAULT, tenant))
    for different in (
        ask(model, ONLY, tenant + "x"),
        ask(other, ONLY, tenant),
        ask(model, ONLY, tenant, prompt="What is it? "),
        ask(model, ONLY, tenant, system="Be brief."),
        ask(model, ONLY, tenant, temperature=0.0),
        ask(model, ONLY, tenant, seed=0),
        ask(model, ONLY, tenant, max_output_tokens=5),
        ask(model, ONLY, tenant, tools=[pb.Tool(name="t")]),
        ask(model, ONLY, tenant, response_format=pb.ResponseFormat(json_object=pb.JsonObjectFormat())),
        ask(model, ONLY, tenant, prompt_ref=pb.PromptRef(name="p", version="2")),
        ask(model, ONLY, tenant, provider_options={"x": 1}),
    ):
        assert (await failed(sidecar.llm.Generate(different))).reason == "NOT_CACHED", different
    assert (await sidecar.llm.Generate(ask(model, ONLY, tenant))).text == "Hello, world!"


async def test_too_old_is_not_welcome(sidecar, upstream, fresh):
    model = fresh("compatible")
    await sidecar.llm.Generate(ask(model, DEFAULT))
    await asyncio.sleep(0.05)
    policy = pb.CachePolicy(mode=ONLY)
    policy.max_age.FromMilliseconds(20)
    assert (await failed(sidecar.llm.Generate(ask(model, ONLY, cache=policy)))).reason == "NOT_CACHED"
    policy.max_age.FromMilliseconds(60_000)
    assert (await sidecar.llm.Generate(ask(model, ONLY, cache=policy))).text == "Hello, world!"


@pytest.mark.parametrize("half", [Say(finish="length"), Say(finish="content_filter"), Say(finish="refusal")])
async def test_half_an_answer_is_not_remembered(sidecar, upstream, fresh, half):
    model = fresh("openai")
    upstream.on(model, half)
    await sidecar.llm.Generate(ask(model, DEFAULT))
    assert (await failed(sidecar.llm.Generate(ask(model, ONLY)))).reason == "NOT_CACHED"


async def until_in_flight(sidecar, calls):
    async with asyncio.timeout(20):
        while (await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())).calls_in_flight < calls:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)


async def test_a_hundred_identical_calls_at_once_are_one_question(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    answer = asyncio.Event()
    upstream.on(model, Say(pieces=("one ", "answer"), gate=answer))
    asked = ask(model, DEFAULT, tenant)
    calls = [asyncio.ensure_future(sidecar.llm.Generate(asked) if n % 2 else streamed(sidecar.llm.Stream(asked))) for n in range(100)]
    await until_in_flight(sidecar, 100)
    answer.set()
    replies = await asyncio.gather(*calls)
    assert len(upstream.asked(model)) == 1
    assert {reply.text for reply in replies} == {"one answer"}
    ends = [reply.end if hasattr(reply, "end") else reply for reply in replies]
    paid = [end for end in ends if end.cost.nano_usd]
    joined = [end for end in ends if end.cache.joined]
    assert (len(paid), len(joined)) == (1, 99)
    assert {(end.cache.kind, end.cache.source_call_id, end.cache.saved_nano_usd) for end in joined} == {
        (pb.CacheResult.KIND_EXACT, paid[0].id, paid[0].cost.nano_usd)
    }
    assert (await account(sidecar, tenant)).used_nano_usd == paid[0].cost.nano_usd


async def test_the_caller_that_others_wait_for_leaves_and_they_go_on(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("never",), gate=asyncio.Event()), Say(pieces=("soon",)))
    asked = ask(model, DEFAULT)
    leader = sidecar.llm.Generate(asked)
    first = await upstream.request(model)
    others = [asyncio.ensure_future(sidecar.llm.Generate(asked)) for _ in range(10)]
    await until_in_flight(sidecar, 11)
    leader.cancel()
    replies = await asyncio.gather(*others)
    assert {reply.text for reply in replies} == {"soon"}
    assert sorted(reply.cache.joined for reply in replies) == [False] + [True] * 9
    assert len(upstream.asked(model)) == 2
    await first.ended(5)
    assert first.closed_at is not None
