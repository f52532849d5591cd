"""Pods that share a real Redis or Valkey: two sidecars, one server that dies, freezes and comes back, one provider that fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
import redis.asyncio as redis

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import Sidecar
from tests.fakes.script import Fail, Say
from tests.fakes.servers import HOW, Server, programs
from tests.flow.reading import failed

# One call is one attempt, so that failures can be counted; three in a row open a breaker, one after a hint.
PLAIN = "[retries]\nunavailable = {retries = 0}\n"
ALONE = "[fleet]\nshare_budgets = false\n"  # shared budgets have tests of their own, and need Redis
PROGRAMS = programs()
_numbers = count()


@pytest.fixture
def pod(start_sidecar, server) -> Callable[..., Awaitable[Sidecar]]:
    """Starts a sidecar that shares the server, and waits until it listens there."""

    async def start(more: str = "", *, connected: bool = True) -> Sidecar:
        one = await start_sidecar(f'{PLAIN}{ALONE}[redis]\nurl = "{server.url}"\n{more}')
        if connected:
            await until_up(one)
        return one

    return start


async def until_up(sidecar: Sidecar, up: float = 1.0, within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while (await sidecar.metrics())("llm_redis_up") != up:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)


async def notices(sidecar: Sidecar) -> list[str]:
    return [n for n in (await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())).notices if "failing providers" in n]


async def told(sidecar: Sidecar) -> list[str]:
    reply = await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(kind="health"))
    return [event.message for event in reply.events if event.facts["key"] == "redis"]


def model() -> str:
    """A model that the fake fails, under a name of its own."""
    return f"compatible/hinted-{next(_numbers)}"


async def fail_once(sidecar: Sidecar, name: str):
    return await failed(sidecar.llm.Generate(pb.GenerateRequest(prompt="hi", model=name, caller=pb.Caller(service="flow")), timeout=10))


async def fails_until_open(sidecar: Sidecar, upstream, name: str) -> int:
    """How many times the provider is asked before this pod's breaker opens."""
    short = name.partition("/")[2]
    upstream.on(short, Fail(503))
    before = len(upstream.asked(short))
    for _ in range(10):
        asked = len(upstream.asked(short))
        await fail_once(sidecar, name)
        if len(upstream.asked(short)) == asked:
            return asked - before
    raise AssertionError("the breaker never opened")


async def told_all(sidecar: Sidecar, server: Server, name: str) -> None:
    """Wait until the hint of this target is in the server, and this sidecar has had a turn after that."""
    async with asyncio.timeout(10), redis.Redis(port=server.port) as client:
        while not any(json.loads(m)["target"] == name for m in await client.zrange("sidecar:breakers:open", 0, -1)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())


async def test_both_kinds_of_server_are_here():
    missing = sorted({"redis", "valkey"} - set(PROGRAMS))
    if missing:
        pytest.skip(f"hints were not tried with {' and '.join(missing)}: {HOW}")


async def test_one_pod_learns_from_the_other_and_both_outlive_redis(pod, server, upstream):
    first, second = await pod(), await pod()
    name = model()
    assert await fails_until_open(first, upstream, name) == 3
    await told_all(second, server, name)
    assert await fails_until_open(second, upstream, name) == 1
    other = model()
    assert await fails_until_open(second, upstream, other) == 3  # only what was hinted is suspected

    server.kill()
    for one in (first, second):
        await until_up(one, 0.0)
        assert (await one.llm.Generate(pb.GenerateRequest(prompt="hi"), timeout=5)).text
        assert len(await notices(one)) == 1
        assert f"{server.url} cannot be reached" in (await notices(one))[0]
    alone = model()
    assert await fails_until_open(first, upstream, alone) == 3
    assert await fails_until_open(second, upstream, alone) == 3

    server.start()
    for one in (first, second):
        await until_up(one)
        assert not await notices(one)
        assert len(await told(one)) == 3, await told(one)  # there, gone, there again
    again = model()
    assert await fails_until_open(first, upstream, again) == 3
    await told_all(second, server, again)
    assert await fails_until_open(second, upstream, again) == 1


async def test_a_pod_that_starts_later_learns_it_too(pod, server, upstream):
    first = await pod()
    name = model()
    assert await fails_until_open(first, upstream, name) == 3
    await told_all(first, server, name)
    late = await pod()
    assert await fails_until_open(late, upstream, name) == 1


async def test_what_opened_while_redis_was_away_is_said_when_it_is_back(pod, server, upstream):
    first, second = await pod(), await pod()
    server.kill()
    await until_up(first, 0.0)
    name = model()
    assert await fails_until_open(first, upstream, name) == 3
    server.start()
    await until_up(first)
    await until_up(second)
    await told_all(second, server, name)
    assert await fails_until_open(second, upstream, name) == 1


