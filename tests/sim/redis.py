"""The Redis that processes share: slow, silent, cut off, and killed to come back with nothing, with old memories or with all."""

from __future__ import annotations

import asyncio

from sidecar.errors import StoreFailed
from tests.leases.meeting import Place

_PATIENCE_S = 1.0  # of a process for one answer


class Redis:
    def __init__(self, random, loop, lease_ms, learn_ms, *, is_gentle):
        self._random = random
        self._loop = loop
        self._times = (lease_ms, learn_ms)
        self._runs = 1
        self._kept = None
        self.is_gentle = is_gentle
        self.is_up = True
        self.cut_off = set()
        self.place = Place("run1", *self._times)
        self.words = {}
        self.version = ""
        self.claims = {}  # who sends an alert: (pod, until in ms)

    def board(self, pod):
        return Board(self, pod)

    def line(self, pod, life):
        return Line(self, pod, life)

    @property
    def now_ms(self):
        return self._loop.now_ns // 1_000_000

    def fresh(self):
        return f"epoch{self._random.random()}"

    async def travel(self, pod):
        """A word or a reply on its way."""
        random = self._random
        await asyncio.sleep(random.expovariate(1 / 0.002) + random.choice((0, 0, 0, 0.03)))
        is_lost = not self.is_gentle and random.random() < 0.02
        if is_lost or not self.is_up or pod in self.cut_off:
            await asyncio.sleep(_PATIENCE_S)
            raise TimeoutError

    def remember(self):
        place = self.place
        accounts = {key: dict(entries) for key, entries in place.accounts.items()}
        self._kept = (accounts, place.epoch, dict(place.short), dict(self.words), self.version)

    def kill(self, after_s):
        if not self.is_up:
            return
        self.is_up = False
        self._loop.call_later(after_s, self._come_back, self._random.choice(("nothing", "old", "all")))

    def _come_back(self, memory):
        before, self._runs = self.place, self._runs + 1
        self.place = Place(f"run{self._runs}", *self._times)
        if memory == "all":
            self.place.accounts, self.place.epoch, self.place.short = before.accounts, before.epoch, before.short
        elif memory == "old" and self._kept is not None:
            accounts, self.place.epoch, short, words, self.version = self._kept
            self.words = dict(words)
            self.place.accounts = {key: dict(entries) for key, entries in accounts.items()}
            self.place.short = dict(short)
        else:
            self.words, self.version, self.claims = {}, "", {}
        self.is_up = True

    def cut(self, pod, for_s):
        self.cut_off.add(pod)
        self._loop.call_later(for_s, self.cut_off.discard, pod)

    def told(self, account, end_ns, pod):
        """What it knows this process to have spent."""
        entry = self.place.accounts.get((account, end_ns), {}).get(pod.encode())
        if entry is None:
            return None
        words = entry.split()
        return int(words[3]), int(words[6])


class Line:
    """One process's way to it, as `store/shared_budgets.py` is."""

    def __init__(self, redis, pod, life):
        self._redis = redis
        self._pod = pod
        self.first_sequence = life << 32

    async def exchange(self, asks, *, is_telling=False):
        await self._redis.travel(self._pod)
        reply = self._redis.place.exchange(self._pod.encode(), self._redis.fresh(), list(asks), self._redis.now_ms, is_telling=is_telling)
        await self._redis.travel(self._pod)
        return reply

    async def teach(self, untaught, keep_ms):
        await self._redis.travel(self._pod)
        self._redis.place.teach(list(untaught))
        untaught.clear()

    def problem(self, error):
        return f"redis: {error!r}"

    async def close(self):
        pass


class Board:
    """One process's way to what operators have said, as `store/shared_words.py` is."""

    def __init__(self, redis, pod):
        self._redis = redis
        self._pod = pod

    async def say(self, words):
        await self._travel()
        redis = self._redis
        is_news = not redis.version
        for key, word in words.items():
            if key not in redis.words or redis.words[key][0] < word[0]:
                redis.words[key] = word
                is_news = True
        if is_news:
            redis.version = redis.fresh()
        await self._travel()

    async def version(self):
        await self._travel()
        found = self._redis.version
        await self._travel()
        return found

    async def hear(self):
        await self._travel()
        found = dict(self._redis.words)
        await self._travel()
        return found

    async def close(self):
        pass

    async def _travel(self):
        try:
            await self._redis.travel(self._pod)
        except TimeoutError:
            raise StoreFailed("redis does not answer") from None
