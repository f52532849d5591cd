"""What a row of the usage log costs: `python -m tests.bench.bench_usage`.

The same call is answered in one process, in turns, by two engines that differ only in the log: one keeps none, one writes to a file in a
folder of its own. CPU is the whole process's, all threads, until every row is in the file. Then how long reports over 100,000 rows take.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from datetime import UTC, date, timedelta
from functools import partial
from pathlib import Path

import sidecar.pipeline as pipeline
from sidecar.days import Days
from sidecar.engine import Engine
from sidecar.store import usage_reports as reports
from sidecar.store.usage_file import UsageFile, ask
from sidecar.upkeep.usage import keep_usage
from tests.bench.bench_resilience import make, make_call
from tests.unit.store.usage_parts import a_row

ROUNDS, TURNS, ROWS = 15, 2_000, 100_000


async def a_round(engine: Engine) -> tuple[float, float]:
    """Microseconds of CPU per call: of the calls' own path, and with the writing of the rows."""
    own, begun = time.thread_time(), time.process_time()
    for number in range(TURNS):
        call = make_call()
        call.id = f"{time.time_ns():x}-{number}"
        await pipeline.run(engine, call)
    path = time.thread_time() - own
    while engine.usage.waiting:  # noqa: ASYNC110  (a thread's)
        await asyncio.sleep(0.05)
    return path / TURNS * 1e6, (time.process_time() - begun) / TURNS * 1e6


async def main() -> None:
    without, kept = make()[0], make()[0]
    with tempfile.TemporaryDirectory() as folder:
        keep_usage(kept, Path(folder))
        paths, wholes = [], []
        for _ in range(ROUNDS):
            (path, whole), (bare_path, bare) = await a_round(kept), await a_round(without)
            paths.append(path - bare_path)
            wholes.append(whole - bare)
        kept.usage.close()
    print(f"usage log, on the call's path         {statistics.median(paths):8.1f} µs CPU per call")
    print(f"usage log, all threads, row in file   {statistics.median(wholes):8.1f} µs CPU per call (aim: below 100)")
    with tempfile.TemporaryDirectory() as folder:
        file = UsageFile(Path(folder))
        for begin in range(0, ROWS, 500):
            file.add([a_row(n, service=f"s{n % 20}", tenant=f"t{n % 500}", user_id=f"u{n % 5_000}") for n in range(begin, begin + 500)])
        day = date(2026, 11, 21)
        for by in (("service", "node"), ("tenant", "model"), ("user",)):
            begun = time.perf_counter()
            groups, _ = reports.report(partial(ask, file.path), Days(UTC), day, day + timedelta(1), by, {}, 10_000)
            took_ms = (time.perf_counter() - begun) * 1000
            print(f"report over {ROWS:,} rows by {'+'.join(by):15} {took_ms:8.1f} ms, {len(groups)} groups")
        file.close()


if __name__ == "__main__":
    asyncio.run(main())
