"""Callers in a process of their own: `python -m tests.bench.load` reads jobs from standard input and writes what came of each.

A job is one line of JSON: so many callers, each making its next call when the last one has ended, until so many calls are made.
`grpc` calls a method with bytes and gets bytes, so that the callers' own cost is small and alike for every program measured; `http`
posts the same question to the provider itself, which is the direct call that the others are compared with.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import grpc
import msgspec
import uvloop

from tests.bench.canned import PIECES, STAMP

LATE_MS = 150.0  # a piece is late when it reaches the caller this long after the provider wrote it


class Job(msgspec.Struct):
    """`target` is host:port for `grpc`, an address for `http`; `ramp_s` is the time over which the callers begin."""

    kind: str
    target: str
    method: str
    body: bytes
    stream: bool = False
    callers: int = 1
    calls: int = 1
    ramp_s: float = 0.0


class Outcome(msgspec.Struct):
    """`ages_ms` are the pieces' ages on arrival at the 50th, 99th and 100th percentile; `first_ms` and `call_ms` one figure a call."""

    call_ms: list[float] = []
    first_ms: list[float] = []
    ages_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    late: int = 0
    messages: int = 0
    incomplete: int = 0
    failed: dict[str, int] = {}
    wall_s: float = 0.0


Ask = Callable[[], Awaitable[bytes]]
Read = Callable[[], AsyncIterator[bytes]]


class Callers:
    """The doors to what is called: one channel or session per target, kept between jobs."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers={"Content-Type": "application/json"})

    def ask(self, job: Job) -> Ask:
        if job.kind == "http":
            return lambda: self._post(job)
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel(job.target).unary_unary(job.method)
        return lambda: call(job.body, timeout=60)

    def read(self, job: Job) -> Read:
        if job.kind == "http":
            return lambda: self._stream(job)
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel(job.target).unary_stream(job.method)
        return lambda: call(job.body, timeout=60).__aiter__()

    def _channel(self, target: str) -> grpc.aio.Channel:
        if target not in self._channels:
            self._channels[target] = grpc.aio.insecure_channel(target)
        return self._channels[target]

    async def _post(self, job: Job) -> bytes:
        async with self._session.post(job.target, data=job.body, raise_for_status=True) as response:
            return await response.read()

    async def _stream(self, job: Job) -> AsyncIterator[bytes]:
        async with self._session.post(job.target, data=job.body, raise_for_status=True) as response:
            rest = b""
            async for data in response.content.iter_any():
                whole, line, rest = (rest + data).rpartition(b"\n")  # a read may end inside of a piece
                yield whole + line

    async def close(self) -> None:
        await self._session.close()
        for channel in self._channels.values():
            await channel.close()


async def perform(callers: Callers, job: Job) -> Outcome:
    """Make the calls of one job."""
    outcome = Outcome(call_ms=[], first_ms=[], failed={})
    ages: list[float] = []
    left = job.calls
    ask = None if job.stream else callers.ask(job)
    read = callers.read(job) if job.stream else None

    async def caller(number: int) -> None:
        nonlocal left
        await asyncio.sleep(job.ramp_s * number / job.callers)
        while left > 0:
            left -= 1
            begun = time.monotonic()
            try:
                if ask is not None:
                    await ask()
                elif read is not None:
                    await _drink(read, begun, outcome, ages)
            except (grpc.RpcError, aiohttp.ClientError) as error:
                code = str(error.code()) if isinstance(error, grpc.RpcError) else type(error).__name__
                outcome.failed[code] = outcome.failed.get(code, 0) + 1
            outcome.call_ms.append((time.monotonic() - begun) * 1000)

    begun = time.monotonic()
    await asyncio.gather(*(caller(number) for number in range(job.callers)))
    outcome.wall_s = time.monotonic() - begun
    if ages:
        ages.sort()
        outcome.ages_ms = (ages[len(ages) // 2], ages[int(len(ages) * 0.99)], ages[-1])
        outcome.late = sum(age > LATE_MS for age in ages)
    return outcome


async def _drink(read: Read, begun: float, outcome: Outcome, ages: list[float]) -> None:
    """One stream: the age of each piece, the first one's moment, and whether all of them came."""
    pieces = 0
    async for data in read():
        stamps = STAMP.findall(data)
        outcome.messages += 1
        if stamps:
            now = time.monotonic()
            if not pieces:
                outcome.first_ms.append((now - begun) * 1000)
            pieces += len(stamps)
            ages.extend(now * 1000 - int(stamp) / 1000 for stamp in stamps)
    if pieces != PIECES:
        outcome.incomplete += 1


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    callers = Callers()
    print("serving", 0, flush=True)
    while line := await reader.readline():
        outcome = await perform(callers, msgspec.json.decode(line, type=Job))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()
    await callers.close()


if __name__ == "__main__":
    uvloop.run(main())
