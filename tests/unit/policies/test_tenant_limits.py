"""Requests and tokens per minute of a tenant: who waits, who is refused, and that waiting and being forgotten gain and lose nothing."""

import asyncio
import time

import pytest

from sidecar.errors import RateLimited
from sidecar.policies.tenant_limits import TenantLimits
from sidecar.settings.operation import Limits

S = 1_000_000_000
PER_MS = 60_000  # tokens a minute, of which one flows in each millisecond


class Clock:
    """Stands still until it is told."""

    def __init__(self):
        self.now_ns = 1_000 * S

    def __call__(self):
        return self.now_ns


def limits(requests=None, tokens=None, clock=time.monotonic_ns, **options):
    return TenantLimits(Limits(tenant_requests_per_minute=requests, tenant_tokens_per_minute=tokens), clock, **options)


def soon():
    """A deadline in a minute."""
    return time.monotonic_ns() + 60 * S


async def refused(tenants, name="a", tokens=0, seconds=10.0):
    with pytest.raises(RateLimited) as refusal:
        await tenants.take(name, tokens, tenants._clock_ns() + int(seconds * S))
    return refusal.value


async def test_each_tenant_has_its_own_minute():
    tenants = limits(requests=2, clock=Clock())
    for name in ("a", "a", "b"):
        await tenants.take(name, 5, 2_000 * S)
    error = await refused(tenants)
    assert "2 requests a minute (limits.tenant_requests_per_minute)" in error.message
    assert error.retry_after_ms == 30_001
    await tenants.take("b", 5, 2_000 * S)


@pytest.mark.parametrize(("seconds", "waits"), [(19, False), (21, True)])
async def test_wait_must_leave_the_call_half_of_its_time(seconds, waits):
    """Six requests a minute: the next one in 10 s."""
    clock = Clock()
    tenants = limits(requests=6, clock=clock)
    for _ in range(6):
        await tenants.take("a", 0, 0)
    task = asyncio.create_task(tenants.take("a", 0, clock.now_ns + seconds * S))
    await asyncio.sleep(0)
    assert task.done() is not waits
    if waits:
        task.cancel()
    else:
        assert task.exception().retry_after_ms == 10_001


async def test_tokens_are_limited_beside_requests():
    tenants = limits(requests=100, tokens=1_000, clock=Clock())
    await tenants.take("a", 700, 0)
    error = await refused(tenants, tokens=400)
    assert error.retry_after_ms == 6_001  # 100 more, of 1,000 a minute
    assert "1000 tokens a minute (limits.tenant_tokens_per_minute)" in error.message
    await tenants.take("a", 300, 0)


async def test_more_than_a_whole_minute_is_told_that_no_wait_helps():
    error = await refused(limits(tokens=1_000, clock=Clock()), tokens=1_001)
    assert error.retry_after_ms is None
    assert "max_output_tokens" in error.message


async def test_what_was_not_used_comes_back():
    clock = Clock()
    tenants = limits(tokens=1_000, clock=clock)
    tenant = await tenants.take("a", 1_000, 0)
    tenants.give_back(tenant, 600)
    await tenants.take("a", 600, 0)
    await refused(tenants, tokens=200)


async def test_waiting_calls_go_in_their_order():
    tenants, order = limits(tokens=PER_MS), []

    async def call(number, tokens):
        await tenants.take("a", tokens, soon())
        order.append(number)

    await tenants.take("a", PER_MS, soon())
    # The first waits for the most: the others, who would be served sooner, do not overtake it.
    await asyncio.wait_for(asyncio.gather(call(0, 60), call(1, 1), call(2, 20), call(3, 1)), 30)
    assert order == [0, 1, 2, 3]


async def test_newcomer_waits_behind_those_who_wait_already():
    clock = Clock()
    tenants = limits(tokens=1_000, clock=clock)
    await tenants.take("a", 900, 0)
    waiting = asyncio.create_task(tenants.take("a", 200, clock.now_ns + 100 * S))
    await asyncio.sleep(0)
    assert (await refused(tenants, tokens=50)).retry_after_ms == 9_001  # 50 are there, but 200 are wanted before
    waiting.cancel()
    await asyncio.wait([waiting])
    await tenants.take("a", 50, 0)


