"""What a call costs through the HTTP door beside the same call through gRPC's, in turns; and what connections cost that say nothing."""

from __future__ import annotations

import json
import socket
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.calls import HTTP, Bench, Sizes, percentile
from tests.bench.load import LATE_MS
from tests.bench.processes import Sidecar
from tests.bench.table import Row, of, within

_GRPC = "compatible"
_IDLE = 800  # connections: a process of the bench may have 1,024 files
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def http_rows(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    for name in (HTTP, _GRPC):
        bench.run(name, stream=False, pace_ms=0, callers=16, calls=200)
        bench.run(name, stream=True, pace_ms=0, callers=8, calls=16)
    yield from _cpu(bench, sizes)
    yield from _time(bench, sizes)
    yield from _readers(bench, sizes)
    yield from _idle()


def _cpu(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    kinds = (
        ("unary call", {"stream": False, "pace_ms": 0, "callers": 16, "calls": sizes.unary}),
        ("stream of 100 pieces, one every 5 ms, 8 at a time", {"stream": True, "pace_ms": 5, "callers": 8, "calls": 8 * sizes.streams}),
        ("stream of 100 pieces that come at once", {"stream": True, "pace_ms": 0, "callers": 8, "calls": 32}),
    )
    for what, how in kinds:
        ratios, costs = [], []
        for _ in range(sizes.rounds):
            grpc, http = (bench.cpu_us(name, **how)[0] for name in (_GRPC, HTTP))  # type: ignore[arg-type]
            ratios.append(http / grpc)
            costs.append(http)
        ratio = statistics.median(ratios)
        yield Row(
            f"HTTP door: CPU per {what}", f"{ratio:.2f} x gRPC ({of(statistics.median(costs), 'µs')})", "≤ 1 x gRPC", within(ratio, 1)
        )


def _time(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    for callers in (1, 16):
        calls = max(callers * 5, sizes.latency_calls // 2)
        found: dict[str, list[float]] = {"direct": [], _GRPC: [], HTTP: []}
        for _ in range(sizes.latency_rounds):
            for name, times in found.items():
                times += bench.run(name, stream=False, pace_ms=0, callers=callers, calls=calls).call_ms
        for name in (_GRPC, HTTP):
            middle, high = (percentile(found[name], share) - percentile(found["direct"], share) for share in (0.5, 0.99))
            door = "HTTP" if name == HTTP else "gRPC"
            who = f"{callers} caller{'s' * (callers > 1)}"
            yield Row(f"{door} door: time added to a unary call, {who}", f"p50 {middle:.2f} ms, p99 {high:.2f} ms")


def _readers(bench: Bench, sizes: Sizes) -> Iterator[Row]:
    for readers, pace_ms, calls in sizes.crowds:
        costs = {}
        for name in (_GRPC, HTTP):
            costs[name], outcome = bench.cpu_us(name, stream=True, pace_ms=pace_ms, callers=readers, calls=calls, ramp_s=pace_ms / 10)
        whole = len(outcome.call_ms) - outcome.incomplete
        ages = f"pieces' age p50 {outcome.ages_ms[0]:.1f}, p99 {outcome.ages_ms[1]:.0f}, most {outcome.ages_ms[2]:.0f} ms"
        what = f"HTTP door: {readers} readers of server-sent events at {pace_ms} ms"
        is_whole = not outcome.incomplete and not outcome.late
        yield Row(
            f"{what}: arrived",
            f"{whole} of {len(outcome.call_ms)} whole, {outcome.late} pieces late; {ages}",
            f"all whole, no piece over {LATE_MS:g} ms old",
            is_whole,
        )
        ratio = costs[HTTP] / costs[_GRPC]
        yield Row(f"{what}: CPU per stream", f"{ratio:.2f} x gRPC ({of(costs[HTTP], 'µs')})", "≤ 1 x gRPC", within(ratio, 1))


def _idle() -> Iterator[Row]:
    """Of a fresh process, in which nothing that was freed lies ready."""
    body = json.dumps({"generate": {"prompt": "hi", "model": "echo/echo"}}).encode()
    head = "POST /v1/count_tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    request = f"{head}{len(body)}\r\n\r\n".encode() + body
    for door, said in (("HTTP", request), ("gRPC", _PREFACE)):
        with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder, Sidecar(Path(folder), "") as sidecar:
            host, _, port = (sidecar.http if door == "HTTP" else sidecar.target).rpartition(":")
            connections = []
            for number in range(_IDLE + 1):
                if number == 1:  # the first has brought in what all share
                    before = sidecar.memory_mib()
                connection = socket.create_connection((host, int(port)), 5)
                connections.append(connection)
                connection.sendall(said)
                connection.recv(65536)
            each = (sidecar.memory_mib() - before) * 1024 / _IDLE
            for connection in connections:
                connection.close()
        yield Row(f"{door} door: memory per idle connection, of {_IDLE}", of(each, "KiB"))
