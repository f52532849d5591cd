"""From a provider's bytes to emitted chunks, where the wire's own `chunk` function reads one event.

Used by the wires whose events cannot be read one by one without loss; `whole` is what sees all chunks of one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sidecar.call import Chunk, EmbedAsk, Emit, Head, Vectors
from sidecar.errors import ProviderGarbled
from sidecar.providers.http import scrubbed


class Cutter(Protocol):
    """`sse.Events` or `sse.Lines`."""

    def feed(self, data: bytes) -> list[bytes]: ...

    def end(self) -> list[bytes]: ...


class AnswerStream:
    """One streamed answer: cuts the bytes, reads the events, emits the chunks of one network read together.

    What was read before a bad event is emitted before its error is raised: it was said, and it was billed.
    """

    def __init__(
        self, cutter: Cutter, chunk: Callable[[bytes], Chunk | None], whole: Callable[[Chunk], Chunk], emit: Emit, whose: str
    ) -> None:
        self._cutter = cutter
        self._chunk = chunk
        self._whole = whole
        self._emit = emit
        self._whose = whose
        self._begun = False

    async def received(self, data: bytes, said: Head) -> None:
        """The next bytes of the body, with what its headers said."""
        chunks = [] if self._begun else [Chunk(head=said)]
        self._begun = True
        await self._read(self._cutter.feed(data), chunks)

    async def end(self) -> None:
        """The body has ended; whether the answer had, the attempt stage tells."""
        await self._read(self._cutter.end(), [])

    async def _read(self, events: Sequence[bytes], chunks: list[Chunk]) -> None:
        try:
            for event in events:
                if (read := self._chunk(event)) is not None:
                    chunks.append(self._whole(read))
        finally:
            if chunks:
                await self._emit(chunks)
        for sent in chunks:
            check_ending(sent, self._whose)


def check_ending(sent: Chunk, whose: str) -> None:
    """Raises ProviderGarbled for an answer that ended for a reason that is none of ours. Emit first: its tokens are billed."""
    if sent.raw_finish and sent.finish is None:
        reason = scrubbed(sent.raw_finish)
        raise ProviderGarbled(f"{whose}: the answer ended with {reason!r}, which is no whole answer", code=reason)


def check_vectors(vectors: Vectors, ask: EmbedAsk, whose: str) -> Vectors:
    """Raises ProviderGarbled unless there is one vector per input, all of one length, and of the length that was asked for."""
    count = len(vectors.vectors)
    if count != len(ask.inputs):
        raise ProviderGarbled(f"{whose}: {count} vectors came for {len(ask.inputs)} inputs")
    lengths = {len(vector) for vector in vectors.vectors}
    if len(lengths) > 1 or 0 in lengths:
        raise ProviderGarbled(f"{whose}: the vectors are of different lengths: {sorted(lengths)}")
    if ask.dimensions is not None and lengths not in ({ask.dimensions}, set()):
        raise ProviderGarbled(f"{whose}: {ask.dimensions} dimensions were asked for, vectors of {lengths.pop()} came")
    return vectors
