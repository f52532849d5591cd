"""What a call costs in the sidecar, beside the floor program and a direct call, in turns so that a slow moment meets them all."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from sidecar.v1 import llm_pb2 as pb
from tests.bench.load import LATE_MS, Job, Outcome
from tests.bench.processes import Floor, Load, Process, Sidecar
from tests.bench.table import Row, of, within

LIMITS = """
[limits]
tenant_day_usd = "1000000"
tenant_day_tokens = 1000000000000
"""
_PROMPT = "pace-%dms " + "Say what happened and why, in a few plain words. " * 6
_MOST_OUTPUT = 500
HTTP = "http"  # the compatible sidecar, asked through its HTTP door


class Sizes(Struct, frozen=True):
    """How much is measured: rounds, calls of each round, streams of each caller of a round, and the crowds of streams."""

    rounds: int
    unary: int
    streams: int
    latency_rounds: int
    latency_calls: int
    crowds: tuple[tuple[int, int, int], ...]  # streams at a time, pace in ms, streams in all


FULL = Sizes(rounds=9, unary=320, streams=2, latency_rounds=3, latency_calls=320, crowds=((64, 5, 256), (512, 50, 1024)))
QUICK = Sizes(rounds=3, unary=160, streams=1, latency_rounds=1, latency_calls=160, crowds=((64, 5, 64),))


class Bench:
    """The processes, and how each of the programs is asked the same question."""

    def __init__(self, load: Load, upstream: str, programs: Mapping[str, Floor | Sidecar]) -> None:
        self._load = load
        self._upstream = upstream
        self.programs = programs

    def run(self, name: str, *, stream: bool, pace_ms: int, callers: int, calls: int, ramp_s: float = 0.0) -> Outcome:
        """Make the calls and demand that each of them was answered."""
        outcome = self._load.run(self._job(name, stream, pace_ms, callers, calls, ramp_s))
        if outcome.failed:
            raise RuntimeError(f"{name}: calls failed: {outcome.failed}")
        return outcome

    def cpu_us(self, name: str, *, stream: bool, pace_ms: int, callers: int, calls: int, ramp_s: float = 0.0) -> tuple[float, Outcome]:
        """CPU of the program itself per call, all its threads."""
        program = self.programs["compatible" if name == HTTP else name]
        before = program.cpu_s()
        outcome = self.run(name, stream=stream, pace_ms=pace_ms, callers=callers, calls=calls, ramp_s=ramp_s)
        return (program.cpu_s() - before) / len(outcome.call_ms) * 1e6, outcome

    def _job(self, name: str, stream: bool, pace_ms: int, callers: int, calls: int, ramp_s: float) -> Job:
        prompt = _PROMPT % pace_ms
        if name in ("direct", "floor"):
            body = _chat_body(prompt, stream)
            if name == "direct":
                return Job("http", f"{self._upstream}/v1/chat/completions", "", body, stream, callers, calls, ramp_s)
            method = f"/floor.Floor/{'Stream' if stream else 'Unary'}"
        elif name == HTTP:
            asked = {"prompt": prompt, "model": "canned/canned", "max_output_tokens": _MOST_OUTPUT}
            path = "stream" if stream else "generate"
            sidecar = self.programs["compatible"]
            assert isinstance(sidecar, Sidecar)
            return Job("http", f"http://{sidecar.http}/v1/{path}", "", json.dumps(asked).encode(), stream, callers, calls, ramp_s)
        else:
            model = "openai/gpt-4o" if name == "openai" else "canned/canned"
            body = pb.GenerateRequest(prompt=prompt, model=model, max_output_tokens=_MOST_OUTPUT).SerializeToString()
            method = f"/sidecar.v1.LLMService/{'Stream' if stream else 'Generate'}"
        return Job("grpc", self.programs[name].target, method, body, stream, callers, calls, ramp_s)


def _chat_body(prompt: str, stream: bool) -> bytes:
    body: dict[str, object] = {"model": "canned", "messages": [{"role": "user", "content": prompt}], "max_tokens": _MOST_OUTPUT}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body, separators=(",", ":")).encode()


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Start the provider, the callers, the floor program and two sidecars, and warm them up."""
    with ExitStack() as stack:
        provider = stack.enter_context(Process("-m", "tests.bench.canned"))
        upstream = f"http://127.0.0.1:{provider.port()}"
        load = stack.enter_context(Load())
        programs: dict[str, Floor | Sidecar] = {
            "floor": stack.enter_context(Floor(upstream)),
            "compatible": stack.enter_context(Sidecar(folder, LIMITS + compatible(upstream))),
            "openai": stack.enter_context(Sidecar(folder, LIMITS + openai(upstream))),
        }
        started = Bench(load, upstream, programs)
        for name in ("direct", *programs):
            started.run(name, stream=False, pace_ms=0, callers=16, calls=200)
            started.run(name, stream=True, pace_ms=0, callers=8, calls=16)
        yield started


def compatible(upstream: str) -> str:
    return f'[providers.canned]\nkind = "compatible"\nbase_url = "{upstream}/v1"\n'


def openai(upstream: str) -> str:
    # The quota of the real account must not be what is measured.
    quota = '[models."gpt-4o"]\nrequests_per_minute = 10000000\ntokens_per_minute = 100000000\n'
    return f'{quota}[providers.openai]\napi_key = "sk-of-nobody"\nbase_url = "{upstream}/v1"\n'


