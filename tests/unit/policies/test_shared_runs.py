"""Runs that pods share: never beyond the plan, whatever is lost, killed, cut off or forgotten; where pods meet in a real server, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest
import redis.asyncio as redis
from msgspec.json import decode, encode

from sidecar._core import Denial, Ledger
from sidecar.call import Call, Caller, GenerateRequest, Usage
from sidecar.errors import BudgetExceeded, InvalidRequest, NotAllowed, Overloaded, StoreFailed
from sidecar.policies.runs import Run, RunPlan, Runs, Share
from sidecar.policies.shared_runs import SharedRuns
from sidecar.store.shared_runs import SharedRuns as Place
from tests.fakes.run_meeting import FakePlace, Memory
from tests.fakes.servers import Server, programs

PROGRAMS = programs()


class Size:
    """What the runs look at of a candidate."""

    def __init__(self, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens, self.max_output_tokens = input_tokens, output_tokens


def call(
    run: str = "r", agent: str = "", step: int = 0, *, usd: int = 10, size: tuple[int, int] = (10, 10), plan: RunPlan | None = None
) -> Call:
    """A call that may cost so many nano-dollars."""
    request = GenerateRequest(prompt="hi", caller=Caller(step=step, run_plan=plan), max_output_tokens=size[1])
    made = Call(id="c", operation="generate", request=request, metadata={}, arrived=0.0, deadline=1.0, send=None)
    made.tenant, made.run, made.agent, made.max_nano_usd = "acme", run, agent, usd
    made.candidates = (Size(*size),)  # type: ignore[assignment]
    return made


class Pod:
    """One sidecar's runs and ledger: calls as the reserve and settle stages make them. Its file and ledger outlive `kill`."""

    def __init__(self, name: str, place: Callable[[str, int], FakePlace | Place], memory: Memory | None, **settings) -> None:
        self.name, self._place, self._memory, self._settings = name, place, memory, settings
        self.file: dict[tuple[str, str], bytes] = {}
        self.ledger, self.life, self.told = Ledger(), 0, []
        self.task: asyncio.Task[None] | None = None

    def now_ns(self) -> int:
        return (self._memory or CLOCK).now_ms * 1_000_000

    async def start(self) -> None:
        self.life += 1
        self.runs = Runs()
        for text in self.file.values():
            self.runs.restore(decode(text, type=Run))
        self.place = self._place(self.name, self.life)
        learn_ms = self._memory.learn_ms if self._memory is not None and self._memory.learn_ms else 3_000
        given = {"idle_hours": 24, "most": 10_000, "learn_ms": learn_ms, "without": "lease"} | self._settings
        self.shared = SharedRuns(
            self.place, self.runs, self.ledger, keep=self.keep, clock_ns=self.now_ns, wall_ns=self.now_ns, **given
        )  # fmt: skip
        self.shared.tell = self.told.append
        self.runs.shared = self.shared
        await self.shared.begin(5)
        self.task = asyncio.create_task(self.shared.run())

    async def keep(self) -> None:
        for key, run in self.runs.changed.items():
            if run is None:
                self.file.pop(key, None)
            else:
                self.file[key] = encode(run)
        self.runs.changed.clear()

    async def stop(self) -> None:
        await self.kill()
        await self.shared.end()

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def begin(self, one: Call) -> int:
        run = await self.runs.join(one, self.now_ns())
        assert run is not None
        held = self.ledger.reserve(self.runs.accounts(one), one.max_nano_usd, 1, 10**12, self.now_ns())
        assert not isinstance(held, Denial)
        try:
            await self.runs.enter(run, one, held.id, self.now_ns())
        except BaseException:
            self.ledger.void(held.id, self.now_ns())
            self.runs.ended(one, held.id)
            raise
        return held.id

    def end(self, one: Call, held: int, usd: int, usage: tuple[int, int] = (1, 1)) -> None:
        one.nano_usd, one.usage = usd, Usage(usage[0], 0, 0, 0, usage[1], 0)
        self.ledger.post(held, usd, 1, self.now_ns())
        self.runs.ended(one, held)

    async def spend(self, one: Call, usd: int, usage: tuple[int, int] = (1, 1)) -> None:
        self.end(one, await self.begin(one), usd, usage)

    async def refusal(self, one: Call) -> str:
        """The account that refuses it."""
        with pytest.raises(BudgetExceeded) as caught:
            await self.begin(one)
        return caught.value.account

    async def whole(self, run: str = "r") -> Run:
        """What all pods have used of it."""
        (found,) = await self.shared.listing("acme", run, 1)
        return found


CLOCK = Memory()
Pods = Callable[..., "AsyncIterator[list[Pod]]"]


@asynccontextmanager
async def fleet(count: int, memory: Memory | None = None, program: str = "", **settings) -> AsyncIterator[list[Pod]]:
    """So many pods that meet in a Python twin or, by the name of a program, in a real server."""
    if program:
        with Server(PROGRAMS[program]) as server:
            client = redis.Redis(port=server.port)

            def place(name: str, life: int) -> Place:
                times = {"lease_ms": 60_000, "learn_ms": 0, "keep_ms": 86_400_000}
                return Place(client, address="redis", prefix="test", pod=(name, life), **times)

            async with _running([Pod(f"pod{n}", place, None, **settings) for n in range(count)]) as pods:
                yield pods
            await client.aclose()
        return
    there = Memory(learn_ms=0) if memory is None else memory
    made = [Pod(f"pod{n}", lambda name, life: FakePlace(there, name, life), there, **settings) for n in range(count)]
    async with _running(made) as pods:
        yield pods


@asynccontextmanager
async def _running(pods: list[Pod]) -> AsyncIterator[list[Pod]]:
    try:
        for pod in pods:
            await pod.start()
        yield pods
    finally:
        for pod in pods:
            await pod.kill()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.005)


async def has_spent(pod: Pod, usd: int, held: int = 0) -> bool:
    try:
        (found,) = await pod.shared.listing("acme", "r", 1)
    except (StoreFailed, ValueError):  # the server learns
        return False
    return (found.spent, found.held) == (usd, held)


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


# --- what goes wrong: with the twin, whose time can be turned


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
        async with _running([Pod("pod9", lambda name, life: FakePlace(memory, name, life), memory)]) as (nine,):
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
        async with _running([pod]):
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
