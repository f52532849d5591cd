"""How many calls of one service may be under way at a time, and who of those that wait is next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import get_args

from sidecar.errors import Overloaded
from sidecar.request import Priority

_PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # the most important first
_GUESSED_MS = 1_000.0  # how long a place is held, before anybody has left one
_LEAST_MS, _MOST_MS = 100, 60_000  # of what a refused caller is told to wait
_RECENT = 8  # about so many calls make up the mean time that a place is held

_Turn = asyncio.Future[Overloaded | None]  # None: the place is yours


class Places:
    """The places of one service and the bounded queue before them.

    Calls of a higher priority go first; at one priority the tenants take turns, each with its longest waiting call, so that a tenant
    with a thousand calls does not keep another from its first. A full queue is shared alike: a call pushes out the newest one of the
    tenant with the most waiting if that one matters less, or if its tenant would still have more waiting than the newcomer's.
    A place is handed over to the next in line, so that nobody slips in between.
    """

    def __init__(self, service: str, limit: int, longest_queue: int) -> None:
        self._service = service
        self._limit = limit
        self._longest_queue = longest_queue
        self._lines = {priority: _Line() for priority in _PRIORITIES}
        self._held_ms: float | None = None  # the mean time that a place is held
        self.taken = 0

    @property
    def waiting(self) -> int:
        return sum(line.length for line in self._lines.values())

    async def take(self, tenant: str, priority: Priority) -> None:
        """Wait for a place; it is the caller's until `leave`. Raises Overloaded if there is no room in the queue, or no longer."""
        if self.taken < self._limit:
            self.taken += 1
            return
        if self.waiting >= self._longest_queue:
            self._make_room(tenant, priority)
        turn: _Turn = asyncio.get_running_loop().create_future()
        line = self._lines[priority]
        line.add(tenant, turn)
        try:
            refusal = await turn
        except asyncio.CancelledError:
            if turn.cancelled() or not turn.done():
                line.remove(tenant, turn)
            elif turn.result() is None:
                self._hand_on()  # the place came and the caller went, in the same moment
            raise
        if refusal is not None:
            raise refusal

    def leave(self, held_ms: float) -> None:
        """Give the place to the next in line, after having held it for so long."""
        mean = self._held_ms
        self._held_ms = held_ms if mean is None else mean + (held_ms - mean) / _RECENT
        self._hand_on()

    def _hand_on(self) -> None:
        for line in self._lines.values():
            while (turn := line.next()) is not None:
                if not turn.done():  # who has just gone is still in line
                    turn.set_result(None)
                    return
        self.taken -= 1

    def _make_room(self, tenant: str, priority: Priority) -> None:
        """Push out one that waits, or raise Overloaded."""
        least = next((p for p in reversed(_PRIORITIES) if self._lines[p].length), None)
        if least is None or _PRIORITIES.index(priority) > _PRIORITIES.index(least):
            raise self._refusal()
        line = self._lines[least]
        most, waiting = line.most()
        if priority == least and line.waiting(tenant) + 1 >= waiting:
            raise self._refusal()
        refusal = self._refusal(f"; a call {'of another tenant' if priority == least else 'that matters more'} took this one's turn")
        turn = line.newest(most)
        if not turn.done():
            turn.set_result(refusal)

    def _refusal(self, why: str = "") -> Overloaded:
        held_ms = _GUESSED_MS if self._held_ms is None else self._held_ms
        wait_ms = (self.waiting + 1) * held_ms / self._limit
        return Overloaded(
            f"service {self._service} has {self.taken} calls under way, as many as it may (services.{self._service}.concurrency), and "
            f"{self.waiting} are waiting (services.{self._service}.queue){why}; try again after a moment",
            retry_after_ms=round(min(max(wait_ms, _LEAST_MS), _MOST_MS)),
        )


class _Line:
    """Who waits at one priority. The tenant whose turn it is comes first, and of each tenant the longest waiting."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[_Turn, None]] = OrderedDict()
        self.length = 0

    def add(self, tenant: str, turn: _Turn) -> None:
        if tenant not in self._tenants:
            self._tenants[tenant] = OrderedDict()
        self._tenants[tenant][turn] = None
        self.length += 1

    def next(self) -> _Turn | None:
        """Take out whose turn it is; the tenant goes to the end."""
        if not self._tenants:
            return None
        tenant, turns = next(iter(self._tenants.items()))
        self._tenants.move_to_end(tenant)
        return self._out(tenant, next(iter(turns)))

    def newest(self, tenant: str) -> _Turn:
        """Take out the tenant's last one."""
        return self._out(tenant, next(reversed(self._tenants[tenant])))

    def remove(self, tenant: str, turn: _Turn) -> None:
        """Take out who will not wait any longer, if that has not been done."""
        if turn in self._tenants.get(tenant, ()):
            self._out(tenant, turn)

    def waiting(self, tenant: str) -> int:
        return len(self._tenants.get(tenant, ()))

    def most(self) -> tuple[str, int]:
        """The tenant with the most waiting, of several the last in turn, and how many they are."""
        return max(((name, len(turns)) for name, turns in reversed(self._tenants.items())), key=lambda found: found[1])

    def _out(self, tenant: str, turn: _Turn) -> _Turn:
        turns = self._tenants[tenant]
        del turns[turn]
        if not turns:
            del self._tenants[tenant]
        self.length -= 1
        return turn
