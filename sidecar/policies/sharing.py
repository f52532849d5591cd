"""Budgets that pods share, beside the calls: who waits for more, and one task that talks to the others through `Place`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from sidecar._core import Ledger, Rule
from sidecar.policies.leases import Leases
from sidecar.settings.budgets import WithoutRedis
from sidecar.settings.operation import Fleet
from sidecar.shares import Ask, Both, Reply

_LOOK_S = 0.005  # between two looks at what calls have used
_LEARNING_S = 0.1  # between two words to a server that learns
_WORD_NS = 1_000_000_000  # however quiet it is, others may need what is leased here, or have forgotten all
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # after a failure; the learning of a forgetful server takes longer than the last
_LISTED_AT_ONCE = 1_000
_KEEP_MS = 86_400_000

Untaught = list[tuple[str, int, tuple[tuple[bytes, bytes], ...]]]


class Place(Protocol):
    """Where pods meet: see `store/shared_budgets.py`."""

    first_sequence: int  # above all that this pod has said in its lives before

    def exchange(self, asks: Sequence[Ask], *, is_telling: bool) -> Awaitable[Reply]: ...
    def teach(self, untaught: Untaught, keep_ms: int) -> Awaitable[None]: ...
    def problem(self, error: Exception) -> str: ...
    def close(self) -> Awaitable[None]: ...


class Sharing:
    """What calls and operators ask of it never waits for the network, but `more`, and that no longer than `fleet.wait_ms`."""

    def __init__(
        self,
        settings: Fleet,
        ledger: Ledger,
        clock_ns: Callable[[], int],
        wall_ns: Callable[[], int],
        without: Callable[[str], WithoutRedis | None] = lambda account: None,
    ) -> None:
        """`without` says what an account's own row wants while Redis is away; None: what `fleet.without_redis` does."""
        self.leases = Leases(
            ledger.balance,
            ledger.window,
            lambda account: without(account) or settings.without_redis,
            settings.pods or 1,
            settings.lease_ms * 1_000_000,
        )
        self._ledger = ledger
        self._wait_s = settings.wait_ms / 1000
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._something = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._said_ns = 0
        self._untold: list[str] = []  # accounts of the journal, for a server that has forgotten
        self._is_idle = True
        self._is_up: bool | None = None
        self.tell: Callable[[str], None] = lambda problem: None  # told once for each change what is wrong, "" if nothing is
        # Told of accounts at their warning threshold by what all pods have spent, and of what this pod's journal has lost of an account.
        self.reached: Callable[[str, Both], None] = lambda account, total: None
        self.lost: Callable[[str, Both], None] = lambda account, more: None
        self.calls = 0  # that were held without waiting, and such that had to wait
        self.waits = 0

    def leased(self, accounts: Iterable[tuple[str, Rule]]) -> tuple[tuple[str, Rule], ...]:
        """The accounts of a call, each rule with what this pod may use of it."""
        if self._is_idle:
            self._is_idle = False
            self._something.set()
        self.calls += 1
        return self.leases.leased(accounts)

    async def more(self, accounts: Iterable[tuple[str, Rule]], ask: Both) -> bool:
        """Wait until this pod may perhaps use more. False: that cannot be, or was not in time."""
        if not self.leases.wants_more(accounts, ask, self._clock_ns()):
            return False
        self.waits += 1
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        self._something.set()
        done, _ = await asyncio.wait((answered,), timeout=self._wait_s)
        return bool(done)

    async def begin(self, place: Place, within_s: float) -> None:
        """Before the first call: make oneself known, and wait while a new server learns who is there. A server that is away is not."""
        self.leases.count_from(place.first_sequence)
        try:
            async with asyncio.timeout(within_s):
                await self._say(place)
                while self.leases.state == "learning" or self.leases.is_behind():
                    await asyncio.sleep(0 if self.leases.is_behind() else _LEARNING_S)
                    self._said_ns = 0
                    await self._say(place)
            self._turn("")
        except Exception as error:
            self._turn(place.problem(error))

    async def run(self, place: Place) -> None:
        """Talk until cancelled; whatever fails is begun anew after a pause."""
        failures = 0
        while True:
            try:
                await self._say(place)
            except Exception as error:  # also a defect in here must not end the sidecar, nor the trying
                self._turn(place.problem(error))
                await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
                failures += 1
                continue
            self._turn("")
            failures = 0
            if not self.leases.is_behind():
                await self._rest()

    def _turn(self, problem: str) -> None:
        if self._is_up is not (not problem):
            self._is_up = not problem
            self.tell(problem)

    async def end(self, place: Place) -> None:
        """Leave the others what is not used; the last word of this pod."""
        self.leases.give_all_back()
        for pause_s in _PAUSES_S[:3]:
            try:
                await self._say(place)
                while self.leases.is_behind():
                    await self._say(place)
                break
            except Exception as error:
                self._turn(place.problem(error))
                await asyncio.sleep(pause_s)
        with contextlib.suppress(Exception):
            await place.close()

    async def _rest(self) -> None:
        """Until a call has begun or it is time for a word, but for a moment at least; a call that waits ends both."""
        self._something.clear()
        if self._waiting:
            return
        await self._wait(_LOOK_S)
        rest_ns = self.leases.rest_ns(self._clock_ns())
        if rest_ns and not self._waiting:
            self._is_idle = True
            await self._wait(rest_ns / 1e9)

    async def _wait(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._something.wait()

    async def _say(self, place: Place) -> None:
        now_ns = self._clock_ns()
        waiting, self._waiting = self._waiting, []
        asks = self.leases.due(now_ns, self._wall_ns())
        try:
            if not asks and now_ns - self._said_ns < _WORD_NS and self.leases.state == "up":
                return
            self._said_ns = now_ns
            reply = await place.exchange(asks, is_telling=bool(self._untold))
        except BaseException:
            self.leases.failed(asks)
            raise
        finally:
            for answered in waiting:
                if not answered.done():
                    answered.set_result(None)
        forgotten = self.leases.heard(asks, reply, now_ns, self._clock_ns())
        reached, self.leases.reached = self.leases.reached, []
        for account, total in reached:
            self.reached(account, total)
        lost, self.leases.lost = self.leases.lost, []
        for account, more in lost:
            self.lost(account, more)
        if forgotten:
            self._untold = self._ledger.names()
        while self._untold and not self.leases.is_behind():
            self._recall()
        if self.leases.untaught:
            await place.teach(self.leases.untaught, _KEEP_MS)

    def _recall(self) -> None:
        """Some accounts with a window in which something was spent; there may be a million, so the next only when these have been told."""
        now_ns, some = self._wall_ns(), list[tuple[str, int]]()
        for name in self._untold[-_LISTED_AT_ONCE:]:
            window = self._ledger.window(name)
            if window is None or window[1] is None or window[1] <= now_ns:
                continue
            balance = self._ledger.balance(name, window[1] - 1)
            if balance is not None and (balance.used_nano_usd or balance.used_tokens):
                some.append((name, window[1]))
        del self._untold[-_LISTED_AT_ONCE:]
        self.leases.learn(some)
