"""Connections of the HTTP door: how many, for how long, and what becomes of those that never say anything."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from sidecar.edge.http_errors import SERVER, BadHttp, failure_of
from sidecar.edge.tls import Certificates
from sidecar.settings.doors import Http

_HANDSHAKE_S = 10.0  # of TLS, before there is a connection that could be counted
_BACKLOG = 1024
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


class HttpServer:
    """An aiohttp application on the HTTP door's address."""

    def __init__(self, app: web.Application, settings: Http, certificates: Certificates | None, last_words_s: float) -> None:
        self._settings = settings
        self._certificates = certificates
        # A client that goes away cancels its request.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=last_words_s)
        self._server: asyncio.Server | None = None
        self.connections = 0

    async def open(self) -> str:
        """Listen. Returns the address, with the port that was taken. Raises OSError."""
        loop = asyncio.get_running_loop()
        host, _, port = self._settings.listen.rpartition(":")
        await self._runner.setup()
        manager = self._runner.server
        assert manager is not None  # noqa: S101  (it has been set up)
        settings = self._settings
        options: dict[str, Any] = {
            "loop": loop,
            "access_log": None,
            "keepalive_timeout": settings.idle_ms / 1000,
            "max_line_size": settings.max_header_bytes,
            "max_field_size": settings.max_header_bytes,
            "auto_decompress": False,  # a small body must not become a large one
            "lingering_time": 1.0,
        }
        tls: dict[str, Any] = {}
        if self._certificates is not None:
            tls = {"ssl": self._certificates.context(), "ssl_handshake_timeout": _HANDSHAKE_S}
        self._server = await loop.create_server(
            lambda: _Connection(self, settings, manager, **options), host.strip("[]"), int(port), backlog=_BACKLOG, **tls
        )
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening, and end what is still being answered after a moment."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()


class _Connection(RequestHandler):
    """One connection, with the limits that aiohttp does not have.

    aiohttp looks after a connection only between two requests (`keepalive_timeout`), so a header that trickles in, and an answer that
    nobody takes, would hold theirs for as long as their peer likes. A timer that runs only while one of the two is the case costs a
    well-behaved connection one timer in its life, and nothing per request.
    """

    __slots__ = ("_door", "_header_timer", "_is_counted", "_limits", "_stall_timer")

    def __init__(self, door: HttpServer, limits: Http, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._door = door
        self._limits = limits
        self._is_counted = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._door.connections >= self._limits.max_connections:
            if self.transport is not None:
                self.transport.write(_FULL)
            self.force_close()
            return
        self._is_counted = True
        self._door.connections += 1
        self._header_timer = self._loop.call_later(self._limits.header_ms / 1000, self.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._header_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._stall_timer = None
        if self._is_counted:
            self._is_counted = False
            self._door.connections -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif data and self._header_timer is None and self._waiter is not None and not self._waiter.done():
            self._header_timer = self._loop.call_later(self._limits.header_ms / 1000, self.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self._loop.call_later(self._limits.idle_ms / 1000, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def abort(self) -> None:
        """End the connection, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is no HTTP gets the native error, and no line in the log: anybody could fill it."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        place = (message or "").partition("\n")[0].rstrip(":. ")[:200]
        failure = failure_of(BadHttp(f"the request is no HTTP/1.1 that can be read{': ' + place if place else ''}"), None)
        headers = failure.headers | {"Server": SERVER}
        response = web.Response(
            body=msgspec.json.encode({"error": failure.body}), status=status, headers=headers, content_type="application/json"
        )
        response.force_close()
        return response
