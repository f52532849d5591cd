"""What the cache costs: `python -m tests.bench.bench_cache`.

End to end: a sidecar process that answers the same question from memory, beside the floor program whose RPC does nothing at all; CPU of
the whole process per call, in turns. Then in this process: key and look-up, keeping an answer, a similar question among 10,000 of its
partition, and what entries take in memory.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

import sidecar.pipeline as pipeline
from sidecar._core import PromptIndex
from sidecar.call import Call
from sidecar.policies.cache_keys import key_of
from sidecar.policies.cache_rules import rule_of
from sidecar.request import Caller, GenerateRequest
from sidecar.settings.caching import CacheSettings
from sidecar.store.answers import Answers
from sidecar.store.cache_entry import packed, unpacked
from sidecar.v1 import llm_pb2 as pb
from tests.bench.bench_resilience import make
from tests.bench.calls import LIMITS, compatible
from tests.bench.load import Job
from tests.bench.processes import Floor, Load, Process, Sidecar
from tests.unit.store.cache_parts import FakeWall, an_entry

ROUNDS, CALLS, CALLERS = 9, 2_000, 16
SECTION = "Our office is open from nine to five, and the team answers within a day. "
WORDS = ["order", "ship", "refund", "account", "transfer", "invoice", "date", "meeting", "room", "doctor", "visit", "book", "cancel"]
WORDS += ["change", "address", "phone", "enable", "disable", "login", "password", "reset", "report", "sales", "quarter", "product"]


def end_to_end(folder: Path) -> None:
    """CPU of a whole process per call: the floor program's empty RPC, an answer from memory, the same as a stream."""
    with ExitStack() as stack:
        provider = stack.enter_context(Process("-m", "tests.bench.canned"))
        upstream = f"http://127.0.0.1:{provider.port()}"
        load = stack.enter_context(Load())
        floor = stack.enter_context(Floor(upstream))
        sidecar = stack.enter_context(Sidecar(folder, LIMITS + compatible(upstream)))
        asked = pb.GenerateRequest(prompt="pace-0 " + SECTION * 4, model="canned/canned", max_output_tokens=500)
        asked.cache.mode = pb.CachePolicy.MODE_DEFAULT
        body = asked.SerializeToString()
        jobs: dict[str, tuple[Floor | Sidecar, Job]] = {
            "empty": (floor, Job("grpc", floor.target, "/floor.Floor/Empty", body, False, CALLERS, CALLS)),
            "hit": (sidecar, Job("grpc", sidecar.target, "/sidecar.v1.LLMService/Generate", body, False, CALLERS, CALLS)),
        }
        found: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(ROUNDS + 1):
            for name, (program, job) in jobs.items():
                before = program.cpu_s()
                outcome = load.run(job)
                assert not outcome.failed, outcome.failed
                if number:  # the first round warms up
                    found[name].append((program.cpu_s() - before) / CALLS * 1e6)
    ratio = statistics.median(hit / empty for hit, empty in zip(found["hit"], found["empty"], strict=True))
    print(f"floor program, empty RPC           {statistics.median(found['empty']):8.1f} µs CPU")
    print(f"exact hit, end to end              {statistics.median(found['hit']):8.1f} µs CPU, {ratio:.2f} x the empty RPC (aim: 1.2)")


def each_us(work: Callable[[], object], times: int = 5_000) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begun) / times * 1e6


def parts() -> None:
    """The steps of an answer from memory."""
    engine, _, _ = make()
    now = time.monotonic()
    request = GenerateRequest(prompt=SECTION * 4, caller=Caller(node="core.react_agent", tenant="acme"), cache_mode="default")
    call = Call(id="c", operation="generate", request=request, metadata={}, arrived=now, deadline=now + 3_000)
    pipeline.plan(engine, call)
    settings, answers = engine.settings.cache, engine.answers
    key = key_of(call, "tenant", "")
    assert key is not None
    entry = an_entry(1, text=SECTION * 12)
    answers.keep(entry, 0)
    data = packed(entry)
    print(f"rule of a call                     {each_us(lambda: rule_of(call, settings)):8.1f} µs")
    print(f"key of a call                      {each_us(lambda: key_of(call, 'tenant', '')):8.1f} µs")
    print(f"look-up in memory                  {each_us(lambda: answers._memory.get(entry.digest)):8.1f} µs (aim: 5)")
    print(
        f"look-up, unpacked                  {each_us(lambda: answers.find(entry.digest, 1, 1 << 62)):8.1f} µs, {len(entry.text)} letters"
    )
    print(f"unpacking alone                    {each_us(lambda: unpacked(data)):8.1f} µs, {len(data)} bytes")
    print(f"packing and keeping                {each_us(lambda: answers.keep(entry, 0)):8.1f} µs")


def similar(many: int = 10_000) -> None:
    """The lexical tier, in a partition of so many questions."""
    dice = random.Random(1)
    questions = [f"How do I {' '.join(dice.choices(WORDS, k=8))} number {dice.randrange(1000)}?" for _ in range(many)]
    process = psutil.Process()
    before = process.memory_info().rss
    index = PromptIndex(many)
    for number, question in enumerate(questions):
        index.add("p" * 64, number, question)
    taken = (process.memory_info().rss - before) / many
    asked = [f"How can I {' '.join(dice.choices(WORDS, k=8))} number {dice.randrange(1000)}?" for _ in range(500)]
    spent = []
    for question in asked:
        begun = time.process_time()
        index.candidates("p" * 64, question, 32)
        spent.append((time.process_time() - begun) * 1e6)
    middle, late = statistics.median(spent), sorted(spent)[int(len(spent) * 0.99)]
    print(f"similar question among {many:,}      {middle:8.1f} µs CPU, p99 {late:.0f} (aim: 500); {taken:.0f} bytes an entry")


def memory(many: int = 5_000) -> None:
    """What an entry takes beside its answer's own packed bytes."""
    answers = Answers(CacheSettings(max_bytes=1_000_000_000), FakeWall())
    entries = [an_entry(number) for number in range(many)]
    for entry in entries[:100]:
        answers.keep(entry, 0)
    tracemalloc.start()
    for entry in entries[100:]:
        answers.keep(entry, 0)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own = taken / (many - 100) - len(packed(entries[0]))
    print(f"memory of an entry                 {own:8.0f} bytes beside its answer (aim: 1,024)")


async def flights() -> None:
    """A hundred identical calls at once."""
    engine, first, _ = make()
    spent = []
    for number in range(50):
        now = time.monotonic()
        request = GenerateRequest(prompt=f"{number}", caller=Caller(node="core.react_agent", tenant="acme"), cache_mode="default")
        calls = [Call(id="c", operation="generate", request=request, metadata={}, arrived=now, deadline=now + 30) for _ in range(100)]
        begun = time.process_time()
        await asyncio.gather(*(pipeline.run(engine, call) for call in calls))
        spent.append((time.process_time() - begun) / 100 * 1e6)
    print(f"one of 100 identical calls at once {statistics.median(spent):8.1f} µs CPU in the pipeline")
    assert first.asked_at


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        end_to_end(Path(place))
    parts()
    asyncio.run(flights())
    similar()
    memory()
