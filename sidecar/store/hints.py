"""Pods tell each other of a provider that fails, through a Redis or Valkey that they share: a hint, never a need.

A pod whose breaker opens publishes the target; the others then open theirs at the next failure of their own instead of the third. What is
published is also kept, until the breaker's time is over, for pods that start or come back in the meantime. No call ever waits
for any of it: what is to be said goes into a small memory, and one task of its own talks to Redis, which may be away, slow or wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from sidecar.json_text import UNREADABLE
from sidecar.settings import Settings
from sidecar.store.redis_server import Talk, client_of

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

_ANSWER_S: Final = 2.0  # what Redis may take for one thing
_PING_S: Final = 5.0  # a connection that is silent for so long is asked whether it lives
_LONGEST_PAUSE_S: Final = 10.0
_MOST_UNSAID: Final = 100  # targets that opened while Redis was away
_MOST_KEPT: Final = 1_000  # hints in Redis, of all pods together
_LONGEST_OPEN_MS: Final = 86_400_000


class Hint(Struct, frozen=True):
    """What a pod says: this target failed here, and is left alone for so long."""

    target: Annotated[str, Meta(min_length=1, max_length=1_024)]
    pod: Annotated[str, Meta(max_length=256)]
    open_for_ms: Annotated[int, Meta(ge=1, le=_LONGEST_OPEN_MS)]


_read = msgspec.json.Decoder(Hint).decode


class Hints:
    """What this pod has to say, and the ear for the others. `run` does all that takes time."""

    def __init__(
        self,
        client: Redis,
        *,
        address: str,
        prefix: str,
        pod: str,
        hear: Callable[[str, int], None],
        tell: Callable[[str], None],
        clock_ns: Callable[[], int],
        wall_ns: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        """`hear` is told the targets that others saw fail, and for how many ns they leave them alone.

        `tell` is told once for each change what is wrong with Redis at `address`, "" if nothing is.
        """
        self._client = client
        self._channel = f"{prefix}:breakers"
        self._kept = f"{prefix}:breakers:open"
        self._pod = pod
        self._hear = hear
        self._talk = Talk(address, _LONGEST_PAUSE_S, random, tell)
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._unsaid: OrderedDict[str, int] = OrderedDict()  # target → until when it is open, the clock's ns
        self._something = asyncio.Event()

    def opened(self, target: str, open_ns: int) -> None:
        """A breaker of this pod has opened for so long. Never waits; of too many the oldest is forgotten."""
        self._unsaid[target] = self._clock_ns() + open_ns
        self._unsaid.move_to_end(target)
        if len(self._unsaid) > _MOST_UNSAID:
            self._unsaid.popitem(last=False)
        self._something.set()

    async def run(self) -> None:
        """Listen and speak until cancelled; whatever fails is begun anew, after pauses that grow up to 10 s."""
        try:
            await self._talk.keep(self._listen_and_speak)
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_ANSWER_S):
                    await self._client.aclose()

    async def _listen_and_speak(self) -> None:
        """One connection's life. Raises what ended it."""
        async with self._client.pubsub() as ear:
            async with asyncio.timeout(2 * _ANSWER_S):
                await ear.subscribe(self._channel)
                while await ear.get_message(timeout=_ANSWER_S) is None:
                    pass  # until the server has confirmed it
                await self._learn()  # after the subscription: nothing that is said in between is missed
            await self._say_all()
            self._talk.turn("")
            await _until_one_fails(self._listen(ear), self._speak())

    @property
    def is_up(self) -> bool:
        return self._talk.is_up

    # --- the ear ------------------------------------------------------------------------------------------------------------------

    async def _listen(self, ear: PubSub) -> None:
        asked = False
        while True:
            async with asyncio.timeout(_PING_S + _ANSWER_S):  # it may connect anew, and greet a server that does not answer
                message: dict[str, Any] | None = await ear.get_message(timeout=_PING_S)
            if message is not None:
                asked = False
                if message["type"] == "message":
                    self._take(message["data"])
            elif asked:
                raise TimeoutError
            else:
                asked = True
                async with asyncio.timeout(_ANSWER_S):
                    await ear.ping()

    async def _learn(self) -> None:
        """What was said before this pod listened and still holds. Its own earlier words are among it, and are passed over."""
        now_ms = self._wall_ns() // 1_000_000
        kept: Any = await self._client.zrangebyscore(self._kept, now_ms, "+inf", start=0, num=_MOST_KEPT, withscores=True)
        for member, until_ms in kept:
            self._take(member, int(until_ms) - now_ms)

    def _take(self, data: bytes, left_ms: int = _LONGEST_OPEN_MS) -> None:
        try:
            hint = _read(data)
        except UNREADABLE:
            return  # somebody else's words on our channel: nothing to learn from them
        left_ms = min(hint.open_for_ms, left_ms)
        if hint.pod != self._pod and left_ms > 0:
            self._hear(hint.target, left_ms * 1_000_000)

    # --- the mouth ----------------------------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        while True:
            await self._something.wait()
            await self._say_all()

    async def _say_all(self) -> None:
        """Say what is unsaid; each is forgotten only when Redis has taken it, or when its time is over."""
        self._something.clear()
        while self._unsaid:
            target, until_ns = next(iter(self._unsaid.items()))
            left_ms = min((until_ns - self._clock_ns()) // 1_000_000, _LONGEST_OPEN_MS)
            if left_ms > 0:
                async with asyncio.timeout(_ANSWER_S):
                    await self._say(target, left_ms)
            if self._unsaid.get(target) == until_ns:  # it may have opened again meanwhile
                del self._unsaid[target]

    async def _say(self, target: str, left_ms: int) -> None:
        said = msgspec.json.encode(Hint(target, self._pod, left_ms))
        now_ms = self._wall_ns() // 1_000_000
        async with self._client.pipeline(transaction=True) as words:
            words.publish(self._channel, said)
            words.zremrangebyscore(self._kept, "-inf", now_ms)
            words.zadd(self._kept, {said: now_ms + left_ms})
            words.zremrangebyrank(self._kept, 0, -_MOST_KEPT - 1)  # those that end first
            words.pexpire(self._kept, _LONGEST_OPEN_MS)
            await words.execute()


async def connect(
    settings: Settings,
    *,
    pod: str,
    hear: Callable[[str, int], None],
    tell: Callable[[str], None],
    clock_ns: Callable[[], int],
    wall_ns: Callable[[], int],
    random: Callable[[], float],
) -> Hints | None:
    """What `settings.redis` names, without a word over the network; None where it names nothing. For the rest see `Hints`.

    `pod` is this process among others. Raises SettingsError for a missing package, an address or a file that cannot be used.
    """
    rule = settings.redis
    if rule.url is None:
        return None
    return Hints(
        await client_of(settings),
        address=rule.url,
        prefix=rule.prefix,
        pod=pod,
        hear=hear,
        tell=tell,
        clock_ns=clock_ns,
        wall_ns=wall_ns,
        random=random,
    )


async def _until_one_fails(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run endless jobs together. Raises the error of the first that fails, as it is, when all have ended."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
