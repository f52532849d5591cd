"""How many calls must wait for a lease, and how much a pod has leased that it does not use, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import pytest

from sidecar._core import Denial, Ledger, Reservation, Rule
from sidecar.policies.sharing import Sharing, Untaught
from sidecar.settings.operation import Fleet
from sidecar.shares import Ask, Reply
from tests.leases.meeting import Place
from tests.sim.clock import VirtualLoop

DAY_NS = 86_400_000_000_000
HELD, SPENT = 600_000, 250_000  # nano-USD that a call holds, and that it costs
ROUND_TRIP_S = 0.002


class Away:
    """A meeting place at the other end of a network."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.place = Place("one", 600_000, 0)
        self.first_sequence = 0

    async def exchange(self, asks: Sequence[Ask], *, is_telling: bool) -> Reply:
        await asyncio.sleep(ROUND_TRIP_S / 2)
        reply = self.place.exchange(b"pod", "epoch", list(asks), self._loop.now_ns // 1_000_000, is_telling=is_telling)
        await asyncio.sleep(ROUND_TRIP_S / 2)
        return reply

    async def teach(self, untaught: Untaught, keep_ms: int) -> None:
        raise AssertionError

    def problem(self, error: Exception) -> str:
        raise error

    async def close(self) -> None:
        raise AssertionError

    def unused(self) -> int:
        """What is set aside for the pod beyond what it has said that it used and holds: if it dies now, that dies with it."""
        (entries,) = self.place.accounts.values()
        lease, _, held = (int(word) for word in entries[b"pod"].split()[2:5])
        return lease - held


@dataclass
class Seen:
    waited: int = 0
    most_unused: int = 0


def play(calls: int, per_s: float, takes_s: float, limit: int, *, is_even: bool) -> Seen:
    random, seen = Random(1), Seen()
    loop = VirtualLoop(random, hiccups=0.001)
    ledger, away = Ledger(), Away(loop)
    sharing = Sharing(Fleet(), ledger, loop.clock_ns, loop.clock_ns)
    accounts = (("tenant:a:day", Rule(limit_nano_usd=limit, window=(0, DAY_NS))),)

    async def call() -> None:
        before = sharing.waits
        while True:
            held = ledger.reserve(sharing.leased(accounts), HELD, 0, DAY_NS, loop.now_ns)
            if not isinstance(held, Denial) or not await sharing.more(accounts, (HELD, 0)):
                break
        assert isinstance(held, Reservation), held
        seen.waited += sharing.waits > before
        await asyncio.sleep(takes_s)
        ledger.post(held.id, SPENT, 0, loop.now_ns)
        seen.most_unused = max(seen.most_unused, away.unused())

    async def all_calls() -> None:
        await sharing.begin(away, 5)
        talking = loop.create_task(sharing.run(away))
        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                group.create_task(call())
                await asyncio.sleep(1 / per_s if is_even else random.expovariate(per_s))
        talking.cancel()
        with suppress(asyncio.CancelledError):
            await talking

    loop.run_until_complete(all_calls())
    return seen


@pytest.mark.parametrize(("limit", "room"), [(10**12, 16), (250_000_000, 4)], ids=["far", "near"])  # 16 calls, or what a hundredth is for
@pytest.mark.parametrize(
    ("per_s", "takes_s"), [(0.5, 0.001), (0.5, 1), (5, 0.3), (25, 0.2), (250, 0.2)], ids=["rare-short", "rare", "some", "many", "dense"]
)
@pytest.mark.parametrize("is_even", [True, False], ids=["even", "random"])
def test_nearly_all_calls_ask_nobody(per_s, takes_s, limit, room, is_even):
    seen = play(500, per_s, takes_s, limit, is_even=is_even)
    assert 1 <= seen.waited <= 5
    if seen.waited == 1:  # else there is more room, as it was too little
        assert seen.most_unused <= 2 * (room + 1) * HELD