async def test_a_success_takes_the_hint_back(pod, server, upstream):
    first, second = await pod(), await pod()
    name = model()
    assert await fails_until_open(first, upstream, name) == 3
    await told_all(second, server, name)
    upstream.on(name.partition("/")[2], Say())
    asked = pb.GenerateRequest(prompt="hi", model=name, caller=pb.Caller(service="flow"))
    assert (await second.llm.Generate(asked, timeout=5)).text
    assert await fails_until_open(second, upstream, name) == 3


async def test_what_an_operator_holds_open_is_no_hint(pod, server, upstream):
    first = await pod()
    held, failing = model(), model()
    upstream.on(held.partition("/")[2], Fail(503))
    await fail_once(first, held)
    listed = (await first.ops.ListBreakers(ops_pb2.ListBreakersRequest())).breakers
    row = next(b for b in listed if b.target == held)
    await first.ops.SetBreaker(
        ops_pb2.SetBreakerRequest(service=row.service, target=row.target, state=ops_pb2.SetBreakerRequest.STATE_OPEN)
    )
    assert await fails_until_open(first, upstream, failing) == 3
    await told_all(first, server, failing)
    async with redis.Redis(port=server.port) as client:
        assert [json.loads(m)["target"] for m in await client.zrange("sidecar:breakers:open", 0, -1)] == [failing]


async def test_garbage_in_redis_harms_nobody(pod, server, upstream):
    second = await pod()
    async with redis.Redis(port=server.port) as client:
        garbage = (b"", b"\xff", b"{}", b"[" * 50_000, b'{"target": "nobody/x", "pod": "p", "open_for_ms": 1000}', b"x" * 1_000_000)
        for words in garbage:
            assert await client.publish("sidecar:breakers", words) == 1
            await client.zadd("sidecar:breakers:open", {words: 9e15})
        first = await pod()  # which reads what is kept
        name = model()
        await client.publish("sidecar:breakers", json.dumps({"target": name, "pod": "a stranger", "open_for_ms": 30_000}))
        await asyncio.sleep(0.1)
    for one in (first, second):
        await one.ops.GetStatus(ops_pb2.GetStatusRequest())
        assert await fails_until_open(one, upstream, name) == 1
        assert len(await told(one)) == 1


async def test_a_frozen_server_delays_no_call_and_is_noticed(pod, server, upstream):
    first = await pod()
    server.freeze()
    try:
        began = time.monotonic()
        name = model()
        assert await fails_until_open(first, upstream, name) == 3
        assert time.monotonic() - began < 5  # four calls; a generous limit
        await until_up(first, 0.0)
        assert "does not answer in time" in (await notices(first))[0]
    finally:
        server.thaw()
    await until_up(first)
    await told_all(first, server, name)


async def test_a_key_of_another_type_is_told_and_mended(pod, server, upstream):
    async with redis.Redis(port=server.port) as client:
        await client.set("sidecar:breakers:open", "somebody else's")
        first = await pod(connected=False)
        async with asyncio.timeout(10):
            while not await notices(first):  # noqa: ASYNC110  (another process's)
                await asyncio.sleep(0.05)
        assert "WRONGTYPE" in (await notices(first))[0]
        assert (await first.llm.Generate(pb.GenerateRequest(prompt="hi"), timeout=5)).text
        await client.delete("sidecar:breakers:open")
    await until_up(first)


@pytest.mark.parametrize("password", ["", 'password = "not-the-password"\n'])
async def test_a_wrong_password_at_start_is_told_and_calls_go_on(start_sidecar, program, upstream, password):
    with Server(program, "--requirepass", "the-right-one") as server:
        one = await start_sidecar(f'{ALONE}[redis]\nurl = "{server.url}"\n{password}')
        async with asyncio.timeout(10):
            while not await notices(one):  # noqa: ASYNC110  (another process's)
                await asyncio.sleep(0.05)
        assert "refuses the user or the password" in (await notices(one))[0]
        assert (await one.llm.Generate(pb.GenerateRequest(prompt="hi"), timeout=5)).text
        assert (await one.metrics())("llm_redis_up") == 0
        assert "not-the-password" not in one.log
        right = await start_sidecar(f'{ALONE}[redis]\nurl = "{server.url}"\npassword = "the-right-one"\n')
        await until_up(right)
        assert "the-right-one" not in right.log


async def test_redis_that_is_not_there_delays_no_start(start_sidecar, program):
    server = Server(program)  # never started
    one = await start_sidecar(f'{ALONE}[redis]\nurl = "{server.url}"\n')
    assert (await one.llm.Generate(pb.GenerateRequest(prompt="hi"), timeout=5)).text
    server.start()
    try:
        await until_up(one)
    finally:
        server.kill()
