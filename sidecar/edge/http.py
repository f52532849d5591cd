"""The HTTP door: what its routes share. `routes(app, door)` of `http_native` shows how a route is made with it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from sidecar.call import Call, Operation, Send
from sidecar.edge.arrivals import METADATA, arrive, note
from sidecar.edge.calls import Calls
from sidecar.edge.http_errors import SERVER, BadHttp, Failure, NoSuchPath, TooLarge, TooSlow, WrongMethod, WrongType, failure_of
from sidecar.edge.keys import Keys
from sidecar.edge.pace import Pace
from sidecar.edge.rescue import defect
from sidecar.edge.sse import Frames
from sidecar.engine import Engine
from sidecar.errors import Cancelled, InvalidRequest, NotAllowed, SidecarError
from sidecar.json_text import UNREADABLE
from sidecar.pipeline import plan, run
from sidecar.policies.quotas import Standing
from sidecar.request import EmbedRequest, GenerateRequest
from sidecar.time_limit import TimeLimit

_CALL = "sidecar.call"  # where a request keeps its call, for its failure to tell what came and what it cost
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
Ending = Callable[[SidecarError | None], Iterable[bytes]]  # the last frames of a stream: of a good end (None), or of a failure


class Door:
    """What a route needs to make a call of an HTTP request.

    A route reads `await door.body(request)` and makes its neutral request of it, then:

        call = door.call(request, "generate", ask)          # who asks, until when
        await door.run(call)                                # the pipeline, in this task; CancelledError when the client is gone
        return door.answer(body_of(call))

    or, for a stream, with `send` putting bytes of whole events into `frames`:

        frames = Frames(door.engine.settings.http)
        call = door.call(request, "stream", ask, send)      # async def send(pieces): await frames.put(...)
        return await door.stream(request, call, frames, ending)

    Whatever a route raises, a wrong token and a wrong method too, is answered in the native shape, or as `door.shapes[path]` makes it of
    the facts. A client that goes away cancels its request's task, and with it the call, which settles.
    """

    def __init__(self, engine: Engine, calls: Calls, keys: Keys) -> None:
        self.engine = engine
        self.keys = keys
        self.pace = Pace()
        self.shapes: dict[str, Callable[[Failure, web.Request], web.StreamResponse]] = {}  # of failures, by path
        self._calls = calls

    # --- a request ---------------------------------------------------------------------------------------------------------------

    async def body(self, request: web.Request) -> bytes:
        """The JSON text of the request. Raises WrongType, TooLarge and TooSlow (415, 413, 408)."""
        kind = request.content_type
        if kind != "application/json" and not kind.endswith("+json"):  # browsers send any other from any page without asking first
            raise WrongType(f"content-type is {kind[:80]!r}; expected application/json", field="content-type")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise WrongType("content-encoding is set; expected the body as it is", field="content-encoding")
        limit_ms = self.engine.settings.http.body_ms
        try:
            with TimeLimit(asyncio.get_running_loop().time() + limit_ms / 1000):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise self.too_large() from None
        except TimeoutError:
            raise TooSlow(f"the body had not come after {limit_ms} ms (http.body_ms)") from None
        except web.RequestPayloadError as error:
            raise BadHttp(f"the body is no HTTP: {error}") from None

    def too_large(self) -> TooLarge:
        most = self.engine.settings.server.max_message_bytes
        return TooLarge(f"the body is larger than {most} bytes (server.max_message_bytes)")

    def call(self, request: web.Request, operation: Operation, ask: GenerateRequest | EmbedRequest, send: Send | None = None) -> Call:
        """A call of this request: who asks by its headers and its token, until when by x-request-timeout-ms or grpc-timeout.

        Raises InvalidRequest, Unauthenticated and NotAllowed.
        """
        metadata: dict[str, str] = {}
        for name, value in request.headers.items():
            key = name.lower()
            if key in METADATA:
                note(metadata, key, value)
        if self.keys.is_needed:
            self.keys.admit(authorization(request), ask.caller, metadata)
        call = arrive(self.engine, operation, ask, metadata, _left_s(request), send)
        request[_CALL] = call
        return call

    # --- the pipeline ------------------------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> None:
        """Answer the call, in the current task. Raises SidecarError; CancelledError when the client went away."""
        self._calls.begin(call)
        try:
            await run(self.engine, call)
        finally:
            self._calls.end(call)

    def plan(self, call: Call) -> None:
        """The part of the pipeline that only thinks. Raises SidecarError."""
        self._calls.begin(call)
        try:
            plan(self.engine, call)
        finally:
            self._calls.end(call)

    async def stream(
        self, request: web.Request, call: Call, frames: Frames, ending: Ending, preface: bytes | None = None
    ) -> web.StreamResponse:
        """Answer with the frames that the call's `send` puts, and with those of `ending` at its end.

        The response begins with the first frame, or when the client has waited for `http.heartbeat_ms`: what fails before is raised, and
        still has an HTTP status. When the client goes away the call is cancelled. `preface` takes the place of the door's own: some
        clients take each event for JSON.
        """
        task = self.begin(call, frames, ending)
        try:
            return await frames.write_to(request, self.preface if preface is None else preface)
        finally:
            if not frames.is_over:
                task.cancel()

    def begin(self, call: Call, frames: Frames, ending: Ending) -> asyncio.Task[None]:
        """Start the call in a task of its own, for a stream that outlives a connection."""
        return asyncio.get_running_loop().create_task(self._produce(call, frames, ending))

    async def _produce(self, call: Call, frames: Frames, ending: Ending) -> None:
        self.pace.begin()
        error: SidecarError | None = None
        try:
            await self.run(call)
        except SidecarError as raised:
            error = raised
        except asyncio.CancelledError:
            error = Cancelled("the caller went away")
        except Exception as raised:
            error = defect(raised, call, self.engine.meter.log)
        finally:
            self.pace.end()
        call.send = None  # it holds the frames, and they this call
        try:
            last = [*ending(error)]
        except Exception as raised:  # a reader would wait for ever
            last, error = [], defect(raised, call, self.engine.meter.log)
        frames.end(last, error)

    @property
    def preface(self) -> bytes:
        """What an event stream begins with: how long a client should wait before it comes back."""
        return b"retry: %d\n\n" % self.engine.settings.http.retry_ms

    # --- an answer ---------------------------------------------------------------------------------------------------------------

    def answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        """JSON."""
        return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")

    def failure(self, error: SidecarError, request: web.Request, call: Call | None = None) -> Failure:
        """What there is to say of a failure of this request, with what its call had produced and what the caller can do instead."""
        call = call or request.get(_CALL)
        degradations = self.engine.degradations
        if call is None:
            advice = degradations.of("", "", request.headers.get("Accept-Language", ""))
        else:
            advice = degradations.of(call.service, call.node_name, call.metadata.get("accept-language", ""))
        failure = failure_of(error, call, advice=advice)
        return replace(failure, limits=self.limits(call)) if call is not None and failure.status == 429 else failure

    def limits(self, call: Call) -> tuple[Standing, ...]:
        """How the limits stand that are known: the tenant's, and those of the model asked last; the tighter one of two of a kind."""
        engine = self.engine
        tenants = engine.admission.tenants
        found = list(tenants.standings(call.tenant)[1]) if tenants.is_limited else []
        candidate = call.served or (call.attempts[-1].candidate if call.attempts else None)
        quota = engine.quotas.of(candidate) if candidate is not None else None
        if quota is not None and candidate is not None:
            found += quota.standings(candidate.target, engine.clock_ns())
        tightest = {one.unit: one for one in sorted(found, key=lambda one: one.remaining, reverse=True)}
        return tuple(tightest.values())

    # --- around every route ------------------------------------------------------------------------------------------------------

    def application(self, *routes: Callable[[web.Application, Door], None]) -> web.Application:
        """The aiohttp application with these routes."""
        app = web.Application(middlewares=[self._guarded], client_max_size=self.engine.settings.server.max_message_bytes)
        app.on_response_prepare.append(self._sign)
        for add in routes:
            add(app, self)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        try:
            self._require_known_origin(request)
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                return _preflight(request)
            self.keys.name_of(authorization(request))
            return await handler(request)
        except SidecarError as error:
            failure = self.failure(error, request)
        except web.HTTPException as error:
            failure = self.failure(_of_http(error, request), request)
        except ConnectionError:
            raise
        except Exception as error:
            failure = self.failure(defect(error, request.get(_CALL), self.engine.meter.log), request)
        finally:
            request.pop(_CALL, None)  # a stream's call holds the request
        resource = request.match_info.route.resource  # None where the path or its method is not served
        shape = self.shapes.get(resource.canonical if resource is not None else request.path)
        if shape is not None:
            return shape(failure, request)
        return self.answer({"error": failure.body}, failure.status, failure.headers)

    def _require_known_origin(self, request: web.Request) -> None:
        """Any web page can make a browser send a request to a port on loopback, and only the browser says so."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self.engine.settings.http.allowed_origins:
            raise NotAllowed(
                f"pages of {origin[:120]!r} may not call; http.allowed_origins of the settings names those that may", field="origin"
            )

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers["Server"] = SERVER
        if "Origin" in request.headers:
            headers["Vary"] = "Origin"
            if request.headers["Origin"] in self.engine.settings.http.allowed_origins:
                headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
                headers["Access-Control-Expose-Headers"] = "*"
        if self._calls.draining:
            headers["Connection"] = "close"
            response.force_close()


def authorization(request: web.Request) -> str:
    """The request's token as `Bearer TOKEN`; Anthropic's clients send it as x-api-key. "": it has none."""
    headers = request.headers
    found = headers.get("Authorization")
    if found is None and "x-api-key" in headers:
        return f"Bearer {headers['x-api-key']}"
    return found or ""


def decoded(body: bytes) -> Any:
    """JSON text as plain values. Raises InvalidRequest with the place of the mistake."""
    try:
        return msgspec.json.decode(body)
    except UNREADABLE as error:
        raise InvalidRequest(f"the body is no JSON: {error}" if body else "the body is empty; expected a JSON object") from None


def _preflight(request: web.Request) -> web.Response:
    """A page whose origin may call may send any header: clients have headers of their own."""
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ""),
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=headers)


def _of_http(error: web.HTTPException, request: web.Request) -> BadHttp:
    path = request.path[:120]
    if isinstance(error, web.HTTPMethodNotAllowed):
        return WrongMethod(f"{request.method} {path} is not served; expected {', '.join(sorted(error.allowed_methods))}")
    if error.status == 404:
        served = sorted(resource.canonical for resource in request.app.router.resources())
        return NoSuchPath(f"no such path: {path!r}; expected one of {', '.join(served)}")
    return BadHttp(f"the request is no HTTP that is served here: {error.reason}")


def _left_s(request: web.Request) -> float | None:
    """The time that the caller gives, in seconds; None: it does not say."""
    headers = request.headers
    text = headers.get("x-request-timeout-ms")
    if text is not None:
        if not (text.isascii() and text.isdigit() and 0 < len(text) <= 10):
            raise InvalidRequest(f"x-request-timeout-ms is {text[:40]!r}; expected milliseconds, like 30000", field="x-request-timeout-ms")
        return int(text) / 1000
    text = headers.get("grpc-timeout")
    if text is None:
        return None
    found = _GRPC_TIMEOUT.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"grpc-timeout is {text[:40]!r}; expected a number and one of H M S m u n, like 30S", field="grpc-timeout")
    return int(found[1]) * _UNITS_S[found[2]]
