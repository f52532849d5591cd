"""A bound on what an SDK's HTTP client reads of one answer.

The SDKs read the body of an error whole before they say what it was, however long it is, and a long one would use up the time of the next
candidate. The words of an error are in its first kilobytes; of what follows nothing is read, and its connection is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sidecar.errors import ProviderGarbled
from sidecar.providers.http import MOST_BYTES, MOST_ERROR_BYTES

if TYPE_CHECKING:
    from httpx2 import Response


def event_hooks(httpx2: ModuleType) -> dict[str, list[Callable[[Response], Awaitable[None]]]]:
    """What the client calls for each answer between its headers and its body. Streams of events are bounded where they are read."""
    stream: Any = httpx2.AsyncByteStream  # imported late, by the SDK's provider

    class Bounded(stream):  # type: ignore[misc]
        def __init__(self, below: Any, limit: int, *, is_error: bool) -> None:
            self._below = below
            self._limit = limit
            self._is_error = is_error

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for data in self._below:
                size += len(data)
                if size > self._limit and not self._is_error:
                    raise ProviderGarbled(f"the answer is larger than {self._limit} bytes and has no end yet")
                yield data
                if size > self._limit:
                    return

        async def aclose(self) -> None:
            await self._below.aclose()

    async def bound(response: Response) -> None:
        is_error = response.status_code >= 300
        limit = MOST_ERROR_BYTES if is_error else MOST_BYTES
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) <= limit:
            return
        if is_error or not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = Bounded(response.stream, limit, is_error=is_error)

    return {"response": [bound]}
