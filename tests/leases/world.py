"""Pods that share budgets through a Redis, from one seed on a virtual clock: kills, lost and late words, forgetful and frozen servers.

Every pod is a real `Leases` beside a plain ledger of its own; Redis is `meeting.Place`. With every call the bound is checked: what all pods
have used and hold, overruns apart, is at most the limit and what was unknown where more was leased. Unknown may be only what a pod had that
nobody has heard of since Redis lost its memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from sidecar._core import Rule
from sidecar.policies.leases import Leases
from sidecar.settings.budgets import WithoutRedis
from sidecar.shares import Ask, Both, Reply
from tests.leases.meeting import Place
from tests.leases.pods import ACCOUNTS, END_NS, Outcome, Pod, Standing

MS = 1_000_000
SECOND = 1000 * MS
LEASE_MS, LEARN_MS = 10_000, 3_000
WAIT_NS = 50 * MS
JUMP_MS = 30_000  # of Redis's clock, when it comes back on another machine


class World:
    def __init__(self, seed: int, *, without: WithoutRedis = "lease", gentle: bool = False, place: type[Place] = Place) -> None:
        self.random = random = Random(seed)
        self.outcome = Outcome(seed)
        self.without: WithoutRedis = without
        self.gentle = gentle  # nobody is away for longer than Redis learns: then the bound is the limit itself
        self.now_ns = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.limits: Both = (random.choice((1_000, 100_000, 10**9)), random.choice((500, 10**6)))
        self.rules = {
            name: Rule(limit_nano_usd=self.limits[0], limit_tokens=self.limits[1] if at else None, window=(0, END_NS))
            for at, name in enumerate(ACCOUNTS)
        }
        self.pods = [
            Pod(b"pod%d" % number, random.uniform(0.99, 1.01), random.randrange(-5, 6) * SECOND) for number in range(random.randint(2, 4))
        ]
        self.run = 1
        self.kind = place
        self.place = place("run1", LEASE_MS, LEARN_MS)
        self.place_up = True
        self.place_off_ms = random.randrange(0, 10**6)
        self.snapshot: Any = None
        self.unknown: dict[tuple[str, int], int] = {}  # the most that was unknown where more was leased
        self.end_ns = random.choice((4, 8, 16)) * SECOND
        self.open: dict[Callable[[], None], None] = {}  # calls in flight
        self.is_over = False
        for pod in self.pods:
            self.start(pod)
        for _ in range(random.randint(1, 5)):
            self.caller()
        self.trouble()

    # --- time

    def at(self, delay_ns: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now_ns + max(0, int(delay_ns)), self._count, event))

    def play(self) -> Outcome:
        while self._events and self._events[0][0] < self.end_ns and not self.outcome.breaks:
            self.now_ns, _, event = heapq.heappop(self._events)
            event()
        if not self.outcome.breaks:
            self.recover()
        return self.outcome

    def tell(self, what: str) -> None:
        self.outcome.trace.append((self.now_ns / SECOND, what))

    def clock(self, pod: Pod) -> int:
        return int(self.now_ns * pod.rate) + SECOND

    def wall(self, pod: Pod) -> int:
        return max(0, self.now_ns + pod.off_ns + 1000 * SECOND)

    def place_ms(self) -> int:
        return self.now_ns // MS + self.place_off_ms

    # --- pods

    def start(self, pod: Pod) -> None:
        pod.life += 1
        pod.busy = pod.forgot = False
        pod.leases = Leases(
            lambda name, _: self.standing(pod, name),
            lambda name: (0, END_NS),
            lambda name: self.without,
            len(self.pods),
            LEASE_MS * MS,
        )
        pod.leases.count_from(self.wall(pod) // 1000)  # by its clock, which is put back now and then: it may begin below its life before
        self.tell(f"{pod.name.decode()} starts")
        self.tick(pod, pod.life)

    def standing(self, pod: Pod, name: str) -> Standing:
        rule = self.rules[name]
        used, pending = pod.used[name], pod.pending[name]
        return Standing(used[0], used[1], pending[0], pending[1], rule.limit_nano_usd, rule.limit_tokens)

    def kill(self, pod: Pod) -> None:
        """Without a word; what was pending is gone, what was posted is in the journal."""
        pod.leases = None
        pod.life += 1
        pod.pending = {name: [0, 0] for name in ACCOUNTS}
        pod.waiting.clear()
        self.tell(f"{pod.name.decode()} is killed, used {pod.used}")

    def tick(self, pod: Pod, life: int) -> None:
        if pod.life != life or pod.leases is None:
            return
        self.say(pod)
        self.at(self.random.choice((200, 400, 800)) * MS, lambda: self.tick(pod, life))

    def say(self, pod: Pod) -> None:
        if pod.busy or pod.leases is None:
            return
        asks = pod.leases.due(self.clock(pod), self.wall(pod))
        waiting, pod.waiting = pod.waiting, []
        pod.busy = True
        self.outcome.words += 1
        life, sent_ns, done = pod.life, self.clock(pod), [False]

        def failed() -> None:
            if pod.life != life or done[0] or pod.leases is None:
                return
            done[0], pod.busy = True, False
            pod.leases.failed(asks)
            for again in waiting:
                again()

        def answered(reply: Reply) -> None:
            if pod.life != life or done[0] or pod.leases is None:
                return
            if pod.cut_off:
                failed()
                return
            done[0], pod.busy = True, False
            pod.forgot = pod.leases.heard(asks, reply, sent_ns, self.clock(pod)) or pod.forgot
            if pod.forgot:
                pod.forgot = False
                pod.leases.learn((name, END_NS) for name in ACCOUNTS if pod.used[name] != [0, 0])
            if pod.leases.untaught:
                taught, pod.leases.untaught = pod.leases.untaught, []
                self.at(self.delay(), lambda: self.reach(pod, lambda: self.place.teach(taught)))
            for again in waiting:
                again()
            if pod.leases.is_behind():
                self.say(pod)

        self.at(SECOND, failed)
        late = self.random.random() < 0.02
        self.at(
            self.random.randrange(0, 4 * SECOND) if late else self.delay(), lambda: self.reach(pod, lambda: self.take(pod, asks, answered))
        )

    def reach(self, pod: Pod, word: Callable[[], None]) -> None:
        if self.place_up and not pod.cut_off:
            word()

    def take(self, pod: Pod, asks: list[Ask], answered: Callable[[Reply], None]) -> None:
        reply = self.place.exchange(pod.name, f"epoch{self.random.random()}", asks, self.place_ms())
        pod.unknown -= {ask.account for ask in asks}
        for ask, answer in zip(asks, reply.answers, strict=True):
            for unit in (0, 1):
                if not answer.stale and answer.lease[unit] > ask.have[unit] + answer.used[unit] - ask.used[unit]:
                    self.leased(ask.account, unit)
        if self.random.random() > 0.02:
            self.at(self.delay(), lambda: answered(reply))

    def leased(self, account: str, unit: int) -> None:
        """Redis gave more than it had: that is within the limit, and what it does not know of is accounted for."""
        limit, kept, unknown = self.limits[unit], 0, 0
        for pod in self.pods:
            known = self.place.set_aside((account, END_NS), pod.name, self.place_ms())[unit]
            kept += known
            missing = self.truth(pod, account, unit) - known
            if missing <= 0:
                continue
            if account not in pod.unknown and self.without != "share":
                self.outcome.breaks.append(
                    f"{missing} of {pod.name.decode()} in {account} were unknown at {self.now_ns / SECOND:.3f}, though it had told of them"
                )
            unknown += missing
        if kept > limit:
            self.outcome.breaks.append(f"Redis set {kept} of {limit} aside in {account}")
        self.unknown[account, unit] = max(self.unknown.get((account, unit), 0), unknown)

    def truth(self, pod: Pod, account: str, unit: int) -> int:
        """What this pod may still come to, overruns apart."""
        held = pod.used[account][unit] + pod.pending[account][unit] - pod.overrun[account][unit]
        entry = pod.leases._entries.get(account) if pod.leases is not None else None
        if entry is None or not entry.is_leased:
            return held
        return max(held, entry.have[unit] - pod.overrun[account][unit])

    def delay(self) -> int:
        return int(self.random.expovariate(1 / (2 * MS))) + self.random.choice((0, 0, 0, 0, 0, 30 * MS))

    # --- calls

    def caller(self) -> None:
        random = self.random
        dear = self.limits[0] // random.choice((5, 20, 100, 1000)) + 1
        pause_ms = random.choice((100, 400, 2000))
        pods = self.pods if random.random() < 0.7 else [random.choice(self.pods)]
        accounts = random.choice((ACCOUNTS, ACCOUNTS[:1]))

        def call() -> None:
            if self.is_over:
                return
            self.at(random.expovariate(1 / pause_ms) * MS, call)
            pod = random.choice(pods)
            if pod.leases is not None:
                self.reserve(pod, accounts, (random.randint(0, dear), random.randint(0, 60)), self.now_ns + WAIT_NS)

        self.at(random.randrange(1, 2000) * MS, call)

    def reserve(self, pod: Pod, accounts: tuple[str, ...], ask: Both, until_ns: int, *, again: bool = False) -> None:
        if pod.leases is None or self.is_over:
            return
        given = tuple((name, self.rules[name]) for name in accounts)
        leased = pod.leases.leased(given)
        if all(self.fits(pod, name, rule, ask) for name, rule in leased):
            self.hold(pod, accounts, ask)
            self.outcome.waited += again
        elif self.now_ns < until_ns and pod.leases.wants_more(given, ask, self.clock(pod)):
            pod.waiting.append(lambda: self.reserve(pod, accounts, ask, until_ns, again=True))
            self.say(pod)
        else:
            self.outcome.refused += 1

    def fits(self, pod: Pod, name: str, rule: Rule, ask: Both) -> bool:
        """As the Rust ledger decides."""
        for unit, (limit, lease) in enumerate(((rule.limit_nano_usd, rule.lease_nano_usd), (rule.limit_tokens, rule.lease_tokens))):
            held = pod.used[name][unit] + pod.pending[name][unit] + ask[unit]
            if ask[unit] and ((limit is not None and held > limit) or (lease is not None and held > lease)):
                return False
        return True

    def hold(self, pod: Pod, accounts: tuple[str, ...], ask: Both) -> None:
        self.outcome.admitted += 1
        for name in accounts:
            for unit in (0, 1):
                pod.pending[name][unit] += ask[unit]
        life, share = pod.life, self.random.choice((0, 0.1, 0.5, 1, 1, 1.3))

        def settle() -> None:
            if pod.life != life or settle not in self.open:
                return
            del self.open[settle]
            for name in accounts:
                for unit in (0, 1):
                    spent = int(ask[unit] * share)
                    pod.pending[name][unit] -= ask[unit]
                    pod.used[name][unit] += spent
                    pod.overrun[name][unit] += max(0, spent - ask[unit])

        self.check()
        self.open[settle] = None
        self.at(self.random.choice((5, 50, 500, 5000, 20_000)) * MS, settle)

    # --- trouble

    def trouble(self) -> None:
        if self.is_over:
            return
        self.at(self.random.expovariate(1 / 3) * SECOND, self.trouble)
        what = self.random.choice((self.lose_pod, self.lose_pod, self.cut, self.lose_place, self.freeze, self.clock_jumps, self.remember))
        if self.now_ns:
            what()

    def away_ns(self) -> int:
        most = 1 if self.gentle else self.random.choice((1, 5, 20))
        return int(self.random.uniform(0, most) * SECOND)

    def lose_pod(self) -> None:
        pod = self.random.choice(self.pods)
        if pod.leases is None:
            return
        if self.random.random() < 0.3 and not pod.busy:  # a proper end
            pod.pending = {name: [0, 0] for name in ACCOUNTS}
            pod.leases.give_all_back()
            asks = pod.leases.due(self.clock(pod), self.wall(pod))
            self.reach(pod, lambda: self.take(pod, asks, lambda reply: None))
        self.kill(pod)
        if not self.gentle and self.random.random() < 0.3 and sum(not other.gone for other in self.pods) > 1:
            pod.gone = True
            self.tell("and never comes back")
            return
        self.at(self.away_ns(), lambda: self.start(pod) if pod.leases is None else None)

    def cut(self) -> None:
        pod = self.random.choice(self.pods)
        pod.cut_off = True
        self.tell(f"{pod.name.decode()} is cut off")
        self.at(self.away_ns(), lambda: setattr(pod, "cut_off", False))

    def remember(self) -> None:
        self.snapshot = ({key: dict(entries) for key, entries in self.place.accounts.items()}, self.place.epoch, dict(self.place.short))

    def lose_place(self) -> None:
        """It is killed, and comes back with nothing, with what it had written down a while ago, or with all."""
        if not self.place_up:
            return
        kept = self.random.choice(("nothing", "old", "all"))
        self.tell(f"Redis is killed, and will know {kept}")
        self.place_up = False
        back_ns = self.away_ns()

        def back() -> None:
            if self.is_over:
                return
            self.run += 1
            before = self.place
            self.place = self.kind(f"run{self.run}", LEASE_MS, LEARN_MS)
            if kept == "all":
                self.place.accounts, self.place.epoch, self.place.short = before.accounts, before.epoch, before.short
            elif kept == "old" and self.snapshot is not None:
                accounts, self.place.epoch, self.place.short = self.snapshot
                self.place.accounts = {key: dict(entries) for key, entries in accounts.items()}
                self.place.short = dict(self.place.short)
            if kept != "all":
                for pod in self.pods:
                    pod.unknown = set(ACCOUNTS)
            self.place_off_ms = max(0, self.place_off_ms + self.random.choice((0, 0, -JUMP_MS, JUMP_MS)))
            self.place_up = True
            self.tell("Redis is back")

        self.at(back_ns, back)

    def freeze(self) -> None:
        if self.place_up:
            self.place_up = False
            self.tell("Redis is frozen")
            self.at(self.away_ns(), lambda: setattr(self, "place_up", True))

    def clock_jumps(self) -> None:
        pod = self.random.choice(self.pods)
        pod.off_ns = self.random.randrange(-500, 500) * SECOND

    # --- rules

    def check(self) -> None:
        for account in ACCOUNTS:
            for unit in (0, 1):
                limit = (self.rules[account].limit_nano_usd, self.rules[account].limit_tokens)[unit]
                if limit is None:
                    continue
                held = sum(p.used[account][unit] + p.pending[account][unit] - p.overrun[account][unit] for p in self.pods)
                beyond = held - limit
                self.outcome.beyond = max(self.outcome.beyond, beyond)
                most = self.bound(account, unit, limit)
                if held > most:
                    self.outcome.breaks.append(
                        f"{held} of {limit} used and held in {account} ({('nano-USD', 'tokens')[unit]}), at most {most}"
                    )

    def bound(self, account: str, unit: int, limit: int) -> int:
        if self.without == "share":
            return 2 * limit
        return limit if self.gentle else limit + self.unknown.get((account, unit), 0)

    def recover(self) -> None:
        """Who is not gone for ever comes back, calls end, and everything is told: then Redis knows to the unit what the journals say."""
        self.is_over = self.place_up = True
        for pod in self.pods:
            pod.cut_off = False
            if pod.leases is None and not pod.gone:
                self.start(pod)
        for settle in list(self.open):
            settle()
        self.let_pass(LEASE_MS + LEARN_MS)
        self.all_is_told()
        if not self.outcome.breaks:
            self.all_can_be_had()

    def let_pass(self, ms: int) -> None:
        self.end_ns = self.now_ns + ms * MS
        while self._events and self._events[0][0] < self.end_ns:
            self.now_ns, _, event = heapq.heappop(self._events)
            event()

    def all_can_be_had(self) -> None:
        """What nobody has used one pod can have, whoever leased it, also in its last life; but for the leases of pods that are gone."""
        account, pod = ACCOUNTS[0], self.random.choice([pod for pod in self.pods if not pod.gone])
        entries, taken = self.place.accounts.get((account, END_NS), {}), 0
        for one in self.pods:
            words = [int(word) for word in entries[one.name].split()] if one.name in entries else [0] * 8
            taken += max(words[4], words[2] if one.gone else 0, one.used[account][0])
        left, before = self.limits[0] - taken, self.outcome.admitted
        self.is_over = False
        for _ in range(20):
            if left > 0 and self.outcome.admitted == before:
                self.reserve(pod, (account,), (left, 0), self.now_ns + WAIT_NS)
                self.let_pass(1000)
        if left > 0 and self.outcome.admitted == before:
            self.outcome.breaks.append(f"{left} of {self.limits[0]} in {account} stayed out of {pod.name.decode()}'s reach")

    def all_is_told(self) -> None:
        for pod in (pod for pod in self.pods if not pod.gone):
            for account in ACCOUNTS:
                entry = self.place.accounts.get((account, END_NS), {}).get(pod.name)
                told = [int(word) for word in entry.split()] if entry is not None else [0] * 8
                for unit in (0, 1):
                    used, held = told[3 + 3 * unit : 5 + 3 * unit]
                    # What was held when it was killed counts as spent until it speaks of the account again: it may have been billed.
                    if used != pod.used[account][unit] or (held != used and pod.used[account] != [0, 0]):
                        self.outcome.breaks.append(f"{account} of {pod.name.decode()}: told {used} and {held}, used {pod.used[account]}")


def play(seed: int, *, without: WithoutRedis = "lease", gentle: bool = False, place: type[Place] = Place) -> Outcome:
    return World(seed, without=without, gentle=gentle, place=place).play()
