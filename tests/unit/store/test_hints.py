"""What one pod says and takes, against a Redis that is a few lines of Python; real servers are in tests/flow/test_hints.py."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import pytest

from sidecar.errors import SettingsError
from sidecar.settings import load
from sidecar.store.hints import Hint, Hints, connect

SECOND = 1_000_000_000


class FakeRedis:
    """Remembers what it was told; everything fails while `problem` is set."""

    def __init__(self):
        self.problem: Exception | None = None
        self.kept: list[tuple[bytes, float]] = []
        self.said: list[bytes] = []
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.connections = 0

    def _answer(self):
        if self.problem is not None:
            raise self.problem

    # a pubsub
    def pubsub(self):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def subscribe(self, channel):
        self.connections += 1
        self._answer()
        self.messages.put_nowait({"type": "subscribe", "data": 1})

    async def get_message(self, timeout):  # noqa: ASYNC109  (redis-py's own name)
        message = await self.messages.get()
        self._answer()
        return message

    async def zrangebyscore(self, key, least, most, start, num, withscores):
        self._answer()
        return [(member, score) for member, score in self.kept if score >= least]

    # a pipeline
    def pipeline(self, transaction):
        return self

    def publish(self, channel, said):
        self._answer()
        self.said.append(said)

    def zadd(self, key, members):
        self.kept.extend(members.items())

    def zremrangebyscore(self, key, least, most):
        self.kept = [(member, score) for member, score in self.kept if score > most]

    def zremrangebyrank(self, key, first, last):
        pass

    def pexpire(self, key, ms):
        pass

    async def execute(self):
        self._answer()

    async def aclose(self):
        pass


class Pod:
    """Hints on a clock that stands still."""

    def __init__(self, client, name="us"):
        self.heard = []
        self.told = []
        self.now_ns = 100 * SECOND
        self.hints = Hints(
            client,
            address="redis://127.0.0.1:1",
            prefix="sidecar",
            pod=name,
            hear=lambda target, left_ns: self.heard.append((target, left_ns // SECOND)),
            tell=self.told.append,
            clock_ns=lambda: self.now_ns,
            wall_ns=lambda: self.now_ns,
            random=lambda: 0.0,
        )

    async def until(self, happened):
        task = asyncio.create_task(self.hints.run())
        try:
            async with asyncio.timeout(10):
                while not happened():  # noqa: ASYNC110  (plain lists)
                    await asyncio.sleep(0.001)
        finally:
            task.cancel()
            await asyncio.wait([task])


def words(target="vllm/tiny", pod="other", open_for_ms=30_000):
    return msgspec.json.encode(Hint(target, pod, open_for_ms))


async def test_what_others_say_is_heard_and_what_is_kept_is_learnt():
    client = FakeRedis()
    client.kept = [(words("vllm/kept"), 105_000), (words("vllm/over"), 99_000), (words("vllm/ours", pod="us"), 120_000)]
    client.messages.put_nowait({"type": "message", "data": words("vllm/said")})
    pod = Pod(client)
    # The queue's first message stands for the subscription's confirmation.
    client.messages.put_nowait({"type": "message", "data": words("vllm/next")})
    await pod.until(lambda: ("vllm/next", 30) in pod.heard)
    assert pod.heard[0] == ("vllm/kept", 5)
    assert "vllm/over" not in dict(pod.heard)
    assert "vllm/ours" not in dict(pod.heard)
    assert pod.told == [""]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b'"breaker"',
        b'{"target": "", "pod": "x", "open_for_ms": 1}',
        b'{"target": 1, "pod": "x", "open_for_ms": 1}',
        b'{"target": "a/b", "pod": "x", "open_for_ms": 0}',
        b'{"target": "a/b", "pod": "x", "open_for_ms": 99999999999}',
        b'{"target": "a/b", "pod": "x", "open_for_ms": "1"}',
        b"[" * 100_000,
        msgspec.json.encode({"target": "x" * 2_000, "pod": "x", "open_for_ms": 1}),
    ],
)
async def test_garbage_is_passed_over(garbage):
    client = FakeRedis()
    client.kept = [(garbage, 200_000)]
    pod = Pod(client)
    for data in (b"confirmation", garbage, words()):
        client.messages.put_nowait({"type": "message", "data": data})
    await pod.until(lambda: pod.heard)
    assert pod.heard == [("vllm/tiny", 30)]
    assert pod.told == [""]
    assert client.connections == 1


async def test_what_opened_while_redis_was_away_is_said_when_it_is_back_if_it_still_holds():
    client = FakeRedis()
    client.problem = ConnectionError("refused")
    pod = Pod(client)
    pod.hints.opened("vllm/short", SECOND)
    pod.hints.opened("vllm/long", 60 * SECOND)

    def came_back():
        if pod.told:
            client.problem = None
            pod.now_ns = 110 * SECOND
        return client.said

    await pod.until(came_back)
    assert [msgspec.json.decode(said, type=Hint) for said in client.said] == [Hint("vllm/long", "us", 50_000)]
    assert pod.told[0] == "redis://127.0.0.1:1 cannot be reached: refused"


async def test_a_problem_is_told_once_however_often_it_is_met():
    client = FakeRedis()
    client.problem = TimeoutError()
    pod = Pod(client)
    await pod.until(lambda: client.connections >= 3)
    assert pod.told == ["redis://127.0.0.1:1 does not answer in time"]
    assert not pod.hints.is_up


def test_what_cannot_be_said_is_bounded():
    pod = Pod(FakeRedis())
    for number in range(1_000):
        pod.hints.opened(f"vllm/{number}", 60 * SECOND)
    assert len(pod.hints._unsaid) == 100
    assert "vllm/999" in pod.hints._unsaid


# --- settings ---------------------------------------------------------------------------------------------------------------------


async def connected(**environ):
    settings = load(None, {f"SIDECAR_REDIS__{name}": value for name, value in environ.items()})
    return await connect(
        settings, pod="us", hear=lambda *_: None, tell=lambda _: None, clock_ns=lambda: 0, wall_ns=lambda: 0, random=lambda: 0.0
    )


async def test_without_an_address_there_are_no_hints_and_nothing_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    assert await connected() is None


async def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(SettingsError, match=r"SIDECAR_REDIS__URL.*needs the package redis: pip install 'llm-sidecar\[redis\]'"):
        await connected(URL="redis://127.0.0.1:1")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"URL": "redis://127.0.0.1:99999"}, "SIDECAR_REDIS__URL.*Port out of range"),
        ({"URL": "redis://127.0.0.1", "CA_FILE": "/ca.pem"}, "SIDECAR_REDIS__CA_FILE.*rediss://"),
        ({"URL": "rediss://127.0.0.1", "CA_FILE": "/no/such.pem"}, "SIDECAR_REDIS__CA_FILE.*No such file"),
        ({"URL": "rediss://127.0.0.1", "CA_FILE": __file__}, "SIDECAR_REDIS__CA_FILE.*cannot read certificates"),
    ],
)
async def test_what_is_wrong_with_the_settings_is_said_before_anything_is_sent(environ, said):
    with pytest.raises(SettingsError, match=said):
        await connected(**environ)
