"""Runs that pods share: opened, held to their plan and closed at any of them; with the script's twin and in real servers."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from sidecar.errors import BudgetExceeded, InvalidRequest, NotAllowed
from sidecar.policies.runs import RunPlan, Share
from tests.fakes.run_fleet import PROGRAMS, Pod, call, fleet, has_spent, until

everywhere = pytest.mark.parametrize("program", ["", *PROGRAMS])


@everywhere
async def test_many_calls_at_three_pods_are_never_let_in_beyond_the_plan(program):
    random = Random(5)
    async with fleet(3, program=program) as pods:
        plan = RunPlan("acme", "r", 1_000, reserve_percent=0, max_steps=80, agents={"a": Share(max_nano_usd=300), "b": Share()})
        await pods[0].shared.open(plan, is_reopening=True)
        spent = {"a": 0, "b": 0}
        held = {"a": 0, "b": 0}
        refused = let_in = 0

        async def one(number: int) -> None:
            nonlocal refused, let_in
            pod, agent, most = pods[number % 3], random.choice("ab"), random.randint(5, 30)
            made = call(agent=agent, step=number, usd=most)
            try:
                reservation = await pod.begin(made)
            except BudgetExceeded:
                refused += 1
                return
            let_in += 1
            held[agent] += most
            assert held["a"] + spent["a"] <= 300
            assert sum(held.values()) + sum(spent.values()) <= 1_000
            await asyncio.sleep(random.random() / 50)
            usd = random.randint(0, most)
            held[agent] -= most
            spent[agent] += usd
            pod.end(made, reservation, usd, (usd, 1))

        await asyncio.gather(*(one(number) for number in range(1, 121)))
        await until(lambda: has_spent(pods[1], sum(spent.values())))
        found = await pods[2].shared.close("acme", "r")
        assert found is not None
        assert (found.spent, found.held, found.steps, found.refused) == (sum(spent.values()), 0, let_in, refused)
        assert refused
        assert {name: (tally.nano_usd, tally.input_tokens) for name, tally in found.tallies.items()} == {
            n: (u, u) for n, u in spent.items()
        }
        assert sum(pod.ledger.pending() for pod in pods) == 0
        for pod in pods:
            assert await pod.refusal(call(agent="a")) == "run:acme:r:plan"


@everywhere
async def test_steps_tokens_and_the_reserve_are_those_of_all_pods(program):
    async with fleet(2, program=program) as (one, two):
        agents = {"a": Share(max_input_tokens=25, max_output_tokens=35), "b": Share()}
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=20, max_steps=3, agents=agents), is_reopening=True)
        first = call(agent="a", step=1)
        held = await one.begin(first)
        with pytest.raises(BudgetExceeded, match="10 are used or held, and this call may need 20"):
            await two.begin(call(agent="a", step=1, size=(20, 1)))
        one.end(first, held, 40, (5, 10))
        await two.spend(call(agent="a", step=1), 40, (5, 10))  # again: no new step, and paid from the reserve
        assert two.runs.output_left(call(agent="a")) == 15
        await one.spend(call(agent="b", step=2), 10)
        await until(lambda: has_spent(two, 90))
        assert await two.refusal(call(agent="b", step=4, usd=1)) == "run:acme:r:plan:steps"
        await two.spend(call(agent="b", usd=1), 1)
        assert await one.refusal(call(agent="b", usd=1)) == "run:acme:r:plan:steps"
        assert await one.refusal(call(agent="b", step=2, usd=10)) == "run:acme:r:plan"
        with pytest.raises(NotAllowed, match="has no agent c; it has a, b"):
            await two.begin(call(agent="c"))
        found = await one.whole()
        assert (found.steps, found.spent, found.first_spent) == (3, 91, 51)
        assert (found.tallies["a"].input_tokens, found.tallies["a"].output_tokens, found.tallies["a"].pending_input) == (10, 20, 0)


@everywhere
async def test_optional_agents_of_any_pod_are_refused_first(program):
    async with fleet(2, program=program) as (one, two):
        agents = {"must": Share(max_nano_usd=50, priority="critical"), "extra": Share(priority="optional")}
        await one.shared.open(RunPlan("acme", "r", 100, reserve_percent=0, agents=agents), is_reopening=True)
        for pod in (one, two, one, two, one):
            await pod.spend(call(agent="extra"), 10)
        assert await two.refusal(call(agent="extra")) == "run:acme:r:plan-first"
        for pod in (one, two, one, two, one):
            await pod.spend(call(agent="must"), 10)
        assert await two.refusal(call(agent="must", usd=1)) == "run:acme:r:plan-first"


@everywhere
async def test_a_plan_that_two_pods_are_brought_at_once_is_one_and_another_one_is_refused(program):
    async with fleet(3, program=program) as (one, two, three):
        plan = RunPlan("", "", 100, reserve_percent=0)
        calls = [call(plan=plan) for _ in range(6)]
        held = await asyncio.gather(*((one, two)[n % 2].begin(made) for n, made in enumerate(calls)))
        assert await three.refusal(call(usd=41)) == "run:acme:r:plan-first"  # it knows of the run, though nobody brought the plan here
        for pod in (two, three):
            with pytest.raises(InvalidRequest, match="run r of tenant acme is open with another plan; close it first"):
                await pod.begin(call(plan=RunPlan("", "", 101)))
        for n, made in enumerate(calls):
            (one, two)[n % 2].end(made, held[n], 7)
        await until(lambda: has_spent(three, 42))
        assert (await three.shared.close("acme", "r")).spent == 42  # type: ignore[union-attr]
        assert await two.shared.close("acme", "r") is None
        for pod in (one, two, three):
            with pytest.raises(BudgetExceeded, match="is closed: run r was ended"):
                await pod.begin(call(plan=plan))
        await two.shared.open(RunPlan("acme", "r", 50), is_reopening=True)
        await one.spend(call(usd=40), 40)  # what the run before has used is not this one's
        assert (await three.whole()).spent in (0, 40)
        await until(lambda: has_spent(three, 40))
        assert (await three.whole()).steps == 1


@everywhere
async def test_names_that_look_like_others_are_runs_of_their_own(program):
    async with fleet(2, program=program) as (one, two):
        names = ["r", 'r"]', "r:plan", "a:b", "a%3Ab", "d:pod0", '["acme","r"]', "ü"]
        for number, name in enumerate(names, 1):
            await one.shared.open(RunPlan("acme", name, 100 * number, reserve_percent=0), is_reopening=True)
            await two.spend(call(run=name), number)
        for number, name in enumerate(names, 1):
            await until(lambda name=name, number=number: spent_is(one, name, number))
            rule = one.runs.rule_of(f"run:acme:{name}:plan")
            assert rule is not None
            assert rule.limit_nano_usd == 100 * number
        assert one.runs.rule_of("run:acme:plan") is None
        assert one.runs.rule_of("run:acme:nobody's:plan") is None


async def spent_is(pod: Pod, run: str, usd: int) -> bool:
    return (await pod.whole(run)).spent == usd


@everywhere
async def test_what_is_topped_up_at_one_pod_is_for_all(program):
    async with fleet(2, program=program) as (one, two):
        await one.shared.open(RunPlan("acme", "r", 20, reserve_percent=50, agents={"a": Share(max_nano_usd=10)}), is_reopening=True)
        await one.spend(call(agent="a"), 10)
        assert await two.refusal(call(agent="a")) == "run:acme:r:plan-first"
        for account in ("run:acme:r:plan", "agent:acme:r:a:plan"):
            rule = two.runs.rule_of(account)
            assert rule is not None
            ((name, its_rule, amount),) = two.runs.top_ups(account, 20)
            two.ledger.top_up(name, its_rule, amount, 0, two.now_ns())
        await until(lambda: topped_up(one, 20))
        await one.spend(call(agent="a"), 10)
        assert await two.refusal(call(agent="a")) == "run:acme:r:plan-first"
        assert two.shared.standing("run:acme:r:plan") == (40, 20, 0)
        assert two.shared.standing("agent:acme:r:a:plan") is None
        again = two.life
        await two.stop()
        await two.start()
        assert two.life == again + 1
        assert ((await one.whole()).topped_up, (await one.whole()).first_topped_up) == (20, 10)


async def topped_up(pod: Pod, usd: int) -> bool:
    return (await pod.whole()).topped_up == usd
