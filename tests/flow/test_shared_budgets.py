"""Pods that share a budget through a real Redis or Valkey: what each may spend, and what happens when the server or a pod goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest_asyncio
import redis.asyncio as redis

from sidecar.v1 import budgets_pb2, ops_pb2
from sidecar.v1 import llm_pb2 as pb
from tests.fakes.running import Sidecar
from tests.fakes.servers import Server
from tests.flow.reading import failed
from tests.leases.meeting import numbers_of

COST = 39_000  # nano-USD: the fake's 11 tokens in and 7 out, at the test models' prices
BUDGET = '[budgets.tenant_test]\nscope = "tenant"\n'
WAIT = "wait_ms = 2000\n"  # so that a busy machine is no reason to be refused


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, server, tmp_path) -> AsyncIterator[Callable[..., Awaitable[Sidecar]]]:
    """Starts the pod of a name, whose folder outlives it, with this day's budget for each tenant."""

    async def started(name: str, usd: str = "1", fleet: str = WAIT) -> Sidecar:
        (tmp_path / name).mkdir(exist_ok=True)
        tables = f'{BUDGET}limit_usd = "{usd}"\n[redis]\nurl = "{server.url}"\n[fleet]\nlearn_ms = 500\n{fleet}'
        return await start_sidecar(tables, f'data_dir = "{tmp_path / name}"')

    yield started


def ask(tenant: str = "acme") -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="hi", max_output_tokens=20, caller=pb.Caller(service="flow", tenant=tenant))


async def spend(sidecar: Sidecar, calls: int = 1) -> int:
    """How many of so many calls were answered; the others were refused."""
    codes = [await outcome(sidecar) for _ in range(calls)]
    assert {*codes} <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    return codes.count(grpc.StatusCode.OK)


async def outcome(sidecar: Sidecar) -> grpc.StatusCode:
    call = sidecar.llm.Generate(ask(), timeout=10)
    code = await call.code()
    if code == grpc.StatusCode.OK:
        assert (await call).cost.nano_usd == COST
    return code


async def entries(server: Server) -> list[tuple[int, int, int]]:
    """(lease, used, held) of every pod in the tenant's day, nano-USD."""
    async with redis.Redis(port=server.port) as client:
        keys = [key async for key in client.scan_iter("{sidecar}:budgets:*tenant:acme:test")]
        found = await client.hvals(keys[0]) if keys else []
        return [numbers_of(entry)[2:5] for entry in found]  # type: ignore[misc]


async def until(what: Callable[[], Awaitable[bool]], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not await what():  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)


async def is_up(sidecar: Sidecar) -> bool:
    return (await sidecar.metrics())("llm_shared_budgets_up") == 1


async def told(server: Server, used: int, lease: int | None = None) -> None:
    async def there() -> bool:
        found = await entries(server)
        return sum(e[1] for e in found) == used and (lease is None or sum(max(e[0], e[2]) for e in found) == lease)

    await until(there)


async def test_two_pods_spend_one_budget_to_its_end_and_not_beyond(pod, server):
    one, two = await pod("one", "0.001"), await pod("two", "0.001")
    answered = await spend(one, 15) + await spend(two, 30)
    async with asyncio.timeout(30):
        while answered * COST < 850_000:  # what one has leased and does not use goes to the other
            answered += await spend(two) + await spend(one)
    answered += await spend(two, 10) + await spend(one, 10)
    spent = answered * COST
    assert spent <= 1_000_000
    await told(server, spent)
    balances = [(await p.ops.GetBudget(budgets_pb2.GetBudgetRequest(account="tenant:acme:test"))).balance for p in (one, two)]
    assert sum(balance.used_nano_usd for balance in balances) == spent
    assert max(balance.all_pods.used_nano_usd for balance in balances) == spent  # who spoke last has heard of all
    fewer = one if balances[0].used_nano_usd < balances[1].used_nano_usd else two
    status = await failed(fewer.llm.Generate(ask(), timeout=10))
    assert "account tenant:acme:test has a limit of 0.001000 USD that pods share" in status.message
    assert (await one.llm.Generate(ask("another"), timeout=10)).cost.nano_usd == COST


async def test_most_calls_ask_nobody(pod, server):
    one = await pod("one", "30")
    await spend(one, 300)
    metric = await one.metrics()
    assert metric("llm_shared_budget_waits") <= 3


async def test_a_killed_pod_comes_back_with_what_it_spent_and_gives_back_the_rest(pod, server, tmp_path):
    one, two = await pod("one"), await pod("two")
    await spend(one, 5)
    await spend(two, 2)
    await told(server, 7 * COST)
    one.process.kill()
    await one.process.wait()
    assert any(lease > used for lease, used, _ in await entries(server))
    again = await pod("one")
    assert await spend(again, 1) == 1
    await told(server, 8 * COST)
    for running in (again, two):
        assert await running.stop() == 0
    await told(server, 8 * COST, lease=8 * COST)


