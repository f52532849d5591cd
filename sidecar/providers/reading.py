"""From a provider's bytes to emitted chunks, alike for all providers: streams, whole answers, and what vectors must be."""

from __future__ import annotations

from asyncio import get_running_loop, timeout_at
from collections.abc import Awaitable, Callable
from math import isfinite
from typing import Final, Protocol

from sidecar.call import Chunk, Emit, Head, Vectors
from sidecar.errors import ProviderError, ProviderGarbled
from sidecar.providers.http import MOST_BYTES, scrubbed
from sidecar.providers.sse import Events, Lines
from sidecar.providers.words import ContentFiltered

_REST_S: Final = 0.5


class Broken(Protocol):
    """What an exception of the transport means, given whether the body had begun (`http.transport_error`)."""

    def __call__(self, error: Exception, *, begun: bool) -> ProviderError: ...


class AnswerStream:
    """Reads one streamed answer and emits what it says, all chunks of one network read together.

    `cut` finds the messages in the bytes, `read` is the wire's reading of one message, `whole` sees every chunk of the answer where
    one message cannot tell all. What a read brought before a bad message or an error event is emitted before that is raised: it was
    said, and it was billed.
    """

    __slots__ = ("_begun", "_cut", "_emit", "_last", "_read", "_said", "_size", "_unknown", "_whole", "_whose")

    def __init__(
        self,
        cut: Events | Lines,
        read: Callable[[bytes], Chunk | None],
        emit: Emit,
        whose: str,
        whole: Callable[[Chunk], Chunk] | None = None,
    ) -> None:
        self._cut = cut
        self._read = read
        self._emit = emit
        self._whose = whose
        self._whole = whole
        self._said = Head()
        self._begun = False
        self._size = 0  # bytes of the body so far
        self._last = False  # the protocol's own end was read
        self._unknown = ""  # a finish reason that is none of ours

    async def read_all(self, more: Callable[[], Awaitable[bytes]], said: Head, broken: Broken) -> None:
        """Reads to the protocol's own end, or else to the end of the body; whether the answer is whole, the attempt stage tells.

        The head is emitted before the first byte of the body is there, so that whoever waits can tell no headers from no token. `more`
        gives the next bytes, none at the end of the body; `said` is what the headers said; `broken` tells what an exception of `more`
        means. Raises that, what `read` and the emitting raise, and ProviderGarbled for an answer that ended for an unknown reason, after
        its last figures, or that has no end within `MOST_BYTES`.
        """
        self._said = said
        await self._emit((Chunk(head=said),))
        while not self._last:
            try:
                data = await more()
            except Exception as error:
                raise broken(error, begun=self._begun) from error
            await self._take(data)
            if not data:
                break
        else:
            await self._rest(more)
        if self._unknown:
            raise _no_end_of_ours(self._unknown, self._whose, said)

    async def _rest(self, more: Callable[[], Awaitable[bytes]]) -> None:
        """What follows the protocol's end: the end of the body, so that the connection can be used again, or Google's last figures.

        The answer is whole already: it waits for nobody who does not end the body, and no loss of the connection breaks it.
        """
        until = get_running_loop().time() + _REST_S
        while True:
            try:
                async with timeout_at(until):
                    data = await more()
            except Exception:
                return
            await self._take(data)
            if not data:
                return

    async def _take(self, data: bytes) -> None:
        """One network read; no bytes: the end of the body.

        A last message that is broken there was cut in its middle. That is no garbage: the missing end of the answer proves the cut.
        """
        chunks: list[Chunk] = []
        self._begun = True
        self._size += len(data)
        failed: ProviderError | None = None
        try:
            if self._size > MOST_BYTES:
                raise ProviderGarbled(f"{self._whose}: the stream is larger than {MOST_BYTES} bytes and has no end yet")
            for message in self._cut.feed(data) if data else self._cut.end():
                chunk = self._read(message)
                if chunk is None:
                    continue
                if self._whole is not None:
                    chunk = self._whole(chunk)
                chunks.append(chunk)
                if chunk.last:
                    self._last = True
                if chunk.raw_finish and chunk.finish is None:
                    self._unknown = chunk.raw_finish
        except ProviderError as error:
            failed = error
        if chunks:
            await self._emit(chunks)
        if failed is None or self._last or (not data and isinstance(failed, ProviderGarbled)):
            return
        failed.request_id = failed.request_id or self._said.request_id
        raise failed


async def emit_whole(answer: Chunk, emit: Emit, whose: str) -> None:
    """Emits an answer that came in one piece. Raises ProviderGarbled, after that, for one that ended for an unknown reason."""
    await emit((answer,))
    if answer.raw_finish and answer.finish is None:
        raise _no_end_of_ours(answer.raw_finish, whose, answer.head)


async def emit_filtered(filtered: ContentFiltered, emit: Emit) -> None:
    """Emits what a provider's filter left of an answer: its end. Such an end is no failure, and no other model is asked instead."""
    head = Head(request_id=filtered.request_id)
    await emit((Chunk(finish="content_filter", raw_finish=filtered.code or "content_filter", head=head, last=True),))


def _no_end_of_ours(raw_finish: str, whose: str, said: Head | None) -> ProviderGarbled:
    reason = scrubbed(raw_finish)
    request_id = "" if said is None else said.request_id
    return ProviderGarbled(f"{whose}: the answer ended with {reason!r}, which is no whole answer", code=reason, request_id=request_id)


def check_vectors(vectors: Vectors, count: int, dimensions: int | None, whose: str) -> Vectors:
    """Raises ProviderGarbled unless there are `count` vectors, one per input, all of one length (`dimensions`, if given), all finite."""
    found = len(vectors.vectors)
    if found != count:
        raise ProviderGarbled(f"{whose}: {found} vectors came for {count} inputs")
    lengths = {len(vector) for vector in vectors.vectors}
    if 0 in lengths:
        empty = [len(vector) for vector in vectors.vectors].index(0)
        raise ProviderGarbled(f"{whose}: the vector of input {empty} is empty")
    if len(lengths) > 1:
        raise ProviderGarbled(f"{whose}: the vectors are of different lengths: {sorted(lengths)}")
    if dimensions is not None and lengths not in ({dimensions}, set()):
        raise ProviderGarbled(f"{whose}: {dimensions} dimensions were asked for, vectors of {lengths.pop()} came")
    for index, vector in enumerate(vectors.vectors):
        if not isfinite(sum(vector)):
            raise ProviderGarbled(f"{whose}: the vector of input {index} is not finite")
    return vectors
