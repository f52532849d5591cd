"""Who is asked again, after how long, who next, and who never: the attempt stage through the whole pipeline."""

import asyncio

import pytest

from sidecar import errors
from sidecar.call import Chunk, Start, Usage
from sidecar.pipeline import run
from tests.unit.fakes import DONE, Bench, FakeProvider, caller

WHOLE = (Chunk(text="b", finish="stop", usage=Usage(10, 0, 0, 0, 5, 0), last=True),)
DOWN = errors.ProviderUnavailable("down", status=503)


def outcomes(call):
    return [(t.candidate.model.provider, t.outcome) for t in call.attempts]


def alone(*script, **environ):
    """An engine in which nobody stands in: a node that allows no fallback."""
    return Bench(*script, SIDECAR_NODES__CORE__REACT_AGENT__FALLBACK_ALLOWED="false", **environ)


# --- how often ------------------------------------------------------------------------------------------------------------------


async def test_tries_of_a_call_are_bounded_over_all_candidates():
    bench = Bench([(DOWN,)], [(DOWN,)], SIDECAR_SERVICES__CORE__BREAKER_OFF="true")
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run()
    assert (len(bench.openai.asks), len(bench.anthropic.asks)) == (4, 2)


async def test_billed_tries_end_before_the_call_could_cost_more_than_any_may():
    """gpt-4o's 20,000 tokens are 0.20 USD; with another try the call could come to 0.24, and its fallback is dearer."""
    dear = (Chunk(text="a", usage=Usage(10, 0, 0, 0, 20_000, 0)), errors.StreamCut("cut"))
    bench = Bench([dear], SIDECAR_LIMITS__CALL_HALT_USD="0.23")
    call = bench.call(stream=False)
    with pytest.raises(errors.StreamCut):
        await run(bench.engine, call)
    assert outcomes(call) == [("openai", "STREAM_CUT")]
    assert len(bench.anthropic.asks) == 0
    bench.assert_settled(used=20_010)
    enough = Bench([dear, WHOLE], SIDECAR_LIMITS__CALL_HALT_USD="0.30")
    assert [outcome for _, outcome in outcomes(await enough.run(stream=False))] == ["STREAM_CUT", "ok"]


async def test_service_sets_its_own_figures():
    bench = Bench(
        [(DOWN,)],
        SIDECAR_SERVICES__CORE__RETRIES__UNAVAILABLE__RETRIES="1",
        SIDECAR_SERVICES__CORE__MOST_ATTEMPTS="3",
    )
    call = await bench.run()
    assert outcomes(call) == [("openai", "PROVIDER_UNAVAILABLE")] * 2 + [("anthropic", "ok")]


async def test_weaver_never_waits():
    bench = Bench([(DOWN,)], [(DOWN,)])
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run(caller=caller("weaver.metadata"))
    assert len(bench.openai.asks) == 2  # its fallback is another model of the same provider: one try each
    assert bench.engine.breakers.of("weaver", "openai/gpt-4o").state(bench.engine.clock_ns()) == "closed"


@pytest.mark.parametrize(("failures", "tries"), [(3, 4), (4, 4)])
async def test_where_nobody_stands_in_the_last_retry_is_the_trial_of_the_breaker(failures, tries):
    bench = alone([(DOWN,)] * failures + [(Chunk(text="a"), DONE)])
    breaker = bench.engine.breakers.of("core", "openai/gpt-4o")
    if failures < tries:
        assert (await bench.run()).answer.text == "a"
        assert breaker.state(bench.engine.clock_ns()) == "closed"
    else:
        with pytest.raises(errors.ProviderUnavailable):
            await bench.run()
        with pytest.raises(errors.ProviderUnavailable, match="not asked for a while"):
            await bench.run()
    assert len(bench.openai.asks) == tries


