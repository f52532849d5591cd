"""What the Lua scripts of `sidecar/store` do, in Python: for the simulation, and held against the scripts in real servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct

from sidecar.shares import Answer, Ask, Both, Reply
from sidecar.store.shared_budgets import read_short, short_name

Key = tuple[str, int]


@dataclass
class Place:
    """One Redis: its memory, and the name that it has from its start on."""

    run: str
    lease_ms: int
    learn_ms: int
    epoch: tuple[str, str, int] | None = None  # name, run, since
    accounts: dict[Key, dict[bytes, bytes]] = field(default_factory=dict)
    short: dict[str, int] = field(default_factory=dict)

    def exchange(self, pod: bytes, fresh: str, asks: list[Ask], now_ms: int, *, is_telling: bool = False) -> Reply:
        forgotten = self.epoch is None or self.epoch[1] != self.run
        for ask in asks:
            mine = self.accounts.get((ask.account, ask.end_ns), {}).get(pod)
            if ask.known and ask.known > (_numbers(mine)[0] if mine else 0):
                forgotten = True
        if forgotten or self.epoch is None:
            self.epoch = (fresh, self.run, now_ms)
        learning = now_ms < self.epoch[2] + self.learn_ms
        if learning and is_telling:
            self.epoch = (*self.epoch[:2], now_ms)
        answers = tuple(self._answer(pod, ask, now_ms, learning) for ask in asks)
        self.short = {name: at for name, at in self.short.items() if at > now_ms - 2000}
        names = sorted(self.short, key=lambda name: (self.short[name], name))[:100]
        short = (read_short(name.encode()) for name in names)
        return Reply(self.epoch[0], learning, tuple(key for key in short if self._is_idle(key, pod)), answers)

    def _is_idle(self, key: Key, pod: bytes) -> bool:
        entry = self.accounts.get(key, {}).get(pod)
        numbers = (0,) * 8 if entry is None else _numbers(entry)
        return numbers[2] > numbers[4] or numbers[5] > numbers[7]

    def _answer(self, pod: bytes, ask: Ask, now_ms: int, learning: bool) -> Answer:
        assert self.epoch is not None
        entries = self.accounts.setdefault((ask.account, ask.end_ns), {})
        mine = _numbers(entries[pod]) if pod in entries else None
        if mine is not None and mine[0] >= ask.sequence:
            return Answer(stale=mine[0])
        taken, total, idle, pods = [0, 0], [0, 0], [0, 0], 0
        others = tuple((name, entry) for name, entry in entries.items() if name != pod)
        for _, entry in others:
            numbers = _numbers(entry)
            pods += numbers[1] + self.lease_ms > now_ms
            for unit in (0, 1):
                _, used, held = numbers[2 + unit * 3 : 5 + unit * 3]
                aside = self.aside(numbers, now_ms)[unit]
                taken[unit] += aside
                total[unit] += used
                idle[unit] += aside - held
        words, leases, spent, is_short = [ask.sequence, now_ms], [0, 0], [0, 0], False
        for unit in (0, 1):
            more = max(ask.used[unit], mine[3 + unit * 3] if mine else 0)
            shift = more - ask.used[unit]
            held = ask.held[unit] + shift
            have = max(ask.have[unit] + shift, held)
            want, need, least = (value + shift for value in (ask.want[unit], ask.need[unit], ask.least[unit]))
            free, growth = ask.limit[unit] - taken[unit] - have, 0
            if ask.limit[unit] >= 0 and free > 0 and not learning:
                growth = min(want - have, max(free // (2 * (pods + 1)), need - have), free)
            if have + growth < least:
                growth = 0
                is_short |= not learning and free + idle[unit] >= least - have
            leases[unit], spent[unit] = have + max(0, growth), more
            words += [leases[unit], more, held]
            total[unit] += more
        entries[pod] = b" ".join(b"%d" % word for word in words)
        if is_short:
            self.short[short_name(ask.account, ask.end_ns)] = now_ms
        return Answer(0, _both(leases), _both(spent), _both(total), _both(taken), others)

    def teach(self, taught: list[tuple[str, int, tuple[tuple[bytes, bytes], ...]]]) -> None:
        for account, end_ns, entries in taught:
            known = self.accounts.setdefault((account, end_ns), {})
            for pod, entry in entries:
                if pod not in known or _numbers(known[pod])[0] < _numbers(entry)[0]:
                    known[pod] = entry

    def aside(self, numbers: tuple[int, ...], now_ms: int) -> Both:
        """What it keeps for a pod with this entry."""
        return max(numbers[2], numbers[4]), max(numbers[5], numbers[7])

    def set_aside(self, key: Key, pod: bytes, now_ms: int) -> Both:
        """What it keeps for one pod."""
        entry = self.accounts.get(key, {}).get(pod)
        return (0, 0) if entry is None else self.aside(_numbers(entry), now_ms)


def numbers_of(entry: bytes) -> tuple[int, ...]:
    """An entry as the scripts pack it; here they are text."""
    return tuple(int(number) for number in Struct("<8d").unpack(entry))


@lru_cache(1000)
def _numbers(entry: bytes) -> tuple[int, ...]:
    return tuple(int(word) for word in entry.split())


def _both(values: list[int]) -> Both:
    return values[0], values[1]
