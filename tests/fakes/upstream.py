"""A provider that does what a test tells it, on a real socket, in the real words of OpenAI, Anthropic, Google and Ollama.

`on(model, *steps)` scripts a model: each request takes the next step, the last step repeats; a model without a script says hello. Every
request is kept as an `Exchange`, with the moment at which the caller closed the connection, if it did.

    OpenAI      /v1/chat/completions  /v1/embeddings  /v1/models             (a key is demanded)
    compatible  /compatible/v1/...                                           (no key)
    Anthropic   /v1/messages                                                 (a key is demanded)
    Google      /v1/models/{model}:generateContent  :streamGenerateContent  :batchEmbedContents, also below /v1beta
    Ollama      /api/chat  /api/embed  /api/tags

As a process of its own, for benches: `python -m tests.fakes.upstream --port 0 --pieces 100 --delay-ms 5`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Self

import msgspec
from aiohttp import web

from tests.fakes.script import Fail, HangUp, Raw, Say, Stall, Step, Vectors
from tests.fakes.wires import Anthropic, Google, Ollama, OpenAI, Wire, vectors_for

MODELS = "/models"  # what the list of models is called where scripts and exchanges are asked for by model
_MOST_KEPT = 20_000  # exchanges; a bench makes more than anybody will look at
_REQUEST_ID = {OpenAI: "x-request-id", Anthropic: "request-id"}


class Exchange:
    """One request as it came, and how it ended. Times are `loop.time()` seconds."""

    def __init__(self, wire: Wire, model: str, request: web.Request, body: dict[str, Any]) -> None:
        self.wire = wire
        self.model = model
        self.path = request.path_qs
        self.headers = {k.lower(): v for k, v in request.headers.items()}
        self.body = body
        self.arrived_at = asyncio.get_running_loop().time()
        self.pieces_sent = 0
        self.closed_at: float | None = None  # the caller closed the connection while it was being answered
        self.ended_at: float | None = None
        self._ended = asyncio.Event()

    @property
    def is_streamed(self) -> bool:
        if "embed" in self.path.lower():
            return False
        return "streamGenerateContent" in self.path if self.wire is Google else bool(self.body.get("stream", self.wire is Ollama))

    @property
    def content_type(self) -> str:
        return self.wire.stream_type if self.is_streamed else "application/json"

    async def ended(self, within_s: float) -> None:
        """Wait until nothing more is done for this request. Raises TimeoutError."""
        await asyncio.wait_for(self._ended.wait(), within_s)

    async def hung_up(self, within_s: float = 1.0) -> None:
        """Its caller has just left: the sidecar hangs up here too, within that time."""
        left_at = asyncio.get_running_loop().time()
        await self.ended(within_s + 4)
        assert self.closed_at is not None, "it was answered to its end"
        assert self.closed_at - left_at < within_s


class Upstream:
    """The fake provider. Use it as an async context manager; `url` is its address without a path."""

    def __init__(self, default: Say | None = None) -> None:
        self.default: Step = default or Say()
        self.exchanges: list[Exchange] = []
        self.url = ""
        self._scripts: dict[str, list[Step | Callable[[Exchange], Step]]] = {}
        self._arrived = asyncio.Event()
        self._runner: web.AppRunner | None = None

    def on(self, model: str, *steps: Step | Callable[[Exchange], Step]) -> None:
        """What happens to requests about this model, one step each, the last one again and again; a function sees what was asked."""
        self._scripts[model] = list(steps)

    def asked(self, model: str) -> list[Exchange]:
        return [e for e in self.exchanges if e.model == model]

    async def request(self, model: str, number: int = 0, within_s: float = 5) -> Exchange:
        """The n-th exchange about a model, waiting for it if need be. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while len(found := self.asked(model)) <= number:
                self._arrived.clear()
                await self._arrived.wait()
        return found[number]

    async def start(self, port: int = 0) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for prefix in ("", "/compatible"):
            keys = () if prefix else ("authorization",)
            app.router.add_post(f"{prefix}/v1/chat/completions", self._chat(OpenAI, *keys))
            app.router.add_post(f"{prefix}/v1/embeddings", self._embed(OpenAI, *keys))
            app.router.add_get(f"{prefix}/v1/models", self._list)
        app.router.add_post("/v1/messages", self._chat(Anthropic, "authorization", "x-api-key"))
        app.router.add_get("/v1beta/models", self._list)
        for version in ("v1", "v1beta"):
            path = f"/{version}/models/{{model}}"
            app.router.add_post(path + ":generateContent", self._chat(Google, "x-goog-api-key"))
            app.router.add_post(path + ":streamGenerateContent", self._chat(Google, "x-goog-api-key"))
            app.router.add_post(path + ":batchEmbedContents", self._embed(Google, "x-goog-api-key"))
        app.router.add_post("/api/chat", self._chat(Ollama))
        app.router.add_post("/api/embed", self._embed(Ollama))
        app.router.add_get("/api/tags", self._list)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _chat(self, wire: Wire, *keys: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            exchange, refusal = await self._taken(wire, request, keys)
            if refusal is None and (missing := _missing(wire, exchange.body)):
                refusal = Fail(400, f"{missing}: field required")
            return await self._answered(request, exchange, refusal, _answer)

        return handle

    def _embed(self, wire: Any, *keys: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            exchange, refusal = await self._taken(wire, request, keys)
            return await self._answered(request, exchange, refusal, _embedding)

        return handle

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """The list of models, of all wires; a script for it is set with `on(MODELS, ...)`."""
        headers, wire = request.headers, OpenAI
        if request.path == "/api/tags":
            wire = Ollama
        elif "x-goog-api-key" in headers:
            wire = Google
        elif "anthropic-version" in headers:
            wire = Anthropic
        exchange = Exchange(wire, MODELS, request, {})
        self.exchanges.append(exchange)
        self._arrived.set()
        return await self._answered(request, exchange, None, _models)

    async def _taken(self, wire: Wire, request: web.Request, keys: tuple[str, ...]) -> tuple[Exchange, Fail | None]:
        body = msgspec.json.decode(await request.read())
        exchange = Exchange(wire, request.match_info.get("model") or body.get("model", ""), request, body)
        if len(self.exchanges) < _MOST_KEPT:
            self.exchanges.append(exchange)
        self._arrived.set()
        known = not keys or any(request.headers.get(key) for key in keys)
        return exchange, None if known else Fail(401, "no key was sent")

    async def _answered(
        self, request: web.Request, exchange: Exchange, refusal: Fail | None, kind: Callable[..., Any]
    ) -> web.StreamResponse:
        script = self._scripts.get(exchange.model)
        found = self.default if script is None else script.pop(0) if len(script) > 1 else script[0]
        step = found(exchange) if callable(found) else found
        try:
            return await _perform(refusal or step, request, exchange, kind)
        except (asyncio.CancelledError, ConnectionResetError):
            exchange.closed_at = asyncio.get_running_loop().time()
            raise
        finally:
            exchange.ended_at = asyncio.get_running_loop().time()
            exchange._ended.set()


async def _perform(step: Step, request: web.Request, exchange: Exchange, kind: Callable[..., Any]) -> web.StreamResponse:
    match step:
        case Stall():
            await _stall(step, request, exchange)
        case HangUp():
            response = web.StreamResponse(headers={"Content-Type": exchange.content_type})
            if step.after_headers:
                await response.prepare(request)
                await asyncio.sleep(0.02)  # a reset overtakes what is still in the socket's buffer
            return _reset(request, response)
        case Fail():
            body = step.body if step.body is not None else msgspec.json.encode(exchange.wire.failure(step))
            return web.Response(status=step.status, body=body, content_type=step.content_type, headers=step.headers)
        case Raw():
            return await _raw(step, request)
    answered: web.StreamResponse = await kind(step, request, exchange)
    return answered


def _missing(wire: Wire, body: dict[str, Any]) -> str:
    """The first field that the real provider insists on."""
    needed = {Google: ("contents",), Anthropic: ("model", "messages", "max_tokens")}.get(wire, ("model", "messages"))
    return next((field for field in needed if not body.get(field)), "")


def _reset(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


async def _stall(step: Stall, request: web.Request, exchange: Exchange) -> None:
    if step.after_headers:
        response = web.StreamResponse(headers={"Content-Type": exchange.content_type})
        await response.prepare(request)
        while step.pings_ms:
            await response.write(exchange.wire.ping if exchange.is_streamed else b"\n")
            await asyncio.sleep(step.pings_ms / 1000)
    await asyncio.Event().wait()


async def _raw(step: Raw, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=step.status, headers={"Content-Type": step.content_type})
    if step.promised is not None:
        response.content_length = step.promised
    await response.prepare(request)
    await _write(response, step.body, step.split, step.delay_ms)
    if step.then == "stall":
        await asyncio.Event().wait()
    if step.then == "reset" or (step.promised or 0) > len(step.body):
        await asyncio.sleep(0.02)  # a reset overtakes what is still in the socket's buffer
        return _reset(request, response)
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, data: bytes, split: int, delay_ms: float = 0.5) -> None:
    if not split:
        await response.write(data)
        return
    for i in range(0, len(data), split):
        await response.write(data[i : i + split])
        await asyncio.sleep(delay_ms / 1000)  # apart on the wire, so that the reader meets each slice alone


async def _embedding(step: Step, request: web.Request, exchange: Exchange) -> web.StreamResponse:
    how = step if isinstance(step, Vectors) else Vectors()
    body, wire = exchange.body, exchange.wire
    if issubclass(wire, Anthropic):
        raise web.HTTPNotFound
    await asyncio.sleep(how.first_delay_ms / 1000)
    asked = body["requests"][0].get("outputDimensionality") if issubclass(wire, Google) else body.get("dimensions")
    vectors = vectors_for(wire.texts(body), asked or how.size, how)
    return _json(wire, wire.embedded(vectors, body, how.tokens), ())


async def _answer(step: Step, request: web.Request, exchange: Exchange) -> web.StreamResponse:
    assert isinstance(step, Say), f"a {type(step).__name__} is no answer to {exchange.path}"
    wire = exchange.wire
    if step.first_delay_ms:
        await asyncio.sleep(step.first_delay_ms / 1000)
    if not exchange.is_streamed:
        if step.gate is not None:
            await step.gate.wait()
        if step.cut == "reset":
            return _reset(request, web.StreamResponse())
        if step.error_after == 0:
            return _json(wire, wire.failure(step.error or Fail(503)), step.headers)
        return _json(wire, wire.whole(step, exchange.model), step.headers)
    response = web.StreamResponse(headers=[("Content-Type", wire.stream_type), *_ids(wire), *step.headers])
    await response.prepare(request)
    with contextlib.suppress(_Cut):
        await _stream(step, response, exchange)
        await response.write_eof()
        return response
    return _reset(request, response)


class _Cut(Exception):
    """The script says: reset the connection now."""


async def _stream(say: Say, response: web.StreamResponse, exchange: Exchange) -> None:
    error = exchange.wire.error_event if say.error is None else exchange.wire.error_frame(say.error)
    if say.error_after == 0:
        await response.write(error)
        return
    for kind, data in exchange.wire.frames(say, exchange.model, exchange.body):
        if kind == "piece":
            if say.gate is not None and exchange.pieces_sent == say.hold_after:
                await say.gate.wait()
            if say.delay_ms:
                await asyncio.sleep(say.delay_ms / 1000)
        if (kind == "finish" and say.cut == "no_finish") or (kind == "end" and say.cut == "no_end"):
            continue
        if say.unknown_events:
            await response.write(exchange.wire.unknown_event)
        await _write(response, data, say.split)
        exchange.pieces_sent += kind == "piece"
        if kind == "piece" and exchange.pieces_sent == say.error_after:
            await response.write(error)
            return
        if kind == "piece" and exchange.pieces_sent == say.cut_after:
            if say.cut == "close":
                return
            if say.cut == "reset":
                await asyncio.sleep(0.02)  # a reset overtakes what is still in the socket's buffer
                raise _Cut


def _ids(wire: Wire) -> list[tuple[str, str]]:
    return [(_REQUEST_ID[wire], "req_fake")] if wire in _REQUEST_ID else []


def _json(wire: Wire, body: dict[str, Any], headers: tuple[tuple[str, str], ...]) -> web.Response:
    sent = [("Content-Type", "application/json"), *_ids(wire), *headers]
    return web.Response(body=msgspec.json.encode(body), headers=sent)


async def _models(step: Step, request: web.Request, exchange: Exchange) -> web.StreamResponse:
    if exchange.wire is Ollama:
        return web.json_response({"models": [{"name": "llama3.2:latest", "model": "llama3.2:latest", "size": 1}]})
    if exchange.wire is Google:
        return web.json_response({"models": [{"name": "models/tiny", "version": "1"}]})
    if exchange.wire is Anthropic:
        return web.json_response({"data": [{"id": "tiny", "type": "model"}], "has_more": False})
    return web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model", "created": 1764499721, "owned_by": "tests"}]})


async def _main() -> None:
    parser = argparse.ArgumentParser(description="a fake provider for benches")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=100, help="pieces of each answer")
    parser.add_argument("--piece", default=" word", help="text of each piece")
    parser.add_argument("--delay-ms", type=float, default=0, help="before each piece")
    parser.add_argument("--first-delay-ms", type=float, default=0, help="before the answer")
    given = parser.parse_args()
    upstream = Upstream(Say(pieces=(given.piece,) * given.pieces, delay_ms=given.delay_ms, first_delay_ms=given.first_delay_ms))
    await upstream.start(given.port)
    print(upstream.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
