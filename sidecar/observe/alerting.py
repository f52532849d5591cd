"""Sends alerts, beside the calls: each receiver has a lane of its own, so that one that is away delays no other.

A lane remembers what it has told, asks whether another pod has, tries again with growing pauses, and holds so many alerts and no more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

import msgspec

from sidecar.errors import StoreFailed
from sidecar.observe.alerts import ORDER, Alert, Judge
from sidecar.observe.events import Event
from sidecar.observe.receivers import NotSent, Receiver
from sidecar.settings.alerts import Severity

_MOST_WAITING: Final = 1_000
_MOST_TOLD: Final = 20_000
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 300.0
_LOOK_AGAIN_S: Final = 5.0  # at what another pod is sending
_OLDEST_MS: Final = 86_400_000  # what could not be sent for a day is history

Outcome = Literal["sent", "failed", "told_elsewhere", "lost"]
_read = msgspec.json.Decoder(Alert).decode
_write = msgspec.json.encode


class Memory(Protocol):
    """What reaches further than this process; see `store/told.py`."""

    async def kept(self, receiver: str, now_ms: int) -> list[tuple[str, int, str]]: ...
    async def keep(self, receiver: str, entries: Sequence[tuple[str, int, str]], now_ms: int) -> None: ...
    async def claim(self, receiver: str, ids: Sequence[str]) -> Sequence[Literal["mine", "told", "elsewhere"]]: ...
    async def tell_others(self, receiver: str, ids: Sequence[str], lefts_ms: Sequence[int]) -> None: ...
    async def let_go(self, receiver: str, ids: Sequence[str]) -> None: ...
    async def close(self) -> None: ...


class _Waiting:
    """An alert that is to be sent, not before `due_ns` of the clock. `is_again`: it was told before, and is told again then."""

    __slots__ = ("alert", "due_ns", "is_again", "is_kept")

    def __init__(self, alert: Alert, due_ns: int, *, is_again: bool = False, is_kept: bool = False) -> None:
        self.alert = alert
        self.due_ns = due_ns
        self.is_again = is_again
        self.is_kept = is_kept


class Lane:
    """One receiver's alerts. `key` names the receiver in all pods, without telling its address."""

    def __init__(
        self,
        receiver: Receiver,
        key: str,
        least: Severity,
        memory: Memory,
        *,
        clock_ns: Callable[[], int],
        wall_ns: Callable[[], int],
        random: Callable[[], float],
        count: Callable[[str, Outcome, int], None],
        tell: Callable[[str, str], None],
    ) -> None:
        """`count` is told what became of how many, `tell` once for each change what is wrong with the receiver, "" if nothing is."""
        self._receiver = receiver
        self._key = key
        self._least = ORDER[least]
        self._memory = memory
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._random = random
        self._count = count
        self._tell = tell
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._told: OrderedDict[str, int] = OrderedDict()  # id → until when it is not told again, Unix ms
        self._standing: set[str] = set()  # what this lane has told of and has not ended
        self._something = asyncio.Event()
        self._sent = asyncio.Event()
        self._pause_s = 0.0
        self._again_ns = 0  # the receiver is left alone until then
        self._singly = 0  # so many go one by one: one among several was refused
        self._problem = ""

    @property
    def name(self) -> str:
        return self._receiver.name

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, alert: Alert) -> None:
        """Have it sent, unless it is told or about to be. Never waits."""
        if alert.is_over and not self._ends(alert):
            return
        if ORDER[alert.severity] < self._least or alert.id in self._waiting:
            return
        left_ms = 0 if alert.is_over else self._told.get(alert.id, 0) - self._wall_ns() // 1_000_000
        if left_ms > 0 and not alert.lasts:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._count(self.name, "lost", 1)
            return
        # A trouble that comes again while it need not be told is told later, if it has not ended by then.
        self._waiting[alert.id] = _Waiting(alert, self._clock_ns() + max(left_ms, 0) * 1_000_000, is_again=left_ms > 0)
        self._something.set()

    def _ends(self, over: Alert) -> bool:
        """Something ends that was told of here, or is about to be; what was to be told again later is forgotten."""
        about, now_ns = over.about, self._clock_ns()
        is_known = about in self._standing
        self._standing.discard(about)
        for known_as, one in list(self._waiting.items()):
            if one.alert.about == about and one.is_again and one.due_ns > now_ns:
                del self._waiting[known_as]
            elif one.alert.about == about:
                is_known = True
        return is_known

    async def run(self) -> None:
        """Send until cancelled."""
        await self._begin()
        while True:
            self._something.clear()
            await self._keep([one for one in self._waiting.values() if not one.is_kept and not one.is_again])
            due, next_ns = self._due()
            if due:
                await self._round(due)
                self._sent.set()
                continue
            try:
                async with asyncio.timeout(None if next_ns is None else max(0.0, (next_ns - self._clock_ns()) / 1e9)):
                    await self._something.wait()
            except TimeoutError:
                pass

    def hurry(self) -> None:
        """The process ends: try once more at once what waits for a pause to pass."""
        self._again_ns = 0
        self._something.set()

    async def sent(self) -> None:
        """Wait until nothing is to be sent now."""
        while self._due_now():
            self._sent.clear()
            await self._sent.wait()

    async def end(self) -> int:
        """After `run`: how many were not sent."""
        left = self._due_now()
        await self._memory.let_go(self._key, left)
        await self._receiver.close()
        return len(left)

    def _due_now(self) -> list[str]:
        now_ns = self._clock_ns()
        return [known_as for known_as, one in self._waiting.items() if one.due_ns <= now_ns]

    # --- a round ------------------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """What an earlier process has told, or had still to tell."""
        try:
            entries = await self._memory.kept(self._key, self._wall_ns() // 1_000_000)
        except StoreFailed as error:
            self._turn(error.message)
            return
        for known_as, until_ms, text in entries:
            if not text:
                self._told[known_as] = until_ms
                continue
            try:
                self._waiting.setdefault(known_as, _Waiting(_read(text), 0, is_kept=True))
            except msgspec.MsgspecError:
                continue  # another version's, in a form of its own

    def _due(self) -> tuple[list[_Waiting], int | None]:
        """What can be sent now, and otherwise when there will be something."""
        now_ns = self._clock_ns()
        if not self._waiting or now_ns < self._again_ns:
            return [], self._again_ns if self._waiting else None
        most = 1 if self._singly else self._receiver.most
        due = [one for one in self._waiting.values() if one.due_ns <= now_ns][:most]
        return due, min(one.due_ns for one in self._waiting.values())

    async def _round(self, due: list[_Waiting]) -> None:
        due = await self._not_too_old(due)
        if not due:
            return
        verdicts = await self._memory.claim(self._key, [one.alert.id for one in due])
        mine = []
        for one, verdict in zip(due, verdicts, strict=True):
            if verdict == "mine":
                mine.append(one.alert)
            elif verdict == "told":
                await self._done([one.alert], "told_elsewhere")
            else:
                one.due_ns = self._clock_ns() + int(_LOOK_AGAIN_S * (0.5 + self._random()) * 1e9)
        if not mine:
            return
        self._singly = max(0, self._singly - 1)
        try:
            problem = await self._receiver.send(mine)
        except NotSent as error:
            await self._failed(mine, error)
            return
        self._pause_s = 0.0
        self._standing.update(alert.about for alert in mine if alert.lasts and len(self._standing) < _MOST_WAITING)
        await self._done(mine, "sent")
        now_ms = self._wall_ns() // 1_000_000
        await self._memory.tell_others(self._key, [a.id for a in mine], [self._told[a.id] - now_ms for a in mine])
        self._turn(problem)

    async def _not_too_old(self, due: list[_Waiting]) -> list[_Waiting]:
        oldest_ms = self._wall_ns() // 1_000_000 - _OLDEST_MS
        if old := [one.alert for one in due if one.alert.at_ms < oldest_ms]:
            await self._done(old, "lost")
        return [one for one in due if one.alert.at_ms >= oldest_ms]

    async def _failed(self, alerts: list[Alert], error: NotSent) -> None:
        self._count(self.name, "failed", 1)
        is_lost = error.is_final and len(alerts) == 1
        self._turn(f"the receiver {error}; {'that alert is lost' if is_lost else 'they wait and are tried again'}")
        if is_lost:
            await self._done(alerts, "lost")
            return
        if error.is_final:
            self._singly = len(alerts)
        self._pause_s = min(self._pause_s * 2 or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        pause_s = max(self._pause_s * (0.5 + self._random() / 2), error.again_s)
        self._again_ns = self._clock_ns() + int(pause_s * 1e9)

    async def _done(self, alerts: list[Alert], outcome: Outcome) -> None:
        """They are not sent any more: they are told, or lost."""
        now_ms = self._wall_ns() // 1_000_000
        for alert in alerts:
            self._waiting.pop(alert.id, None)
            if len(self._told) >= _MOST_TOLD:
                self._told.popitem(last=False)
            self._told[alert.id] = (now_ms if alert.lasts else alert.at_ms) + alert.quiet_ms
            self._told.move_to_end(alert.id)
        self._count(self.name, outcome, len(alerts))
        await self._write([(alert.id, self._told[alert.id], "") for alert in alerts])

    async def _keep(self, fresh: list[_Waiting]) -> None:
        if fresh:
            await self._write([(one.alert.id, one.alert.at_ms + one.alert.quiet_ms, _write(one.alert).decode()) for one in fresh])
            for one in fresh:
                one.is_kept = True

    async def _write(self, entries: list[tuple[str, int, str]]) -> None:
        try:
            await self._memory.keep(self._key, entries, self._wall_ns() // 1_000_000)
        except StoreFailed as error:
            self._turn(error.message)

    def _turn(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._tell(self.name, problem)


class Alerting:
    """All lanes, and the judge before them."""

    def __init__(self, judge: Judge, lanes: Sequence[Lane], memory: Memory) -> None:
        self._judge = judge
        self.lanes = lanes
        self._memory = memory

    def event(self, event: Event) -> None:
        """To be told of every event. Never waits."""
        alert = self._judge.alert(event)
        if alert is not None:
            self.add(alert)

    def add(self, alert: Alert) -> None:
        for lane in self.lanes:
            lane.add(alert)

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane in self.lanes:
                group.create_task(lane.run())

    async def finish(self, within_s: float) -> None:
        """Have sent what is still to be sent, for so long at most; `run` goes on meanwhile."""
        for lane in self.lanes:
            lane.hurry()
        _, late = await asyncio.wait([asyncio.ensure_future(lane.sent()) for lane in self.lanes], timeout=within_s)
        for task in late:
            task.cancel()

    async def end(self) -> dict[str, int]:
        """After `run`: how many alerts were not sent, by receiver."""
        left = {lane.name: await lane.end() for lane in self.lanes}
        await self._memory.close()
        return {name: count for name, count in left.items() if count}
