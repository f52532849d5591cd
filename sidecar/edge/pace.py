"""How often a stream may send, so that many of them share one core and the next caller still gets its first piece at once."""

from __future__ import annotations

import asyncio
from math import ceil

# A message costs grpc.aio about as much as everything else that is done for a piece, and the processor wakes up three times for it. So
# all streams together send at most some 5,000 messages a second, until each of them sends ten.
_SHARE_S = 0.0002
_LEAST_S = 0.005  # a shorter rest would join nothing
_LONGEST_S = 0.09
_TICK_S = 0.01  # rests end together, on this beat: waking once for many costs half as much as waking for each


class Pace:
    """Lets a stream rest after each message, the longer the more streams there are; with fewer than 25 there is no rest at all.

    Nothing is read from a stream's provider while it rests, and what came meanwhile is read at once and goes out as one message. So a
    piece that finds the way free is sent at once, and no piece waits longer than `_LONGEST_S` and a beat. Nothing is kept here but who
    waits for which beat.
    """

    def __init__(self) -> None:
        self._streams = 0
        self._beats: dict[int, list[asyncio.Future[None]]] = {}

    def begin(self) -> None:
        """One more stream, until `end`."""
        self._streams += 1

    def end(self) -> None:
        self._streams -= 1

    async def rest(self) -> None:
        """To be awaited after a message that is not the last."""
        rest_s = min(self._streams * _SHARE_S, _LONGEST_S)
        if rest_s < _LEAST_S:
            return
        loop = asyncio.get_running_loop()
        beat = ceil((loop.time() + rest_s) / _TICK_S)
        waiting = self._beats.get(beat)
        if waiting is None:
            waiting = self._beats[beat] = []
            loop.call_at(beat * _TICK_S, self._wake, beat)
        turn = loop.create_future()
        waiting.append(turn)
        await turn

    def _wake(self, beat: int) -> None:
        for turn in self._beats.pop(beat):
            if not turn.done():  # a caller who went away while its stream rested
                turn.set_result(None)