async def test_only_the_call_that_opened_the_breaker_is_its_early_trial():
    bench = alone([(0.1, DOWN)])
    results = await asyncio.gather(*(bench.run() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(r, errors.ProviderUnavailable) for r in results)
    assert len(bench.openai.asks) == 20 + 1  # the first tries were under way together


async def test_budget_of_retries_belongs_to_the_provider():
    bench = alone(
        [(DOWN,)],
        SIDECAR_RETRIES__BUDGET_MOST="4",
        SIDECAR_RETRIES__BUDGET_PER_SECOND="0",
        SIDECAR_SERVICES__CORE__BREAKER_OFF="true",
    )
    results = await asyncio.gather(*(bench.run() for _ in range(20)), return_exceptions=True)
    assert {type(r) for r in results} == {errors.ProviderUnavailable}
    # Four were saved up and were full at the start, twenty calls earn a fifth of a retry each.
    assert 20 + 4 <= len(bench.openai.asks) <= 20 + 4 + 4


async def test_no_retry_outlives_the_deadline():
    bench = alone([(errors.ProviderRateLimited("slow down", status=429, retry_after_ms=3_000),)])
    with pytest.raises(errors.ProviderRateLimited) as failure:
        await bench.run(seconds=1)
    assert len(bench.openai.asks) == 1
    assert failure.value.retry_after_ms == 3_000


async def test_wait_that_a_provider_asks_for_is_kept():
    bench = alone([(errors.ProviderRateLimited("slow down", status=429, retry_after_ms=120),), (Chunk(text="a"), DONE)])
    call = await bench.run()
    _, second = call.attempts
    assert second.outcome == "ok"
    assert bench.openai.asked_at[1] - bench.openai.asked_at[0] >= 0.12


async def test_earlier_shorter_wait_does_not_hurry_a_retry():
    bench = alone(
        [
            (errors.ProviderRateLimited("slow down", status=429, retry_after_ms=10),),
            (errors.ProviderRateLimited("slower", status=429, retry_after_ms=200),),
            (Chunk(text="a"), DONE),
        ]
    )
    await bench.run()
    assert bench.openai.asked_at[2] - bench.openai.asked_at[1] >= 0.2


# --- who next -------------------------------------------------------------------------------------------------------------------


async def test_silent_model_leaves_the_next_its_share_of_the_time():
    bench = Bench([(30,)])
    call = await bench.run(seconds=1.0)
    assert outcomes(call) == [("openai", "PROVIDER_TIMEOUT"), ("anthropic", "ok")]


async def test_silent_model_without_another_gets_all_of_the_time():
    bench = alone([(0.5, Chunk(text="late"), DONE)])
    call = await bench.run(seconds=0.8)
    assert outcomes(call) == [("openai", "ok")]


async def test_silent_model_is_asked_again_only_after_the_others():
    bench = Bench([(30,), (Chunk(text="a"), DONE)], [(DOWN,)], SIDECAR_TIMEOUTS__FIRST_TOKEN_MS="40")
    call = await bench.run(seconds=5)
    assert outcomes(call)[:2] == [("openai", "PROVIDER_TIMEOUT"), ("anthropic", "PROVIDER_UNAVAILABLE")]
    assert outcomes(call)[-1] == ("openai", "ok")


async def test_refused_key_goes_to_another_key_of_the_same_provider_only():
    keys = {f"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__{name}__API_KEY": "k" for name in ("A", "B")}
    bench = Bench(**keys)
    refused = FakeProvider("openai", (errors.ProviderAuthFailed("no", status=401),))
    good = FakeProvider("openai", (Chunk(text="hi"), DONE))
    bench.engine.providers.update({"openai#a": refused, "openai#b": good})
    for _ in range(8):
        call = await bench.run()
        assert call.served.endpoint == "b"
        assert not call.served.fallback
    assert len(refused.asks) <= 1  # set aside from then on
    bench.engine.providers.update({"openai#b": refused})
    with pytest.raises(errors.ProviderAuthFailed):
        await bench.run()
    assert bench.anthropic.asks == []


async def test_unknown_model_is_unknown_at_every_endpoint():
    keys = {f"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__{name}__API_KEY": "k" for name in ("A", "B")}
    bench = Bench(**keys)
    gone = FakeProvider("openai", (errors.ProviderModelUnknown("gone", status=404),))
    bench.engine.providers.update({"openai#a": gone, "openai#b": gone})
    call = await bench.run()
    assert outcomes(call) == [("openai", "PROVIDER_MODEL_UNKNOWN"), ("anthropic", "ok")]


async def test_a_minute_that_is_used_up_falls_back_tells_the_caller_and_once_the_operator():
    bench = Bench(SIDECAR_MODELS__GPT_4O__REQUESTS_PER_MINUTE="1")
    assert not (await bench.run()).notices
    for _ in range(2):
        call = await bench.run()
        assert call.served.fallback
        assert call.notices == ["gpt-4o may not be asked more this minute (its quota of requests is used up)"]
    (told,) = bench.engine.meter.events.latest(10, "alert")
    assert told.message == "the quota of gpt-4o is used up: 0 of 1 requests a minute are left; others answer, or calls wait"
    assert told.facts == {"key": "quota openai/gpt-4o", "unit": "requests"}


async def test_exhausted_quota_sets_the_model_aside():
    bench = Bench([(errors.ProviderQuotaExhausted("no credit", status=429),)])
    await bench.run()
    call = await bench.run()
    assert len(bench.openai.asks) == 1
    assert outcomes(call) == [("anthropic", "ok")]


async def test_whoever_waits_for_a_trial_is_answered_when_it_has_ended():
    script = [(DOWN,)] * 3 + [(0.2, Chunk(text="back"), DONE)]
    bench = alone(script, SIDECAR_SERVICES__CORE__BREAKER_OPEN_MS="50", SIDECAR_RETRIES__UNAVAILABLE__RETRIES="0")
    for _ in range(3):
        with pytest.raises(errors.ProviderUnavailable):
            await bench.run()
    with pytest.raises(errors.ProviderUnavailable, match="not asked for a while"):
        await bench.run()
    await asyncio.sleep(0.06)
    calls = await asyncio.gather(*(bench.run() for _ in range(20)))
    assert all(outcomes(call) == [("openai", "ok")] for call in calls)
    assert bench.openai.most_at_once <= 16  # one trial, and then not all at once


# --- honest ends ----------------------------------------------------------------------------------------------------------------


async def test_answer_without_a_word_is_none():
    bench = Bench([(DONE,)])
    call = await bench.run()
    assert outcomes(call)[0] == ("openai", "PROVIDER_EMPTY")
    assert call.served.fallback


async def test_answer_that_a_stop_text_ended_may_be_empty():
    bench = Bench([(DONE,)])
    call = await bench.run(stop=("END",))
    assert outcomes(call) == [("openai", "ok")]


async def test_end_for_tools_without_a_tool_is_none():
    bench = Bench([(Chunk(text="let me see", finish="tool_calls", last=True),)])
    call = await bench.run(stream=False)
    assert outcomes(call)[0] == ("openai", "PROVIDER_GARBLED")


@pytest.mark.parametrize("finish", ["length", "content_filter", "refusal"])
async def test_answers_that_a_provider_ended_are_answers(finish):
    bench = Bench([(Chunk(finish=finish, usage=Usage(10, 0, 0, 0, 0, 5), last=True),)])
    call = await bench.run()
    assert outcomes(call) == [("openai", "ok")]
    assert call.answer.finish == finish


async def test_node_says_what_a_cut_stream_does():
    bench = Bench(
        [(Chunk(text="par"), errors.StreamCut("cut"))], [(Chunk(text="whole"), DONE)], SIDECAR_NODES__CORE__REACT_AGENT__ON_CUT="hold"
    )
    await bench.run()
    assert bench.text() == "whole"
    with pytest.raises(errors.StreamCut):
        await Bench([(Chunk(text="par"), errors.StreamCut("cut"))], SIDECAR_NODES__CORE__REACT_AGENT__ON_CUT="hold").run(on_cut="fail")


async def test_stream_as_a_whole_has_a_limit():
    bench = Bench([(Chunk(text="a"), *[0.02, Chunk(text="a")] * 100, DONE)], SIDECAR_TIMEOUTS__STREAM_MS="150")
    with pytest.raises(errors.ProviderTimeout, match="had not ended"):
        await bench.run()
    bench.assert_settled()


async def test_headers_alone_are_waited_for_only_so_long():
    bench = Bench([(30,)], SIDECAR_TIMEOUTS__HEADERS_MS="60")
    call = await bench.run()
    assert outcomes(call) == [("openai", "PROVIDER_TIMEOUT"), ("anthropic", "ok")]
    late = Bench([(Chunk(), 0.2, Chunk(text="a"), DONE)], SIDECAR_TIMEOUTS__HEADERS_MS="60")
    assert outcomes(await late.run()) == [("openai", "ok")]


# --- hedging --------------------------------------------------------------------------------------------------------------------


def hedging(*scripts, **environ):
    return Bench(*scripts, SIDECAR_NODES__CORE__REACT_AGENT__HEDGE="true", SIDECAR_NODES__CORE__REACT_AGENT__HEDGE_AFTER_MS="50", **environ)


@pytest.mark.parametrize("stream", [True, False])
async def test_second_answers_while_the_first_is_silent(stream):
    slow, quick = ([(30, *WHOLE)], [(0.01, *WHOLE)]) if not stream else ([(30, DONE)], [(0.01, Chunk(text="b"), DONE)])
    bench = hedging(slow, quick)
    call = await bench.run(stream=stream)
    assert call.answer.text == "b"
    assert call.served.model.provider == "anthropic"
    assert sorted(outcomes(call)) == [("anthropic", "ok"), ("openai", "HEDGED")]
    assert bench.openai.cancelled == 1
    loser = next(t for t in call.attempts if t.outcome == "HEDGED")
    assert loser.nano_usd > 0  # its prompt was read
    assert loser.estimated
    assert call.nano_usd == sum(t.nano_usd for t in call.attempts)
    bench.assert_settled()


async def test_loser_without_a_share_left_comes_after_who_is_untried():
    silent_after_a_word = (Chunk(text="half"), 30.0, DONE)
    bench = hedging(
        [(30.0, DONE), WHOLE], [silent_after_a_word], SIDECAR_NODES__CORE__REACT_AGENT__FALLBACKS="claude-sonnet-4-6,gpt-4o-mini"
    )
    call = await bench.run(seconds=1.0, on_cut="hold")
    assert [ask.model for ask in bench.openai.asks] == ["gpt-4o", "gpt-4o-mini"]  # gpt-4o not again, for no time at all
    assert call.answer.text == "b"


async def test_first_that_begins_in_time_is_alone():
    bench = hedging([(0.01, Chunk(text="a"), 0.2, Chunk(text="b"), DONE)])
    call = await bench.run()
    assert outcomes(call) == [("openai", "ok")]
    assert bench.anthropic.asks == []


async def test_first_may_win_after_the_second_was_asked():
    bench = hedging([(0.12, Chunk(text="a"), 0.02, Chunk(text="a"), DONE)], [(30, DONE)])
    call = await bench.run()
    assert bench.text() == "aa"
    assert sorted(outcomes(call)) == [("anthropic", "HEDGED"), ("openai", "ok")]
    assert sum(isinstance(s, Start) for s in bench.sent) == 1


async def test_race_goes_on_when_one_falls():
    bench = hedging([(0.1, errors.ProviderRejected("no", status=400))], [(0.15, Chunk(text="b"), DONE)])
    call = await bench.run()
    assert bench.text() == "b"
    assert sorted(outcomes(call)) == [("anthropic", "ok"), ("openai", "PROVIDER_REJECTED")]


async def test_winner_that_breaks_after_its_first_piece_ends_the_call():
    bench = hedging([(30, DONE)], [(Chunk(text="par"), errors.StreamCut("cut"))])
    with pytest.raises(errors.StreamCut):
        await bench.run()
    assert bench.text() == "par"
    bench.assert_settled()


async def test_loser_may_be_asked_again_when_the_winner_breaks_unseen():
    bench = hedging([(30, DONE), (Chunk(text="whole"), DONE)], [(Chunk(text="par"), errors.ProviderContextExceeded("too long"))])
    await bench.run(on_cut="hold")
    assert bench.text() == "whole"


async def test_callers_leaving_ends_both():
    bench = hedging([(30, DONE)], [(30, DONE)])
    task = asyncio.create_task(bench.run())
    await asyncio.sleep(0.15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (bench.openai.cancelled, bench.anthropic.cancelled) == (1, 1)
    bench.assert_settled()


async def test_without_a_figure_of_its_own_the_p95_is_waited_for():
    bench = Bench([*[(Chunk(text="a"), DONE)] * 20, (30, DONE)], SIDECAR_NODES__CORE__REACT_AGENT__HEDGE="true")
    for _ in range(20):
        assert outcomes(await bench.run()) == [("openai", "ok")]
    call = await bench.run()
    assert sorted(outcomes(call)) == [("anthropic", "ok"), ("openai", "HEDGED")]


async def test_every_failure_of_a_race_counts():
    bench = hedging([(0.1, errors.ProviderRejected("no", status=400))], [(0.15, errors.ProviderUnavailable("down", status=503))])
    with pytest.raises(errors.ProviderRejected):
        await bench.run()
    assert (len(bench.openai.asks), len(bench.anthropic.asks)) == (1, 1)


async def test_callers_in_a_hurry_open_no_breaker():
    bench = Bench([(30,)])
    for _ in range(4):
        assert outcomes(await bench.run(seconds=0.2))[0] == ("openai", "PROVIDER_TIMEOUT")
    patient = Bench([(30,)], SIDECAR_TIMEOUTS__BLAME_MS="50")
    for _ in range(3):
        await patient.run(seconds=0.2)
    assert outcomes(await patient.run(seconds=0.2)) == [("anthropic", "ok")]


async def test_nobody_sleeps_on_a_model_whose_breaker_opens_meanwhile():
    bench = Bench([(errors.ProviderRateLimited("slow down", status=429, retry_after_ms=60_000),), (DOWN,)])
    waiting = asyncio.create_task(bench.run(seconds=300))
    await asyncio.sleep(0)  # the first has failed, and waits
    assert len(bench.openai.asks) == 1
    await bench.run()  # three more failures: the breaker opens
    call = await asyncio.wait_for(waiting, 5)
    assert outcomes(call) == [("openai", "PROVIDER_RATE_LIMITED"), ("anthropic", "ok")]


async def test_pauses_too_leave_the_next_its_share():
    waits = "SIDECAR_RETRIES__RATE_LIMITED__WAITS_MS"
    bench = Bench([(errors.ProviderRateLimited("slow down", status=429),)], [(0.3, Chunk(text="b"), DONE)], **{waits: "600,600,600"})
    for _ in range(6):
        bench.engine.breakers.of("core", "openai/gpt-4o").force(None)
        call = await bench.run(seconds=1.0)
        assert outcomes(call)[-1] == ("anthropic", "ok")


async def test_held_answer_that_trickles_leaves_the_next_its_share():
    bench = Bench([(Chunk(text="a"), *[0.05, Chunk(text="a")] * 100, DONE)], [(Chunk(text="whole"), DONE)])
    call = await bench.run(seconds=1.0, on_cut="hold")
    assert bench.text() == "whole"
    assert outcomes(call) == [("openai", "PROVIDER_TIMEOUT"), ("anthropic", "ok")]
    assert bench.engine.breakers.of("core", "openai/gpt-4o").state(bench.engine.clock_ns()) == "closed"


async def test_failure_that_opens_the_breaker_says_for_how_long():
    bench = alone([(errors.ProviderUnavailable("down", status=503),)])
    with pytest.raises(errors.ProviderUnavailable) as failure:
        await bench.run()
    assert 29_000 < failure.value.retry_after_ms <= 30_001
