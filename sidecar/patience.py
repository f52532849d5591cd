"""How long a provider may be silent: a timeout whose end moves with every piece, for the price of an assignment."""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType
from typing import Self

_LOOK_S = 0.05  # an end may be overslept by this much; those it is used for are seconds away


class Patience:
    """Cancels what runs inside the block once `until` has passed, and raises TimeoutError from it.

    `asyncio.timeout` takes a timer of the event loop per block and another one each time its end is moved, which for a stream costs
    as much as reading its piece. Here `until` is a field, and one timer looks at all blocks now and then.
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
        waiting = _waiting.get(loop)
        if waiting is None:
            waiting = _waiting[loop] = set()
            loop.call_later(_LOOK_S, _look, loop, waiting)
        waiting.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        waiting = _waiting.get(self._task.get_loop())
        if waiting is not None:
            waiting.discard(self)
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _end(self) -> None:
        self._is_over = True
        self._task.cancel()


_waiting: dict[asyncio.AbstractEventLoop, set[Patience]] = {}  # each loop's blocks; it has a timer while there are any


def _look(loop: asyncio.AbstractEventLoop, waiting: set[Patience]) -> None:
    now = loop.time()
    for patience in [p for p in waiting if p.until <= now]:
        waiting.discard(patience)
        patience._end()
    if waiting:
        loop.call_later(_LOOK_S, _look, loop, waiting)
    else:
        del _waiting[loop]
