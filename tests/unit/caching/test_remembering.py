"""What is remembered, for whom and how long."""

from __future__ import annotations

import asyncio

import pytest

from sidecar import errors
from sidecar.call import Chunk, Usage
from sidecar.pipeline import run
from sidecar.request import Message, Text
from tests.unit.caching.parts import NODE, ON, Elapsed, ask, hits, slow
from tests.unit.fakes import DONE, Bench


async def test_node_lets_calls_be_answered_from_memory_that_do_not_say():
    bench = Bench(**ON)
    first = await bench.run()
    again = await bench.run()
    assert len(bench.openai.asks) == 1
    assert (again.recalled.kind, again.recalled.source, again.recalled.saved_nano_usd) == ("exact", first.id, first.nano_usd)
    assert first.nano_usd > 0
    assert again.nano_usd == 0
    await bench.run(cache_mode="bypass")
    assert len(bench.openai.asks) == 2
    bench.assert_settled(used=30)
    assert hits(bench) == {"exact": 1, "miss": 1}


async def test_lively_answers_are_remembered_only_for_those_who_ask_for_that():
    bench = Bench(**ON)
    for _ in range(2):
        await bench.run(temperature=0.9)
    assert len(bench.openai.asks) == 2
    for _ in range(2):
        await bench.run(temperature=0.9, cache_mode="default")
    assert len(bench.openai.asks) == 3


async def test_time_words_make_an_answer_old_soon():
    bench = Bench(SIDECAR_CACHE__TIME_WORDS_TTL_MS="30000")
    clock = Elapsed(bench)
    for prompt in ("what is new today", "what is new"):
        await bench.run(ask(prompt))
    clock.pass_s(31)
    await bench.run(ask("what is new today"), seconds=100)
    await bench.run(ask("what is new"), seconds=100)
    assert len(bench.openai.asks) == 3


async def test_life_is_the_nodes():
    bench = Bench(**ON, **{NODE + "TTL_MS": "5000"})
    clock = Elapsed(bench)
    await bench.run(seconds=100)
    clock.pass_s(4)
    assert (await bench.run(seconds=100)).recalled.age_ns >= 4 * 10**9
    clock.pass_s(2)
    assert (await bench.run(seconds=100)).recalled is None


async def test_users_share_a_tenants_answers_unless_the_node_says_otherwise():
    for scope, asked in (("tenant", 1), ("user", 2)):
        bench = Bench(**{NODE + "SCOPE": scope})
        await bench.run(ask(user="kim"))
        await bench.run(ask(user="lee"))
        await bench.run(ask(user="kim"))
        assert len(bench.openai.asks) == asked


async def test_what_is_each_users_own_is_nobodys_where_no_user_is_named():
    bench = Bench(**{NODE + "SCOPE": "user"})
    for _ in range(2):
        await bench.run(ask())
    assert len(bench.openai.asks) == 2
    with pytest.raises(errors.NotCached):
        await bench.run(ask(mode="only"))
    calls = [bench.call(ask()) for _ in range(3)]
    await asyncio.gather(*(run(bench.engine, call) for call in calls))
    assert len(bench.openai.asks) == 5  # nor does one wait for another


TOOLS = Chunk(finish="tool_calls", usage=Usage(10, 0, 0, 0, 5, 0), last=True)


async def test_tool_calls_are_remembered_where_the_node_says_so():
    from sidecar.call import ToolDelta
    from sidecar.request import Tool

    script = [(Chunk(tool_calls=(ToolDelta(0, "i", "t", "{}"),)), TOOLS)]
    for allowed, asked in (("false", 2), ("true", 1)):
        bench = Bench(script, **{NODE + "TOOL_CALLS": allowed})
        for _ in range(2):
            call = await bench.run(ask(tools=(Tool("t"),)))
        assert len(bench.openai.asks) == asked
        assert [c.name for c in call.answer.tool_calls] == ["t"]


@pytest.mark.parametrize("prompt", ["🎉", "한국어 English кириллица", "а lооk-аlike", "\u200b\u200bzero", "x" * 1_000_000, "\u0301\u0301"])
async def test_odd_questions_are_answered_again_like_any_other(prompt):
    bench = Bench(SIDECAR_MODELS__GPT_4O__CONTEXT_TOKENS="1000000")
    await bench.run(ask(prompt))
    assert (await bench.run(ask(prompt))).recalled is not None
    assert (await bench.run(ask(prompt + "."))).recalled is None


async def test_empty_last_turn_is_a_question_of_its_own():
    bench = Bench()
    turns = (Message("user", (Text("hello"),)), Message("assistant", (Text("hi"),)), Message("user", (Text(""),)))
    for _ in range(2):
        call = await bench.run(ask("", messages=turns))
    assert call.recalled is not None
    assert (await bench.run(ask("", messages=turns[:1]))).recalled is None


async def test_another_tenant_can_neither_read_nor_place_an_entry():
    bench = Bench(slow("poison", 0) + slow("good", 0))
    await bench.run(ask(tenant="evil"))
    call = await bench.run(ask(tenant="good"))
    assert call.answer.text == "good"
    assert call.recalled is None
    assert (await bench.run(ask(tenant="good"))).answer.text == "good"


async def test_halves_of_characters_are_answered_and_not_remembered():
    bench = Bench([(Chunk(text="\ud83d"), DONE)])
    for _ in range(2):
        call = await bench.run(ask(), stream=False)
    assert (call.recalled, len(bench.openai.asks)) == (None, 2)
    assert len(bench.engine.flights) == 0
