"""The doors: gRPC, HTTP and the operations port, from listening to the last word."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import grpc
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from sidecar.edge import anthropic_api, http_native, model_list, openai_api
from sidecar.edge.calls import Calls
from sidecar.edge.health import HealthService
from sidecar.edge.http import Door
from sidecar.edge.http_server import HttpServer
from sidecar.edge.keys import Keys
from sidecar.edge.operators import OperatorsOnly
from sidecar.edge.ops import OpsService
from sidecar.edge.probes import application
from sidecar.edge.rpc import LLMService
from sidecar.edge.tls import BadCertificate, Certificates
from sidecar.engine import Engine
from sidecar.settings.doors import Server
from sidecar.v1 import llm_pb2, llm_pb2_grpc, ops_pb2, ops_pb2_grpc

LAST_WORDS_S = 2.0  # for calls that were ended at the end of the grace period to tell their callers
_MOST_WAITING = 100_000  # calls that have arrived and were not begun: far above any burst of one pod
_HANDSHAKE_MS = 10_000  # from a gRPC connection's first byte until it has said what HTTP/2 begins with

SERVICES = ("", llm_pb2.DESCRIPTOR.services_by_name["LLMService"].full_name, ops_pb2.DESCRIPTOR.services_by_name["OpsService"].full_name)


class StartError(Exception):
    """The process cannot start for a reason outside of its settings: a port is taken, a folder cannot be written. One line."""


class Doors:
    """All three; opened first, so that probes have somebody to ask while providers are imported."""

    def __init__(self, engine: Engine, notices: tuple[str, ...]) -> None:
        self._engine = engine
        self._settings = engine.settings.server
        self._notices = notices
        self._calls = Calls(engine.meter.metrics.in_flight)
        self._health = HealthService(engine, self._calls, SERVICES)
        self._keys = Keys(engine.settings.auth)
        # An interceptor costs every call, so there is one only where there are tokens.
        auth = engine.settings.auth
        guards = (OperatorsOnly(self._keys, SERVICES[2]),) if auth.tokens or auth.ops_sha256 else ()
        self._server = _server(self._settings, guards)
        self._http: HttpServer | None = None
        self._probes: web.AppRunner | None = None
        self.bound: list[str] = []

    async def open(self) -> None:
        """Listen, and say NOT_SERVING. Raises StartError where an address is taken."""
        server = self._server
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(self._engine, self._calls, self._keys), server)
        ops_pb2_grpc.add_OpsServiceServicer_to_server(OpsService(self._engine, self._calls, self.drain, self._notices), server)
        if self._settings.reflection:
            from grpc_reflection.v1alpha import reflection

            names = (*SERVICES[1:], health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        certificates = _certificates(self._engine)
        self.bound = _bind(server, self._settings, certificates)
        if self._engine.settings.http.listen:
            self.bound.append(await self._open_http(certificates))
        if self._settings.ops_listen:
            self._probes = await _open_probes(self._settings.ops_listen, self._engine.meter.metrics.registry, self._is_serving)
        await server.start()

    async def _open_http(self, certificates: Certificates | None) -> str:
        settings = self._engine.settings.http
        app = Door(self._engine, self._calls, self._keys).application(
            http_native.routes, openai_api.routes, anthropic_api.routes, model_list.routes
        )
        self._http = HttpServer(app, settings, certificates, LAST_WORDS_S)
        try:
            return f"{'http' if certificates is None else 'https'}://{await self._http.open()}"
        except OSError as error:
            raise StartError(f"cannot listen on {settings.listen} (http.listen): {error.strerror}") from None

    async def serve(self) -> None:
        """Take calls, and say so."""
        for notice in self._notices:
            self._engine.meter.log.write("warning", notice)
        self._calls.ready = True
        self._engine.health.announce()

    async def drain(self) -> int:
        """Take no new calls, and say so. Returns how many are still being answered."""
        in_flight = self._calls.drain()
        self._engine.health.announce()
        return in_flight

    async def finish(self, grace_s: float) -> None:
        """Let calls in flight end; after the grace period end them with what they have."""
        log = self._engine.meter.log
        try:
            await asyncio.wait_for(self._calls.idle(), grace_s)
        except TimeoutError:
            log.write("warning", "grace period over", calls_ended=self._calls.end_all())
            try:
                await asyncio.wait_for(self._calls.idle(), LAST_WORDS_S)
            except TimeoutError:
                log.write("error", "calls did not end", calls=len(self._calls))

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
        await self._server.stop(grace=LAST_WORDS_S)
        if self._probes is not None:
            await self._probes.cleanup()

    def _is_serving(self) -> bool:
        # /readyz does not follow providers, as gRPC health does: a provider's outage is no reason to take the pod out of its own service.
        # What runs there can still do what needs no model, and all other pods, which ask the same provider, would go with it.
        return self._calls.ready and not self._calls.draining


def _server(settings: Server, guards: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=guards,
        options=(
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_allowed_incoming_connections", settings.max_connections),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a second sidecar that gets half of the calls
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            # Calls that arrive faster than the loop takes them wait, as their deadlines allow. gRPC's own limits (1,000 and 3,000) cancel
            # them instead, with a status that blames the caller.
            ("grpc.server.max_pending_requests", _MOST_WAITING),
            ("grpc.server.max_pending_requests_hard_limit", _MOST_WAITING),
        ),
    )


def _certificates(engine: Engine) -> Certificates | None:
    """Of [tls]; None: there are none. Raises StartError."""
    if not engine.settings.tls.cert_file:
        return None
    try:
        return Certificates(engine.settings.tls, partial(engine.meter.event, "certificate"))
    except BadCertificate as error:
        raise StartError(f"{error} (tls)") from None


def _bind(server: grpc.aio.Server, settings: Server, certificates: Certificates | None) -> list[str]:
    """Open the gRPC doors. Returns their addresses. Raises StartError in one line."""
    bound = []
    if settings.listen:
        _require_free(settings.listen)
        bound.append(f"{settings.listen.rpartition(':')[0]}:{_open(server, settings.listen, certificates)}")
    if settings.socket:
        _require_free_socket(settings.socket)
        _open(server, f"unix:{settings.socket}", None)
        # Containers of one pod have users of their own, and connecting takes the right to write. Who may come near is the folder's to say;
        # a port on loopback is open to the whole pod as well.
        Path(settings.socket).chmod(0o666)
        bound.append(f"unix:{settings.socket}")
    return bound


def _open(server: grpc.aio.Server, address: str, certificates: Certificates | None) -> int:
    try:
        if certificates is not None:
            return int(server.add_secure_port(address, certificates.credentials()))
        return int(server.add_insecure_port(address))
    except RuntimeError:
        raise StartError(f"cannot listen on {address} (server.listen or server.socket): is another process using it?") from None


def _require_free(address: str) -> None:
    """Try the door first: gRPC itself says why it cannot open one only in a log line of its own form."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: a closed connection's port is free
            probe.bind(where)
    except OSError as error:
        raise StartError(f"cannot listen on {address} (server.listen): {error.strerror}") from None


def _require_free_socket(path: str) -> None:
    """Left to itself gRPC takes a socket away from whoever listens there, and fails in a folder that is not there without saying why.

    A socket that nobody answers on was left by a process that was killed: it is removed.
    """
    at = f"cannot listen on unix:{path} (server.socket)"
    file = Path(path)
    if os.path.exists(path) and not file.is_socket():  # not file.exists(): it raises in a folder that may not be read
        raise StartError(f"{at}: there is a file of that name that is no socket; remove it or set another path")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1)
        outcome = caller.connect_ex(path)
    if outcome == 0:
        raise StartError(f"{at}: another process answers there; stop it or set another path")
    try:
        if outcome == errno.ECONNREFUSED:
            file.unlink()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(path)
        file.unlink()
    except OSError as error:
        raise StartError(f"{at}: it cannot be made in the folder {file.absolute().parent}: {error.strerror}") from None


async def _open_probes(address: str, registry: CollectorRegistry, ready: Callable[[], bool]) -> web.AppRunner:
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(application(registry, ready), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(f"cannot listen on {address} (server.ops_listen): {error.strerror}") from None
    return runner
