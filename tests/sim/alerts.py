"""Where a fleet's alerts go: a receiver that is away, slow, or loses its reply; and what outlives each process of what it has told.

Each alert that a process has written down is heard, whoever is killed. Where nobody dies and Redis is well each is heard once, but where
the receiver heard it and did not say so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from msgspec.json import decode

from sidecar.errors import StoreFailed
from sidecar.observe.alerting import Alerting, Lane
from sidecar.observe.alerts import Alert, Judge
from sidecar.observe.receivers import NotSent
from sidecar.store.told import Told

_CLAIMED_S = 130.0  # a killed process' claim has ended then


class Office:
    """What is heard, by all processes of a fleet."""

    def __init__(self, random: Random, watch, redis):
        self._random = random
        self._watch = watch
        self.redis = redis
        self.is_moody = True
        self.heard = Counter()
        self.lost = Counter()  # replies, by alert
        self.refused = set()  # will never be taken
        self.desks = []

    def desk(self, process, random):
        """Of a process; it lasts longer than that."""
        self.desks.append(Desk(self, process, random))
        return self.desks[-1]

    async def take(self, alerts):
        random = self._random
        await asyncio.sleep(random.expovariate(1 / 0.05))
        fate = random.random() if self.is_moody else 1.0
        if fate < 0.4:
            await asyncio.sleep(random.choice((0, 0, 5)))
            raise NotSent("is away", again_s=random.choice((0, 0, 3)))
        if fate < 0.45:
            if len(alerts) == 1:
                self.refused.add(alerts[0].id)
            raise NotSent("takes no such thing", is_final=True)
        self.heard.update(alert.id for alert in alerts)
        if fate < 0.5:
            self.lost.update(alert.id for alert in alerts)
            raise NotSent("did not answer in time")
        return ""

    async def settle(self):
        """The receiver is well again, and all that waits is sent."""
        self.is_moody = False
        for _ in range(int(_CLAIMED_S)):
            for desk in self.desks:
                desk.lane.hurry()
            await asyncio.sleep(1.0)
            left = [desk.process.name for desk in self.desks for one in desk.lane._waiting.values() if not one.is_again]
            if not left:
                return
        self._watch.broken("alerts", f"these never send theirs: {left}")

    def check(self, *, is_gentle):
        for desk in self.desks:
            for known_as, alert in desk.written.items():
                if not self.heard[known_as] and known_as not in self.refused:
                    self._watch.broken(desk.process.name, f"it wrote down {alert.about}, and nobody heard of it")
        budgets = {one: alert.about for desk in self.desks for one, alert in desk.written.items() if alert.kind == "budget"}
        for known_as, about in budgets.items():
            if is_gentle and self.heard[known_as] > 1 + self.lost[known_as]:
                self._watch.broken("alerts", f"{about} was heard of {self.heard[known_as]} times, {self.lost[known_as]} without a reply")


class Desk(Told):
    """One process' memory of alerts: its file, and its way to the claims in Redis."""

    def __init__(self, office, process, random: Random):
        super().__init__(None, "sim", process.name)
        self.process = process
        self.written = {}  # alerts that the file was to keep until they are told
        self.lane = self.alerting = None
        self._office = office
        self._random = random
        self._entries = {}  # the file
        self._lives = 0

    def begin(self, engine):
        """Another life of the process; what is returned runs as long as that."""
        self._lives += 1
        self._pod = f"{self.process.name}-{self._lives}".encode()
        self._client = _Claims(self._office.redis, self.process.name) if engine.sharing is not None else None
        self.lane = Lane(
            _Receiver(self._office),
            "chat",
            "warning",
            self,
            clock_ns=engine.clock_ns,
            wall_ns=engine.wall_ns,
            random=Random(self._random.random()).random,
            count=lambda name, outcome, many: None,
            tell=lambda name, problem: None,
        )
        self.alerting = Alerting(Judge(engine.settings, self.process.name, engine.wall_ns), [self.lane], self)
        engine.meter.on_event.append(self.alerting.event)
        return self.alerting.run()

    async def kept(self, receiver, now_ms):
        await asyncio.sleep(self._random.uniform(0, 0.02))
        return [(known_as, *entry) for known_as, entry in self._entries.items() if entry[0] > now_ms or entry[1]]

    async def keep(self, receiver, entries, now_ms):
        await asyncio.sleep(self._random.uniform(0, 0.02))
        if self.process.disk.is_full:
            raise StoreFailed("no space left on device")
        for known_as, until_ms, text in entries:
            self._entries[known_as] = (until_ms, text)
            if text and not (alert := decode(text, type=Alert)).lasts and not alert.is_over:
                self.written[known_as] = alert


class _Receiver:
    """The office, as one process reaches it."""

    name, most = "chat", 5

    def __init__(self, office):
        self._office = office

    async def send(self, alerts):
        return await self._office.take(alerts)

    async def close(self):
        pass


class _Claims:
    """Redis' words that `Told` uses, each exchange of them at once."""

    def __init__(self, redis, pod):
        self._redis = redis
        self._pod = pod
        self._words = []

    def pipeline(self, transaction):
        return _Claims(self._redis, self._pod)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    def set(self, key, value, *, px, nx=False):
        self._words.append(lambda: (nx and self._find(key)) or self._put(key, value, px))

    def get(self, key):
        self._words.append(lambda: self._find(key))

    def pexpire(self, key, px):
        self._words.append(lambda: self._find(key) and self._put(key, self._find(key), px))

    async def execute(self):
        return await self._exchange(lambda: [word() for word in self._words])

    async def mget(self, keys):
        return await self._exchange(lambda: [self._find(key) for key in keys])

    async def delete(self, *keys):
        await self._exchange(lambda: [self._redis.claims.pop(key, None) for key in keys])

    async def aclose(self):
        pass

    async def _exchange(self, words):
        await self._redis.travel(self._pod)
        found = words()
        await self._redis.travel(self._pod)
        return found

    def _find(self, key):
        value, until_ms = self._redis.claims.get(key, (None, 0))
        return value if until_ms > self._redis.now_ms else None

    def _put(self, key, value, px):
        self._redis.claims[key] = (value, self._redis.now_ms + px)
