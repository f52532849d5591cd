"""Runs that all pods share: opened, held to their plan and closed as one, where the pods meet (a Redis, see `store/shared_runs.py`).

A call of such a run is decided there, by one word that waits for the answer; it takes seconds at a provider. Each pod decides by the rules
of `run_rules` from what all have said, and is let in only if nobody has said anything since. A call of any other run asks nobody: see
`shared_run_talk.py`.
"""

from __future__ import annotations

import asyncio
import contextlib

from msgspec.json import decode, encode
from msgspec.structs import replace

from sidecar._core import Rule
from sidecar.call import Call
from sidecar.errors import BudgetExceeded, InvalidRequest, Overloaded, SidecarError, StoreFailed
from sidecar.policies.run_rules import is_closed, objection, over_limit
from sidecar.policies.runs import MOST_STEPS_SEEN, Run, RunPlan, account_of, check
from sidecar.policies.shared_run_parts import AllPods, Own, hold_of, step_words, whole
from sidecar.policies.shared_run_talk import AGAIN_MS, BEYOND, Key, Known, RunTalk, generation_at, key_text
from sidecar.request import GenerateRequest

_TRUST_MS = 3_500  # for so long whoever opens a run waits for a pod that may not know it: longer than it trusts, clocks run differently
_ON_ITS_WAY_S = 0.03  # to other pods: what a call that has just ended did cost
_TURNS = 100  # of a call, when other pods are always faster
_WARN_PERCENT = 80
_SETTLING_S = 1.0  # a summary waits for so long for what other pods have still to tell


class SharedRuns(RunTalk):
    """The runs of all pods, as calls and operators see them."""

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
        heard = await self._place.close(key_text(key), known.generation, 0)
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
            heard = await self._place.state(key_text(key))
        return summed

    async def listing(self, tenant: str, run: str, most: int) -> list[Run]:
        """What all pods have used of the runs that are open; "": of every tenant, every run. Raises StoreFailed."""
        keys = [key for key in self._open if tenant in ("", key[0]) and run in ("", key[1])][:most]
        found = []
        for key in keys:
            own = self._owns.get(key)
            if own is not None and id(own) in self._untold:
                await self._put(own)
            heard = await self._place.state(key_text(key))
            known = self._open.get(key)
            if known is not None and heard.version:
                opened_ms, plan = known.read()
                found.append(whole(plan, opened_ms, heard))
        return found

    def rule_of(self, account: str) -> Rule | None:
        """The rule of an open run's account, also if this pod has no part in it."""
        own = self._of_account(account)
        return None if own is None else own.run.rules().get(account)

    def standing(self, account: str) -> tuple[int, int, int] | None:
        """Limit, what all pods have spent and what they hold, by what was last heard, nano-USD; None: it is no open run's total."""
        own = self._of_account(account)
        if own is None or own.run.account != account:
            return None
        all_pods = AllPods(own, is_again=True)
        return all_pods.limit(account), all_pods.spent(), all_pods.taken(account) - all_pods.spent()

    def _of_account(self, account: str) -> Own | None:
        kind, _, rest = account.partition(":")
        tenant, _, rest = rest.partition(":")
        name, _, suffix = rest.rpartition(":")
        if kind == "agent":
            name = name.rpartition(":")[0]
        if kind not in ("run", "agent") or suffix != "plan":
            return None
        for key in ((_plain(tenant), name), (_plain(tenant), _plain(name))):
            known = self._open.get(key)
            if known is not None and account in (found := self._own(key, known)).run.rules():
                return found
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

    # --- inside: calls

    async def _enter(self, own: Own, key: Key, call: Call, reservation: int) -> SidecarError | None:
        """Returns what the plan has against the call; None: it is let in."""
        run, step, is_fresh = own.run, call.request.caller.step, False
        agent = call.agent
        for _ in range(_TURNS):
            if not self.is_up:
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
            heard = await self._place.enter(key_text(key), run.generation, version, sequence, text, named, is_again=is_again)
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
                    self._sequence = max(self._sequence, heard.number + BEYOND)
                case "closed":
                    self._bury(key, run.generation)
                    raise is_closed(run.account, run.plan.run)
                case "learning" | "unknown":
                    raise self._learning(heard)
                case _:
                    raise StoreFailed(f"run {run.plan.run} was opened anew a moment ago; send the call again")
        raise StoreFailed(f"other pods are always faster at run {run.plan.run}; send the call again", retry_after_ms=AGAIN_MS)

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
        if not self.is_up:
            raise self._away(f"run {plan.run} cannot be opened")
        now_ms = self._wall_ns() // 1_000_000
        generation = generation_at(now_ms)
        text = encode((generation, now_ms, plan)).decode()
        heard = await self._place.open(key_text(key), generation, text, self._most, is_reopening=is_reopening)
        match heard.status:
            case "opened" | "open":
                text = heard.text or text
                self._closed.pop(key, None)
                known = self._open.setdefault(key, Known(decode(text, type=tuple[str, int, RunPlan])[0], text, now_ms))
                self._own(key, known)
                await self._keep()  # whoever has opened it knows it again, also if all other pods and the server forget it
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


def _shortened(call: Call, found: SidecarError) -> bool:
    """Let the call put out what is left for its agent, where its caller wants no more than that: other pods have used some meanwhile."""
    if not isinstance(found, BudgetExceeded) or found.unit != "tokens" or not found.account.endswith(":output"):
        return False
    left = found.limit - found.used
    if not isinstance(call.request, GenerateRequest) or call.request.max_output_tokens is not None or left < 1:
        return False
    call.candidates = tuple(replace(one, max_output_tokens=min(one.max_output_tokens, left)) for one in call.candidates)
    return True


def _step(agent: str, step: int) -> str:
    return step_words([(agent, step)])[0]


def _plain(part: str) -> str:
    return part.replace("%3A", ":").replace("%25", "%")
