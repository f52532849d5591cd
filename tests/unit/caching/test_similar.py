"""A question in other words: who gets which answer, and what an audit does."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.caching import look_up
from sidecar.call import Chunk
from sidecar.pipeline import plan, run
from sidecar.request import Message, Text
from tests.unit.caching.parts import ALIKE, ASKED, NODE, OTHER, SIMILAR, OpenJudge, ask, hits
from tests.unit.fakes import DONE, Bench


async def test_similar_question_is_answered_from_memory_where_a_judge_lets_it():
    bench = Bench([(Chunk(text="old"), DONE), (Chunk(text="new"), DONE)], **SIMILAR)
    bench.engine.similar.judge = judge = OpenJudge()
    first = await bench.run(ask(ASKED))
    bench.sent.clear()
    call = await bench.run(ask(ALIKE))
    assert (call.recalled.kind, call.answer.text, call.nano_usd, call.recalled.source) == ("semantic", "old", 0, first.id)
    assert call.recalled.score >= 0.95
    assert bench.text() == "old"
    assert judge.gave_calls == [(call.id, first.id)]
    assert (await bench.run(ask(OTHER))).recalled is None
    for apart in (ask(ALIKE, tenant="b"), ask(ALIKE, system="s"), ask(ALIKE, temperature=0.1), ask(ALIKE, model="gpt-4o")):
        assert (await bench.run(apart)).recalled is None
    assert hits(bench)["semantic"] == 1


@pytest.mark.parametrize(
    ("environ", "judge"),
    [({NODE + "SEMANTIC": "shadow"}, OpenJudge()), ({NODE + "SEMANTIC": "on"}, None), ({NODE + "SEMANTIC": "on"}, OpenJudge(gives=False))],
)
async def test_in_shadow_without_a_judge_or_unproven_nothing_similar_is_given(environ, judge):
    bench = Bench([(Chunk(text="old"), DONE), (Chunk(text="new"), DONE)], **environ, **{NODE + "MODE": "default"})
    bench.engine.similar.judge = judge
    await bench.run(ask(ASKED))
    call = await bench.run(ask(ALIKE))
    assert (call.recalled, call.answer.text) == (None, "new")
    assert hits(bench) == {"miss": 1, "shadow": 1}
    if judge is not None:
        assert (judge.gave_calls, judge.audits) == ([], [("old", "new")])


async def test_answer_that_an_audit_finds_wrong_is_dropped():
    bench = Bench([(Chunk(text="old"), DONE), (Chunk(text="new"), DONE)], **SIMILAR)
    bench.engine.similar.judge = OpenJudge(gives=False, keeps=False)
    await bench.run(ask(ASKED))
    await bench.run(ask(ALIKE))
    bench.engine.similar.judge = OpenJudge()
    assert (await bench.run(ask(ASKED, "only"))).recalled.source  # the fresh one, as a similar one
    assert (await bench.run(ask(ASKED, "only"))).answer.text == "new"


async def test_service_says_how_sure_it_must_be():
    bench = Bench(**SIMILAR, SIDECAR_SERVICES__CORE__CACHE_ACCEPTANCE="1.0")
    bench.engine.similar.judge = OpenJudge()
    await bench.run(ask("How do I turn on 2FA?"))
    assert (await bench.run(ask("How do I turn on 2FA"))).recalled is not None  # identical but for the end
    assert (await bench.run(ask("How can I turn on 2FA?"))).recalled is None


async def test_calls_that_wait_for_a_similar_answer_get_it_too():
    bench = Bench(**SIMILAR)
    bench.engine.similar.judge = judge = OpenJudge()
    await bench.run(ask(ASKED))
    calls = [bench.call(ask(ALIKE), stream=False) for _ in range(5)]
    await asyncio.gather(*(run(bench.engine, call) for call in calls))
    assert {call.recalled.kind for call in calls} == {"semantic"}
    assert len(bench.openai.asks) == 1
    assert len(judge.gave_calls) == 5  # each of them may be complained about


@pytest.mark.parametrize("prompt", ["   \n", "?", "🎉🎉", "x" * 100_000, "a" * 1_999 + " b", "\u200b", "한국어 mixed кириллица 2FA"])
async def test_odd_questions_do_no_harm_to_similar_ones(prompt):
    turns = (Message("user", (Text("hello"),)), Message("assistant", (Text("hi"),)), Message("user", (Text(prompt),)))
    bench = Bench(**SIMILAR)
    bench.engine.similar.judge = OpenJudge()
    await bench.run(ask("", messages=turns))
    assert (await bench.run(ask("", messages=turns))).recalled.kind == "exact"
    other = (*turns[:2], Message("user", (Text(prompt + "!x"),)))
    assert (await bench.run(ask("", messages=other))).recalled is None


async def test_questions_that_are_forgotten_are_not_found():
    bench = Bench(**SIMILAR, SIDECAR_CACHE__MAX_BYTES="65536")
    similar = bench.engine.similar
    similar.judge = OpenJudge()
    for number in range(200):
        await bench.run(ask(f"How do I find parcel {number}?"))
    assert 10 < len(similar) <= len(bench.engine.answers) < 200
    assert all(bench.engine.answers.old(digest, 0) for digest in similar._keys)


async def test_look_up_explains_itself():
    bench = Bench(**SIMILAR)
    await bench.run(ask(ASKED))

    async def looked(request):
        call = bench.call(request)
        plan(bench.engine, call)
        return await look_up(bench.engine, call)

    same = await looked(ask(ASKED))
    assert (same.decision, same.exact.entry.call_id) == ("exact", "c1")
    alike = await looked(ask(ALIKE))
    assert (alike.decision, alike.candidates[0].veto) == ("shadow", "")
    assert "0 of 0 audits failed" in alike.why
    bench.engine.similar.judge = OpenJudge()
    assert (await looked(ask(ALIKE))).decision == "semantic"
    refused = await looked(ask("How do I not reset my password?"))
    assert refused.decision == "none"
    assert refused.candidates[0].veto
    assert refused.candidates[0].deciding
    assert (await looked(ask(ASKED, "bypass"))).decision == "none"
    assert len(bench.openai.asks) == 1


async def test_where_no_provider_may_be_asked_a_proven_answer_is_given_and_not_audited():
    bench = Bench(**SIMILAR)
    bench.engine.similar.judge = judge = OpenJudge()
    judge.may_give = lambda _call, _likely: False  # it is always the next one's turn to be audited
    await bench.run(ask(ASKED))
    assert (await bench.run(ask(ALIKE, "only"))).recalled.kind == "semantic"
    assert (await bench.run(ask(ALIKE))).recalled is None