def cpu_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    """CPU per call as a share of the floor program's: the median over the rounds of each round's ratio."""
    unary = _rounds(bench, sizes.rounds, stream=False, pace_ms=0, callers=16, calls=sizes.unary)
    yield from _ratio_rows(unary, "CPU per unary call", {"compatible": 1.5, "openai": 2.5})
    for callers in (8, 32):
        paced = _rounds(bench, sizes.rounds, stream=True, pace_ms=5, callers=callers, calls=callers * sizes.streams)
        what = f"CPU per stream of 100 pieces, one every 5 ms, {callers} at a time"
        yield from _ratio_rows(paced, what, {"compatible": 1.5, "openai": 1.5})
    burst = _rounds(bench, sizes.rounds, stream=True, pace_ms=0, callers=8, calls=32)
    yield from _ratio_rows(burst, "CPU per stream of 100 pieces that come at once", {"compatible": None, "openai": None})


def _rounds(bench: Bench, rounds: int, *, stream: bool, pace_ms: int, callers: int, calls: int) -> list[dict[str, float]]:
    found = []
    for number in range(rounds):
        names = list(bench.programs) if number % 2 else list(bench.programs)[::-1]
        found.append({n: bench.cpu_us(n, stream=stream, pace_ms=pace_ms, callers=callers, calls=calls)[0] for n in names})
    return found


def _ratio_rows(rounds: list[dict[str, float]], what: str, aims: Mapping[str, float | None]) -> Iterator[Row]:
    floor = statistics.median(r["floor"] for r in rounds)
    yield Row(f"{what}: floor", of(floor, "µs"))
    for name, aim in aims.items():
        ratio = statistics.median(r[name] / r["floor"] for r in rounds)
        cost = statistics.median(r[name] for r in rounds)
        reached = f"{ratio:.2f} x floor ({of(cost, 'µs')})"
        yield Row(f"{what}: {name}", reached, f"≤ {aim} x floor" if aim else "", within(ratio, aim))


def latency_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    """Time added to a direct call, which is made by aiohttp in the same process of callers; unary, and to the first piece of a stream."""
    names = ("direct", *bench.programs)
    for callers in (1, 16, 64):
        calls = max(callers * 5, sizes.latency_calls // (2 if callers == 1 else 1))
        found: dict[str, list[Outcome]] = {name: [] for name in names}
        for _ in range(sizes.latency_rounds):
            for name in names:
                found[name].append(bench.run(name, stream=False, pace_ms=0, callers=callers, calls=calls))
        middle = {name: [_median(o, 0.5) for o in outcomes] for name, outcomes in found.items()}
        high = {name: [_median(o, 0.99) for o in outcomes] for name, outcomes in found.items()}
        for name in bench.programs:
            added = statistics.median(middle[name]) - statistics.median(middle["direct"])
            worst = statistics.median(high[name]) - statistics.median(high["direct"])
            yield Row(
                f"Time added to a unary call, {callers} caller{'s' * (callers > 1)}: {name}", f"p50 {added:.2f} ms, p99 {worst:.2f} ms"
            )
        if callers == 64:
            for name in names:
                rate = statistics.median(len(o.call_ms) / o.wall_s for o in found[name])
                yield Row(f"Unary calls per second, 64 callers: {name}", f"{rate:.0f}")


def _median(outcome: Outcome, share: float) -> float:
    return percentile(outcome.call_ms, share)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def crowd_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    """Many streams at a time. They begin evenly over the time that one of them takes, as callers of a busy service do."""
    for callers, pace_ms, calls in sizes.crowds:
        what = f"{callers} streams of 100 pieces at {pace_ms} ms"
        ramp_s = pace_ms / 10
        direct = bench.run("direct", stream=True, pace_ms=pace_ms, callers=callers, calls=calls, ramp_s=ramp_s)
        costs: dict[str, float] = {}
        for name in ("floor", "compatible"):
            costs[name], outcome = bench.cpu_us(name, stream=True, pace_ms=pace_ms, callers=callers, calls=calls, ramp_s=ramp_s)
            yield from _crowd(f"{what}: {name}", outcome, direct, is_judged=name != "floor")
        ratio = costs["compatible"] / costs["floor"]
        aim = 1.0 if callers == 512 else 1.5
        yield Row(
            f"{what}: CPU per stream", f"{ratio:.2f} x floor ({of(costs['compatible'], 'µs')})", f"≤ {aim:g} x floor", within(ratio, aim)
        )


def _crowd(what: str, outcome: Outcome, direct: Outcome, *, is_judged: bool) -> Iterator[Row]:
    whole = len(outcome.call_ms) - outcome.incomplete
    is_whole = None if not is_judged else not outcome.incomplete and not outcome.late
    ages = f"pieces' age p50 {outcome.ages_ms[0]:.1f}, p99 {outcome.ages_ms[1]:.0f}, most {outcome.ages_ms[2]:.0f} ms"
    aim = f"all whole, no piece over {LATE_MS:g} ms old" if is_judged else ""
    yield Row(f"{what}: arrived", f"{whole} of {len(outcome.call_ms)} whole, {outcome.late} pieces late; {ages}", aim, is_whole)
    added: Callable[[float], float] = lambda share: percentile(outcome.first_ms, share) - percentile(direct.first_ms, share)  # noqa: E731
    first = f"p50 {added(0.5):.1f} ms, p99 {added(0.99):.0f} ms"
    aim = "p99 ≤ 100 ms" if is_judged else ""
    yield Row(f"{what}: added to the first token", first, aim, within(added(0.99), 100) if is_judged else None)