async def test_what_a_killed_pod_told_nobody_of_is_not_spent_again_however_long_it_is_away(pod, server):
    fleet = f"lease_ms = 3_000\n{WAIT}"
    one, two = await pod("one", "0.004", fleet), await pod("two", "0.004", fleet)
    assert await spend(two) == 1
    dear = pb.GenerateRequest(prompt="hi", max_output_tokens=200, caller=pb.Caller(service="flow", tenant="acme"))
    assert (await one.llm.Generate(dear, timeout=10)).cost.nano_usd == COST  # now it has leased enough for many small ones
    server.freeze()
    try:
        untold = 0
        while await outcome(one) == grpc.StatusCode.OK:
            untold += 1
        one.process.kill()
        await one.process.wait()
    finally:
        server.thaw()
    assert untold > 10
    await until(lambda: is_up(two))
    answered = 2 + untold + await spend(two, 90)
    await asyncio.sleep(3.2)  # longer than it is reckoned with
    answered += await spend(two, 90)
    assert answered * COST <= 4_000_000
    again = await pod("one", "0.004", fleet)
    async with asyncio.timeout(60):
        while answered * COST < 3_750_000:  # its journal says what it has spent, and the rest of its lease is there again
            answered += await spend(two) + await spend(again)
    answered += await spend(two, 10) + await spend(again, 10)
    assert answered * COST <= 4_000_000
    await told(server, answered * COST)
    balances = [(await p.ops.GetBudget(budgets_pb2.GetBudgetRequest(account="tenant:acme:test"))).balance for p in (again, two)]
    assert sum(balance.used_nano_usd for balance in balances) == answered * COST


async def test_redis_that_lost_its_memory_is_told_again_and_calls_do_not_notice(pod, server):
    one, two = await pod("one"), await pod("two")
    await spend(one, 5)
    await spend(two, 5)
    await told(server, 10 * COST)
    server.kill()
    assert await spend(one, 3) == 3  # within what it has leased
    server.start()
    await told(server, 13 * COST)
    assert await spend(two, 3) == 3
    await told(server, 16 * COST)


async def test_a_redis_that_is_emptied_while_it_runs_is_told_again(pod, server):
    one, two = await pod("one"), await pod("two")
    await spend(one, 5)
    await spend(two, 2)
    await told(server, 7 * COST)
    async with redis.Redis(port=server.port) as client:
        await client.flushall()
    await told(server, 7 * COST)


async def test_what_a_killed_pod_had_told_is_remembered_by_others_when_redis_forgets(pod, server):
    one, two = await pod("one"), await pod("two")
    await spend(one, 5)
    await told(server, 5 * COST)
    await spend(two, 1)
    await told(server, 6 * COST)
    one.process.kill()
    await one.process.wait()
    server.kill()
    server.start()
    await told(server, 6 * COST)


async def test_a_frozen_redis_delays_no_call_that_has_a_lease_and_others_for_a_moment(pod, server):
    one = await pod("one", fleet="wait_ms = 50\n")
    await until(lambda: is_up(one))
    await spend(one, 2)
    server.freeze()
    try:
        assert await spend(one, 5) == 5
        began = time.monotonic()
        status = await failed(one.llm.Generate(ask("stranger"), timeout=10))
        assert time.monotonic() - began < 5
        assert status.code == grpc.StatusCode.UNAVAILABLE
        assert status.reason == "STORE_FAILED"
        assert "account tenant:stranger:day is shared by pods" in status.message
        await until(lambda: _is_away(one))
        notices = [n for n in (await one.ops.GetStatus(ops_pb2.GetStatusRequest())).notices if "shared budgets" in n]
        assert "each pod goes on within what it has leased, then refuses (fleet.without_redis)" in notices[0]
        assert await spend(one, 5) == 5
    finally:
        server.thaw()
    await until(lambda: is_up(one))
    assert (await one.llm.Generate(ask("stranger"), timeout=10)).cost.nano_usd == COST


async def test_a_pod_ends_though_redis_does_not_answer(pod, server):
    one = await pod("one")
    await spend(one, 2)
    server.freeze()
    try:
        assert await one.stop(within_s=25) == 0  # it asks a few times, a second each, and leaves its lease for its next life
    finally:
        server.thaw()
    again = await pod("one")
    assert await again.stop() == 0
    await told(server, 2 * COST, lease=2 * COST)


async def _is_away(sidecar: Sidecar) -> bool:
    return not await is_up(sidecar)


async def test_without_redis_each_pod_has_its_share_if_that_is_wanted(start_sidecar):
    tables = f'{BUDGET}limit_usd = "0.001"\n[redis]\nurl = "redis://127.0.0.1:1"\n[fleet]\nwithout_redis = "share"\npods = 2\n'
    one = await start_sidecar(tables)
    codes = [await outcome(one) for _ in range(20)]
    assert {*codes} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert 350_000 < codes.count(grpc.StatusCode.OK) * COST <= 500_000


async def test_without_redis_nothing_is_spent_that_was_not_leased(start_sidecar):
    one = await start_sidecar(f'{BUDGET}limit_usd = "0.001"\n[redis]\nurl = "redis://127.0.0.1:1"\n')
    assert await outcome(one) == grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_throws_keys_away_is_told_of_and_a_password_is_used(start_sidecar, program):
    options = ("--requirepass", "the-right-one", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with Server(program, *options) as server:
        tables = f'{BUDGET}limit_usd = "1"\n[redis]\nurl = "{server.url}"\n[fleet]\nlearn_ms = 500\n{WAIT}'
        one = await start_sidecar(tables.replace("[fleet]", 'password = "the-right-one"\n[fleet]'))
        assert await spend(one, 3) == 3
        events = (await one.ops.ListEvents(ops_pb2.ListEventsRequest(kind="health"))).events
        assert any("throws keys away" in event.message and "allkeys-lru" in event.message for event in events)
        wrong = await start_sidecar(tables.replace("[fleet]", 'password = "another"\n[fleet]'))
        assert await outcome(wrong) == grpc.StatusCode.UNAVAILABLE
        notices = (await wrong.ops.GetStatus(ops_pb2.GetStatusRequest())).notices
        assert any("shared budgets: " in n and "refuses the user or the password" in n for n in notices)
        assert "another" not in wrong.log
