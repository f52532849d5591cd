"""A provider of our own making on a real socket: says what it was told to say, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
from aiohttp import web

from sidecar.answer import Answer
from sidecar.call import Chunk

Pieces = Sequence[bytes | None]


class Script(msgspec.Struct):
    """One answer. A piece None breaks the connection there; `hold` leaves the stream open after its last piece."""

    pieces: Pieces = ()
    status: int = 200
    headers: Mapping[str, str] = {}
    hold: bool = False


class Asked(msgspec.Struct):
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: Any


class FakeProvider:
    """Answers the scripts in their order, the last one for ever."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.asked: list[Asked] = []
        self.peers: set[object] = set()  # the connections that requests came over
        self.holding = asyncio.Event()  # all pieces are said, the answer is held open
        self.left = asyncio.Event()  # a client hung up while its answer was not whole
        self._runner = web.ServerRunner(web.Server(self._answer, handler_cancellation=True), shutdown_timeout=0.1)
        self.url = ""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        self.asked.append(Asked(request.path_qs, dict(request.headers), msgspec.json.decode(await request.read())))
        response = web.StreamResponse(status=script.status, headers={"Content-Type": "application/json", **script.headers})
        transport = request.transport
        assert transport is not None
        self.peers.add(transport.get_extra_info("peername"))
        try:
            for at, piece in enumerate(script.pieces):
                if piece is None:
                    transport.abort()
                    return response
                if at == 0:
                    await response.prepare(request)
                await response.write(piece)
                await asyncio.sleep(0.01)  # so that pieces are network reads of their own
            if script.hold:
                self.holding.set()
                await asyncio.Event().wait()
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response


class Emitted(list[Chunk]):
    """What a provider emitted, chunk by chunk."""

    async def __call__(self, chunks: Sequence[Chunk]) -> None:
        self.extend(chunks)

    def answer(self) -> Answer:
        answer = Answer()
        for chunk in self:
            answer.add(chunk)
        return answer
