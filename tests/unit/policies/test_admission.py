"""The seam that a call passes: load, then its tenant's minute, then a place; and what is given back when one of them says no."""

import asyncio

import pytest

from sidecar import errors
from sidecar.call import Chunk, Usage
from sidecar.request import Caller, GenerateRequest
from tests.unit.fakes import DONE, Bench, caller


def asking(priority="normal", tenant="", max_output_tokens=100):
    return GenerateRequest(
        prompt="hello", caller=caller("core.react_agent", priority=priority, tenant=tenant), max_output_tokens=max_output_tokens
    )


def refusals(bench):
    """(service, reason) of each refusal that was counted, and how often."""
    metrics = bench.engine.meter.metrics.registry.collect()
    samples = [s for family in metrics if family.name == "llm_refused" for s in family.samples if s.name == "llm_refused_total"]
    return {(s.labels["service"], s.labels["reason"]): s.value for s in samples}


def queue_lengths(bench):
    return {
        s.labels["service"]: s.value
        for f in bench.engine.meter.metrics.registry.collect()
        if f.name == "llm_queue_length"
        for s in f.samples
    }


def left(bench, tenant="default"):
    """Requests and tokens of the tenant's minute."""
    one = bench.engine.admission.tenants._tenants[tenant]
    return one.limiter.remaining(bench.engine.clock_ns())


async def test_shed_call_is_counted_and_told_and_reaches_nobody():
    bench = Bench()
    for _ in range(3):
        bench.engine.admission.shedding.look(300)
    with pytest.raises(errors.Overloaded, match=r"admission\.lag_optional_ms") as refusal:
        await bench.run(asking("optional"))
    assert refusal.value.retry_after_ms >= 1_000
    await bench.run(asking("normal"))
    for _ in range(3):
        bench.engine.admission.shedding.look(5_000)
    with pytest.raises(errors.Overloaded):
        await bench.run(asking("normal"))
    await bench.run(asking("critical"))
    bench.engine.admission.shedding.look(0)
    assert len(bench.openai.asks) == 2
    assert refusals(bench) == {("core", "shed"): 2}
    told = [(event.kind, event.facts["priority"]) for event in reversed(bench.engine.meter.events.latest(10))]
    assert told == [("shed", "optional"), ("shed", "normal"), ("shed", "optional"), ("shed", "normal")]
    bench.assert_settled(used=30)


async def test_answer_from_the_cache_needs_no_place_and_is_not_shed():
    bench = Bench()
    await bench.run(cache_mode="default")
    for _ in range(3):
        bench.engine.admission.shedding.look(9_000)
    call = await bench.run(cache_mode="default")
    assert call.recalled is not None


async def test_tenants_minute_counts_what_was_used_in_the_end():
    bench = Bench(SIDECAR_LIMITS__TENANT_TOKENS_PER_MINUTE="100000", SIDECAR_LIMITS__TENANT_REQUESTS_PER_MINUTE="10")
    await bench.run(asking(max_output_tokens=4_000))
    requests, tokens = left(bench)
    assert requests == 9
    assert tokens >= 100_000 - 15  # not 4,000: 10 of input and 5 of output


async def test_what_tries_used_beyond_the_first_ones_most_is_charged_to_the_tenants_minute():
    cut = (Chunk(text="a", usage=Usage(10, 0, 0, 0, 2_000, 0)), errors.StreamCut("cut"))
    bench = Bench(first=[cut, (Chunk(text="hi"), DONE)], SIDECAR_LIMITS__TENANT_TOKENS_PER_MINUTE="10000")
    call = await bench.run(asking(max_output_tokens=50), stream=False)
    assert [tried.outcome for tried in call.attempts] == ["STREAM_CUT", "ok"]
    used = 2_010 + 15
    bench.assert_settled(used=used)
    assert 10_000 - used <= left(bench)[1] < 9_900  # what has flowed in since is 167 a second


