"""Where alerts arrive: a real HTTP server and a real SMTP server on loopback, which remember what they were told."""

from __future__ import annotations

import asyncio
import json
import ssl
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, NamedTuple, Self

from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.fakes.running import free_port


class Told(NamedTuple):
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Hooks:
    """An HTTP server. `answers` are statuses for the next requests, then 200; `hangs` answers nothing at all."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.told: list[Told] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.hangs = False
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def at(self, path: str) -> list[Told]:
        return [one for one in self.told if one.path.startswith(path)]

    async def until(self, count: int, path: str = "/", within_s: float = 20) -> list[Told]:
        """Wait until so many came to this path. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while len(self.at(path)) < count:  # noqa: ASYNC110  (another process')
                await asyncio.sleep(0.02)
        return self.at(path)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.hangs:
            await asyncio.sleep(600)
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        if status == 200:
            self.told.append(Told(request.path_qs, {name.lower(): value for name, value in request.headers.items()}, body))
        return web.Response(status=status, headers=headers)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class Letter(NamedTuple):
    """What the server took."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    encrypted: bool
    user: str


class Post:
    """An SMTP server: aiosmtpd. `refuses` are addresses or the word DATA, with the answer that they get."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, implicit: bool = False, password: str = "") -> None:
        self.port = free_port()
        self.letters: list[Letter] = []
        self.refuses: dict[str, str] = {}
        self.tries = 0
        self._password = password
        options: dict[str, Any] = {}
        if password:
            options = {"auth_required": True, "authenticator": self._authenticate, "auth_require_tls": tls is not None}
        if tls is not None and implicit:
            options["ssl_context"] = tls
        elif tls is not None:
            options |= {"tls_context": tls, "require_starttls": True}
        if implicit:
            options["auth_require_tls"] = False  # aiosmtpd means STARTTLS
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.tries += 1
        ok = isinstance(data, LoginPassword) and data.password == self._password.encode()
        return AuthResult(success=ok, handled=False, auth_data=data.login if ok else None)

    async def handle_RCPT(  # noqa: N802  (aiosmtpd's name)
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if "DATA" in self.refuses:
            return self.refuses["DATA"]
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        user = (session.auth_data or b"").decode() if session.auth_data else ""
        encrypted = bool(session.ssl) or server.transport.get_extra_info("sslcontext") is not None
        self.letters.append(Letter(envelope.mail_from, list(envelope.rcpt_tos), message, encrypted, user))
        return "250 taken"

    async def until(self, count: int, within_s: float = 20) -> list[Letter]:
        async with asyncio.timeout(within_s):
            while len(self.letters) < count:  # noqa: ASYNC110  (another thread's)
                await asyncio.sleep(0.02)
        return self.letters
