"""An event loop whose time is a number: it never waits, it goes to the next timer, and the same seed gives the same run."""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random

_BEGIN_NS = 1_000_000_000_000  # not 0: what was never set should differ from what happened at the beginning
_TURN_NS = 1_000  # each turn of the loop takes a moment
_MOST_TURNS = 3_000_000
_HICCUP_NS = 40_000_000
_BETWEEN_HICCUPS_NS = 1_000_000_000


class Stuck(Exception):
    """Nothing is scheduled any more, or turns go on without end, and the main task has not come to its end."""


class NumberedTask(asyncio.Task):
    """Hashes by its number, so that the order in sets of tasks does not depend on addresses."""

    def __init__(self, coroutine, *, loop, **options):
        self._number = next(loop.numbers)
        super().__init__(coroutine, loop=loop, **options)

    def __hash__(self):
        return self._number

    def __eq__(self, other):
        return self is other


class VirtualLoop(asyncio.BaseEventLoop):
    """`coarse`: time and timers in whole milliseconds, as uvloop has them. `hiccups`: how often a timer finds it busy (up to 40 ms)."""

    def __init__(self, random: Random, *, coarse: bool = False, hiccups: float = 0.0) -> None:
        super().__init__()
        self.now_ns = _BEGIN_NS
        self.turns = 0
        self.numbers = count()
        self._selector = self
        self._clock_resolution = 1e-9
        self._random = random
        self._coarse = coarse
        self._hiccups = hiccups
        self._last_hiccup_ns = 0
        self.set_task_factory(lambda loop, coroutine, **options: NumberedTask(coroutine, loop=loop, **options))

    def clock_ns(self) -> int:
        return self.now_ns

    @property
    def seconds(self) -> float:
        """Since the beginning of the simulation."""
        return (self.now_ns - _BEGIN_NS) / 1e9

    def time(self) -> float:
        return self.now_ns // 1_000_000 / 1e3 if self._coarse else self.now_ns / 1e9

    def call_at(self, when, callback, *args, context=None):
        if self._coarse:
            now = self.time()
            when = now + round((when - now) * 1000) / 1000
        return super().call_at(when, callback, *args, context=context)

    def select(self, timeout: float | None) -> list[object]:
        """What a selector does where nothing is read or written: time passes until the next timer."""
        self.turns += 1
        self.now_ns += _TURN_NS
        if timeout is None:
            raise Stuck("nothing is scheduled any more")
        if self.turns > _MOST_TURNS:
            raise Stuck(f"no end after {_MOST_TURNS} turns of the loop")
        if timeout > 0:
            self.now_ns = max(self.now_ns, round(self._scheduled[0].when() * 1e9))
            if self._hiccups and self.now_ns - self._last_hiccup_ns > _BETWEEN_HICCUPS_NS and self._random.random() < self._hiccups:
                self._last_hiccup_ns = self.now_ns
                self.now_ns += self._random.randrange(_HICCUP_NS)
        return []

    def _process_events(self, events: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
