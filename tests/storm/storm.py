"""Real sidecars that share one dollar through a real Redis, many callers, and kills of both at random; then every book is compared.

What was posted is read from the pods' journals, what was told from Redis, what was reported from the usage logs, what was answered from the
callers. A pod that is killed takes its calls in flight with it: nobody knows what they cost, so nobody posts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import redis.asyncio as redis

from sidecar._core import check_journal
from sidecar.v1 import llm_pb2 as pb
from tests.fakes.running import Sidecar, free_port, model_row, provider_tables, spawn
from tests.fakes.script import Say, Tokens
from tests.fakes.servers import Server
from tests.fakes.upstream import Upstream
from tests.leases.meeting import numbers_of

BUDGET_NANO_USD = 1_000_000_000
MOST_TOKENS = 60
KINDS = {
    f"storm-{n}": Say(tokens=Tokens(11, output=tokens), first_delay_ms=ms) for n, (tokens, ms) in enumerate(((1, 5), (25, 40), (58, 300)))
}


@dataclass
class Books:
    """All in nano-USD."""

    posted: int = 0
    told: int = 0
    reported: int = 0
    answered: int = 0
    left: int = 0  # set aside in Redis beyond what was spent, when all had ended
    calls: Counter[str] = field(default_factory=Counter)
    pods_killed: int = 0
    redis_killed: int = 0
    asked: int = 0  # calls that the provider answered
    posts: int = 0
    rows: int = 0
    waits: float = 0
    seconds: float = 0

    def lines(self) -> list[str]:
        def usd(nano: int) -> str:
            return f"{nano / 1e9:.9f} USD"

        return [
            f"{sum(self.calls.values())} calls in {self.seconds:.0f} s: " + ", ".join(f"{n} {how}" for how, n in self.calls.most_common()),
            f"killed: pods {self.pods_killed} times, Redis {self.redis_killed} times",
            f"budget    {usd(BUDGET_NANO_USD)}",
            f"posted    {usd(self.posted)}  in {self.posts} posts of {self.asked} calls that the provider answered (journals)",
            f"told      {usd(self.told)}  (Redis), and {usd(self.left)} still set aside",
            f"reported  {usd(self.reported)}  in {self.rows} rows (usage logs)",
            f"answered  {usd(self.answered)}  (what callers were told that their calls cost)",
        ]


class Pod:
    """One place for a sidecar, which is killed and started again there, with the same folder and port."""

    def __init__(self, folder: Path, name: str, tables: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self._port, self._ops = free_port(), free_port()
        self._settings = folder / f"{name}.toml"
        self._log = folder / f"{name}.jsonl"
        self._lives = 0
        self._channels: list[grpc.aio.Channel] = []
        self._settings.write_text(
            f'[server]\nlisten = "127.0.0.1:{self._port}"\nops_listen = "127.0.0.1:{self._ops}"\ndata_dir = "{self.folder}"\n'
            "grace_ms = 5000\n"
            f'[http]\nlisten = ""\n{tables}'
        )
        self.running: Sidecar | None = None

    async def start(self) -> None:
        self._lives += 1
        log = self._log.with_suffix(f".{self._lives}.jsonl")
        self.running = Sidecar(await spawn(self._settings, log), self._port, self._ops, log)
        await self.running.until_serving(60)

    async def kill(self) -> None:
        assert self.running is not None
        self.running.process.kill()
        await self.running.process.wait()
        self._channels.append(self.running.channel)  # calls on it end by themselves

    async def end(self) -> int:
        assert self.running is not None
        status = await self.running.stop(30)
        for channel in self._channels:
            await channel.close()
        return status

    def rows(self) -> dict[str, int]:
        """Cost of every call in the usage log."""
        with contextlib.closing(sqlite3.connect(self.folder / "usage.db")) as file:
            return dict(file.execute("SELECT id, cost_nano_usd FROM llm_calls"))


class Storm:
    def __init__(self, folder: Path, program: str, *, seed: int, pods: int = 4, callers: int = 200) -> None:
        self._random = random.Random(seed)
        self._upstream = Upstream()
        self._server = Server(program)
        self._callers = callers
        self._folder = folder
        self._count = pods
        self.pods: list[Pod] = []
        self._over = asyncio.Event()
        self.books = Books()
        self.answers: dict[str, int] = {}

    async def blow(self, seconds: float, pause_s: float) -> Books:
        """Call and kill for so long, with about so much time between kills; then let all end, and compare."""
        began = time.monotonic()
        async with self._upstream:
            for name, say in KINDS.items():
                self._upstream.on(name, say)
            self._server.start()
            try:
                tables = self._tables(usd_per_million=300 / seconds)  # so that the dollar lasts for most of the storm
                self.pods = [Pod(self._folder, f"pod{n}", tables) for n in range(self._count)]
                await asyncio.gather(*(pod.start() for pod in self.pods))
                callers = [asyncio.create_task(self._call(random.Random(n))) for n in range(self._callers)]
                await self._kill(time.monotonic() + seconds, pause_s)
                self._over.set()
                await asyncio.gather(*callers)
                await self._until_told()
                for pod in self.pods:
                    assert pod.running is not None
                    self.books.waits += (await pod.running.metrics())("llm_shared_budget_waits")
                    assert (status := await pod.end()) == 0, (status, pod.running.log[-2000:])
                await self._compare()
            finally:
                for pod in self.pods:
                    if pod.running is not None and pod.running.process.returncode is None:
                        await pod.kill()
                self._server.__exit__()
        self.books.seconds = time.monotonic() - began
        return self.books

    def _tables(self, usd_per_million: float) -> str:
        models = "".join(model_row(name, "compatible", output=f"{usd_per_million:.2f}") for name in KINDS)
        limits = f'[limits]\ntenant_day_usd = "{BUDGET_NANO_USD // 10**9}"\ntenant_day_tokens = 1_000_000_000\ntime_zone = "{_zone()}"\n'
        shared = f'[redis]\nurl = "{self._server.url}"\n[fleet]\nlease_ms = 60_000\nwait_ms = 200\n'
        quiet = '[logging]\nlevel = "error"\n[retries]\nunavailable = {retries = 0}\n'
        primary = '[profile]\nprimary = "compatible/storm-0"\nfallbacks = []\nembedding = "compatible/storm-0"\nembedding_fallbacks = []\n'
        return primary + limits + shared + quiet + provider_tables(self._upstream.url, "compatible") + models

    async def _call(self, own: random.Random) -> None:
        while not self._over.is_set():
            pod = own.choice(self.pods).running
            assert pod is not None
            request = pb.GenerateRequest(
                prompt="hi",
                model=f"compatible/{own.choice(list(KINDS))}",
                max_output_tokens=MOST_TOKENS,
                caller=pb.Caller(service="storm", node="calls", tenant="storm"),
            )
            try:
                if own.random() < 0.5:
                    answer = await pod.llm.Generate(request, timeout=5)
                    self.answers[answer.id] = answer.cost.nano_usd
                else:
                    async for event in pod.llm.Stream(request, timeout=5):
                        if event.HasField("end"):
                            self.answers[event.end.id] = event.end.cost.nano_usd
                self.books.calls["answered"] += 1
            except grpc.aio.AioRpcError as error:
                self.books.calls[error.code().name.lower()] += 1
                await asyncio.sleep(own.uniform(0.1, 0.5))

    async def _kill(self, until: float, pause_s: float) -> None:
        """One thing after the other, so that what was lost is known: a pod, or Redis with all it knows, or both at once."""
        while time.monotonic() < until:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * pause_s)
            what = self._random.choice(("pod", "pod", "redis", "both"))
            pod = self._random.choice(self.pods)
            if what != "pod":
                self.books.redis_killed += 1
                self._server.kill()
            if what != "redis":
                self.books.pods_killed += 1
                await pod.kill()
            await asyncio.sleep(self._random.uniform(0, 0.5))
            if what != "pod":
                await asyncio.to_thread(self._server.start)
            if what != "redis":
                await pod.start()

    async def _until_told(self) -> None:
        async with asyncio.timeout(60):
            for pod in self.pods:
                assert pod.running is not None
                while (await pod.running.metrics())("llm_shared_budgets_up") != 1:  # noqa: ASYNC110  (another process's)
                    await asyncio.sleep(0.1)

    async def _compare(self) -> None:
        books = self.books
        reported: dict[str, int] = {}
        for pod in self.pods:
            report = check_journal(pod.folder / "journal")
            assert not report.damage, report.damage
            books.posted += report.posted_nano_usd
            books.posts += report.posts
            reported |= pod.rows()
        books.reported = sum(reported.values())
        books.rows = sum(cost > 0 for cost in reported.values())
        books.answered = sum(self.answers.values())
        books.asked = sum(len(self._upstream.asked(name)) for name in KINDS)
        async with redis.Redis(port=self._server.port) as client:
            async for key in client.scan_iter("{sidecar}:budgets:*tenant:storm:day"):
                for entry in (await client.hgetall(key)).values():
                    _, _, lease, used, held, *_ = numbers_of(entry)
                    books.told += used
                    books.left += max(lease, held) - used


def _zone() -> str:
    """A time zone in which it is about noon: the day must not end meanwhile."""
    hour = time.gmtime().tm_hour
    east = 12 - hour
    return f"Etc/GMT{-east:+d}" if east else "UTC"
