"""The pipeline as one: what the caller gets, what providers were asked, and that money is settled, once, whatever happens."""

import asyncio
import time

import pytest

from sidecar import errors
from sidecar.call import Chunk, Start, ToolDelta, Usage
from sidecar.request import EmbedRequest, GenerateRequest, ResponseFormat
from tests.unit.fakes import DONE, Bench, caller

SCHEMA = ResponseFormat("json_schema", "a", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, True)


async def test_stream_is_start_pieces_and_settles():
    bench = Bench([(Chunk(text="a"), Chunk(text="b"), DONE)])
    call = await bench.run()
    assert isinstance(bench.sent[0], Start)
    assert bench.text() == "ab"
    assert call.nano_usd == 10 * 2_500 + 5 * 10_000  # gpt-4o: 2.50 and 10.00 USD per million
    bench.assert_settled(used=15)


async def test_unary_is_the_same_fold_without_sending():
    bench = Bench([(Chunk(text="ab", finish="stop", usage=Usage(10, 0, 0, 0, 5, 0), last=True),)])
    call = await bench.run(stream=False)
    assert call.answer.text == "ab"
    assert bench.sent == []
    bench.assert_settled(used=15)


async def test_failure_before_the_first_piece_is_retried_and_then_moved_on_from():
    bench = Bench([(errors.ProviderUnavailable("down", status=503),)], [(Chunk(text="b"), DONE)])
    call = await bench.run()
    assert bench.text() == "b"
    assert call.served.fallback
    assert [t.outcome for t in call.attempts] == ["PROVIDER_UNAVAILABLE"] * 3 + ["ok"]  # three in a row open the breaker
    bench.assert_settled(used=15)


async def test_open_breaker_leaves_the_model_alone():
    bench = Bench([(errors.ProviderUnavailable("down", status=503),)])
    await bench.run()
    asked = len(bench.openai.asks)
    await bench.run()
    assert len(bench.openai.asks) == asked


async def test_after_the_first_piece_nothing_is_asked_again():
    bench = Bench([(Chunk(text="par"), errors.StreamCut("cut"))])
    with pytest.raises(errors.StreamCut):
        await bench.run()
    assert bench.text() == "par"
    assert len(bench.openai.asks) == 1
    assert bench.anthropic.asks == []
    assert bench.ledger.balance("tenant:default:day", time.time_ns()).used_tokens > 0  # the part is paid for
    bench.assert_settled()


@pytest.mark.parametrize(
    ("script", "missing"),
    [((Chunk(text="x"),), "finish reason"), ((Chunk(text="x", finish="stop"),), "end of the stream"), ((), "finish reason")],
)
async def test_answer_without_proof_is_cut(script, missing):
    bench = Bench([script], [(errors.ProviderRejected("no"),)])
    with pytest.raises(errors.SidecarError) as failure:
        await bench.run()
    if script:
        assert isinstance(failure.value, errors.StreamCut)
        assert missing in failure.value.message
    bench.assert_settled()


async def test_cut_with_restart_tells_the_reader_to_begin_again():
    bench = Bench(
        [(Chunk(text="par"), errors.StreamCut("cut"))],
        [(Chunk(text="whole"), DONE)],
    )
    await bench.run(on_cut="restart")
    starts = [s for s in bench.sent if isinstance(s, Start)]
    assert [s.restart for s in starts] == ["", "STREAM_CUT"]
    assert [s.candidate.fallback for s in starts] == [False, True]  # somebody else goes on: this one has just shown that it breaks
    assert bench.text().endswith("whole")


async def test_cut_with_hold_is_mended_unseen():
    bench = Bench([(Chunk(text="par"), errors.StreamCut("cut"))], [(Chunk(text="who"), Chunk(text="le"), DONE)])
    await bench.run(on_cut="hold")
    assert bench.text() == "whole"
    assert sum(isinstance(s, Start) for s in bench.sent) == 1


@pytest.mark.parametrize("error", [errors.ProviderRejected("bad", status=400), errors.ProviderAuthFailed("key", status=401)])
async def test_callers_and_keys_errors_are_told_at_once(error):
    bench = Bench([(error,)])
    with pytest.raises(type(error)):
        await bench.run()
    assert len(bench.openai.asks) == 1
    assert bench.anthropic.asks == []
    bench.assert_settled(used=0)


@pytest.mark.parametrize(
    "error",
    [
        errors.ProviderQuotaExhausted("q", status=429),
        errors.ProviderModelUnknown("m", status=404),
        errors.ProviderContextExceeded("c", status=400),
    ],
)
async def test_what_retrying_cannot_mend_goes_to_the_next_model_at_once(error):
    bench = Bench([(error,)])
    call = await bench.run()
    assert len(bench.openai.asks) == 1
    assert call.served.model.provider == "anthropic"


async def test_retry_after_that_does_not_fit_goes_to_the_next_model():
    bench = Bench([(errors.ProviderRateLimited("slow down", status=429, retry_after_ms=60_000),)])
    call = await bench.run(seconds=2)
    assert len(bench.openai.asks) == 1
    assert call.served.model.provider == "anthropic"


