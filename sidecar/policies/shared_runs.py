"""Runs that all pods share: opened, held to their plan and closed as one, where the pods meet (a Redis, see `store/shared_runs.py`).

A call of such a run is decided there, by one word that waits for the answer; it takes seconds at a provider. Each pod decides by the rules
of `run_rules` from what all have said, and is let in only if nobody has said anything since. What was spent is told as a sum per pod, out
of the journal, so whatever a lost reply, a killed process or a forgetful Redis left open is mended by the next word. Every pod knows which
runs are open, and for how long it may trust that: a call of any other run asks nobody.
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
from msgspec.structs import replace

from sidecar._core import Ledger, Rule
from sidecar.call import Call, GenerateRequest
from sidecar.errors import BudgetExceeded, InvalidRequest, Overloaded, SidecarError, StoreFailed
from sidecar.policies.run_rules import is_closed, objection, over_limit
from sidecar.policies.runs import MOST_STEPS_SEEN, Run, RunPlan, Runs, account_of, check, summary
from sidecar.policies.shared_run_parts import AllPods, Hold, Own, catch_up_with_ledger, hold_of, step_words, whole
from sidecar.run_words import Heard, Looked
from sidecar.settings.budgets import WithoutRedis

_LOOK_S = 1.0  # between two looks when nothing is new
_LEARNING_LOOK_S = 0.1
_TRUST_NS = 3_000_000_000  # after a look this pod knows that no other run has a plan
_TRUST_MS = 3_500  # for so long the others wait for it when they open one: longer, as clocks run at different speeds
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_TELL_AGAIN_S = 0.5
_ON_ITS_WAY_S = 0.03  # to other pods: what a call that has just ended did cost
_TURNS = 100  # of a call, when other pods are always faster
_BEYOND = 1_000_000
_WARN_PERCENT = 80
_SETTLING_S = 1.0  # a summary waits for so long for what other pods have still to tell
_IDLE_LOOK_NS = 5_000_000_000
_AGAIN_MS = 1_000

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


class SharedRuns:
    """The runs of all pods. `runs` keeps this pod's parts, `keep` writes them down."""

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
        self._problem: str | None = "nobody has been asked yet"
        self.tell: Callable[[str], None] = lambda problem: None  # told once for each change what is wrong, "" if nothing is
        self.reached: Callable[[str, int, int], None] = lambda account, spent, limit: None
        self.ended: Callable[[str, dict[str, str]], None] = lambda message, facts: None  # of a run that was closed because nobody used it

    @property
    def is_up(self) -> bool:
        return not self._problem

    # --- a call's path

    def plan_of(self, tenant: str, run: str) -> RunPlan | None:
        own, known = self._owns.get((tenant, run)), self._open.get((tenant, run))
        if own is not None and known is not None and own.run.generation == known.generation:
            return own.run.plan
        return None if known is None else known.read()[1]

    def tokens(self, tenant: str, run: str, agent: str) -> tuple[int, int]:
        """Input and output that an agent has used, by what was last heard."""
        own = self._owns.get((tenant, run))
        return (0, 0) if own is None else AllPods(own, is_again=True).tokens(agent)

    async def join(self, call: Call) -> Run | None:
        """The run that this call is of, if it has a plan; its first call may bring it along. Raises what `open` does; BudgetExceeded for a
        run that was closed, StoreFailed where it cannot be known whether there is a plan.
        """
        key, brought = (call.tenant, call.run), call.request.caller.run_plan
        if not self._is_trusted() and self.is_up:  # this process stood still for a while
            with contextlib.suppress(StoreFailed):
                await self._look()
        known = self._open.get(key)
        if known is None and key in self._closed:
            raise is_closed(account_of(*key), call.run)
        if brought is not None:
            known = await self.open(replace(brought, tenant=call.tenant, run=call.run), is_reopening=False)
        if known is not None:
            return self._own(key, known).run
        if not self._is_trusted() and (self._without == "refuse" or self._has_plans(call.tenant)):
            raise self._away(f"whether run {call.run} has a plan is not known")
        return None

    async def open(self, plan: RunPlan, *, is_reopening: bool) -> Known:
        """Begin a run in all pods, or go on with it, and wait until every other pod knows it or can no longer think that it has no plan.

        Raises InvalidRequest for a plan that cannot be, or another one than the open run's; BudgetExceeded for a run that was closed,
        unless it is opened again; Overloaded and StoreFailed.
        """
        key = (plan.tenant, plan.run)
        known, number = self._open.get(key), self._number
        if known is None:
            check(plan)
            known, number = await self._opened(key, plan, is_reopening)
        if known.read()[1] != plan:
            check(plan)
            raise InvalidRequest(f"run {plan.run} of tenant {plan.tenant} is open with another plan; close it first", field="run")
        if not known.is_known_by_all:
            await self._until_known(number)
            known.is_known_by_all = True
        return known

    async def enter(self, run: Run, call: Call, reservation: int) -> None:
        """Hold what the call may use of its run, in all pods, and count its step. Raises NotAllowed, BudgetExceeded and StoreFailed; then
        nothing is held.
        """
        key = (run.plan.tenant, run.plan.run)
        own = self._owns.get(key)
        if own is None or own.run is not run:
            raise is_closed(run.account, run.plan.run)
        try:
            if await self._try(own, key, call, reservation):
                return
            await asyncio.sleep(_ON_ITS_WAY_S)
            await self._try(own, key, call, reservation, is_last=True)
        except BaseException:
            self._mark(own)  # the answer may have been lost: what is held there for this call is taken back
            raise

    async def _try(self, own: Own, key: Key, call: Call, reservation: int, *, is_last: bool = False) -> bool:
        """False: it is refused, but perhaps only because what has just ended at another pod is not told yet."""
        async with own.lock:
            if not own.is_kept:
                await self._keep()  # before anything is held: the process after this one must know that it has a part in the run
                own.is_kept = True
            found = await self._enter(own, key, call, reservation)
        if found is None:
            return True
        if not is_last and isinstance(found, BudgetExceeded) and own.view is not None and own.view.is_moving:
            own.is_outdated()
            return False
        self._refused(own, call.agent)
        raise found

    def has_ended(self, call: Call, reservation: int) -> None:
        """The call's usage and cost are known; the others are told at once, beside the calls."""
        own = self._of_call.pop(reservation, None)
        if own is not None:
            own.ended(reservation, call)
            self._changed(own)
            self._warn(own)

    # --- for operators

    async def close(self, tenant: str, run: str) -> Run | None:
        """End it in all pods. Returns what all of them have used; None: it is not open. Calls in flight can still settle. StoreFailed."""
        key = (tenant, run)
        known, own = self._open.get(key), self._owns.get(key)
        if known is None:
            return None
        if own is not None and id(own) in self._untold:
            await self._put(own)
        heard = await self._place.close(_text(key), known.generation, 0)
        if heard.status == "learning":
            raise self._learning(heard)
        if heard.status != "state":
            return None
        opened_ms, plan = known.read()
        self._bury(key, known.generation)
        end_ns = self._clock_ns() + int(_SETTLING_S * 1e9)
        pause_s = 0.005
        while (summed := whole(plan, opened_ms, heard)).held and self._clock_ns() < end_ns:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)
            heard = await self._place.state(_text(key))
        return summed

    async def listing(self, tenant: str, run: str, most: int) -> list[Run]:
        """What all pods have used of the runs that are open; "": of every tenant, every run. Raises StoreFailed."""
        keys = [key for key in self._open if tenant in ("", key[0]) and run in ("", key[1])][:most]
        found = []
        for key in keys:
            own = self._owns.get(key)
            if own is not None and id(own) in self._untold:
                await self._put(own)
            heard = await self._place.state(_text(key))
            known = self._open.get(key)
            if known is not None and heard.version:
                opened_ms, plan = known.read()
                found.append(whole(plan, opened_ms, heard))
        return found

    def rule_of(self, account: str) -> Rule | None:
        """The rule of an open run's account, also if this pod has no part in it."""
        kind, _, rest = account.partition(":")
        tenant, _, rest = rest.partition(":")
        name, _, suffix = rest.rpartition(":")
        if kind == "agent":
            name = name.rpartition(":")[0]
        if kind not in ("run", "agent") or suffix != "plan":
            return None
        for key in ((_plain(tenant), name), (_plain(tenant), _plain(name))):
            if known := self._open.get(key):
                return self._own(key, known).run.rules().get(account)
        return None

    def topped_up(self, run: Run, agent: str | None, nano_usd: int) -> None:
        """An operator has added to the total (then first tries get their part), or to an agent's share."""
        own = self._owns.get((run.plan.tenant, run.plan.run))
        if own is None or own.run is not run:
            return
        if agent is None:
            run.topped_up += nano_usd
            run.first_topped_up += nano_usd * (100 - run.plan.reserve_percent) // 100
        else:
            run.tally(agent).topped_up_nano_usd += nano_usd
        self._changed(own)

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
                self._runs.hand_over(run, _generation(run.opened_ms))
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

    # --- inside: calls

    async def _enter(self, own: Own, key: Key, call: Call, reservation: int) -> SidecarError | None:
        """Returns what the plan has against the call; None: it is let in."""
        run, step, is_fresh = own.run, call.request.caller.step, False
        agent = call.agent
        for _ in range(_TURNS):
            if self._problem:
                raise self._away(f"run {run.plan.run} has a plan that pods share")
            await self._meet(own)
            is_again = bool(step) and (agent, step) in own.seen
            standing = AllPods(own, is_again)
            found = None
            if own.view is not None:
                found = objection(run, call, standing) or over_limit(standing.accounts(agent), call, standing)
                if found is not None and is_fresh:
                    if _shortened(call, found):
                        continue
                    return found
            hold = hold_of(run, call, is_again, own.view is not None and own.view.named >= MOST_STEPS_SEEN)
            named = _step(agent, step) if step and (hold.step or is_again) else ""
            version = own.view.version if own.view is not None and found is None else 0
            sequence, text = self._word(own, hold)
            heard = await self._place.enter(_text(key), run.generation, version, sequence, text, named, is_again=is_again)
            match heard.status:
                case "in":
                    own.let_in(reservation, hold, heard.version, self._wall_ns() // 1_000_000)
                    self._of_call[reservation] = own
                    self._runs.note(run)
                    if known := self._open.get(key):
                        known.used_ms = run.used_ms
                    return None
                case "state":
                    own.hear(heard, self._place.pod, agent, step)
                    is_fresh = True
                case "stale":
                    self._sequence = max(self._sequence, heard.number + _BEYOND)
                case "closed":
                    self._bury(key, run.generation)
                    raise is_closed(run.account, run.plan.run)
                case "learning" | "unknown":
                    raise self._learning(heard)
                case _:
                    raise StoreFailed(f"run {run.plan.run} was opened anew a moment ago; send the call again")
        raise StoreFailed(f"other pods are always faster at run {run.plan.run}; send the call again", retry_after_ms=_AGAIN_MS)

    def _refused(self, own: Own, agent: str) -> None:
        own.run.refused += 1
        own.run.tally(agent).refused += 1
        self._changed(own)

    def _warn(self, own: Own) -> None:
        plan, spent = own.run.plan, AllPods(own, is_again=True).spent()
        limit = AllPods(own, is_again=True).limit(own.run.account)
        if not own.is_warned and spent * 100 >= limit * _WARN_PERCENT:
            own.is_warned = True
            self.reached(account_of(plan.tenant, plan.run), spent, limit)

    async def _opened(self, key: Key, plan: RunPlan, is_reopening: bool) -> tuple[Known, int]:
        if self._problem:
            raise self._away(f"run {plan.run} cannot be opened")
        now_ms = self._wall_ns() // 1_000_000
        generation = _generation(now_ms)
        text = encode((generation, now_ms, plan)).decode()
        heard = await self._place.open(_text(key), generation, text, self._most, is_reopening=is_reopening)
        match heard.status:
            case "opened" | "open":
                text = heard.text or text
                self._closed.pop(key, None)
                known = self._open.setdefault(key, Known(decode(text, type=tuple[str, int, RunPlan])[0], text, now_ms))
                return known, heard.number
            case "closed":
                raise is_closed(account_of(*key), plan.run)
            case "full":
                raise Overloaded(f"{self._most} runs are open, no more may be; close some (OpsService.CloseRun)")
            case _:
                raise self._learning(heard)

    async def _until_known(self, number: int) -> None:
        end_ns, pause_s = self._clock_ns() + (_TRUST_MS + 500) * 1_000_000, 0.002
        while self._clock_ns() < end_ns and await self._place.lagging(number, _TRUST_MS):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)

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
        made = self._owns[key] = Own(_text(key), run, seen=set(run.seen))
        return made

    def _forget(self, key: Key) -> None:
        run = self._runs.find(*key)
        self._owns.pop(key, None)
        if run is not None:
            self._runs.close(run, self._ledger)

    # --- inside: telling

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
            if heard.status == "stale":
                self._sequence = max(self._sequence, heard.number + _BEYOND)
                self._mark(own)
            elif heard.status == "unknown":
                self._mark(own)
                raise self._learning(heard)
            elif own.view is not None:
                own.view.version += own.view.version == heard.version - 1
            known = self._open.get(key)
            is_over = known is None or known.generation != own.run.generation
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
                heard = await self._place.restore(_text(key), known.generation, known.text, (), ())
            else:
                async with own.lock:
                    heard = await self._restore(own, known)
            there.add(known.generation)
            if heard.status == "closed":
                self._bury(key, known.generation)
            elif heard.status == "other":
                self._open.pop(key, None)
                self._heard(key, heard.text, "")
        await self._place.bury([(_text(key), which) for key, which in self._closed.items() if which not in there])

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
            heard = await self._place.close(_text(key), known.generation, self._idle_ms)
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
        return StoreFailed(why, retry_after_ms=heard.number or _AGAIN_MS)


def _shortened(call: Call, found: SidecarError) -> bool:
    """Let the call put out what is left for its agent, where its caller wants no more than that: other pods have used some meanwhile."""
    if not isinstance(found, BudgetExceeded) or found.unit != "tokens" or not found.account.endswith(":output"):
        return False
    left = found.limit - found.used
    if not isinstance(call.request, GenerateRequest) or call.request.max_output_tokens is not None or left < 1:
        return False
    call.candidates = tuple(replace(one, max_output_tokens=min(one.max_output_tokens, left)) for one in call.candidates)
    return True


def _text(key: Key) -> str:
    """No two keys have the same, whatever the names are."""
    return encode(key).decode()


def _step(agent: str, step: int) -> str:
    return step_words([(agent, step)])[0]


def _generation(now_ms: int) -> str:
    """A later one is larger."""
    return f"{now_ms:015}-{uuid4().hex[:12]}"


def _plain(part: str) -> str:
    return part.replace("%3A", ":").replace("%25", "%")
