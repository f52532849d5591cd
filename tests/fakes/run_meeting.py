"""Where pods meet about runs, in Python: what `sidecar/store/shared_runs.lua` does, with a clock that a test turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from msgspec.json import decode
from msgspec.structs import replace

from sidecar.errors import StoreFailed
from sidecar.run_words import Heard, Looked, Part

_Reply = TypeVar("_Reply")


@dataclass
class RunThere:
    generation: str
    version: int
    used_ms: int
    parts: dict[str, str] = field(default_factory=dict)
    steps: set[str] = field(default_factory=set)


class Memory:
    """One server. `forget` is its restart with nothing kept; `problem` is what everybody is told while it is away."""

    def __init__(self, lease_ms: int = 4_000, learn_ms: int = 500) -> None:
        self.lease_ms, self.learn_ms = lease_ms, learn_ms
        self.turned_ms = 0  # what a test has added to the time
        self.problem = ""
        self.asked = 0
        self._epochs = count(1)
        self.forget()

    @property
    def now_ms(self) -> int:
        return 1_795_262_400_000 + self.turned_ms + time.monotonic_ns() // 1_000_000

    def forget(self) -> None:
        self.open: dict[str, str] = {}
        self.closed: dict[str, str] = {}
        self.runs: dict[str, RunThere] = {}
        self.news: dict[str, int] = {}
        self.number = 0
        self.pods: dict[str, int] = {}
        self.acks: dict[str, int] = {}
        self.begin()

    def begin(self) -> None:
        self.epoch, self.since_ms = f"epoch {next(self._epochs)}", self.now_ms

    @property
    def learns_ms(self) -> int:
        return self.since_ms + self.learn_ms - self.now_ms

    def announce(self, key: str) -> int:
        self.number += 1
        self.news.pop(key, None)
        self.news[key] = self.number
        return self.number

    def bury(self, key: str, generation: str) -> None:
        self.open.pop(key, None)
        self.closed[key] = generation
        self.announce(key)


class FakePlace:
    """One pod's talk with the server. `lose`: the next answer to such a word is lost, when all has been done."""

    def __init__(self, memory: Memory, pod: str, life: int = 1) -> None:
        self.memory, self.pod, self.first_sequence = memory, pod, life << 32
        self.lose = ""
        self.is_dead = False  # its process is

    async def _asked(self, *, is_telling: bool = False) -> Memory:
        await asyncio.sleep(0)  # others may come between
        memory = self.memory
        memory.asked += 1
        if memory.problem or self.is_dead:
            raise StoreFailed(memory.problem or "nobody is there to ask")
        if is_telling and memory.learns_ms > 0:
            memory.since_ms = memory.now_ms
        return memory

    def _reply(self, word: str, reply: _Reply) -> _Reply:
        if self.lose == word:
            self.lose = ""
            raise StoreFailed("does not answer in time")
        return reply

    async def look(self, epoch: str, number: int, *, is_telling: bool = False, is_leaving: bool = False) -> Looked:
        memory = await self._asked(is_telling=is_telling)
        number = number if epoch == memory.epoch else 0
        memory.pods[self.pod], memory.acks[self.pod] = memory.now_ms, number
        if is_leaving:
            del memory.pods[self.pod], memory.acks[self.pod]
        for gone in [pod for pod, at_ms in memory.pods.items() if at_ms <= memory.now_ms - memory.lease_ms]:
            del memory.pods[gone]
            memory.acks.pop(gone, None)
        news = sorted((at, key) for key, at in memory.news.items() if at > number)[:200]
        changes = tuple((key, memory.open.get(key, ""), memory.closed.get(key, "")) for _, key in news)
        return self._reply("look", Looked(memory.epoch, memory.learns_ms > 0, news[-1][0] if news else number, len(news) == 200, changes))

    async def bell(self, number: int, within_s: float) -> None:
        end = asyncio.get_running_loop().time() + within_s
        while (await self._asked()).number <= number and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110  (another pod's)
            await asyncio.sleep(0.005)

    async def lagging(self, number: int, trust_ms: int) -> int:
        memory = await self._asked()
        return sum(
            at < number and pod != self.pod and memory.pods.get(pod, 0) + trust_ms > memory.now_ms for pod, at in memory.acks.items()
        )

    async def open(self, key: str, generation: str, text: str, most: int, *, is_reopening: bool) -> Heard:
        memory = await self._asked()
        if key in memory.open:
            return self._reply("open", Heard("open", text=memory.open[key], number=memory.news.get(key, 0)))
        if key in memory.closed and not is_reopening:
            return Heard("closed")
        if memory.learns_ms > 0:
            return Heard("learning", number=memory.learns_ms)
        if len(memory.open) >= most:
            return Heard("full")
        memory.runs[key] = RunThere(generation, memory.now_ms * 1000, memory.now_ms)
        memory.open[key] = text
        memory.closed.pop(key, None)
        return self._reply("open", Heard("opened", number=memory.announce(key)))

    async def state(self, key: str, *, with_steps: bool = False) -> Heard:
        found = self._state(await self._asked(), key, "")
        steps = tuple(self.memory.runs[key].steps) if with_steps and key in self.memory.runs else ()
        return self._reply("state", replace(found, steps=steps))

    def _state(self, memory: Memory, key: str, step: str) -> Heard:
        run = memory.runs.get(key)
        if run is None:
            return Heard("state")
        parts = tuple(
            Part(pod, max(memory.pods.get(pod, 0), memory.since_ms) + memory.lease_ms > memory.now_ms, text)
            for pod, text in run.parts.items()
        )
        return Heard("state", run.version, is_again=step in run.steps, named=len(run.steps), parts=parts)

    async def enter(self, key: str, generation: str, version: int, sequence: int, text: str, step: str, *, is_again: bool) -> Heard:
        memory = await self._asked()
        run = memory.runs.get(key)
        if (refusal := self._refusal(memory, key, generation)) is not None:
            return self._reply("enter", refusal)
        assert run is not None
        if version > run.version:
            memory.begin()
            return Heard("unknown")
        if (mine := _sequence(run.parts.get(self.pod))) >= sequence:
            return Heard("stale", number=mine)
        if version != run.version or (step and (step in run.steps) != is_again):
            return self._reply("enter", self._state(memory, key, step))
        if step:
            run.steps.add(step)
        return self._reply("enter", Heard("in", self._put(memory, run, text)))

    def _refusal(self, memory: Memory, key: str, generation: str) -> Heard | None:
        there = memory.open.get(key)
        if there is None and key in memory.closed:
            return Heard("closed")
        if there is not None and _generation(there) != generation:
            return Heard("other", text=there)
        if memory.learns_ms > 0:
            return Heard("learning", number=memory.learns_ms)
        if there is None or key not in memory.runs or memory.runs[key].generation != generation:
            memory.begin()
            return Heard("unknown")
        return None

    def _put(self, memory: Memory, run: RunThere, text: str) -> int:
        run.parts[self.pod] = text
        run.used_ms = memory.now_ms
        run.version += 1
        return run.version

    async def put(self, key: str, generation: str, sequence: int, text: str) -> Heard:
        memory = await self._asked()
        run, there = memory.runs.get(key), memory.open.get(key)
        if run is None or run.generation != generation:
            if there is not None and _generation(there) > generation:
                return Heard("other", text=there)
            if memory.closed.get(key) == generation:
                return Heard("closed")
            if memory.learns_ms <= 0:
                memory.begin()
            return Heard("unknown")
        if (mine := _sequence(run.parts.get(self.pod))) >= sequence:
            return Heard("stale", number=mine)
        return self._reply("put", Heard("told", self._put(memory, run, text)))

    async def close(self, key: str, generation: str, idle_ms: int) -> Heard:
        memory = await self._asked()
        if (refusal := self._refusal(memory, key, generation)) is not None:
            return refusal
        unused_ms = memory.now_ms - memory.runs[key].used_ms
        if unused_ms < idle_ms:
            return Heard("used", number=unused_ms)
        found = self._state(memory, key, "")
        memory.bury(key, generation)
        return self._reply("close", found)

    async def restore(self, key: str, generation: str, text: str, parts: Iterable[tuple[str, str]], steps: Iterable[str]) -> Heard:
        memory = await self._asked(is_telling=True)
        there = memory.open.get(key)
        if memory.closed.get(key) == generation:
            return Heard("closed")
        if there is not None and _generation(there) > generation:
            return Heard("other", text=there)
        run = memory.runs.get(key)
        if run is None or run.generation != generation:
            run = memory.runs[key] = RunThere(generation, memory.now_ms * 1000, memory.now_ms)
        for pod, part in parts:
            if _sequence(run.parts.get(pod)) < _sequence(part):
                run.parts[pod] = part
        run.steps.update(steps)
        run.version += 1
        if there is None or _generation(there) != generation:
            memory.open[key] = text
            memory.closed.pop(key, None)
            memory.announce(key)
        return self._reply("restore", Heard("told"))

    async def bury(self, closed: Sequence[tuple[str, str]]) -> None:
        memory = await self._asked(is_telling=True)
        for key, generation in closed:
            there = memory.open.get(key)
            if memory.closed.get(key) != generation and (there is None or _generation(there) == generation):
                memory.bury(key, generation)

    async def end(self) -> None:
        self.is_dead = True


def _sequence(text: str | None) -> int:
    return decode(text)[0] if text else 0


def _generation(text: str) -> str:
    return decode(text)[0]
