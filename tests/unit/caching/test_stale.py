"""Every model has failed: an old answer, where the node has it so."""

from __future__ import annotations

import asyncio

import pytest

from sidecar import errors
from sidecar.call import Chunk
from sidecar.pipeline import plan
from sidecar.policies.cache_similar import Likely
from sidecar.request import GenerateRequest
from sidecar.store.cache_entry import unpacked
from tests.unit.caching.parts import ALIKE, ASKED, DOWN, NODE, OTHER, STALE, Elapsed, ask, hits
from tests.unit.fakes import Bench, caller


async def answered_then_down(bench, seconds=1.5):
    """One good answer, then its life is over."""
    clock = Elapsed(bench)
    await bench.run(seconds=100)
    bench.openai.scripts[:] = [DOWN]
    bench.anthropic.scripts[:] = [DOWN]
    bench.openai.asks.clear()
    bench.sent.clear()
    clock.pass_s(seconds)
    return clock


@pytest.mark.parametrize("stream", [False, True])
async def test_old_answer_when_every_model_fails(stream):
    bench = Bench(**STALE)
    await answered_then_down(bench)
    used = bench.ledger.balance("tenant:default:day", bench.engine.wall_ns()).used_tokens
    call = await bench.run(seconds=100, stream=stream)
    assert (call.recalled.kind, call.answer.text, call.error) == ("stale", "hi", None)
    assert call.recalled.age_ns >= 1.5e9
    assert "every model failed (PROVIDER_UNAVAILABLE); this answer is 1 second old" in call.notices[-1]
    assert len(call.attempts) > 1
    assert call.nano_usd == 0
    assert bench.text() == ("hi" if stream else "")
    assert hits(bench)["stale"] == 1
    bench.assert_settled(used=used)
    assert (await bench.run(seconds=100)).recalled.kind == "stale"  # and it has not become young by that


async def test_old_answer_where_time_runs_out_with_a_silent_model():
    bench = Bench(**STALE | {NODE + "TTL_MS": "1"})
    await bench.run()
    await asyncio.sleep(0.005)
    bench.openai.scripts[:] = bench.anthropic.scripts[:] = [(30.0,)]
    call = await bench.run(seconds=0.2, stream=False)
    assert call.recalled.kind == "stale"


@pytest.mark.parametrize(
    "failure",
    [errors.ProviderRejected("no"), errors.ProviderContextExceeded("no")],
)
async def test_no_old_answer_where_the_question_is_at_fault(failure):
    bench = Bench(**STALE)
    await answered_then_down(bench)
    bench.openai.scripts[:] = bench.anthropic.scripts[:] = [(failure,)]
    with pytest.raises(type(failure)):
        await bench.run(seconds=100)


async def test_no_old_answer_unless_the_node_allows_it_and_for_no_other_question():
    bench = Bench(**{NODE + "MODE": "default", NODE + "TTL_MS": "1000"})
    await answered_then_down(bench)
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run(seconds=100)
    bench = Bench(**STALE)
    await answered_then_down(bench)
    for request in (ask("other", ""), ask(mode="", tenant="b"), ask(mode="bypass"), ask(mode="default", cache_max_age_ms=1_000)):
        with pytest.raises(errors.ProviderUnavailable):
            await bench.run(request, seconds=100)


async def test_too_old_is_gone():
    bench = Bench(**STALE, SIDECAR_CACHE__STALE_MS="5000")
    clock = await answered_then_down(bench)
    clock.pass_s(5)
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run(seconds=100)


async def test_stream_that_broke_before_its_readers_eyes_is_not_patched_with_an_old_answer():
    bench = Bench(**STALE)
    await answered_then_down(bench)
    bench.openai.scripts[:] = [(Chunk(text="new"), errors.ProviderUnavailable("down"))]
    with pytest.raises(errors.SidecarError):
        await bench.run(seconds=100)
    assert bench.text() == "new"


async def test_refusal_of_the_sidecar_itself_is_no_failure_of_models():
    bench = Bench(**STALE)
    await answered_then_down(bench)
    for _ in range(3):
        bench.engine.admission.shedding.look(300)
    with pytest.raises(errors.Overloaded):
        await bench.run(GenerateRequest(prompt="hello", caller=caller("core.react_agent", priority="optional")), seconds=100)


async def asked_alike(*audits, alike=ALIKE, **environ):
    """Both models fail; the real judge knows of no audit, or of these (the same?). What the question in other words comes to."""
    bench = Bench(**STALE, **environ)
    await bench.run(GenerateRequest(prompt=ASKED, caller=caller("core.react_agent")))
    call = bench.call(GenerateRequest(prompt=alike, caller=caller("core.react_agent")))
    plan(bench.engine, call)
    judge = bench.engine.similar.judge
    for _, kept in bench.engine.answers.entries(0):
        likely = Likely(unpacked(kept.data), 0, True, 1.0, 1.0, "")
        for same in audits:
            judge.audits.record(judge.namespace(call, likely), same=same)
    bench.openai.scripts[:] = bench.anthropic.scripts[:] = [DOWN]
    return bench, await bench.run(GenerateRequest(prompt=alike, caller=caller("core.react_agent")))


@pytest.mark.parametrize("audits", [(), (True, False, True)])
async def test_similar_questions_answer_when_every_model_fails_though_nothing_is_proven_yet(audits):
    bench, call = await asked_alike(*audits, **{NODE + "SEMANTIC": "on"})
    assert (call.recalled.kind, call.nano_usd, call.answer.text) == ("stale", 0, "hi")
    assert call.recalled.score >= 0.98
    assert call.notices[-1].startswith("every model failed (PROVIDER_UNAVAILABLE); this answer to a similar question is 0 seconds old")
    assert hits(bench)["stale"] == 1
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run(GenerateRequest(prompt=OTHER, caller=caller("core.react_agent")))


@pytest.mark.parametrize(
    ("audits", "environ"),
    [
        ((), {NODE + "SEMANTIC": "shadow"}),
        ((), {NODE + "SEMANTIC": "off"}),
        ((True,) * 200 + (False,) * 3, {NODE + "SEMANTIC": "on"}),
    ],
)
async def test_no_similar_questions_answer_unless_the_node_has_it_so_and_none_that_audits_find_wrong(audits, environ):
    with pytest.raises(errors.ProviderUnavailable):
        await asked_alike(*audits, **environ)


async def test_similar_questions_answer_must_be_surer_than_while_models_answer():
    reworded, on = "How can I reset my password?", {NODE + "SEMANTIC": "on", "SIDECAR_SERVICES__CORE__CACHE_ACCEPTANCE": "0.5"}
    _, call = await asked_alike(alike=reworded, **on, SIDECAR_CACHE__STALE_ACCEPTANCE="0.5")
    assert call.recalled.kind == "stale"
    with pytest.raises(errors.ProviderUnavailable):
        await asked_alike(alike=reworded, **on, SIDECAR_CACHE__STALE_ACCEPTANCE="1.0")
