"""The contract over HTTP: the same messages as gRPC's in proto3's JSON mapping, and streams as server-sent events."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from sidecar.call import Call, Chunk, Start
from sidecar.edge.http import Door, authorization, decoded
from sidecar.edge.http_errors import StreamGone, plain
from sidecar.edge.rpc import either_request
from sidecar.edge.sse import Frames
from sidecar.edge.wire import (
    count_response,
    delta_events,
    embed_request,
    embed_response,
    generate_request,
    generate_response,
    start_event,
)
from sidecar.errors import InvalidRequest, SidecarError
from sidecar.settings.reading import nearest
from sidecar.v1 import llm_pb2 as pb

M = TypeVar("M", bound=Message)

_encode = msgspec.json.Encoder().encode
_UNKNOWN = re.compile(r'has no field named "(.*?)" at "([\w.\[\]]+)"')
_WRAPPED = re.compile(r"Failed to parse (\w+) field: ")
_PLACE = re.compile(r" at ([A-Z]\w+(?:[.\[\w\]]+)?)\.*$")
_MOST_ENDED = 16 * 1024 * 1024  # bytes of streams that have ended, kept for clients that have not seen their ends


def routes(app: web.Application, door: Door) -> None:
    """/v1/generate, /v1/stream, /v1/embed, /v1/count_tokens."""

    async def generate(request: web.Request) -> web.StreamResponse:
        call = door.call(request, "generate", generate_request(read(await door.body(request), pb.GenerateRequest())))
        await door.run(call)
        return door.answer(plain(generate_response(call, time.monotonic(), with_text=True)))

    async def embed(request: web.Request) -> web.StreamResponse:
        call = door.call(request, "embed", embed_request(read(await door.body(request), pb.EmbedRequest())))
        await door.run(call)
        return door.answer(plain(embed_response(call, time.monotonic())))

    async def count_tokens(request: web.Request) -> web.StreamResponse:
        call = door.call(request, "count_tokens", either_request(read(await door.body(request), pb.CountTokensRequest())))
        door.plan(call)
        return door.answer(plain(count_response(call)))

    app.router.add_post("/v1/generate", generate)
    app.router.add_post("/v1/embed", embed)
    app.router.add_post("/v1/count_tokens", count_tokens)
    app.router.add_post("/v1/stream", Streams(door).answer)


def read(body: bytes, message: M) -> M:
    """Fill a message of the contract from its JSON. Raises InvalidRequest naming the field."""
    raw = decoded(body)
    if not isinstance(raw, dict):
        raise InvalidRequest(f'the body is JSON, but no object; expected a {message.DESCRIPTOR.name} like {{"prompt": "hello"}}')
    try:
        return ParseDict(raw, message)
    except ParseError as error:
        raise _invalid(str(error), message) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _invalid(said: str, message: Message) -> InvalidRequest:
    """Protobuf's own words, put into ours: where, what was found."""
    top = message.DESCRIPTOR.name
    unknown = _UNKNOWN.search(said)
    if unknown is not None:
        name, place = unknown[1], unknown[2].removeprefix(top).lstrip(".")
        field = f"{place}.{name}" if place else name
        known = re.findall(r"'(\w+)'", said.partition("Available Fields")[2])
        return InvalidRequest(f"{field} is no field of the request{nearest(name, known) or '; known: ' + ', '.join(known)}", field=field)
    said = said.partition("\n")[0]
    path = []
    while (wrapped := _WRAPPED.match(said)) is not None:
        path.append(wrapped[1])
        said = said[wrapped.end() :]
    place = _PLACE.search(said)
    field = ".".join(path)
    if place is not None:
        said = said[: place.start()]
        field = place[1].rstrip(".").removeprefix(top).lstrip(".") or field
    return InvalidRequest(f"{field or 'the body'} cannot be read: {said[:200].rstrip('.')}", field=field)


