"""Pods that share runs, without processes: they meet in a Python twin of the script, or in a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import redis.asyncio as redis
from msgspec.json import decode, encode

from sidecar._core import Denial, Ledger
from sidecar.call import Call, Usage
from sidecar.errors import BudgetExceeded, StoreFailed
from sidecar.policies.runs import Run, RunPlan, Runs
from sidecar.policies.shared_runs import SharedRuns
from sidecar.request import Caller, GenerateRequest
from sidecar.store.shared_runs import SharedRuns as Place
from tests.fakes.run_meeting import FakePlace, Memory
from tests.fakes.servers import Server, programs

PROGRAMS = programs()


class Size:
    """What the runs look at of a candidate."""

    def __init__(self, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens, self.max_output_tokens = input_tokens, output_tokens


def call(
    run: str = "r", agent: str = "", step: int = 0, *, usd: int = 10, size: tuple[int, int] = (10, 10), plan: RunPlan | None = None
) -> Call:
    """A call that may cost so many nano-dollars."""
    request = GenerateRequest(prompt="hi", caller=Caller(step=step, run_plan=plan), max_output_tokens=size[1])
    made = Call(id="c", operation="generate", request=request, metadata={}, arrived=0.0, deadline=1.0, send=None)
    made.tenant, made.run, made.agent, made.max_nano_usd = "acme", run, agent, usd
    made.candidates = (Size(*size),)  # type: ignore[assignment]
    return made


class Pod:
    """One sidecar's runs and ledger: calls as the reserve and settle stages make them. Its file and ledger outlive `kill`."""

    def __init__(self, name: str, place: Callable[[str, int], FakePlace | Place], memory: Memory | None, **settings) -> None:
        self.name, self._place, self._memory, self._settings = name, place, memory, settings
        self.file: dict[tuple[str, str], bytes] = {}
        self.ledger, self.life, self.told = Ledger(), 0, []
        self.task: asyncio.Task[None] | None = None

    def now_ns(self) -> int:
        return (self._memory or CLOCK).now_ms * 1_000_000

    async def start(self) -> None:
        self.life += 1
        self.runs = Runs()
        for text in self.file.values():
            self.runs.restore(decode(text, type=Run))
        self.place = self._place(self.name, self.life)
        learn_ms = self._memory.learn_ms if self._memory is not None and self._memory.learn_ms else 3_000
        given = {"idle_hours": 24, "most": 10_000, "learn_ms": learn_ms, "without": "lease"} | self._settings
        self.shared = SharedRuns(
            self.place, self.runs, self.ledger, keep=self.keep, clock_ns=self.now_ns, wall_ns=self.now_ns, **given
        )  # fmt: skip
        self.shared.tell = self.told.append
        self.runs.shared = self.shared
        await self.shared.begin(5)
        self.task = asyncio.create_task(self.shared.run())

    async def keep(self) -> None:
        for key, run in self.runs.changed.items():
            if run is None:
                self.file.pop(key, None)
            else:
                self.file[key] = encode(run)
        self.runs.changed.clear()

    async def stop(self) -> None:
        await self.kill()
        await self.shared.end()

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
            self.task = None

    async def begin(self, one: Call) -> int:
        run = await self.runs.join(one, self.now_ns())
        assert run is not None
        held = self.ledger.reserve(self.runs.accounts(one), one.max_nano_usd, 1, 10**12, self.now_ns())
        assert not isinstance(held, Denial)
        try:
            await self.runs.enter(run, one, held.id, self.now_ns())
        except BaseException:
            self.ledger.void(held.id, self.now_ns())
            self.runs.ended(one, held.id)
            raise
        return held.id

    def end(self, one: Call, held: int, usd: int, usage: tuple[int, int] = (1, 1)) -> None:
        one.nano_usd, one.usage = usd, Usage(usage[0], 0, 0, 0, usage[1], 0)
        self.ledger.post(held, usd, 1, self.now_ns())
        self.runs.ended(one, held)

    async def spend(self, one: Call, usd: int, usage: tuple[int, int] = (1, 1)) -> None:
        self.end(one, await self.begin(one), usd, usage)

    async def refusal(self, one: Call) -> str:
        """The account that refuses it."""
        with pytest.raises(BudgetExceeded) as caught:
            await self.begin(one)
        return caught.value.account

    async def whole(self, run: str = "r") -> Run:
        """What all pods have used of it."""
        (found,) = await self.shared.listing("acme", run, 1)
        return found


CLOCK = Memory()


@asynccontextmanager
async def fleet(count: int, memory: Memory | None = None, program: str = "", **settings) -> AsyncIterator[list[Pod]]:
    """So many pods that meet in a Python twin or, by the name of a program, in a real server."""
    if program:
        with Server(PROGRAMS[program]) as server:
            client = redis.Redis(port=server.port)

            def place(name: str, life: int) -> Place:
                times = {"lease_ms": 60_000, "learn_ms": 0, "keep_ms": 86_400_000}
                return Place(client, address="redis", prefix="test", pod=(name, life), **times)

            async with running([Pod(f"pod{n}", place, None, **settings) for n in range(count)]) as pods:
                yield pods
            await client.aclose()
        return
    there = Memory(learn_ms=0) if memory is None else memory
    made = [Pod(f"pod{n}", lambda name, life: FakePlace(there, name, life), there, **settings) for n in range(count)]
    async with running(made) as pods:
        yield pods


@asynccontextmanager
async def running(pods: list[Pod]) -> AsyncIterator[list[Pod]]:
    try:
        for pod in pods:
            await pod.start()
        yield pods
    finally:
        for pod in pods:
            await pod.kill()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.005)


async def has_spent(pod: Pod, usd: int, held: int = 0) -> bool:
    try:
        (found,) = await pod.shared.listing("acme", "r", 1)
    except (StoreFailed, ValueError):  # the server learns
        return False
    return (found.spent, found.held) == (usd, held)
