"""Runs that pods share through a real Redis or Valkey: opened, held to their plan and closed at any pod, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import budgets_pb2 as bpb
from sidecar.v1 import llm_pb2 as pb
from tests.fakes.running import Sidecar
from tests.fakes.script import Say, Stall
from tests.flow.conftest import PROGRAMS
from tests.flow.reading import failed
from tests.flow.test_runs import COST, M, ask, closed, found, opened, refusal, share

one_server = pytest.mark.parametrize("program", [*PROGRAMS][:1] or ["none"], indirect=True)
other_server = pytest.mark.parametrize("program", [*PROGRAMS][-1:] or ["none"], indirect=True)


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, server, tmp_path) -> AsyncIterator[Callable[..., Awaitable[Sidecar]]]:
    """Starts the pod of a name, whose folder outlives it."""

    async def started(name: str, fleet: str = "") -> Sidecar:
        (tmp_path / name).mkdir(exist_ok=True)
        tables = f'[redis]\nurl = "{server.url}"\n[fleet]\nlearn_ms = 500\nwait_ms = 2000\n{fleet}'
        return await start_sidecar(tables, f'data_dir = "{tmp_path / name}"')

    yield started


async def until(what: Callable[[], Awaitable[bool]], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not await what():  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)


async def is_up(sidecar: Sidecar) -> bool:
    return (await sidecar.metrics())("llm_shared_runs_up") == 1


async def answered(sidecar: Sidecar, request: pb.GenerateRequest) -> bool:
    call = sidecar.llm.Generate(request, timeout=20)
    code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED), await call.details()
    return code == grpc.StatusCode.OK


async def test_sixty_calls_at_three_pods_are_held_to_one_plan(pod):
    pods = [await pod(name) for name in ("one", "two", "three")]
    await opened(pods[0], "many", total_nano_usd=30 * COST + 10_000, reserve_percent=0, max_steps=100)
    calls = [answered(pods[n % 3], ask("many", f"agent{n % 4}", step=n)) for n in range(1, 61)]
    outcomes = await asyncio.gather(*calls)
    extra = 0
    while await answered(pods[extra % 3], ask("many")):  # what calls had held and did not cost is there again
        extra += 1
    summary = await closed(pods[2], "many")
    let_in = sum(outcomes) + extra
    assert (summary.balance.used_nano_usd, summary.balance.pending_nano_usd) == (let_in * COST, 0)
    assert summary.balance.used_nano_usd <= summary.balance.limit_nano_usd
    assert (summary.steps, sum(agent.calls for agent in summary.agents)) == (let_in, let_in)
    assert summary.refused == 60 - sum(outcomes) + 1
    assert sum(agent.input_tokens for agent in summary.agents) == let_in * 11
    for one in pods:
        assert await refusal(one, ask("many", "agent0", step=1)) == "run:acme:many:plan"


@other_server
async def test_a_pod_killed_with_calls_in_flight_counts_once_and_another_closes_with_the_whole_summary(pod, upstream, server):
    one, two = await pod("one", "lease_ms = 4_000\n"), await pod("two", "lease_ms = 4_000\n")
    await opened(one, "killed", total_nano_usd=6 * COST, reserve_percent=0, agents=[share("a"), share("b", max_output_tokens=30)])
    await one.llm.Generate(ask("killed", "a", 1))
    await two.llm.Generate(ask("killed", "b", 1))
    upstream.on(M, Stall(), Stall())
    waiting = [asyncio.ensure_future(failed(one.llm.Generate(ask("killed", agent, 2), timeout=60))) for agent in "ab"]
    await until(lambda: made(two, "killed", steps=4))  # both are let in
    one.process.send_signal(signal.SIGKILL)
    await one.process.wait()
    assert {got.code for got in await asyncio.gather(*waiting)} == {grpc.StatusCode.UNAVAILABLE}
    upstream.on(M, Say())
    assert await refusal(two, ask("killed", "b", 3, max_output_tokens=20)) == "agent:acme:killed:b:plan:output"  # what it held is held
    await until(lambda: holds(two, "killed", calls=0))  # until nobody has heard of it for fleet.lease_ms
    await two.llm.Generate(ask("killed", "b", 3, max_output_tokens=20))
    again = await pod("one", "lease_ms = 4_000\n")
    run = await found(again, "killed")
    assert (run.balance.used_nano_usd, run.balance.pending_nano_usd, run.steps) == (3 * COST, 0, 5)
    await again.llm.Generate(ask("killed", "a", 2))
    summary = await closed(two, "killed")
    assert (summary.balance.used_nano_usd, summary.balance.pending_nano_usd) == (4 * COST, 0)
    assert [(a.agent, a.calls, a.nano_usd, a.output_tokens) for a in summary.agents] == [("a", 3, 2 * COST, 14), ("b", 3, 2 * COST, 14)]
    assert await refusal(again, ask("killed", "a", 2)) == "run:acme:killed:plan"


async def made(sidecar: Sidecar, run: str, steps: int) -> bool:
    return (await found(sidecar, run)).steps == steps


async def holds(sidecar: Sidecar, run: str, calls: int) -> bool:
    pending = (await found(sidecar, run)).balance.pending_nano_usd
    return (pending > 0) is (calls > 0) and pending >= calls * COST


@one_server
async def test_a_redis_that_is_away_or_comes_back_empty_lets_nobody_beyond_the_plan(pod, upstream, server):
    one, two = await pod("one"), await pod("two")
    await opened(one, "lost", total_nano_usd=5 * COST, reserve_percent=0, max_steps=9)
    await opened(two, "over", total_nano_usd=10**9)
    await closed(one, "over")
    await one.llm.Generate(ask("lost", step=1))
    upstream.on(M, Say(first_delay_ms=2_000), Say())
    flying = asyncio.ensure_future(two.llm.Generate(ask("lost", step=2), timeout=60).code())
    await until(lambda: holds(one, "lost", calls=1))
    server.kill()
    assert await flying == grpc.StatusCode.OK  # it was let in before; what it did cost is told later
    await until(lambda: is_down(one))
    got = await failed(one.llm.Generate(ask("lost", step=3), timeout=20))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
    assert "run lost has a plan that pods share, and the Redis that pods share" in got.message
    assert await refusal(one, ask("over")) == "run:acme:over:plan"
    await one.llm.Generate(ask("", max_output_tokens=10))  # no run, no plan: nobody has to be asked
    server.start()
    await until(lambda: is_up(one))
    await until(lambda: is_up(two))
    await until(lambda: used(two, "lost", 2 * COST))
    let_in = [await tried(pod_, ask("lost", step=number)) for number, pod_ in enumerate((one, two, one, two), 3)]
    assert let_in == [True, True, False, False]
    for each in (one, two):
        assert await refusal(each, ask("over")) == "run:acme:over:plan"
    summary = await closed(one, "lost")
    assert (summary.balance.used_nano_usd, summary.steps) == (4 * COST, 4)


async def is_down(sidecar: Sidecar) -> bool:
    return not await is_up(sidecar)


async def used(sidecar: Sidecar, run: str, nano_usd: int) -> bool:
    call = sidecar.ops.ListRuns(bpb.ListRunsRequest(tenant="acme", run=run))
    if await call.code() != grpc.StatusCode.OK:
        return False
    return [one.balance.used_nano_usd for one in (await call).runs] == [nano_usd]


async def tried(sidecar: Sidecar, request: pb.GenerateRequest) -> bool:
    """Whether the call is let in, in the end: a server that learns asks for patience."""
    async with asyncio.timeout(30):
        while True:
            code = await sidecar.llm.Generate(request, timeout=20).code()
            if code != grpc.StatusCode.UNAVAILABLE:
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)
                return code == grpc.StatusCode.OK
            await asyncio.sleep(0.05)


@one_server
async def test_a_plan_that_the_first_calls_bring_to_two_pods_and_a_top_up_at_a_third_are_one(pod, server):
    one, two, three = await pod("one"), await pod("two"), await pod("three")
    plan = pb.RunPlan(total_nano_usd=5 * COST, reserve_percent=0)
    codes = await asyncio.gather(*(answered(each, ask("brought", plan=plan)) for each in (one, two)))
    assert codes == [True, True]
    other = await failed(three.llm.Generate(ask("brought", plan=pb.RunPlan(total_nano_usd=1))))
    assert (other.code, other.field) == (grpc.StatusCode.INVALID_ARGUMENT, "run")
    assert "is open with another plan" in other.message
    assert await refusal(three, ask("brought", max_output_tokens=100)) == "run:acme:brought:plan-first"
    await three.ops.TopUpBudget(bpb.TopUpBudgetRequest(account="run:acme:brought:plan", nano_usd=20 * COST))
    await until(lambda: tried(one, ask("brought", max_output_tokens=100)))
    balance = (await one.ops.GetBudget(bpb.GetBudgetRequest(account="run:acme:brought:plan"))).balance
    assert (balance.limit_nano_usd, balance.all_pods.used_nano_usd) == (25 * COST, 3 * COST)
    run = await found(two, "brought")
    assert (run.balance.limit_nano_usd, run.balance.used_nano_usd) == (25 * COST, 3 * COST)
    for each in (one, two, three):
        assert await each.stop() == 0


@one_server
async def test_an_agent_at_two_pods_puts_out_what_both_have_left(pod, upstream):
    one, two = await pod("one"), await pod("two")
    await opened(one, "long", total_nano_usd=10**9, agents=[share("a", model=M, max_output_tokens=100)])
    for each, times in ((one, 1), (two, 2), (one, 1)):
        for _ in range(times):
            await each.llm.Generate(ask("long", "a", model="", max_output_tokens=None))
    assert [asked.body["max_tokens"] for asked in upstream.asked(M)[-4:]] == [100, 93, 86, 79]
    assert [(a.calls, a.output_tokens) for a in (await closed(two, "long")).agents] == [(4, 28)]
