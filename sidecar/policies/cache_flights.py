"""A hundred identical calls at once make one provider call: the first asks, the others wait for its answer."""

from __future__ import annotations

import asyncio
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Turn = Literal["lead", "alone"]


class Flights(Generic[T]):
    """Each question that is being asked, and who waits for the answer.

    Whoever leads must end it, however its call ends. A leader that is cancelled or fails hands over to the one that has waited the longest,
    so that a provider that fails meets one caller after another and never the herd. Waiters keep their own deadlines: being cancelled takes
    them out.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[asyncio.Future[T | Turn]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def join(self, key: bytes) -> T | Turn:
        """The leader's answer, or `lead`: ask, and `end`; or `alone`: ask, this answer is for nobody else."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = []
            return "lead"
        turn: asyncio.Future[T | Turn] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in waiting:
                waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.result() == "lead":
                self.hand_over(key)  # it was told to lead in the moment in which it left
            raise

    def land(self, key: bytes, answer: T) -> int:
        """The leader has an answer for all. Returns for how many."""
        return self._release(key, answer)

    def scatter(self, key: bytes) -> int:
        """The leader has an answer that is for itself alone, as the others' would be: they ask for themselves, all at once."""
        return self._release(key, "alone")

    def hand_over(self, key: bytes) -> None:
        """The leader has none. The next one leads, if anybody waits."""
        waiting = self._waiting[key]
        while waiting:
            turn = waiting.pop(0)
            if not turn.done():
                turn.set_result("lead")
                return
        del self._waiting[key]

    def _release(self, key: bytes, outcome: T | Turn) -> int:
        told = 0
        for turn in self._waiting.pop(key):
            if not turn.done():
                turn.set_result(outcome)
                told += 1
        return told
