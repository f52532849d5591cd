"""A limit of time that costs a call next to nothing: one timer of the event loop looks after all of them."""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType
from typing import Self

_LOOK_S = 0.05
_GRAIN_S = 0.002  # the event loop's clock and timers count in milliseconds, so a timer may be early by as much


class TimeLimit:
    """Cancels what runs inside the block at `until`, and raises TimeoutError from it.

    `asyncio.timeout` takes a timer of the event loop per block and another one each time its end is moved, which for a stream costs
    as much as reading its piece. Here `until` is a field that may be set at any time, though not to a moment nearer than 50 ms: a
    common timer looks at all blocks that often, and only those that end before its next look get a timer of their own.
    """

    __slots__ = ("_cancelling", "_is_over", "_task", "until")

    def __init__(self, until: float = inf) -> None:
        """`until` in `loop.time()` seconds; `inf`: as long as it takes."""
        self.until = until
        self._is_over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a coroutine always runs in one)
        self._task = task
        self._cancelling = task.cancelling()
        loop = task.get_loop()
        limits = _limits.get(loop)
        if limits is None:
            limits = _limits[loop] = {}
            loop.call_later(_LOOK_S, _look, loop, limits)
        limits[self] = None
        if self.until < loop.time() + _LOOK_S:
            loop.call_at(self.until, _end, self, limits)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        limits = _limits.get(self._task.get_loop())
        if limits is not None:
            limits.pop(self, None)
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end(self) -> None:
        """The time is up."""
        self._is_over = True
        self._task.cancel()


_Limits = dict["TimeLimit", None]  # in the order in which their blocks were entered, so that what happens at one moment is always the same
_limits: dict[asyncio.AbstractEventLoop, _Limits] = {}  # by loop; it has a timer while there are any


def _look(loop: asyncio.AbstractEventLoop, limits: _Limits) -> None:
    if not limits:
        del _limits[loop]
        return
    next_look = loop.time() + _LOOK_S
    loop.call_at(next_look, _look, loop, limits)
    for limit in limits:
        if limit.until < next_look:
            loop.call_at(limit.until, _end, limit, limits)


def _end(limit: TimeLimit, limits: _Limits) -> None:
    if limit in limits and limit.until <= asyncio.get_running_loop().time() + _GRAIN_S:  # it may have been moved, or left
        del limits[limit]
        limit.end()
