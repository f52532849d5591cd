"""The composition root: settings become an engine, the engine gets its doors, and the process its life and death."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import grpc
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from sidecar import VERSION
from sidecar._core import Ledger
from sidecar.call import Call, Caller, Chunk, GenerateAsk, GenerateRequest, Message, Text
from sidecar.catalog import Catalog
from sidecar.catalog import load as load_catalog
from sidecar.counting import count_text
from sidecar.edge.calls import Calls
from sidecar.edge.ops import OpsService
from sidecar.edge.probes import application
from sidecar.edge.rpc import LLMService
from sidecar.engine import Engine
from sidecar.errors import SettingsError, SidecarError
from sidecar.observe import Log, Meter, Metrics
from sidecar.pipeline import run
from sidecar.policies.breakers import Breakers
from sidecar.policies.budgets import Budgets
from sidecar.policies.models import Preferences
from sidecar.policies.quotas import Quotas
from sidecar.providers import Provider
from sidecar.settings import ProviderSettings, Settings
from sidecar.store.answers import Answers
from sidecar.v1 import llm_pb2, llm_pb2_grpc, ops_pb2, ops_pb2_grpc

_HOUSEKEEPING_S = 30.0
_LAST_WORDS_S = 2.0  # for calls that were ended at the end of the grace period to tell their callers

SERVICES = ("", llm_pb2.DESCRIPTOR.services_by_name["LLMService"].full_name, ops_pb2.DESCRIPTOR.services_by_name["OpsService"].full_name)


class StartError(Exception):
    """The process cannot start for a reason outside of its settings: a port is taken, a folder cannot be written. One line."""


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 0 after a clean end, 1 if it could not start.

    Raises SettingsError where settings contradict what is known about models and nodes.
    """
    try:
        with _runner() as runner:
            return runner.run(_serve(settings))
    except StartError as error:
        print(f"sidecar: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:  # not built for every platform
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _serve(settings: Settings) -> int:
    log = Log(settings.logging.level)
    catalog = load_catalog(settings, datetime.now(UTC).date())
    _require_data_dir(settings)
    server = _server(settings)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await _tell(health, health_pb2.HealthCheckResponse.NOT_SERVING)
    providers = await connect_all(settings, catalog, log)
    engine = make_engine(settings, catalog, providers, log)
    calls = Calls(engine.meter.metrics.in_flight)
    loop = asyncio.get_running_loop()
    serving = asyncio.Event()

    def drain() -> int:
        serving.clear()
        telling = loop.create_task(_tell(health, health_pb2.HealthCheckResponse.NOT_SERVING))
        background.add(telling)
        telling.add_done_callback(background.discard)
        return calls.drain()

    background: set[asyncio.Task[None]] = set()
    notices = (*settings.notices, *catalog.notices)
    llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(engine, calls), server)
    ops_pb2_grpc.add_OpsServiceServicer_to_server(OpsService(engine, calls, drain, notices), server)
    if settings.server.reflection:
        from grpc_reflection.v1alpha import reflection

        reflection.enable_server_reflection(
            (*SERVICES[1:], health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), server
        )
    listening = _bind(server, settings)
    probes = await _open_probes(settings, engine, serving)
    stop = _Stop(loop)
    try:
        await server.start()
        await warm_up(engine)
        for notice in notices:
            log.write("warning", notice)
        serving.set()
        await _tell(health, health_pb2.HealthCheckResponse.SERVING)
        log.write("info", "serving", version=VERSION, environment=settings.profile.name, listen=listening, providers=sorted(providers))
        housekeeping = loop.create_task(_keep_house(engine))
        background.add(housekeeping)
        await stop.asked()
        log.write("info", "draining", calls_in_flight=drain(), grace_ms=settings.server.grace_ms)
        await _finish(calls, settings.server.grace_ms / 1000, log)
        housekeeping.cancel()
    finally:
        await server.stop(grace=_LAST_WORDS_S)
        if probes is not None:
            await probes.cleanup()
        for provider in providers.values():
            await provider.close()
        log.write("info", "stopped")
        log.flush()
    return 0


# --- parts ----------------------------------------------------------------------------------------------------------------------


def make_engine(settings: Settings, catalog: Catalog, providers: dict[str, Provider], log: Log) -> Engine:
    """Everything the stages work with, from settings and connected providers."""
    breakers = Breakers(settings)
    metrics = Metrics(catalog.nodes, lambda: breakers.states(time.monotonic_ns()))
    return Engine(
        settings=settings,
        catalog=catalog,
        providers=providers,
        preferences=Preferences(settings, catalog, frozenset(providers) - {"echo"}),
        budgets=Budgets(settings.limits),
        ledger=Ledger(),
        breakers=breakers,
        quotas=Quotas(),
        answers=Answers(),
        meter=Meter(log, metrics),
        clock_ns=time.monotonic_ns,
        wall_ns=time.time_ns,
        random=random.random,
    )


