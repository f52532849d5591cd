"""Identical calls at once: one asks for all."""

from __future__ import annotations

import asyncio

from sidecar import errors
from sidecar.call import Chunk, Usage
from sidecar.pipeline import run
from tests.unit.caching.parts import ask, hits, slow
from tests.unit.fakes import Bench


async def test_a_hundred_identical_calls_make_one():
    bench = Bench(slow())
    calls = [bench.call(ask(), stream=number % 2 == 0) for number in range(100)]
    await asyncio.gather(*(run(bench.engine, call) for call in calls))
    assert len(bench.openai.asks) == 1
    assert [call.answer.text for call in calls] == ["hi"] * 100
    waited = [call for call in calls if call.recalled is not None]
    assert len(waited) == 99
    assert all(call.recalled.joined and call.nano_usd == 0 and call.recalled.saved_nano_usd > 0 for call in waited)
    assert hits(bench) == {"miss": 1, "joined": 99}
    assert len(bench.engine.flights) == 0
    bench.assert_settled(used=15)


async def together(bench, calls):
    """Run them at the same time, the first one first. Returns their tasks."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.ensure_future(run(bench.engine, call)))
        await asyncio.sleep(0)
    return tasks


async def test_caller_who_leads_and_leaves_hands_over_to_one():
    bench = Bench(slow(seconds=0.3))
    tasks = await together(bench, [bench.call(ask(), stream=False) for _ in range(20)])
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 19
    assert len(bench.openai.asks) == 2
    assert bench.openai.most_at_once == 1
    assert len(bench.engine.flights) == 0


async def test_leader_that_fails_hands_over_to_one_and_no_herd_comes():
    down = errors.ProviderRejected("no")
    bench = Bench([(0.02, down), (0.02, down), *slow()])
    calls = [bench.call(ask(), stream=False) for _ in range(50)]
    results = await asyncio.gather(*await together(bench, calls), return_exceptions=True)
    assert [isinstance(result, errors.ProviderRejected) for result in results] == [True] * 2 + [False] * 48
    assert len(bench.openai.asks) == 3
    assert bench.openai.most_at_once == 1
    assert len(bench.engine.flights) == 0


async def test_who_waits_keeps_its_own_deadline_and_the_others_go_on():
    bench = Bench(slow(seconds=0.3))
    calls = [bench.call(ask(), stream=False), bench.call(ask(), stream=False, seconds=0.05), bench.call(ask(), stream=False)]
    results = await asyncio.gather(*await together(bench, calls), return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], errors.DeadlineExceeded)
    assert calls[2].recalled.joined
    assert len(bench.openai.asks) == 1


async def test_all_leave_and_nothing_is_left_behind():
    bench = Bench(slow(seconds=10))
    tasks = await together(bench, [bench.call(ask(), stream=False) for _ in range(5)])
    await asyncio.sleep(0.01)
    for task in tasks:  # each is handed the lead in the moment in which it leaves, too
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(bench.engine.flights) == 0
    bench.assert_settled()


async def test_answer_that_is_for_nobody_else_sends_the_others_to_ask_for_themselves():
    cut = Chunk(finish="length", usage=Usage(10, 0, 0, 0, 5, 0), last=True)
    bench = Bench([(0.02, Chunk(text="hi"), cut)])
    calls = [bench.call(ask(), stream=False) for _ in range(5)]
    await asyncio.gather(*await together(bench, calls))
    assert len(bench.openai.asks) == 5
    assert all(call.recalled is None for call in calls)
    assert len(bench.engine.flights) == 0


async def test_defect_of_the_leader_hands_over_too():
    bench = Bench([(0.02, ValueError("x")), *slow()])
    calls = [bench.call(ask(), stream=False) for _ in range(3)]
    results = await asyncio.gather(*await together(bench, calls), return_exceptions=True)
    assert isinstance(results[0], errors.InternalError)
    assert results[1:] == [None, None]
    assert len(bench.openai.asks) == 2


async def test_others_questions_do_not_wait():
    bench = Bench(slow(seconds=0.1))
    calls = [bench.call(ask()), bench.call(ask("other")), bench.call(ask(tenant="b"))]
    await asyncio.gather(*await together(bench, calls))
    assert bench.openai.most_at_once == 3
