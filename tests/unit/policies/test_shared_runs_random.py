"""Runs that pods share, in any order of what can happen to pods and to the place where they meet; books beside them are the judge."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from sidecar.call import Call
from sidecar.errors import BudgetExceeded, StoreFailed
from sidecar.policies.runs import RunPlan, Share
from tests.fakes.run_fleet import Pod, call, fleet, until
from tests.fakes.run_meeting import Memory

TOTAL, SHARE, STEPS = 2_000, 700, 90


class Books:
    """What was let in, posted and lost, whatever the runs say."""

    def __init__(self) -> None:
        self.flying: dict[tuple[str, int], tuple[Call, str]] = {}  # by pod and reservation
        self.posted = {"a": 0, "b": 0}
        self.overrun = {"a": 0, "b": 0}
        self.named: set[tuple[str, int]] = set()
        self.tried: set[tuple[str, int]] = set()
        self.unnamed = self.maybe = 0

    def let_in(self, pod: Pod, reservation: int, one: Call) -> None:
        self.flying[pod.name, reservation] = (one, one.agent)
        step = one.request.caller.step
        if step:
            self.named.add((one.agent, step))
        else:
            self.unnamed += 1
        held = {"a": 0, "b": 0}
        for flying, agent in self.flying.values():
            held[agent] += flying.max_nano_usd
        taken = {agent: held[agent] + self.posted[agent] - self.overrun[agent] for agent in "ab"}
        assert sum(taken.values()) <= TOTAL
        assert taken["a"] <= SHARE
        assert len(self.named) + self.unnamed <= STEPS

    def ended(self, pod: Pod, reservation: int, usd: int) -> None:
        one, agent = self.flying.pop((pod.name, reservation))
        self.posted[agent] += usd
        self.overrun[agent] += max(0, usd - one.max_nano_usd)

    def killed(self, pod: Pod) -> None:
        for key in [key for key in self.flying if key[0] == pod.name]:
            del self.flying[key]


class World:
    def __init__(self, random: Random, pods: list[Pod], memory: Memory) -> None:
        self.random, self.pods, self.memory, self.books = random, pods, memory, Books()
        self.down: set[str] = set()

    async def begin(self) -> None:
        random, pod = self.random, self.random.choice(self.pods)
        if pod.name in self.down:
            return
        step = random.choice((0, 0, random.randint(1, 60)))
        one = call(agent=random.choice("ab"), step=step, usd=random.randint(1, 60))
        if step:
            self.books.tried.add((one.agent, step))
        try:
            reservation = await pod.begin(one)
        except (BudgetExceeded, StoreFailed):
            return
        except asyncio.CancelledError:
            self.books.maybe += 1
            raise
        if pod.name in self.down:
            self.books.maybe += 1  # it was killed the moment it was let in
        else:
            self.books.let_in(pod, reservation, one)

    async def end(self) -> None:
        if not self.books.flying:
            return
        name, reservation = self.random.choice(list(self.books.flying))
        (pod,) = [one for one in self.pods if one.name == name]
        one, _ = self.books.flying[name, reservation]
        usd = self.random.randint(0, one.max_nano_usd + (5 if self.random.random() < 0.1 else 0))
        pod.end(one, reservation, usd)
        self.books.ended(pod, reservation, usd)

    async def kill(self) -> None:
        pod = self.random.choice(self.pods)
        if pod.name not in self.down and len(self.down) < 2 and self.memory.learns_ms <= 0:
            self.down.add(pod.name)
            self.books.killed(pod)
            pod.place.is_dead = True
            await pod.kill()

    async def start(self) -> None:
        for pod in self.pods:
            if pod.name in self.down and not self.memory.problem:
                await pod.start()
                self.down.discard(pod.name)
                return

    async def lose(self) -> None:
        self.random.choice(self.pods).place.lose = self.random.choice(("enter", "put", "look", "state"))

    async def cut_off(self) -> None:
        self.memory.problem = "" if self.memory.problem else "redis cannot be reached"

    async def forget(self) -> None:
        """Whoever is down or cut off while it learns would not be spoken for: README says what that may cost."""
        if not self.down and not self.memory.problem and all(pod.shared.is_up for pod in self.pods):
            self.memory.forget()
            await until(lambda: self.memory.learns_ms <= 0)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_nothing_is_let_in_beyond_the_plan_and_all_of_it_is_found_in_the_end(seed):
    random, memory = Random(seed), Memory(lease_ms=60_000, learn_ms=60)
    async with fleet(3, memory) as pods:
        world = World(random, pods, memory)
        plan = RunPlan("acme", "r", TOTAL, reserve_percent=0, max_steps=STEPS, agents={"a": Share(max_nano_usd=SHARE), "b": Share()})
        await pods[0].shared.open(plan, is_reopening=True)
        begun: set[asyncio.Task[None]] = set()
        for _ in range(400):
            what = random.choices(
                (world.begin, world.end, world.kill, world.start, world.lose, world.cut_off, world.forget), (50, 30, 1, 3, 4, 3, 1)
            )[0]
            if what == world.begin:
                begun.add(asyncio.create_task(world.begin()))
            else:
                await what()
            if random.random() < 0.3:
                await asyncio.sleep(random.random() / 200)
        memory.problem = ""
        await asyncio.gather(*begun)
        for pod in pods:
            pod.place.lose = ""
        while world.down:
            await world.start()
        while world.books.flying:
            await world.end()
        await until(lambda: all(pod.shared.is_up and not pod.shared._untold for pod in pods) and memory.learns_ms <= 0)
        books, found = world.books, await pods[1].whole()
        assert (found.spent, found.held) == (sum(books.posted.values()), 0)
        assert {agent: found.tallies[agent].nano_usd for agent in "ab"} == books.posted
        assert len(books.named) + books.unnamed <= found.steps <= len(books.tried) + books.unnamed + books.maybe
        assert sum(pod.ledger.pending() for pod in pods if pod.life == 1) == 0