class Streams:
    """/v1/stream, and the streams that a client may come back to.

    A stream ends with its client, unless the request says `x-sidecar-resume: true`. Then it goes on without one for `http.resume_ms`, and
    a request whose Last-Event-ID names one of its events is answered with those that came after. Only the client's own saying tells a
    page that was closed from a connection that was lost.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._http = door.engine.settings.http
        self._kept: dict[str, _Kept] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        last_seen = request.headers.get("Last-Event-ID")
        if last_seen:
            return await self._resume(request, last_seen)
        door = self._door
        ask = generate_request(read(await door.body(request), pb.GenerateRequest()))
        is_resumable = self._http.resume_ms > 0 and request.headers.get("x-sidecar-resume", "").lower() == "true"
        frames = Frames(self._http, self._http.resume_bytes if is_resumable else 0)
        events = _Events(door, request, frames)
        call = events.call = door.call(request, "stream", ask, events.send)
        frames.headers["x-sidecar-id"] = call.id
        if not is_resumable:
            return await door.stream(request, call, frames, events.ending)
        kept = _Kept(door.keys.name_of(authorization(request)), frames, door.begin(call, frames, events.ending))
        self._kept[call.id] = kept
        return await self._read(call.id, kept, request, 0)

    async def _resume(self, request: web.Request, last_seen: str) -> web.StreamResponse:
        call_id, _, number = last_seen.partition(".")
        kept = self._kept.get(call_id)
        if kept is None or kept.owner != self._door.keys.name_of(authorization(request)):
            raise StreamGone(
                "no stream with that event can be resumed any more: one that was begun with x-sidecar-resume: true waits for its client "
                "for http.resume_ms, all others end with it; ask again",
                field="last-event-id",
            )
        if not (number.isascii() and number.isdigit() and len(number) < 19 and int(number) <= kept.frames.last):
            raise InvalidRequest(f"last-event-id is {last_seen[:80]!r}; expected the id of an event of that stream", field="last-event-id")
        return await self._read(call_id, kept, request, int(number))

    async def _read(self, call_id: str, kept: _Kept, request: web.Request, after: int) -> web.StreamResponse:
        if kept.lapse is not None:
            kept.lapse.cancel()
        try:
            return await kept.frames.write_to(request, self._door.preface, after)
        finally:
            if not kept.frames.is_read:
                kept.lapse = asyncio.get_running_loop().call_later(self._http.resume_ms / 1000, self._forget, call_id)
            self._bound()

    def _forget(self, call_id: str) -> None:
        kept = self._kept.pop(call_id)
        if kept.lapse is not None:
            kept.lapse.cancel()
        if not kept.frames.is_over:
            kept.task.cancel()

    def _bound(self) -> None:
        """Let go of the oldest streams that have ended, if there are many."""
        ended = {call_id: kept.frames.size for call_id, kept in self._kept.items() if kept.frames.is_over and not kept.frames.is_read}
        size = sum(ended.values())
        for call_id, one in ended.items():
            if size <= _MOST_ENDED:
                return
            size -= one
            self._forget(call_id)


class _Kept:
    """A stream that its client may come back to, until `lapse`. Only the token that began it may."""

    __slots__ = ("frames", "lapse", "owner", "task")

    def __init__(self, owner: str, frames: Frames, task: asyncio.Task[None]) -> None:
        self.owner = owner
        self.frames = frames
        self.task = task
        self.lapse: asyncio.TimerHandle | None = None


class _Events:
    """The pieces of one answer as events: start, text, reasoning, tool_call, restart, notice, and end or error. `call` is set at once."""

    call: Call

    def __init__(self, door: Door, request: web.Request, frames: Frames) -> None:
        self._door = door
        self._request = request
        self._frames = frames
        self._noticed = 0

    async def send(self, pieces: Start | Sequence[Chunk]) -> None:
        events = self._notices()
        if isinstance(pieces, Start):
            event = start_event(self.call, pieces)
            events.append(("restart", plain(event.restart)) if pieces.restart else ("start", plain(event.start)))
            await self._frames.put(*self._framed(events))
            return
        for event in delta_events(self.call, pieces):
            match event.WhichOneof("event"):
                case "text_delta":
                    events.append(("text", {"text": event.text_delta}))
                case "reasoning_delta":
                    events.append(("reasoning", {"text": event.reasoning_delta}))
                case "tool_call_delta":
                    events.append(("tool_call", {"index": 0, **plain(event.tool_call_delta)}))
        await self._frames.put(*self._framed(events))
        if pieces and pieces[-1].finish is None:
            await self._door.pace.rest()

    def ending(self, error: SidecarError | None) -> Iterable[bytes]:
        events = self._notices()
        if error is None:
            events.append(("end", plain(generate_response(self.call, time.monotonic(), with_text=False))))
        else:
            events.append(("error", self._door.failure(error, self._request, self.call).body))
        return self._framed(events)

    def _notices(self) -> list[tuple[str, dict[str, Any]]]:
        new = self.call.notices[self._noticed :]
        self._noticed += len(new)
        return [("notice", {"message": notice}) for notice in new]

    def _framed(self, events: Iterable[tuple[str, dict[str, Any]]]) -> list[bytes]:
        call_id, last = self.call.id.encode(), self._frames.last
        return [
            b"id: %s.%d\nevent: %s\ndata: %s\n\n" % (call_id, number, kind.encode(), _encode(data))
            for number, (kind, data) in enumerate(events, last + 1)
        ]
