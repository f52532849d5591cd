"""The Lua scripts in real servers against their twin in Python: the same words, the same answers, the same memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from random import Random

import pytest
import redis.asyncio as redis

from sidecar.shares import LARGEST, Ask, Both
from sidecar.store.shared_budgets import SharedBudgets
from tests.fakes.servers import HOW, Server, programs
from tests.leases.meeting import Place
from tests.leases.meeting import numbers_of as entry_of

PROGRAMS = programs()
END_NS = 1_900_000_000_000_000_000
ACCOUNTS = ("tenant:a:day", "tenant:b:ü:day", "company:all:month")


@pytest.fixture(params=PROGRAMS or ["none"])
def server(request) -> Iterator[Server]:
    if not PROGRAMS:
        pytest.skip(HOW)
    with Server(PROGRAMS[request.param]) as running:
        yield running


def talk(client: redis.Redis, pod: str, learn_ms: int = 0) -> SharedBudgets:
    return SharedBudgets(client, address="redis", prefix="twins", pod=pod, life=1, lease_ms=60_000, learn_ms=learn_ms)


@pytest.mark.parametrize("learn_ms", [0, 10**8])  # never, and without an end
async def test_the_scripts_do_what_their_twin_does(server, learn_ms):
    random = Random(7)
    place = Place("one", 60_000, learn_ms)
    pods = [f"pod{n}" for n in range(4)]
    sequences, known = dict.fromkeys(pods, 0), dict.fromkeys(pods, 0)
    limits: dict[str, Both] = {name: (random.choice((1000, LARGEST)), random.choice((-1, 500))) for name in ACCOUNTS}
    spent: dict[tuple[str, str], list[int]] = {(pod, name): [0, 0] for pod in pods for name in ACCOUNTS}
    last: dict[str, tuple[tuple[tuple[bytes, bytes], ...], ...]] = {}  # what was heard of others: packed, and the twin's
    async with redis.Redis(port=server.port) as client:
        talks = {pod: talk(client, pod, learn_ms) for pod in pods}
        for _ in range(600):
            pod = random.choice(pods)
            asks = []
            for name in random.sample(ACCOUNTS, random.randint(0, 3)):
                sequences[pod] += random.choice((1, 1, 1, 0, -1, 5))
                used = spent[pod, name]
                if random.random() < 0.5:
                    used[:] = [used[0] + random.choice((0, 3, 40)), used[1] + random.randint(0, 9)]
                lost = random.random() < 0.1
                heard = known[pod] if random.random() < 0.2 else 0
                asks.append(ask(random, name, max(1, sequences[pod]), heard, (0, 0) if lost else (used[0], used[1]), limits[name]))
            is_telling = random.random() < 0.1
            real = await talks[pod].exchange(asks, is_telling=is_telling)
            seconds, micros = await client.time()
            before = place.epoch
            twin = place.exchange(pod.encode(), real.epoch, asks, seconds * 1000 + micros // 1000, is_telling=is_telling)
            assert place.epoch is not None
            is_as_before = before is not None and before[0] == real.epoch
            assert (before is not None and place.epoch[:2] == before[:2]) is is_as_before  # both have forgotten, or neither
            told = [{pod: but_seen(entry_of(entry)) for pod, entry in answer.others} for answer in real.answers]
            assert told == [{pod: but_seen(entry.split()) for pod, entry in answer.others} for answer in twin.answers]
            plain = [(a.stale, a.lease, a.used, a.total, a.taken) for a in real.answers]
            assert plain == [(a.stale, a.lease, a.used, a.total, a.taken) for a in twin.answers], asks
            assert (real.learning, set(real.short)) == (twin.learning, set(twin.short))
            for one, answer, twins in zip(asks, real.answers, twin.answers, strict=True):
                known[pod] = known[pod] if answer.stale else one.sequence
                last[one.account] = (answer.others, twins.others)
            if random.random() < 0.03:
                await client.flushall()
                place.accounts, place.epoch, place.short = {}, None, {}
            if random.random() < 0.1:
                place.teach([(name, END_NS, entries) for name, (_, entries) in last.items()])
                taught = [(name, END_NS, entries) for name, (entries, _) in last.items()]
                await talks[pod].teach(taught, 60_000)
                assert not taught


async def test_a_server_learns_for_as_long_as_somebody_has_more_to_tell(server):
    async with redis.Redis(port=server.port) as client:
        one, two = talk(client, "one", learn_ms=1_000), talk(client, "two", learn_ms=1_000)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            assert (await one.exchange([], is_telling=True)).learning
            assert (await two.exchange([], is_telling=False)).learning
        await asyncio.sleep(1.05)
        assert not (await two.exchange([], is_telling=False)).learning
        assert not (await one.exchange([], is_telling=True)).learning  # too late


async def test_a_server_that_was_started_anew_learns_first_whatever_it_still_knows(server):
    async with redis.Redis(port=server.port) as client:
        one = talk(client, "one", learn_ms=60_000)
        first = await one.exchange([], is_telling=False)
        assert first.learning
        name, dump = "{twins}:budgets", await client.dump("{twins}:budgets")
        server.kill()
        server.start()
        await client.restore(name, 0, dump)  # as from a file of its own
        second = await one.exchange([], is_telling=False)
        assert second.learning
        assert second.epoch != first.epoch
        assert (await one.exchange([], is_telling=False)).epoch == second.epoch


def but_seen(words: Sequence[int | bytes]) -> list[int]:
    """An entry without the time of its pod's word: that may be a moment apart."""
    return [int(word) for at, word in enumerate(words) if at != 1]


def ask(random: Random, name: str, sequence: int, known: int, used: Both, limit: Both) -> Ask:
    def more(base: Both, *choices: int) -> Both:
        return base[0] + random.choice(choices), base[1] + random.choice(choices)

    held = more(used, 0, 0, 7, 60)
    have = more(held, 0, 0, 5, 90)
    want = more(have, 0, 10, 100, 1000)
    need, least = (more(held, 4, 30), more(held, 1, 4)) if random.random() < 0.5 else ((0, 0), (0, 0))
    return Ask(name, END_NS, sequence, known, 60_000, limit, used, held, have, want, need, least)
