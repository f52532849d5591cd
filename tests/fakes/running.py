"""Starts the real sidecar as a process of its own, and talks to it through its sockets only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from sidecar.v1 import llm_pb2_grpc, ops_pb2, ops_pb2_grpc

ROOT = Path(__file__).parents[2]
# A test takes models of its own, so that no other test's breaker or script is in its way.
MODELS = {"openai": 160, "anthropic": 120, "google": 80, "ollama": 80, "compatible": 320}
CAPABILITIES = (
    "generate", "embed", "system", "image", "image_url", "tools", "tool_choice", "strict_tools", "json_object", "json_schema",
    "strict_schema", "stop", "seed", "sampling", "dimensions",
)  # fmt: skip


# Below 32768, where those begin that outgoing connections are given; another run of the tests may be under way.
_PORTS = (20_000 + number % 12_000 for number in count(random.SystemRandom().randrange(12_000)))


def free_port() -> int:
    """A port that nobody listens on, each time another one."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def model_row(table: str, provider: str, **facts: Any) -> str:
    """A model with round prices: what a call costs can be worked out in the head."""
    row: dict[str, Any] = {
        "provider": provider,
        "context_tokens": 100_000,
        "max_output_tokens": 8_192,
        "capabilities": list(CAPABILITIES),
        "input": "1.00",
        "cached_input": "0.25",
        "cache_write_5m": "1.25",
        "output": "4.00",
        "reasoning": "5.00",
    }
    row |= facts
    lines = [f"{key} = {_toml(value)}" for key, value in row.items() if value is not None]
    return "\n".join([f'[models."{table}"]', *lines, "as_of = 2026-01-02", ""])


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def provider_tables(url: str, *names: str) -> str:
    """Settings of providers that are all played by the fake at `url`."""
    tables = {
        "openai": f'[providers.openai]\napi_key = "sk-test-openai-000000"\nbase_url = "{url}/v1"\n',
        "anthropic": f'[providers.anthropic]\napi_key = "sk-ant-test-000000"\nbase_url = "{url}"\n',
        "google": f'[providers.google]\napi_key = "AIzaTest000000000"\nbase_url = "{url}"\n',
        "ollama": f'[providers.ollama]\nbase_url = "{url}"\n',
        "compatible": f'[providers.compatible]\nbase_url = "{url}/compatible/v1"\n',
    }
    return "".join(tables[name] for name in names)


class Sidecar:
    """A running sidecar: its channel, its stubs, its ports. Everything it writes to standard error is in `log`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, ops_port: int, log: Path, http_port: int = 0) -> None:
        self.process = process
        self.http_url = f"http://127.0.0.1:{http_port}"
        self.target = f"127.0.0.1:{port}"
        self.ops_url = f"http://127.0.0.1:{ops_port}"
        self._log = log
        self.channel = grpc.aio.insecure_channel(
            self.target,
            # Channels to one address share connections unless told otherwise; and a test's refused call must not slow the next.
            # And who knocks before it listens is to knock again soon, not after the second and more that gRPC waits by itself.
            options=(
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 50),
            ),
        )
        self.llm = llm_pb2_grpc.LLMServiceStub(self.channel)
        self.ops = ops_pb2_grpc.OpsServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def logged(self, *words: str, within_s: float = 10) -> str:
        """The first line of the log that has all of these words; lines are written a moment later. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while True:
                for line in self.log.splitlines():
                    if all(word in line for word in words):
                        return line
                await asyncio.sleep(0.02)

    async def serving(self, service: str = "") -> bool:
        """What health says; False also while nobody listens."""
        try:
            reply = await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=2)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_serving(self, within_s: float = 30) -> Self:
        async with asyncio.timeout(within_s):
            while not await self.serving():
                if self.process.returncode is not None:
                    raise AssertionError(f"the sidecar ended with status {self.process.returncode} before it served:\n{self.log}")
                await asyncio.sleep(0.05)
        return self

    async def until_idle(self, within_s: float = 2) -> None:
        """Wait until no call is in flight. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while (await self.ops.GetStatus(ops_pb2.GetStatusRequest())).calls_in_flight:  # noqa: ASYNC110  (another process's)
                await asyncio.sleep(0.02)

    async def metrics(self) -> Callable[..., float]:
        """What /metrics says now: `read(name, **labels)` is the sum of the metric's samples that have these labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.ops_url}/metrics") as reply:
            lines = (await reply.text()).splitlines(keepends=True)

        def read(name: str, **labels: str) -> float:
            # Parsing is slow and the page is long: only the metric's own lines are parsed.
            own = "".join(line for line in lines if line.startswith((name + "{", name + " ")))
            samples = [sample for family in text_string_to_metric_families(own) for sample in family.samples]
            return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

        return read

    async def stop(self, within_s: float = 10) -> int:
        """End it as Kubernetes would, by force if need be. Returns its exit status."""
        await self.channel.close()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.process.wait(), within_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                self.process.kill()
            return await self.process.wait()


async def spawn(settings: Path, stderr: Path, environ: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """`sidecar serve` with nothing of the tester's own keys in its environment. Where settings say nothing of HTTP it takes a free port."""
    if not settings.is_file() or b"[http]" not in settings.read_bytes():  # noqa: ASYNC240  (a small file)
        environ = {"SIDECAR_HTTP__LISTEN": "127.0.0.1:0"} | (environ or {})
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "PYTHONPATH")}
    with stderr.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar", "serve", "--settings", str(settings), cwd=ROOT, env=clean | (environ or {}), stderr=log
        )


async def start(folder: Path, tables: str, server: str = "", environ: dict[str, str] | None = None, http: str = "") -> Sidecar:
    """Start a sidecar on free ports with these settings; `server` and `http` are lines of these tables. It may not be serving yet."""
    port, http_port, ops_port = free_port(), free_port(), free_port()
    settings = folder / f"settings-{port}.toml"
    doors = f'[server]\nlisten = "127.0.0.1:{port}"\nops_listen = "127.0.0.1:{ops_port}"\n{server}\n'
    doors += f'[http]\nlisten = "127.0.0.1:{http_port}"\n{http}\n'
    settings.write_text(doors + tables)
    log = folder / f"log-{port}.jsonl"
    return Sidecar(await spawn(settings, log, environ), port, ops_port, log, http_port)


@contextlib.asynccontextmanager
async def serving(
    folder: Path, tables: str, server: str = "", environ: dict[str, str] | None = None, http: str = ""
) -> AsyncIterator[Sidecar]:
    """A sidecar as `start` starts it, which serves until the block ends."""
    running = await start(folder, tables, server, environ, http)
    try:
        yield await running.until_serving()
    finally:
        await running.stop()
