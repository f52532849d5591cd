"""What it costs that pods share their budgets: `python -m tests.bench.bench_shared_budgets`. It needs a Redis or Valkey.

Four pods in one process, each with a ledger and a connection of its own, and one real server. First what a decision takes when nothing has
to be asked for; then calls of ten tenants at a steady pace, most of which should ask nobody, far from their limits and up to them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis

from sidecar._core import Denial, Ledger, Reservation, Rule
from sidecar.policies.sharing import Sharing
from sidecar.settings.operation import Fleet
from sidecar.store.shared_budgets import SharedBudgets
from tests.fakes.servers import Server, programs

PODS, TENANTS, ACCOUNTS = 4, 10, 5
ROUNDS, TURNS = 101, 500
HELD, SPENT = (600_000, 600), (250_000, 250)  # nano-USD and tokens of a call
DAY_NS = 86_400_000_000_000


class Pod:
    def __init__(self, server: Server, name: str) -> None:
        self.ledger = Ledger()
        self.sharing = Sharing(Fleet(), self.ledger, time.monotonic_ns, time.time_ns)
        client = redis.Redis(port=server.port)
        self.place = SharedBudgets(client, address="redis", prefix="bench", pod=name, life=1, lease_ms=600_000, learn_ms=1)
        self.calls = self.waited = self.refused = 0

    async def call(self, accounts: tuple[tuple[str, Rule], ...], takes_s: float) -> None:
        """As `reserve` and `settle` do."""
        self.calls += 1
        began = self.sharing.waits
        for _ in range(3):
            held = self.reserve(accounts)
            if not isinstance(held, Denial):
                break
            if held.reason != "lease" or not await self.sharing.more(accounts, HELD):
                self.refused += 1
                return
        self.waited += self.sharing.waits > began
        if isinstance(held, Reservation):
            await asyncio.sleep(takes_s)
            self.ledger.post(held.id, *SPENT, time.time_ns())

    def reserve(self, accounts: tuple[tuple[str, Rule], ...]) -> Reservation | Denial:
        return self.ledger.reserve(self.sharing.leased(accounts), *HELD, 60_000_000_000, time.time_ns())


def budgets(tenant: int, limit_usd: float) -> tuple[tuple[str, Rule], ...]:
    start = time.time_ns() // DAY_NS * DAY_NS
    rule = Rule(limit_nano_usd=int(limit_usd * 1e9), limit_tokens=10**12, window=(start, start + DAY_NS))
    wide = Rule(limit_nano_usd=10**15, window=(start, start + DAY_NS))
    others = tuple((f"{scope}:day", wide) for scope in ("company", "service", "node", "plan"))
    return ((f"tenant:{tenant}:{limit_usd}:day", rule), *others)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[list[Pod]]:
    pods = [Pod(server, f"pod{n}") for n in range(PODS)]
    for pod in pods:
        await pod.sharing.begin(pod.place, 5)
    tasks = [asyncio.create_task(pod.sharing.run(pod.place)) for pod in pods]
    yield pods
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for pod in pods:
        await pod.place.close()


def decision_us(pod: Pod, accounts: tuple[tuple[str, Rule], ...], *, shared: bool) -> float:
    begun = time.perf_counter()
    for _ in range(TURNS):
        leased = pod.sharing.leased(accounts) if shared else accounts
        held = pod.ledger.reserve(leased, *HELD, 60_000_000_000, time.time_ns())
        assert isinstance(held, Reservation), held
        pod.ledger.void(held.id, time.time_ns())
    return (time.perf_counter() - begun) / TURNS * 1e6


async def pace(pods: list[Pod], limit_usd: float, calls: int, per_s: float) -> tuple[float, float, int]:
    """So many calls at this pace: shares of admitted calls that waited, and of all that were refused; and how many were admitted."""
    for pod in pods:
        pod.calls = pod.waited = pod.refused = 0
    accounts = [budgets(tenant, limit_usd) for tenant in range(TENANTS)]
    tasks, begun = set(), time.monotonic()
    for number in range(calls):
        task = asyncio.create_task(pods[number % PODS].call(accounts[number // PODS % TENANTS], 0.2))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        ahead = begun + number / per_s - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
    await asyncio.gather(*tasks)
    made, waited, refused = (sum(getattr(pod, name) for pod in pods) for name in ("calls", "waited", "refused"))
    admitted = made - refused
    return waited / max(1, admitted), refused / made, admitted


async def main() -> None:
    if not programs():
        print("shared budgets: neither Redis nor Valkey is here")
        return
    with Server(next(iter(programs().values()))) as server:
        async with running(server) as pods:
            accounts = budgets(0, 100_000)
            for pod in pods:
                await pod.call(accounts, 0)
            one, plain, added = pods[0], [], []
            for _ in range(ROUNDS):
                plain.append(decision_us(one, accounts, shared=False))
                added.append(decision_us(one, accounts, shared=True) - plain[-1])
            print(f"a decision on {ACCOUNTS} accounts, alone               {statistics.median(plain):8.2f} µs")
            print(f"with shared budgets, added                 {statistics.median(added):8.2f} µs (nothing is asked for)")
            for what, usd, calls, per_s in (
                ("far from the limit", 1_000, 8_000, 1_000),
                ("and then each tenant at each pod every 2 s", 1_000, 400, TENANTS * PODS / 2),
                ("to the limit's end (half of the calls fit)", 0.1, int(2 * 0.1e9 * TENANTS / SPENT[0]), 1_000),
            ):
                waited, refused, admitted = await pace(pods, usd, calls, per_s)
                print(f"{what}: {1 - waited:.2%} of {admitted} calls asked nobody, {refused:.1%} of {calls} were refused (aim: 99 %)")
        async with redis.Redis(port=server.port) as client:
            stats = (await client.info("commandstats"))["cmdstat_evalsha"]
            print(f"one word takes Redis                       {stats['usec_per_call']:8.1f} µs")


if __name__ == "__main__":
    asyncio.run(main())