async def test_tokens_that_come_back_let_a_waiting_call_go():
    clock = Clock()
    tenants = limits(tokens=1_000, clock=clock)
    tenant = await tenants.take("a", 1_000, 0)
    waiting = asyncio.create_task(tenants.take("a", 500, clock.now_ns + 100 * S))
    await asyncio.sleep(0)
    tenants.give_back(tenant, 500)  # the clock stands still: nothing flows in
    await asyncio.wait_for(waiting, 30)


async def test_who_goes_while_waiting_lets_the_next_one_pass():
    clock = Clock()
    tenants = limits(tokens=1_000, clock=clock)
    await tenants.take("a", 900, 0)
    large, small = (asyncio.create_task(tenants.take("a", tokens, clock.now_ns + 1_000 * S)) for tokens in (500, 100))
    await asyncio.sleep(0)
    large.cancel()
    await asyncio.wait_for(small, 30)
    assert large.cancelled()
    assert tenants._tenants["a"].tokens_waiting == 0


async def test_who_goes_as_the_turn_comes_gives_back_all():
    clock = Clock()
    tenants = limits(requests=10, tokens=1_000, clock=clock)
    tenant = await tenants.take("a", 1_000, 0)
    waiting = asyncio.create_task(tenants.take("a", 400, clock.now_ns + 1_000 * S))
    await asyncio.sleep(0)
    tenants.give_back(tenant, 500)  # its turn has come ...
    waiting.cancel()  # ... and it has not heard of it
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert tenant.limiter.remaining(clock.now_ns) == (9, 500)


async def test_forgotten_only_when_nothing_is_gained_by_it():
    clock = Clock()
    tenants = limits(requests=60, clock=clock, most_tenants=2)
    for name in ("a", "b"):
        for _ in range(60):
            await tenants.take(name, 0, 0)
    for _ in range(60):
        await tenants.take("c", 0, 0)  # shares what is kept for all others
    assert await refused(tenants, "d", seconds=1)
    assert await refused(tenants, "a", seconds=1)
    clock.now_ns += 60 * S
    await tenants.take("d", 0, 0)
    assert set(tenants._tenants) == {"a", "d"}  # b was the longest unused


async def test_without_limits_nothing_is_kept():
    assert not limits().is_limited
    assert limits(requests=1).is_limited
    assert limits(tokens=1).is_limited


async def test_what_is_left_and_when_all_of_it_is_there_again_can_be_read():
    clock = Clock()
    tenants = limits(requests=6, tokens=PER_MS, clock=clock)
    assert [(s.unit, s.limit, s.remaining, s.reset_after_ns) for s in tenants.standings("nobody")[1]] == [
        ("requests", 6, 6, 0),
        ("tokens", PER_MS, PER_MS, 0),
    ]
    assert not tenants._tenants  # reading makes no tenant
    taken = await tenants.take("a", 1_000, 0)
    assert [(s.remaining, s.reset_after_ns) for s in tenants.standings("a")[1]] == [(5, 10 * S), (PER_MS - 1_000, S)]
    tenants.give_back(taken, 1_000)
    assert [s.remaining for s in tenants.standings("a")[1]] == [5, PER_MS]
    waiting = [asyncio.create_task(tenants.take("a", PER_MS, clock.now_ns + 1_000 * S)) for _ in range(3)]
    await asyncio.sleep(0)
    assert tenants.standings("a")[0] == 2
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_tokens_of_tries_that_were_repeated_are_charged_as_far_as_there_are_some():
    clock = Clock()
    tenants = limits(tokens=PER_MS, clock=clock)
    taken = await tenants.take("a", 1_000, 0)
    tenants.charge(taken, 2_000)
    assert tenants.standings("a")[1][0].remaining == PER_MS - 3_000
    tenants.charge(taken, 10 * PER_MS)
    assert tenants.standings("a")[1][0].remaining == 0
    clock.now_ns += S
    assert tenants.standings("a")[1][0].remaining == 1_000
    only_requests = limits(requests=5, clock=clock)
    only_requests.charge(await only_requests.take("a", 1, 0), 100)
