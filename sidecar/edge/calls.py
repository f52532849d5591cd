"""Which calls are in flight, and whether new ones are welcome."""

from __future__ import annotations

import asyncio

from prometheus_client import Gauge

from sidecar.call import Call
from sidecar.errors import Draining, NotReady


class Calls:
    """The register that draining and stopping work by."""

    def __init__(self, in_flight: Gauge) -> None:
        self._tasks: dict[Call, asyncio.Task[object]] = {}
        in_flight.set_function(self.__len__)
        self._idle = asyncio.Event()
        self._idle.set()
        self.ready = False
        self.draining = False

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, call: Call) -> None:
        """Count the call, until `end`. Raises NotReady before the first and Draining after the last that is taken."""
        if self.draining:
            raise Draining("the sidecar is stopping and takes no new calls; call again: another one answers", retry_after_ms=1000)
        self.require_ready()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a coroutine always runs in one)
        self._tasks[call] = task
        self._idle.clear()

    def require_ready(self) -> None:
        """Raises NotReady as long as providers are being connected."""
        if not self.ready:
            raise NotReady("the sidecar is starting; try again after a moment, or wait for health to say SERVING", retry_after_ms=500)

    def end(self, call: Call) -> None:
        """The call has ended, well or not."""
        del self._tasks[call]
        if not self._tasks:
            self._idle.set()

    def drain(self) -> int:
        """Refuse new calls from now on. Returns how many are still being answered."""
        self.draining = True
        return len(self._tasks)

    async def idle(self) -> None:
        await self._idle.wait()

    def end_all(self) -> int:
        """End every call in flight with Draining; each still settles and tells its caller what it has. Returns how many."""
        tasks = dict(self._tasks)
        for call, task in tasks.items():
            call.aborted = Draining("the sidecar stopped before the answer was whole; call again: another one answers", retry_after_ms=1000)
            task.cancel()
        return len(tasks)
