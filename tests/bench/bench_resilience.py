"""What it costs to be ready for failures: `python -m tests.bench.bench_resilience`.

The same call is answered twice in one process, in turns, by a provider that answers at once: by the pipeline as it is, and by the pipeline
with a bare attempt stage in the place of the real one (ask the first candidate, fold, prove; no permit, no quota, no limits of time, no
table, no record but the one that settling needs). The difference is the machinery; its share is of the CPU that a whole unary call costs a
sidecar process, door and network included, which `make bench` measures.

Then the first candidate's breaker is held open: how long from the attempt stage's beginning until the second candidate is asked.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import date
from typing import Any

import sidecar.pipeline as pipeline
from sidecar.answer import Answer
from sidecar.assembly import make_engine
from sidecar.call import Call, Chunk, GenerateAsk, Tried, Usage
from sidecar.catalog import load as load_catalog
from sidecar.engine import Engine
from sidecar.observe import Log
from sidecar.request import Caller, GenerateRequest
from sidecar.settings import load
from sidecar.stages.attempt import attempt

ROUNDS, TURNS = 41, 400
WHOLE = Chunk(text="All is well. " * 20, finish="stop", raw_finish="stop", usage=Usage(20, 0, 0, 0, 60, 0), last=True)


class AtOnce:
    """A provider that answers at once."""

    features = frozenset({"generate", "system", "sampling", "stop"})

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked_at = 0.0

    async def generate(self, ask: GenerateAsk, emit: Any) -> None:
        self.asked_at = time.perf_counter()
        await emit((WHOLE,))


async def bare_attempt(engine: Engine, call: Call) -> None:
    candidate = call.candidates[0]
    call.begun, call.served, call.answer = time.monotonic(), candidate, Answer()
    answer = call.answer

    async def emit(chunks: Any) -> None:
        for chunk in chunks:
            answer.add(chunk)

    await candidate.provider.generate(
        GenerateAsk(candidate.model.name, call.messages, stream=False, max_output_tokens=candidate.max_output_tokens), emit
    )
    answer.prove(candidate.model.provider, may_be_empty=False)
    assert answer.usage is not None
    call.attempts.append(Tried(candidate, "ok", 0, answer.usage, False, candidate.model.prices.cost(answer.usage)))


def make_call() -> Call:
    now = time.monotonic()
    request = GenerateRequest(prompt="How are you?", caller=Caller(node="core.react_agent", tenant="acme"))
    return Call(id="c", operation="generate", request=request, metadata={}, arrived=now, deadline=now + 30)


def make() -> tuple[Engine, AtOnce, AtOnce]:
    settings = load(
        None,
        {
            "OPENAI_API_KEY": "k",
            "ANTHROPIC_API_KEY": "k",
            "SIDECAR_LIMITS__TENANT_DAY_USD": "900000000",
            "SIDECAR_LIMITS__TENANT_DAY_TOKENS": "900000000000",
        },
    )
    engine = make_engine(settings, load_catalog(settings, date(2026, 11, 21)), Log("error"))
    first, second = AtOnce("openai"), AtOnce("anthropic")
    engine.providers.update({"openai": first, "anthropic": second})  # type: ignore[dict-item]
    return engine, first, second


async def a_round(engine: Engine, stage: Any) -> float:
    """Microseconds of CPU per call."""
    pipeline.attempt = stage
    start = time.process_time()
    for _ in range(TURNS):
        await pipeline.run(engine, make_call())
    return (time.process_time() - start) / TURNS * 1e6


async def main() -> None:
    engine, first, second = make()
    real, bare = [], []
    for _ in range(ROUNDS):
        real.append(await a_round(engine, attempt))
        bare.append(await a_round(engine, bare_attempt))
    pipeline.attempt = attempt
    machinery = statistics.median(r - b for r, b in zip(real, bare, strict=True))
    print(f"pipeline, attempt as it is     {statistics.median(real):8.1f} µs CPU per call")
    print(f"pipeline, bare attempt         {statistics.median(bare):8.1f} µs CPU per call")
    print(f"resilience machinery           {machinery:8.1f} µs CPU per call (aim: at most 10 % of what a unary call costs a sidecar)")

    breaker = engine.breakers.of("core", "openai/gpt-4o")
    for _ in range(3):
        permit = breaker.permit(engine.clock_ns())
        assert isinstance(permit, int)
        breaker.failure(permit, engine.clock_ns())
    waits = []
    for _ in range(5_000):
        call = make_call()
        pipeline.plan(engine, call)
        begun = time.perf_counter()
        await attempt(engine, call)
        waits.append((second.asked_at - begun) * 1e6)
        assert first.asked_at < begun
    waits.sort()
    p50, p99 = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    print(f"open breaker to next attempt   p50 {p50:.0f} µs, p99 {p99:.0f} µs (aim: p99 below 1000 µs)")


if __name__ == "__main__":
    asyncio.run(main())