async def test_when_all_fail_the_shortest_wait_is_told():
    bench = Bench(
        [(errors.ProviderRateLimited("a", status=429, retry_after_ms=60_000),)],
        [(errors.ProviderRateLimited("b", status=429, retry_after_ms=90_000),)],
    )
    with pytest.raises(errors.ProviderRateLimited) as failure:
        await bench.run(seconds=2)
    assert failure.value.retry_after_ms == 60_000


async def test_silent_provider_makes_room_for_the_next():
    bench = Bench([(5,)], SIDECAR_TIMEOUTS__FIRST_TOKEN_MS="50")
    call = await bench.run()
    assert bench.openai.cancelled == 1
    assert call.served.model.provider == "anthropic"
    assert call.attempts[0].outcome == "PROVIDER_TIMEOUT"


async def test_headers_and_roles_are_no_first_token():
    bench = Bench([(Chunk(model="m"), 0.04, Chunk(model="m"), 5)], SIDECAR_TIMEOUTS__FIRST_TOKEN_MS="60")
    call = await bench.run()
    assert call.attempts[0].outcome == "PROVIDER_TIMEOUT"
    assert call.attempts[0].duration_ns < 4e9


async def test_unary_reply_that_does_not_come_makes_room_for_the_next():
    whole = (Chunk(text="b", finish="stop", usage=Usage(10, 0, 0, 0, 5, 0), last=True),)
    bench = Bench([(5,)], [whole], SIDECAR_TIMEOUTS__ANSWER_MS="50")
    call = await bench.run(stream=False)
    assert call.attempts[0].outcome == "PROVIDER_TIMEOUT"
    assert call.answer.text == "b"


async def test_silent_embedding_makes_room_for_the_next():
    bench = Bench(SIDECAR_NODES__ORACLE__EMBEDDING__FALLBACKS="gemini-embedding-001", GOOGLE_API_KEY="k", SIDECAR_TIMEOUTS__ANSWER_MS="50")

    async def silent(ask):
        await asyncio.sleep(5)

    bench.openai.embed = silent
    bench.engine.providers["google"] = type(bench.openai)("google", ([[0.1]],))
    call = await bench.run(EmbedRequest(caller=caller("oracle.embedding"), inputs=("a",)), stream=False)
    assert [t.outcome for t in call.attempts] == ["PROVIDER_TIMEOUT", "ok"]


async def test_opened_breaker_is_not_waited_for():
    bench = Bench([(errors.ProviderUnavailable("down", status=503),)], SIDECAR_RETRIES__UNAVAILABLE__WAITS_MS="1,1,60000")
    call = await bench.run()  # the third failure opens the breaker: nobody waits a minute for a fourth try
    assert call.served.model.provider == "anthropic"


async def test_strict_answer_cut_by_length_is_not_passed_on():
    cut = (Chunk(text='{"n": 1'), Chunk(finish="length", usage=Usage(10, 0, 0, 0, 5, 0), last=True))
    bench = Bench([cut], [(Chunk(text='{"n": 1}'), DONE)])
    await bench.run(response_format=SCHEMA)
    assert bench.text() == '{"n": 1}'


async def test_strict_refusal_is_an_answer():
    refusal = (Chunk(text="I will not."), Chunk(finish="refusal", usage=Usage(10, 0, 0, 0, 5, 0), last=True))
    bench = Bench([refusal])
    call = await bench.run(response_format=SCHEMA)
    assert call.answer.finish == "refusal"
    assert len(bench.openai.asks) == 1


async def test_no_more_calls_of_a_service_than_it_has_places():
    most = now = 0

    class Counting(type(Bench().openai)):
        async def generate(self, ask, emit):
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                await super().generate(ask, emit)
            finally:
                now -= 1

    bench = Bench(SIDECAR_SERVICES__CORE__CONCURRENCY="2", SIDECAR_SERVICES__CORE__QUEUE="3")
    bench.engine.providers["openai"] = Counting("openai", (0.05, Chunk(text="a"), DONE))
    results = await asyncio.gather(*(bench.run() for _ in range(6)), return_exceptions=True)
    assert most == 2
    assert [type(r).__name__ for r in results].count("Overloaded") == 1  # two under way, three waiting, one too many
    assert results[5].retry_after_ms is not None
    bench.assert_settled(used=5 * 15)


async def test_cancelled_while_waiting_for_a_place_gives_nothing_away():
    from sidecar.pipeline import run

    bench = Bench([(0.1, Chunk(text="a"), DONE)], SIDECAR_SERVICES__CORE__CONCURRENCY="1")
    first = asyncio.create_task(bench.run())
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(run(bench.engine, bench.call()))
    third = asyncio.create_task(bench.run())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.gather(first, third)
    assert len(bench.openai.asks) == 2
    await bench.run()  # the place is free again
    bench.assert_settled(used=3 * 15)


