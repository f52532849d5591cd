"""Runs that pods share, when something goes wrong: never beyond the plan, whatever is lost, killed, cut off or forgotten."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.json import encode

from sidecar._core import Denial, Ledger
from sidecar.call import Usage
from sidecar.errors import Overloaded, StoreFailed
from sidecar.policies.runs import RunPlan, Runs
from tests.fakes.run_fleet import Pod, call, fleet, has_spent, running, until
from tests.fakes.run_meeting import FakePlace, Memory


async def test_a_call_whose_answer_was_lost_counts_once_or_not_at_all():
    async with fleet(2) as (one, two):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        await one.spend(call(), 10)
        await until(lambda: has_spent(two, 10))
        one.place.lose = "enter"  # it was let in there, and nobody knows it here
        with pytest.raises(StoreFailed):
            await one.begin(call(step=7))
        await until(lambda: has_spent(two, 10))
        one.place.lose = "put"
        await one.spend(call(), 10)
        await two.spend(call(), 10)
        await until(lambda: has_spent(two, 30))
        assert sum(tally.calls for tally in (await two.whole()).tallies.values()) == 3


async def test_what_a_killed_pod_held_ends_with_its_absence_and_what_it_spent_counts_once():
    memory = Memory(lease_ms=4_000, learn_ms=0)
    async with fleet(2, memory) as (one, two):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        await one.spend(call(), 10)
        untold = call(usd=30)
        held = await one.begin(untold)
        await one.begin(call(usd=40))
        await one.keep()
        await one.kill()
        one.end(untold, held, 25)  # posted a moment before, and nobody was told
        assert await two.refusal(call(usd=21)) == "run:acme:r:plan-first"
        memory.turned_ms += 20_000
        await until(lambda: has_spent(two, 10))
        await two.spend(call(usd=21), 21)
        await one.start()  # back, with its journal
        await until(lambda: has_spent(two, 56))
        assert await two.refusal(call(usd=45)) == "run:acme:r:plan-first"
        await one.spend(call(usd=44), 44)
        await until(lambda: has_spent(two, 100))
        summed = await two.shared.close("acme", "r")
        assert summed is not None
        assert (summed.spent, summed.held) == (100, 0)


async def test_a_pod_that_lost_its_file_is_known_to_have_spent_what_it_said():
    async with fleet(2) as (one, two):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        await one.spend(call(step=3), 60)
        await until(lambda: has_spent(two, 60))
        await one.kill()
        one.file.clear()
        one.ledger = Ledger()
        await one.start()
        assert await one.refusal(call(usd=41)) == "run:acme:r:plan-first"
        await one.spend(call(step=3), 5)
        await until(lambda: has_spent(two, 65))
        assert ((await two.whole()).steps, (await two.whole()).first_spent) == (1, 60)


async def test_a_server_that_forgot_is_told_again_and_lets_nobody_in_meanwhile():
    memory = Memory(learn_ms=300)
    async with fleet(3, memory) as (one, two, three):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        await three.shared.open(RunPlan("acme", "ended", 100), is_reopening=True)
        assert await one.shared.close("acme", "ended") is not None
        await one.spend(call(step=1), 30)
        flying = call(step=2, usd=20)
        held = await two.begin(flying)
        await until(lambda: has_spent(three, 30, 20))
        await three.kill()  # it has heard nothing of what follows
        memory.forget()
        with pytest.raises(StoreFailed, match="has lost its memory and is being told again of runs"):
            await one.begin(call(step=1))
        await until(lambda: memory.learns_ms <= 0)
        await until(lambda: has_spent(one, 30, 20))
        two.end(flying, held, 15)
        await until(lambda: has_spent(one, 45))
        assert (await two.whole()).steps == 2
        assert await one.refusal(call(usd=56)) == "run:acme:r:plan-first"
        await three.start()
        for pod in (one, two, three):
            assert await pod.refusal(call(run="ended")) == "run:acme:ended:plan"
        await three.spend(call(usd=55), 55)
        await until(lambda: has_spent(one, 100))


async def test_a_pod_that_is_gone_when_the_server_forgets_is_spoken_for_by_others():
    memory = Memory(learn_ms=200)
    async with fleet(2, memory) as (one, two):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        await one.spend(call(), 60)
        await until(lambda: has_spent(two, 60))
        await two.spend(call(usd=1), 1)
        await one.kill()
        memory.forget()
        await until(lambda: has_spent(two, 61))
        await until(lambda: memory.learns_ms <= 0)
        assert await two.refusal(call(usd=40)) == "run:acme:r:plan-first"


async def test_while_nobody_can_be_asked_a_run_with_a_plan_is_refused_and_what_ended_is_told_once_later():
    memory = Memory(learn_ms=0)
    async with fleet(2, memory) as (one, two):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        flying = call(usd=20)
        held = await one.begin(flying)
        memory.problem = "redis cannot be reached"
        one.end(flying, held, 15)
        with pytest.raises(StoreFailed, match="redis cannot be reached"):
            await one.begin(call())
        await until(lambda: not two.shared.is_up)
        with pytest.raises(StoreFailed, match="run r has a plan that pods share, and the Redis that pods share redis cannot be reached"):
            await two.begin(call())
        with pytest.raises(StoreFailed, match="run new cannot be opened"):
            await two.begin(call(run="new", plan=RunPlan("", "", 1)))
        assert await two.runs.join(call(run="unknown"), 0) is None  # for a moment it knows that this one has no plan
        memory.turned_ms += 3_500
        with pytest.raises(StoreFailed, match="whether run unknown has a plan is not known"):
            await two.runs.join(call(run="unknown"), 0)
        stranger = call(run="unknown")
        stranger.tenant = "never had a plan"
        assert await two.runs.join(stranger, 0) is None
        memory.problem = ""
        await until(lambda: two.shared.is_up)
        await until(lambda: has_spent(two, 15))
        assert await two.runs.join(call(run="unknown"), 0) is None
        assert two.told == ["", "redis cannot be reached", ""]


async def test_refuse_is_for_every_run_of_which_nothing_is_known():
    memory = Memory(learn_ms=0)
    async with fleet(1, memory, without="refuse") as (one,):
        memory.problem = "redis cannot be reached"
        memory.turned_ms += 4_000
        with pytest.raises(StoreFailed, match="whether run r has a plan is not known"):
            await one.runs.join(call(), 0)


async def test_a_call_of_a_run_without_a_plan_asks_nobody():
    memory = Memory(learn_ms=0)
    async with fleet(1, memory) as (one,):
        await one.shared.open(RunPlan("acme", "r", 100), is_reopening=True)
        await one.kill()
        asked = memory.asked
        for _ in range(100):
            assert await one.runs.join(call(run="another"), 0) is None
        assert memory.asked == asked
        await one.spend(call(), 1)
        assert memory.asked == asked + 2  # how the run stands, and then it was let in
        await one.spend(call(), 1)
        assert memory.asked == asked + 3


async def test_whoever_opens_a_run_waits_for_a_pod_that_might_not_know_it():
    memory = Memory(learn_ms=0)
    async with fleet(3, memory) as (one, two, three):
        await three.kill()
        opening = asyncio.ensure_future(one.shared.open(RunPlan("acme", "r", 100), is_reopening=True))
        await until(lambda: two.shared.plan_of("acme", "r") is not None)
        await asyncio.sleep(0.05)
        assert not opening.done()
        assert await three.runs.join(call(), 0) is None  # it still may
        memory.turned_ms += 4_000
        await opening
        assert await three.runs.join(call(), 0) is not None  # it stood still, and looks before it trusts what it knows


async def test_a_run_that_no_pod_uses_is_closed_once_and_one_that_another_uses_is_not():
    memory = Memory(learn_ms=0)
    async with fleet(2, memory) as (one, two):
        ended: list[str] = []
        for pod in (one, two):
            pod.shared.ended = lambda message, facts: ended.append(message)
        for name in ("r", "other"):
            await one.shared.open(RunPlan("acme", name, 100), is_reopening=True)
        await one.spend(call(), 7)
        await until(lambda: has_spent(two, 7))
        memory.turned_ms += 23 * 3_600_000
        await two.spend(call(run="other"), 1)
        memory.turned_ms += 3_600_000
        await until(lambda: ended)
        await until(lambda: two.shared.plan_of("acme", "r") is None and one.shared.plan_of("acme", "r") is None)
        assert ended == ["run r of tenant acme is closed: 0.000000 of 0.000000 USD, 1 steps, 0 calls refused"]
        assert two.shared.plan_of("acme", "other") is not None
        await until(lambda: ("acme", "r") in one.runs.changed or ("acme", "r") not in one.file)
        assert one.runs.find("acme", "r") is None


async def test_so_many_runs_may_be_open_and_not_one_more():
    async with fleet(2, most=2) as (one, two):
        await one.shared.open(RunPlan("acme", "r", 100), is_reopening=True)
        await two.shared.open(RunPlan("acme", "s", 100), is_reopening=True)
        with pytest.raises(Overloaded, match="2 runs are open"):
            await one.shared.open(RunPlan("acme", "t", 100), is_reopening=True)


async def test_a_pod_without_a_folder_is_another_one_after_its_death():
    memory = Memory(lease_ms=4_000, learn_ms=0)
    async with fleet(1, memory) as (one,):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        await one.begin(call(usd=60))
        await one.kill()
        async with running([Pod("pod9", lambda name, life: FakePlace(memory, name, life), memory)]) as (nine,):
            assert await nine.refusal(call(usd=50)) == "run:acme:r:plan-first"
            memory.turned_ms += 5_000
            await until(lambda: nine.shared.is_up)
            await nine.spend(call(usd=50), 50)


async def test_a_run_of_a_time_without_redis_becomes_one_of_all_pods_and_back():
    memory = Memory(learn_ms=0)
    plan = RunPlan("acme", "r", 100, reserve_percent=0, max_steps=5)
    alone, ledger = Runs(), Ledger()
    run = alone.open(plan, memory.now_ms)
    for step in (0, 1, 2):
        one = call(step=step)
        held = ledger.reserve(alone.accounts(one), 10, 1, 10**12, memory.now_ms * 1_000_000)
        assert not isinstance(held, Denial)
        alone.let_in(run, one, held.id, memory.now_ms * 1_000_000)
        one.nano_usd, one.usage = 10, Usage(1, 0, 0, 0, 1, 0)
        ledger.post(held.id, 10, 1, memory.now_ms * 1_000_000)
        alone.ended(one, held.id)
    async with fleet(1, memory) as (two,):
        pod = Pod("pod9", lambda name, life: FakePlace(memory, name, life), memory)
        pod.file, pod.ledger = {("acme", "r"): encode(run)}, ledger
        async with running([pod]):
            await until(lambda: two.shared.plan_of("acme", "r") == plan)
            assert await two.refusal(call(usd=71)) == "run:acme:r:plan-first"
            await two.spend(call(step=2), 10)
            await pod.spend(call(step=3), 10)
            assert (await two.whole()).steps == 4
            await until(lambda: has_spent(two, 50))
            await pod.stop()
        (mine,) = pod.runs.listing()
        pod.runs.shared = None
        pod.runs.hand_over(mine, "")
        assert (mine.steps, pod.runs.accounts(call())[0][1].mode) == (4, "refuse")
        denial = ledger.reserve(pod.runs.accounts(call()), 61, 1, 10**12, pod.now_ns())
        assert isinstance(denial, Denial)


async def test_whoever_opened_a_run_knows_it_again_when_all_others_have_forgotten():
    memory = Memory(learn_ms=100)
    async with fleet(1, memory) as (one,):
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0), is_reopening=True)
        await one.kill()
        memory.forget()
        await one.start()
        await until(lambda: memory.learns_ms <= 0)
        assert await one.refusal(call(usd=101)) == "run:acme:r:plan-first"


async def test_a_server_that_is_away_from_the_start_is_told_of():
    memory = Memory(learn_ms=0)
    memory.problem = "redis cannot be reached"
    async with fleet(1, memory) as (one,):
        assert one.told == ["redis cannot be reached"]
        assert await one.runs.join(call(), 0) is None
        memory.problem = ""
        await until(lambda: one.shared.is_up)
        assert one.told == ["redis cannot be reached", ""]
