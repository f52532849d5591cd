"""Counts that pods add up in a real Redis or Valkey: said twice or late they count once; what is garbled or forgotten does no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis.asyncio as redis

from sidecar.settings import load
from sidecar.store.shared_proofs import connect
from tests.fakes.servers import Server, programs

NAME = '["oracle.intent","free","openai/gpt-4o-mini","","","1"]'


@pytest.fixture(scope="module", params=sorted(programs()) or [None])
def server(request) -> Iterator[Server]:
    if request.param is None:
        pytest.skip("neither redis-server nor valkey-server is installed")
    with Server(programs()[request.param]) as running:
        yield running


async def pods(server, *names):
    settings = load(None, {"SIDECAR_REDIS__URL": server.url})
    async with redis.Redis(port=server.port) as client:
        await client.flushall()
    return [await connect(settings, name) for name in names]


async def test_each_pod_hears_what_the_others_have_counted(server):
    one, two, three = await pods(server, "one", "two", "three")
    assert await one.exchange([(NAME, (5, 1))]) == [(0, 0)]
    assert await two.exchange([(NAME, (3, 0)), ("other", (9, 9))]) == [(5, 1), (0, 0)]
    assert await one.exchange([(NAME, (7, 1)), ("other", (0, 0))]) == [(3, 0), (9, 9)]
    assert await three.exchange([(NAME, (0, 0))]) == [(10, 1)]
    for pod in (one, two, three):
        await pod.close()


async def test_what_is_said_twice_or_late_counts_once(server):
    one, two = await pods(server, "one", "two")
    for counts in ((5, 1), (5, 1), (8, 2), (5, 1), (8, 2)):
        await one.exchange([(NAME, counts)])
    assert await two.exchange([(NAME, (0, 0))]) == [(8, 2)]
    await one.close()
    await two.close()


async def test_a_server_that_forgot_hears_it_again(server):
    one, two = await pods(server, "one", "two")
    await one.exchange([(NAME, (5, 1))])
    await two.exchange([(NAME, (2, 1))])
    async with redis.Redis(port=server.port) as client:
        await client.flushall()
    assert await one.exchange([(NAME, (6, 1))]) == [(0, 0)]
    assert await two.exchange([(NAME, (2, 1))]) == [(6, 1)]
    assert await one.exchange([(NAME, (6, 1))]) == [(2, 1)]
    await one.close()
    await two.close()


async def test_what_is_erased_is_gone(server):
    (one,) = await pods(server, "one")
    await one.exchange([(NAME, (5, 1)), ("other", (1, 0))])
    await one.exchange([(NAME, None)])
    async with redis.Redis(port=server.port) as client:
        assert len(await client.keys("*")) == 1
    await one.close()


@pytest.mark.parametrize("garbage", ["text", "counts", "pod"])
async def test_garbage_is_nothing_and_the_others_are_heard(server, garbage):
    one, two = await pods(server, "one", "two")
    await two.exchange([(NAME, (5, 1)), ("other", (4, 0))])
    async with redis.Redis(port=server.port) as client:
        (key,) = [key for key in await client.keys("*") if await client.hget(key, "audits") == b"5"]
        if garbage == "text":
            await client.set(key, "x")
        else:
            await client.hset(key, "audits" if garbage == "counts" else "p:one", "x")
    heard = await one.exchange([(NAME, (1, 0)), ("other", (1, 0))])
    assert heard[1] == (4, 0)
    assert heard[0] == ((5, 1) if garbage == "pod" else (0, 0))
    if garbage == "text":
        with pytest.raises(Exception, match="WRONGTYPE") as caught:
            await one.exchange([(NAME, (1, 0))])
        assert server.url in one.problem(caught.value)
    await one.close()
    await two.close()