async def test_silence_between_pieces_ends_the_stream():
    bench = Bench([(Chunk(text="a"), 5, DONE)], SIDECAR_TIMEOUTS__IDLE_MS="50")
    with pytest.raises(errors.ProviderTimeout, match="nothing for"):
        await bench.run()
    assert bench.openai.cancelled == 1
    bench.assert_settled()


async def test_deadline_ends_everything_and_settles():
    bench = Bench([(Chunk(text="a"), 5, DONE)])
    with pytest.raises(errors.DeadlineExceeded):
        await bench.run(seconds=0.1)
    assert bench.openai.cancelled == 1
    assert bench.text() == "a"
    bench.assert_settled()


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_caller_stops_the_provider_and_settles_once(stream):
    bench = Bench([(Chunk(text="a"), 5, DONE)])
    call = bench.call(stream=stream)
    from sidecar.pipeline import run

    task = asyncio.create_task(run(bench.engine, call))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.openai.cancelled == 1
    assert call.error.reason == "CANCELLED"
    assert call.estimated
    assert call.usage.input_tokens > 0  # the provider bills the prompt
    bench.assert_settled()


async def test_failing_door_settles_too():
    bench = Bench()
    call = bench.call()

    async def broken(_):
        raise ConnectionResetError("gone")

    call.send = broken
    from sidecar.pipeline import run

    with pytest.raises(errors.InternalError):
        await run(bench.engine, call)
    bench.assert_settled()


async def test_strict_answer_that_does_not_fit_is_never_passed_on():
    bench = Bench([(Chunk(text='{"n": "x"}'), DONE)], [(Chunk(text='{"n": 1}'), DONE)])
    call = await bench.run(response_format=SCHEMA)
    assert bench.text() == '{"n": 1}'
    assert call.attempts[0].outcome == "SCHEMA_VIOLATED"
    bench.assert_settled(used=30)  # both answers were paid for


async def test_tool_call_with_cut_arguments_is_no_answer():
    cut = (Chunk(tool_calls=(ToolDelta(0, "1", "f", '{"a": '),)), Chunk(finish="tool_calls", usage=Usage(1, 0, 0, 0, 1, 0), last=True))
    bench = Bench([cut])
    with pytest.raises(errors.ProviderGarbled, match="no JSON"):
        await bench.run()


async def test_used_up_budget_refuses_before_anything_is_asked():
    bench = Bench(SIDECAR_LIMITS__TENANT_DAY_USD="0.01")
    with pytest.raises(errors.BudgetExceeded, match="tenant:default:day"):
        await bench.run()  # 4,096 output tokens of gpt-4o may cost 0.04 USD
    assert bench.openai.asks == []
    bench.assert_settled(used=0)


async def test_embed_with_a_missing_vector_is_garbled():
    bench = Bench([([[0.1]],)])
    with pytest.raises(errors.ProviderGarbled, match="1 vectors for 2 inputs"):
        await bench.run(EmbedRequest(caller=caller("oracle.embedding"), inputs=("a", "b")), stream=False)
    bench.assert_settled(used=0)


async def test_defect_is_told_without_its_text_and_settles(monkeypatch):
    bench = Bench([(ValueError("secret"),)])
    with pytest.raises(errors.InternalError) as failure:
        await bench.run()
    assert "secret" not in failure.value.message
    bench.assert_settled()


async def test_cached_answer_asks_nobody_and_costs_nothing():
    bench = Bench()
    await bench.run(cache_mode="default")
    call = await bench.run(cache_mode="default")
    assert len(bench.openai.asks) == 1
    assert call.recalled is not None
    assert call.nano_usd == 0
    bench.assert_settled(used=15)


async def test_only_cached_and_nothing_there():
    bench = Bench()
    with pytest.raises(errors.NotCached):
        await bench.run(cache_mode="only")


async def test_unasked_nothing_is_remembered():
    bench = Bench()
    await bench.run()
    await bench.run()
    assert len(bench.openai.asks) == 2


async def test_other_tenants_answer_is_never_recalled():
    bench = Bench()
    await bench.run(GenerateRequest(prompt="p", caller=caller("core.react_agent", tenant="a"), cache_mode="default"))
    await bench.run(GenerateRequest(prompt="p", caller=caller("core.react_agent", tenant="b"), cache_mode="default"))
    assert len(bench.openai.asks) == 2


async def test_embedding_of_another_space_is_marked():
    bench = Bench(
        [(errors.ProviderQuotaExhausted("q"),)], SIDECAR_NODES__ORACLE__EMBEDDING__FALLBACKS="gemini-embedding-001", GOOGLE_API_KEY="k"
    )
    bench.engine.providers["google"] = google = type(bench.openai)("google", ([[0.1]],))
    call = await bench.run(EmbedRequest(caller=caller("oracle.embedding"), inputs=("a",)), stream=False)
    assert call.served.fallback
    assert "another space" in call.notices[-1]
    assert google.asks[0].dimensions == 768  # the catalogue's length, not the provider's own
