"""How many calls of one service may be under way at a time, and how many may wait for a place."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from sidecar.errors import Overloaded
from sidecar.settings import Settings


class Places:
    """One queue per limited service, first come, first served; a service without a limit has no queue."""

    def __init__(self, settings: Settings) -> None:
        self._services = {name: _Places(name, row.concurrency, row.queue) for name, row in settings.services.items() if row.concurrency}

    def of(self, service: str) -> _Places | _Free:
        """What a call of this service holds while it asks providers: `async with places.of(service)`. Raises Overloaded on entering."""
        return self._services.get(service, _FREE)


class _Free:
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


_FREE = _Free()


class _Places:
    """A semaphore with a bounded queue. A place is handed over to the next in line, so that nobody slips in between."""

    def __init__(self, service: str, limit: int, longest_queue: int) -> None:
        self._service = service
        self._limit = limit
        self._longest_queue = longest_queue
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._taken < self._limit:
            self._taken += 1
            return
        if len(self._waiting) >= self._longest_queue:
            raise Overloaded(
                f"service {self._service} has {self._taken} calls under way, as many as it may (services.{self._service}.concurrency), and "
                f"{len(self._waiting)} are waiting (services.{self._service}.queue); try again after a moment",
                retry_after_ms=1000,
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the place came and the caller went, in the same moment
            else:
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._taken -= 1