async def connect_all(settings: Settings, catalog: Catalog, log: Log) -> dict[str, Provider]:
    """Connect every configured provider, SDKs imported in threads, and the echo. Raises SettingsError naming a missing package."""
    wanted = [p for p in settings.providers.values() if p.name in settings.configured and p.kind != "echo"]
    connected = await asyncio.gather(*(_connect(p) for p in (*wanted, ProviderSettings(name="echo", kind="echo"))))
    for provider in settings.providers.values():
        if provider.name not in settings.configured and provider.kind != "echo":
            log.write("warning", f"provider {provider.name} is skipped: it has no {'base URL' if provider.kind == 'compatible' else 'key'}")
    return {provider.name: provider for provider in connected}


async def _connect(settings: ProviderSettings) -> Provider:
    module = importlib.import_module(f"sidecar.providers.{settings.kind}")
    provider: Provider = await module.connect(settings)
    return provider


async def warm_up(engine: Engine) -> None:
    """Answer one call through the whole pipeline, so that the first caller does not pay for first uses. Nothing leaves the process."""
    for tokenizer in {model.tokenizer for model in engine.catalog.models.values()}:
        count_text(tokenizer, "warm-up")

    async def nobody(_: object) -> None:
        return None

    loop = asyncio.get_running_loop()
    quiet = Engine(**{name: getattr(engine, name) for name in engine.__struct_fields__} | {"ledger": Ledger(), "meter": _Silence()})
    for operation in ("generate", "stream"):
        now = loop.time()
        request = GenerateRequest(caller=Caller(tenant="sidecar"), prompt="warm-up", model="echo/echo")
        call = Call(
            id="warm-up",
            operation=operation,
            request=request,
            metadata={},
            arrived=now,
            deadline=now + 5,
            send=nobody if operation == "stream" else None,
        )
        await run(quiet, call)


class _Silence(Meter):
    """The warm-up call is nobody's: it is not counted."""

    def __init__(self) -> None:
        super().__init__(Log("error"), Metrics((), list))


async def live_check(settings: Settings) -> list[tuple[str, bool, str]]:
    """One tiny real call per configured provider: (provider, did it answer, what happened). For `sidecar check --live`."""
    catalog = load_catalog(settings, datetime.now(UTC).date())
    results: list[tuple[str, bool, str]] = []
    for name in sorted(settings.configured):
        try:
            provider = await _connect(settings.providers[name])
            try:
                results.append((name, True, await _ask_once(provider, catalog)))
            finally:
                await provider.close()
        except (SidecarError, SettingsError) as error:
            results.append((name, False, str(error)))
        except TimeoutError:
            results.append((name, False, "no answer within 20 s"))
    return results


async def _ask_once(provider: Provider, catalog: Catalog) -> str:
    model = catalog.model(f"{provider.name}/")
    said: list[Chunk] = []

    async def emit(chunks: Iterable[Chunk]) -> None:
        said.extend(chunks)

    async with asyncio.timeout(20):
        await provider.generate(GenerateAsk(model.name, (Message("user", (Text("Say ok."),)),), stream=False, max_output_tokens=16), emit)
    return f"{model.id} answered"


def _server(settings: Settings) -> grpc.aio.Server:
    most = settings.server.max_message_bytes
    return grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a second sidecar that gets half of the calls
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        )
    )


def _bind(server: grpc.aio.Server, settings: Settings) -> list[str]:
    """Open the gRPC doors. Returns their addresses. Raises StartError in one line."""
    addresses = [settings.server.listen] if settings.server.listen else []
    if settings.server.socket:
        addresses.append(f"unix:{settings.server.socket}")
    bound = []
    for address in addresses:
        try:
            port = server.add_insecure_port(address)
        except RuntimeError:
            raise StartError(f"cannot listen on {address} (server.listen or server.socket): is another process using it?") from None
        bound.append(address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}")
    return bound


async def _open_probes(settings: Settings, engine: Engine, serving: asyncio.Event) -> web.AppRunner | None:
    if not settings.server.ops_listen:
        return None
    host, _, port = settings.server.ops_listen.rpartition(":")
    runner = web.AppRunner(application(engine.meter.metrics.registry, serving.is_set), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(f"cannot listen on {settings.server.ops_listen} (server.ops_listen): {error.strerror}") from None
    return runner


def _require_data_dir(settings: Settings) -> None:
    if settings.server.data_dir is None:
        return
    folder = Path(settings.server.data_dir)
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StartError(f"cannot write to {folder} (server.data_dir): {error.strerror}") from None


async def _tell(health: HealthServicer, status: int) -> None:
    for service in SERVICES:
        await health.set(service, status)


class _Stop:
    """SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asked = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal)

    def _signal(self) -> None:
        if self._asked.is_set():
            os._exit(143)  # whoever signals twice wants it gone, whatever hangs
        self._asked.set()

    async def asked(self) -> None:
        await self._asked.wait()


async def _finish(calls: Calls, grace_s: float, log: Log) -> None:
    """Let calls in flight end; after the grace period end them with what they have."""
    try:
        await asyncio.wait_for(calls.idle(), grace_s)
    except TimeoutError:
        log.write("warning", "grace period over", calls_ended=calls.end_all())
        try:
            await asyncio.wait_for(calls.idle(), _LAST_WORDS_S)
        except TimeoutError:
            log.write("error", "calls did not end", calls=len(calls))


async def _keep_house(engine: Engine) -> None:
    """Give back what lost reservations hold, now and then."""
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        engine.ledger.expire(engine.wall_ns())
