"""Server-sent events: one answer in frames, to a client that may be slow, go away, or come back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from itertools import islice

from aiohttp import web

from sidecar.edge.http_errors import StreamGone
from sidecar.errors import SidecarError
from sidecar.settings.doors import Http

# nginx buffers answers unless told not to; caches and proxies that rewrite must leave a stream alone.
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_MOST_UNREAD = 64 * 1024  # bytes that wait for a reader, above which the provider waits


class Frames:
    """The frames of one answer, between the call, which puts them, and a client, who reads them.

    A frame is the bytes of one event, the empty line at its end included. Frames are numbered from 1. What a reader has not taken yet is
    bounded: `put` waits. With `keep_bytes` the last frames are kept after they were written, for a client who comes back and says which
    was the last that it saw.
    """

    def __init__(self, settings: Http, keep_bytes: int = 0) -> None:
        self.headers: dict[str, str] = {}  # of the response, until the first frame
        self.is_over = False
        self.failed: SidecarError | None = None  # before the first frame: there is still an HTTP status to tell it with
        self._has_begun = False
        self._heartbeat_s = settings.heartbeat_ms / 1000
        self._keep_bytes = keep_bytes
        self._frames: deque[bytes] = deque()
        self._size = 0  # bytes of `_frames`
        self._first = 1  # number of the first frame that is still here
        self._written = 0  # number of the last frame that some reader has written
        self._reader: object | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def last(self) -> int:
        """The number of the last frame; 0: there is none yet."""
        return self._first + len(self._frames) - 1

    @property
    def size(self) -> int:
        return self._size

    @property
    def is_read(self) -> bool:
        """Somebody is reading."""
        return self._reader is not None

    async def put(self, *frames: bytes) -> None:
        """Add frames; waits while a reader, or nobody, has taken too little of what is there. For the last frames there is `end`."""
        self._add(frames)
        while self._size > max(self._keep_bytes, _MOST_UNREAD):  # what was written is gone by then
            self._room.clear()
            await self._room.wait()

    def end(self, frames: Iterable[bytes] = (), failed: SidecarError | None = None) -> None:
        """Add the last frames, which wait for nobody. Before a response has begun `failed` goes to the reader in their place."""
        if failed is not None and not self.last and not self._has_begun:
            self.failed = failed
        else:
            self._add(frames)
        self.is_over = True
        self._news.set()

    def _add(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            self._frames.append(frame)
            self._size += len(frame)
        self._trim()
        self._news.set()

    def _trim(self) -> None:
        while self._first <= self._written and self._size > self._keep_bytes:
            self._size -= len(self._frames.popleft())
            self._first += 1

    async def write_to(self, request: web.Request, preface: bytes, after: int = 0) -> web.StreamResponse:
        """Write what comes after frame `after`, until the end. The response begins with the first frame, or a sign of life.

        Raises StreamGone where these frames are no longer here; the failure that came before the first frame; and CancelledError or
        ConnectionError when the client goes away. A second reader takes the first one's place.
        """
        if after < self._first - 1:
            raise StreamGone("the events after that one are no longer kept (http.resume_bytes); ask again", field="last-event-id")
        me = self._reader = object()
        response = web.StreamResponse()
        loop = asyncio.get_running_loop()
        beat = _Beat(loop, self._heartbeat_s, self._news)
        try:
            while self._reader is me:
                if after < self.last:
                    data = b"".join(islice(self._frames, after - self._first + 1, None))
                    after = self.last
                    if not response.prepared:
                        data = await self._begin(response, request, preface) + data
                    await response.write(data)
                    if self._reader is not me:
                        break
                    self._written = after
                    self._trim()
                    self._room.set()
                    beat.is_due = False
                elif self.is_over:
                    if self.failed is not None:
                        raise self.failed
                    if not response.prepared:  # there was nothing after that frame
                        await response.write(await self._begin(response, request, preface))
                    await response.write_eof()
                    return response
                elif beat.is_due:
                    beat.is_due = False
                    await response.write(b":\n\n" if response.prepared else await self._begin(response, request, preface) + b":\n\n")
                else:
                    self._news.clear()
                    await self._news.wait()
        finally:
            beat.stop()
            if self._reader is me:
                self._reader = None
        raise ConnectionResetError("another client has taken this one's place")

    async def _begin(self, response: web.StreamResponse, request: web.Request, preface: bytes) -> bytes:
        self._has_begun = True
        response.headers.update(HEADERS)
        response.headers.update(self.headers)
        await response.prepare(request)
        return preface


class _Beat:
    """Says that a sign of life is due when nothing else was written since it last looked. One timer for a stream, not one for a piece."""

    __slots__ = ("_every_s", "_loop", "_news", "_timer", "is_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, every_s: float, news: asyncio.Event) -> None:
        self._loop, self._every_s, self._news = loop, every_s, news
        self.is_due = False
        self._timer = loop.call_later(every_s, self._look)

    def _look(self) -> None:
        self.is_due = True
        self._news.set()
        self._timer = self._loop.call_later(self._every_s, self._look)

    def stop(self) -> None:
        self._timer.cancel()
