"""What a pod knows of the runs that pods share, and what it tells the others: beside the calls, in two tasks of its own.

What was spent is told as a sum per pod, out of the journal, so whatever a lost reply, a killed process or a forgetful Redis left open is
mended by the next word. Every pod knows which runs are open, and for how long it may trust that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Protocol
from uuid import uuid4

from msgspec import Struct
from msgspec.json import decode, encode

from sidecar._core import Ledger
from sidecar.errors import StoreFailed
from sidecar.policies.runs import Run, RunPlan, Runs, summary
from sidecar.policies.shared_run_parts import Hold, Own, catch_up_with_ledger, step_words, whole
from sidecar.run_words import Heard, Looked
from sidecar.settings.budgets import WithoutRedis

BEYOND = 1_000_000
AGAIN_MS = 1_000
_LOOK_S = 1.0  # between two looks when nothing is new
_LEARNING_LOOK_S = 0.1
_TRUST_NS = 3_000_000_000  # after a look this pod knows that no other run has a plan
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_TELL_AGAIN_S = 0.5
_IDLE_LOOK_NS = 5_000_000_000

Key = tuple[str, str]  # tenant, run


class Meeting(Protocol):
    """Where pods meet: see `store/shared_runs.py`. All of it raises StoreFailed."""

    pod: str
    first_sequence: int

    def look(self, epoch: str, number: int, *, is_telling: bool = ..., is_leaving: bool = ...) -> Awaitable[Looked]: ...
    def bell(self, number: int, within_s: float) -> Awaitable[None]: ...
    def lagging(self, number: int, trust_ms: int) -> Awaitable[int]: ...
    def open(self, key: str, generation: str, text: str, most: int, *, is_reopening: bool) -> Awaitable[Heard]: ...
    def enter(
        self, key: str, generation: str, version: int, sequence: int, text: str, step: str, *, is_again: bool
    ) -> Awaitable[Heard]: ...
    def put(self, key: str, generation: str, sequence: int, text: str) -> Awaitable[Heard]: ...
    def state(self, key: str, *, with_steps: bool = ...) -> Awaitable[Heard]: ...
    def close(self, key: str, generation: str, idle_ms: int) -> Awaitable[Heard]: ...
    def restore(self, key: str, generation: str, text: str, parts: Iterable[tuple[str, str]], steps: Iterable[str]) -> Awaitable[Heard]: ...
    def bury(self, closed: Sequence[tuple[str, str]]) -> Awaitable[None]: ...
    def end(self) -> Awaitable[None]: ...


class Known(Struct):
    """An open run. `text` is JSON of generation, when it was opened (Unix ms) and plan; `used_ms` is when it was last heard to be used.

    `is_known_by_all`: no pod can take it for a run without a plan any more.
    """

    generation: str
    text: str
    used_ms: int
    is_known_by_all: bool = False

    def read(self) -> tuple[int, RunPlan]:
        _, opened_ms, plan = decode(self.text, type=tuple[str, int, RunPlan])
        return opened_ms, plan


class RunTalk:
    """What this pod knows of the runs of all pods, and what it has to tell. `runs` keeps this pod's parts, `keep` writes them down."""

    def __init__(
        self,
        place: Meeting,
        runs: Runs,
        ledger: Ledger,
        *,
        idle_hours: int,
        most: int,
        learn_ms: int,
        without: WithoutRedis,
        keep: Callable[[], Awaitable[None]],
        clock_ns: Callable[[], int],
        wall_ns: Callable[[], int],
    ) -> None:
        self._place = place
        self._runs = runs
        self._ledger = ledger
        self._idle_ms = idle_hours * 3_600_000
        self._most = most
        self._look_s = min(_LOOK_S, learn_ms / 3_000)  # a server that has forgotten must hear of every pod before it lets calls in again
        self._without = without
        self._keep = keep
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._open: dict[Key, Known] = {}
        self._closed: dict[Key, str] = {}  # generations; the one closed the longest ago first
        self._owns: dict[Key, Own] = {}
        self._of_call: dict[int, Own] = {}  # by reservation
        self._untold: dict[int, Own] = {}  # by identity: a run's earlier generations may have calls in flight
        self._something = asyncio.Event()
        self._sequence = place.first_sequence
        self._epoch = ""
        self._number = 0
        self._there: set[str] | None = (
            None  # generations of open and closed runs that a forgetful server knows again; None: it needs no telling
        )
        self._looking = asyncio.Lock()
        self._trusted_ns = -_TRUST_NS
        self._idle_looked_ns = 0
        self._problem: str | None = None  # "": none; None: nobody has been asked yet
        self.tell: Callable[[str], None] = lambda problem: None  # told once for each change what is wrong, "" if nothing is
        self.reached: Callable[[str, int, int], None] = lambda account, spent, limit: None
        self.ended: Callable[[str, dict[str, str]], None] = lambda message, facts: None  # of a run that was closed because nobody used it

    @property
    def is_up(self) -> bool:
        return self._problem == ""

    # --- beside the calls

    async def begin(self, within_s: float) -> None:
        """Before the first call: know again what this pod had a part in, and hear of others. A server that is away is not waited for."""
        now_ns = self._wall_ns()
        for run in self._runs.listing():
            key = (run.plan.tenant, run.plan.run)
            if run.used_ms + self._idle_ms <= now_ns // 1_000_000:
                self._runs.close(run, self._ledger)
                continue
            if not run.generation:  # of a time when no pods were asked
                self._runs.hand_over(run, generation_at(run.opened_ms))
            catch_up_with_ledger(run, self._ledger, now_ns)
            text = encode((run.generation, run.opened_ms, run.plan)).decode()
            self._open[key] = Known(run.generation, text, run.used_ms)
            self._own(key, self._open[key])
        try:
            async with asyncio.timeout(within_s):
                pause_s: float | None = 0
                while pause_s is not None:
                    await asyncio.sleep(pause_s)
                    pause_s = await self._look()
                await self._tell_untold()
            self._turn("")
        except (StoreFailed, TimeoutError) as error:
            self._turn(str(error) or "has lost its memory and is being told again")

    async def run(self) -> None:
        """Look and tell until cancelled; whatever fails is begun anew after a pause."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_looking())
            group.create_task(self._keep_telling())

    async def end(self) -> None:
        """The last words of this pod: it holds nothing more."""
        with contextlib.suppress(StoreFailed):
            await self._tell_untold()
            await self._place.look(self._epoch, self._number, is_leaving=True)
        await self._place.end()

    async def _keep_looking(self) -> None:
        failures = 0
        while True:
            try:
                pause_s = await self._look()
                await self._close_idle()
            except Exception as error:  # also a defect in here must not end the sidecar, nor the trying
                self._turn(error.message if isinstance(error, StoreFailed) else f"cannot be understood: {type(error).__name__}: {error}")
                await asyncio.sleep(min(self._look_s, _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]))
                failures += 1
                continue
            failures = 0
            self._turn("")
            if pause_s is not None:
                await asyncio.sleep(pause_s)
                continue
            with contextlib.suppress(StoreFailed):  # the next look tells of it
                await self._place.bell(self._number, self._look_s)

    async def _keep_telling(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                await self._tell_untold()
            except Exception:  # the next look tells of it
                await asyncio.sleep(_TELL_AGAIN_S)
                self._something.set()

    # --- inside

    def _own(self, key: Key, known: Known) -> Own:
        """This pod's part, which is made if need be."""
        own = self._owns.get(key)
        if own is not None and own.run.generation == known.generation:
            return own
        run = self._runs.find(*key)
        if own is not None or (run is not None and run.generation != known.generation):
            self._forget(key)
            run = None
        if run is None:
            opened_ms, plan = known.read()
            run = Run(plan, opened_ms, opened_ms, generation=known.generation)
            self._runs.restore(run)
            self._runs.note(run)
        made = self._owns[key] = Own(key_text(key), run, seen=set(run.seen))
        return made

    def _forget(self, key: Key) -> None:
        run = self._runs.find(*key)
        self._owns.pop(key, None)
        if run is not None:
            self._runs.close(run, self._ledger)

    def _word(self, own: Own, hold: Hold | None = None) -> tuple[int, str]:
        self._sequence += 1
        return self._sequence, own.told(self._sequence, hold)

    def _changed(self, own: Own) -> None:
        self._runs.note(own.run)
        self._mark(own)

    def _mark(self, own: Own) -> None:
        self._untold[id(own)] = own
        self._something.set()

    async def _tell_untold(self) -> None:
        while self._untold:
            await self._put(next(iter(self._untold.values())))

    async def _put(self, own: Own) -> None:
        """Tell the others this pod's part of one run as it is now. Raises StoreFailed, and then it is told later."""
        key = (own.run.plan.tenant, own.run.plan.run)
        async with own.lock:
            try:
                self._untold.pop(id(own), None)
                await self._meet(own)
                sequence, text = self._word(own)
                heard = await self._place.put(own.key, own.run.generation, sequence, text)
            except BaseException:
                self._mark(own)
                raise
            known = self._open.get(key)
            is_over = known is None or known.generation != own.run.generation
            if heard.status == "stale":
                self._sequence = max(self._sequence, heard.number + BEYOND)
                self._mark(own)
            elif heard.status == "unknown" and not is_over:
                self._mark(own)
                raise self._learning(heard)
            elif own.view is not None:
                own.view.version += own.view.version == heard.version - 1
            if is_over and not own.held and id(own) not in self._untold and self._owns.get(key) is own:
                self._forget(key)

    async def _meet(self, own: Own) -> None:
        """Once in this process: hear what this pod has said in a life before."""
        if not own.was_met:
            own.hear(await self._place.state(own.key, with_steps=True), self._place.pod, "", 0)

    async def _look(self) -> float | None:
        """Say that this pod is there, and hear of runs opened and closed. Returns when to look again, seconds; None: nothing is new."""
        async with self._looking:
            return await self._look_once()

    async def _look_once(self) -> float | None:
        sent_ns = self._clock_ns()
        looked = await self._place.look(self._epoch, self._number, is_telling=self._there is not None)
        if looked.epoch != self._epoch:
            self._epoch, self._there = looked.epoch, set()
            for own in self._owns.values():
                own.is_outdated()
        for name, text, buried in looked.changes:
            self._heard(decode(name, type=Key), text, buried)
        has_news, self._number = looked.number != self._number, looked.number
        if looked.more:
            return 0
        if self._there is not None:
            await self._tell_again(self._there)
            self._there = None
            return 0
        if looked.learning:
            return _LEARNING_LOOK_S
        self._trusted_ns = sent_ns
        return 0 if has_news else None  # whoever opens a run waits until this pod says that it has heard of it

    def _heard(self, key: Key, text: str, buried: str) -> None:
        known = self._open.get(key)
        if text:
            generation = decode(text, type=tuple[str, int, RunPlan])[0]
            if self._there is not None:
                self._there.add(generation)
            if self._closed.get(key) == generation or (known is not None and known.generation >= generation):
                return  # it is told again what it has forgotten
            self._closed.pop(key, None)
            self._open[key] = Known(generation, text, self._wall_ns() // 1_000_000)
        elif buried:
            if self._there is not None:
                self._there.add(buried)
            if known is None or known.generation <= buried:
                self._bury(key, buried)
        own = self._owns.get(key)
        if own is not None and own.run.generation != (self._open[key].generation if key in self._open else ""):
            self._mark(own)  # its last word, and then it is forgotten

    def _bury(self, key: Key, generation: str) -> None:
        self._open.pop(key, None)
        self._closed.pop(key, None)
        self._closed[key] = generation
        if len(self._closed) > self._most:
            del self._closed[next(iter(self._closed))]
        if own := self._owns.get(key):
            self._mark(own)

    async def _tell_again(self, there: set[str]) -> None:
        """What a server that has lost its memory, or is new, does not know. A part that is known only here is told in any case."""
        for key, known in list(self._open.items()):
            own = self._owns.get(key)
            if known.generation in there and own is None:
                continue
            if own is None:
                heard = await self._place.restore(key_text(key), known.generation, known.text, (), ())
            else:
                async with own.lock:
                    heard = await self._restore(own, known)
            there.add(known.generation)
            if heard.status == "closed":
                self._bury(key, known.generation)
            elif heard.status == "other":
                self._open.pop(key, None)
                self._heard(key, heard.text, "")
        await self._place.bury([(key_text(key), which) for key, which in self._closed.items() if which not in there])

    async def _restore(self, own: Own, known: Known) -> Heard:
        await self._meet(own)
        _, text = self._word(own)
        others = [] if own.view is None else [(part.pod, part.text) for part in own.view.texts]
        return await self._place.restore(
            own.key, known.generation, known.text, [(self._place.pod, text), *others], step_words(own.seen | own.run.seen)
        )

    async def _close_idle(self) -> None:
        now_ns = self._clock_ns()
        if now_ns - self._idle_looked_ns < _IDLE_LOOK_NS:
            return
        self._idle_looked_ns, now_ms = now_ns, self._wall_ns() // 1_000_000
        for key, known in list(self._open.items()):
            if now_ms - known.used_ms < self._idle_ms or ((own := self._owns.get(key)) is not None and own.held):
                continue
            heard = await self._place.close(key_text(key), known.generation, self._idle_ms)
            if heard.status == "used":
                known.used_ms = now_ms - heard.number
            elif heard.status == "state":
                opened_ms, plan = known.read()
                self._bury(key, known.generation)
                self.ended(*summary(whole(plan, opened_ms, heard), None))

    def _turn(self, problem: str) -> None:
        if self._problem is None or bool(problem) is not bool(self._problem):
            self.tell(problem)
        self._problem = problem

    def _is_trusted(self) -> bool:
        """A run that is not known here has no plan."""
        return self._clock_ns() - self._trusted_ns < _TRUST_NS

    def _has_plans(self, tenant: str) -> bool:
        return any(tenant == other for other, _ in chain(self._open, self._closed))

    def _away(self, what: str) -> StoreFailed:
        return StoreFailed(f"{what}, and the Redis that pods share {self._problem or 'was not heard for a while'}; try again after a while")

    def _learning(self, heard: Heard) -> StoreFailed:
        why = "the Redis that pods share has lost its memory and is being told again of runs; try again after a while"
        return StoreFailed(why, retry_after_ms=heard.number or AGAIN_MS)


def key_text(key: Key) -> str:
    """No two keys have the same, whatever the names are."""
    return encode(key).decode()


def generation_at(now_ms: int) -> str:
    """A later one is larger."""
    return f"{now_ms:015}-{uuid4().hex[:12]}"