async def test_tenant_over_its_minute_is_refused_and_another_one_is_not():
    bench = Bench(SIDECAR_LIMITS__TENANT_REQUESTS_PER_MINUTE="1")
    await bench.run(asking(tenant="a"))
    with pytest.raises(errors.RateLimited, match="tenant a has used up its 1 requests a minute") as refusal:
        await bench.run(asking(tenant="a"))
    assert 50_000 < refusal.value.retry_after_ms <= 60_001
    await bench.run(asking(tenant="b"))
    assert refusals(bench) == {("core", "tenant_limit"): 1}
    bench.assert_settled()


async def test_tenant_waits_where_that_fits():
    bench = Bench(SIDECAR_LIMITS__TENANT_REQUESTS_PER_MINUTE="600")  # ten a second
    for _ in range(600):
        await bench.engine.admission.tenants.take("default", 0, 0)
    await asyncio.gather(*(bench.run(asking(), seconds=30) for _ in range(3)))
    assert len(bench.openai.asks) == 3


async def test_waiting_tenant_holds_no_place():
    bench = Bench(SIDECAR_LIMITS__TENANT_REQUESTS_PER_MINUTE="20", SIDECAR_SERVICES__CORE__CONCURRENCY="1")
    for _ in range(20):
        await bench.engine.admission.tenants.take("a", 0, 0)
    waiting = asyncio.create_task(bench.run(asking(tenant="a"), seconds=30))
    await asyncio.sleep(0)
    await bench.run(asking(tenant="b"))
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    bench.assert_settled()


async def test_refused_by_the_queue_gives_the_tenant_everything_back():
    bench = Bench(
        [(0.2, Chunk(text="a"), DONE)],
        SIDECAR_SERVICES__CORE__CONCURRENCY="1",
        SIDECAR_SERVICES__CORE__QUEUE="1",
        SIDECAR_LIMITS__TENANT_REQUESTS_PER_MINUTE="10",
        SIDECAR_LIMITS__TENANT_TOKENS_PER_MINUTE="10000",
    )
    results = await asyncio.gather(*(bench.run(asking()) for _ in range(4)), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Call", "Call", "Overloaded", "Overloaded"]
    requests, tokens = left(bench)
    assert requests == 8
    assert tokens >= 10_000 - 2 * 15
    assert refusals(bench) == {("core", "queue"): 2}
    assert queue_lengths(bench) == {"core": 0, "oracle": 0, "synapse": 0}


async def test_deadline_in_the_queue_frees_the_place_in_it():
    bench = Bench([(0.4, Chunk(text="a"), DONE)], SIDECAR_SERVICES__CORE__CONCURRENCY="1")
    first = asyncio.create_task(bench.run(asking()))
    await asyncio.sleep(0.01)
    with pytest.raises(errors.DeadlineExceeded):
        await bench.run(asking(), seconds=0.1)
    assert queue_lengths(bench)["core"] == 0
    await first
    assert len(bench.openai.asks) == 1
    assert bench.engine.admission.places["core"].taken == 0
    bench.assert_settled(used=15)


async def test_call_refused_for_another_reason_is_not_counted_here():
    bench = Bench(SIDECAR_LIMITS__TENANT_DAY_USD="0.0001", SIDECAR_SERVICES__CORE__CONCURRENCY="1")
    with pytest.raises(errors.BudgetExceeded):
        await bench.run(asking())
    assert refusals(bench) == {}
    assert bench.engine.admission.places["core"].taken == 0


async def test_names_that_callers_invent_are_counted_together():
    bench = Bench()
    for _ in range(3):
        bench.engine.admission.shedding.look(300)
    for number in range(5):
        with pytest.raises(errors.Overloaded):
            await bench.run(GenerateRequest(prompt="x", caller=Caller(service=f"s{number}", priority="optional"), model="gpt-4o"))
    assert refusals(bench) == {("other", "shed"): 5}
