"""Answers that pods share in a Redis or Valkey, and invalidations, which reach every pod within a second: a help, never a need.

Writes go into a small memory and from there to Redis by a task of its own. A read waits `cache.read_ms` and then counts as a miss; a
server that is slow time and again is left alone for a while. What is invalidated is a list in Redis, each with a greater number than the
one before; a pod is told at once by a channel and looks twice a second besides, so that a message that is lost delays and loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from sidecar.errors import StoreFailed
from sidecar.json_text import UNREADABLE
from sidecar.store.cache_entry import Entry, Unreadable, Vault
from sidecar.store.cache_invalidation import Invalidation
from sidecar.store.redis_server import Talk, problem_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

_ANSWER_S: Final = 2.0  # what Redis may take for anything but a read
_LOOK_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0
_MOST_WAITING: Final = 4 * 1024 * 1024  # bytes to be written
_AT_ONCE: Final = 50
_MOST_READING: Final = 64  # at a time, each over a connection of its own; one more is a miss
_LATE_IN_A_ROW: Final = 5  # reads, until it is left alone
_LEFT_ALONE_S: Final = 1.0
_PARTITION_S: Final = 2.0  # between two looks at what other pods have kept in one partition
_MOST_PARTITIONS: Final = 10_000
_LISTED: Final = 1_000  # of a partition
_BROUGHT: Final = 200  # at once
_MOST_RULES: Final = 1_000
_KEEP_RULES_MS: Final = 63 * 86_400_000  # longer than the longest life of an entry, and the longest after that
_SCRIPT: Final = Path(__file__).with_name("cache_invalidate.lua")
_read = msgspec.json.Decoder(Invalidation).decode

Told = Callable[[Invalidation], None]


class SharedAnswers:
    """`run` does all that takes time; without a vault answers are not shared, only invalidations."""

    name = "redis"

    def __init__(
        self,
        client: Redis,
        vault: Vault | None,
        *,
        address: str,
        prefix: str,
        read_s: float,
        wall_ns: Callable[[], int],
        random: Callable[[], float],
        hear: Callable[[Sequence[Invalidation]], Coroutine[Any, Any, None]],
        floor: Callable[[int], None],
        brought: Callable[[Entry], None],
        tell: Callable[[str], None],
        garbled: Callable[[str], None],
    ) -> None:
        """`hear` is told of all invalidations, this pod's own too; `floor`: what is older than this is gone, whatever it is.

        `brought` takes what other pods have kept in a partition that is wanted. `tell` is told once for each change what is wrong, "" if
        nothing is; `garbled` why an entry could not be read.
        """
        self._client = client
        self._vault = vault
        self._address = address
        self._entries = f"{prefix}:cache:e:"
        self._questions = f"{prefix}:cache:q:"
        self._rules = f"{{{prefix}:cache}}:rules"  # the braces keep them together in a cluster
        self._floor = f"{{{prefix}:cache}}:floor"
        self._channel = f"{prefix}:cache"
        self._read_s = read_s
        self._wall_ns = wall_ns
        self._hear = hear
        self._set_floor = floor
        self._brought = brought
        self._talk = Talk(address, _LONGEST_PAUSE_S, random, tell)
        self._garbled = garbled
        self._script = client.register_script(_SCRIPT.read_text())
        self._waiting: dict[bytes, tuple[Entry, bytes]] = {}
        self._waiting_bytes = 0
        self._partitions: OrderedDict[bytes, tuple[int, float]] = OrderedDict()  # the latest that came, and when to look again
        self._wanted: set[bytes] = set()
        self._unsaid: list[Invalidation] = []  # while Redis is away
        self._something = asyncio.Event()
        self._learned = 0  # the number of the last invalidation that was heard
        self.learned = asyncio.Event()  # all that there is has been heard once
        self._late = 0
        self._is_slow = False
        self._alone_until = 0.0
        self.lost = 0  # entries for which there was no room
        self.late_reads = 0
        self._reading = 0

    @property
    def is_up(self) -> bool:
        return self._talk.is_up

    # --- on the call's path -------------------------------------------------------------------------------------------------------

    async def fetch(self, digest: bytes) -> Entry | None:
        """What another pod may have kept, if Redis says so in time."""
        loop = asyncio.get_running_loop()
        if self._vault is None or not self.is_up or loop.time() < self._alone_until or self._reading >= _MOST_READING:
            return None
        name = self._vault.name(digest)
        self._reading += 1
        try:
            async with asyncio.timeout(self._read_s):
                sealed: Any = await self._client.get(self._entries + name.hex())
        except TimeoutError:
            self._too_late(loop.time())
            return None
        except Exception:  # what is wrong is told by `run`, which talks to the same server all the time
            self._alone_until = loop.time() + _LEFT_ALONE_S
            return None
        finally:
            self._reading -= 1
        self._late = 0
        if sealed is None:
            return None
        try:
            entry = self._vault.entry(name, sealed)
        except Unreadable as error:
            self._garbled(str(error))
            return None
        return entry if entry.digest == digest else None

    def _too_late(self, now: float) -> None:
        self.late_reads += 1
        self._late += 1
        if self._late >= _LATE_IN_A_ROW:
            self._late = 0
            self._is_slow = True
            self._alone_until = now + _LEFT_ALONE_S
            self._talk.turn(f"does not answer within {self._read_s * 1000:g} ms")

    def put(self, entry: Entry, data: bytes) -> None:
        if self._vault is None:
            return
        before = self._waiting.pop(entry.digest, None)
        self._waiting_bytes -= len(before[1]) if before is not None else 0
        if self._waiting_bytes + len(data) > _MOST_WAITING:
            self.lost += 1
            return
        self._waiting[entry.digest] = (entry, data)
        self._waiting_bytes += len(data)
        self._something.set()

    def gone(self, digests: list[bytes]) -> None:
        """Redis has room of its own."""

    def want(self, partition: bytes) -> None:
        """A similar question is looked for in this partition: bring what other pods have kept in it, off the call's path.

        Each pod's own verifier decides on what has come; the next call finds it.
        """
        now = asyncio.get_running_loop().time()
        last_ms, next_look = self._partitions.get(partition, (0, 0.0))
        if self._vault is None or not self.is_up or now < next_look:
            return
        self._partitions[partition] = (last_ms, now + _PARTITION_S)
        self._partitions.move_to_end(partition)
        if len(self._partitions) > _MOST_PARTITIONS:
            self._partitions.popitem(last=False)
        self._wanted.add(partition)
        self._something.set()

    async def _bring(self, partition: bytes) -> None:
        """The latest of a partition that have not come before."""
        assert self._vault is not None  # noqa: S101
        client: Any = self._client
        last_ms, next_look = self._partitions.get(partition, (0, 0.0))
        listed = await client.zrevrangebyscore(self._partition(partition), "+inf", f"({last_ms}", start=0, num=_BROUGHT, withscores=True)
        if not listed:
            return
        self._partitions[partition] = (int(listed[0][1]), next_look)
        values = await client.mget([self._entries + name.hex() for name, _ in listed])
        for (name, _), sealed in zip(reversed(listed), reversed(values), strict=True):
            if sealed is None:
                continue
            try:
                entry = self._vault.entry(name, sealed)
            except Unreadable as error:
                self._garbled(str(error))
                continue
            if entry.partition == partition:
                self._brought(entry)

    def _partition(self, partition: bytes) -> str:
        assert self._vault is not None  # noqa: S101
        return f"{self._questions}{self._vault.name(partition).hex()}"

    # --- invalidation -------------------------------------------------------------------------------------------------------------

    async def say(self, one: Invalidation) -> Invalidation | None:
        """Tell all pods. Returns it with the number it got; None: Redis is away, and it will be said when it is back."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._say(one)
        except Exception:  # `run` tells of it
            self._unsaid.append(one)
            return None

    async def _say_unsaid(self) -> None:
        while self._unsaid:
            await self._say(self._unsaid[0])
            del self._unsaid[0]

    async def _say(self, one: Invalidation) -> Invalidation:
        words = msgspec.json.encode(replace(one, generation=0))
        number = await self._script(keys=[self._rules, self._floor], args=[words, _MOST_RULES, _KEEP_RULES_MS, self._channel])
        return replace(one, generation=int(number))

    def say_later(self, one: Invalidation) -> None:
        if len(self._unsaid) < _MOST_RULES:
            self._unsaid.append(one)
            self._something.set()

    async def erase(self, ones: Sequence[Invalidation]) -> int:
        """All answers of all pods are looked through; not for a single one, which is not given any more and goes with its time.

        Raises StoreFailed.
        """
        for one in ones:
            self._unwrite(one)
        ones = [one for one in ones if not one.entry]
        if self._vault is None or not ones:
            return 0
        hit = 0
        try:
            cursor = 0
            client: Any = self._client
            keys: list[bytes]
            values: list[bytes | None]
            while True:
                async with asyncio.timeout(_ANSWER_S):
                    cursor, keys = await client.scan(cursor, match=self._entries + "*", count=500)
                    values = await client.mget(keys) if keys else []
                unwanted = await asyncio.to_thread(self._unwanted, ones, keys, values)
                if unwanted:
                    async with asyncio.timeout(_ANSWER_S):
                        hit += await client.unlink(*unwanted)
                if not cursor:
                    return hit
        except Exception as error:
            told = f"answers in {self._address} could not be erased, though none is given any more: {problem_of(error)}"
            raise StoreFailed(told) from None

    def _unwrite(self, one: Invalidation) -> None:
        """What waits to be written shall not be."""
        for digest, (entry, data) in list(self._waiting.items()):
            if entry.generation < one.generation and one.hits(entry.named, entry.kept_ms, entry.call_id):
                del self._waiting[digest]
                self._waiting_bytes -= len(data)

    def _unwanted(self, ones: Sequence[Invalidation], keys: list[bytes], values: list[bytes | None]) -> list[bytes]:
        """Those that it hits, and those that nobody can read: a pod with another key may have written them."""
        assert self._vault is not None  # noqa: S101
        unwanted = []
        for key, sealed in zip(keys, values, strict=True):
            try:
                entry = self._vault.entry(bytes.fromhex(key.rpartition(b":")[2].decode()), sealed or b"")
                if any(one.hits(entry.named, entry.kept_ms, entry.call_id) for one in ones):
                    unwanted.append(key)
            except (Unreadable, ValueError):
                unwanted.append(key)
        return unwanted

    # --- beside the calls ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Listen and write until cancelled; whatever fails is begun anew, after pauses that grow up to 5 s."""
        try:
            await self._talk.keep(self._listen_and_write)
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_ANSWER_S):
                    await self._write_all()
                    await self._client.aclose()

    async def _listen_and_write(self) -> None:
        async with self._client.pubsub() as ear:
            async with asyncio.timeout(2 * _ANSWER_S):
                await ear.subscribe(self._channel)
                await self._say_unsaid()
            writer = asyncio.ensure_future(self._keep_writing())
            try:
                while True:
                    await self._look()
                    if writer.done():
                        writer.result()
                    async with asyncio.timeout(_LOOK_S + _ANSWER_S):  # it may connect anew, and greet a server that does not answer
                        await ear.get_message(ignore_subscribe_messages=True, timeout=_LOOK_S)
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _look(self) -> None:
        """Hear what is new, and see by the way how long the server takes."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with asyncio.timeout(_ANSWER_S):
            rules = await self._new_rules()
        if self._is_slow and loop.time() - asked > self._read_s:
            self._alone_until = loop.time() + _LEFT_ALONE_S
        else:
            self._is_slow = False
            self._talk.turn("")
        if rules:
            for _, rule in rules:
                self._unwrite(rule)
            await self._hear([rule for _, rule in rules])
            self._learned = rules[-1][0]
        self.learned.set()

    async def _new_rules(self) -> list[tuple[int, Invalidation]]:
        """What was invalidated since this pod looked last."""
        async with self._client.pipeline(transaction=False) as words:
            words.zrangebyscore(self._rules, f"({self._learned}", "+inf")
            words.get(self._floor)
            rules, floor = await words.execute()
        if floor is not None and floor.isdigit():
            self._set_floor(int(floor))
        found = []
        for rule in rules:
            number, _, words_of = rule.partition(b" ")
            try:
                found.append((int(number), replace(_read(words_of), generation=int(number))))
            except (*UNREADABLE, ValueError):
                self._garbled("an invalidation that is none of ours")
        return found

    async def _keep_writing(self) -> None:
        while True:
            await self._something.wait()
            async with asyncio.timeout(_ANSWER_S):
                await self._say_unsaid()
                await self._write_all()
            while self._wanted:
                async with asyncio.timeout(_ANSWER_S):
                    await self._bring(self._wanted.pop())

    async def _write_all(self) -> None:
        self._something.clear()
        while self._waiting:
            some = [self._waiting[digest] for digest in list(self._waiting)[:_AT_ONCE]]
            await self._write(some)
            for entry, data in some:
                if self._waiting.get(entry.digest) == (entry, data):
                    del self._waiting[entry.digest]
                    self._waiting_bytes -= len(data)

    async def _write(self, some: list[tuple[Entry, bytes]]) -> None:
        assert self._vault is not None  # noqa: S101  (nothing waits without one)
        now_ms = self._wall_ns() // 1_000_000
        async with self._client.pipeline(transaction=False) as words:
            for entry, data in some:
                left_ms = entry.kept_ms + entry.keep_ms - now_ms
                if left_ms > 0:
                    name = self._vault.name(entry.digest)
                    words.set(self._entries + name.hex(), self._vault.seal(name, data), px=left_ms)
                    if entry.question:
                        self._list(words, entry, name, left_ms)
            await words.execute()

    def _list(self, words: Any, entry: Entry, name: bytes, left_ms: int) -> None:
        """Among its partition's latest, for pods that look for similar questions."""
        key = self._partition(entry.partition)
        words.zadd(key, {name: entry.kept_ms})
        words.zremrangebyrank(key, 0, -_LISTED - 1)
        words.pexpire(key, left_ms)
