"""One run that pods share: this pod's part of it, the others' as they were last heard, and all of them together."""

from __future__ import annotations

from asyncio import Lock
from collections.abc import Iterable

from msgspec import Struct, field
from msgspec.json import decode, encode
from msgspec.structs import replace

from sidecar._core import Ledger
from sidecar.call import Call
from sidecar.policies.run_rules import most_input, most_output
from sidecar.policies.runs import Run, RunPlan, Tally
from sidecar.run_words import Heard, Part


class Told(Struct, array_like=True, frozen=True):
    """What a pod says of its part. The sequence only grows, the newer word holds. Money in nano-USD, as sums; `held` by calls in flight.

    `first` is of steps that were not asked again, `steps` counts those without a number.
    """

    sequence: int
    steps: int
    refused: int
    spent: int
    held: int
    first_spent: int
    first_held: int
    topped_up: int
    first_topped_up: int
    tallies: dict[str, Tally]


class Hold(Struct, frozen=True):
    """What one call in flight may use."""

    agent: str
    step: int
    is_again: bool
    nano_usd: int
    input_tokens: int
    output_tokens: int


class View(Struct):
    """How the run stood when it was last heard of. `named` counts the steps that have a number, of all pods."""

    version: int
    named: int
    others: dict[str, Told]
    texts: tuple[Part, ...]

    @property
    def is_moving(self) -> bool:
        """Other pods hold something for calls in flight."""
        return any(other.held or any(tally.pending_input for tally in other.tallies.values()) for other in self.others.values())


class Own(Struct, eq=False):
    """This pod's part of a run. One word on it is under way at a time (`lock`). `seen` are steps that any pod is known to have made."""

    key: str
    run: Run
    lock: Lock = field(default_factory=Lock)
    view: View | None = None
    held: dict[int, Hold] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)
    was_met: bool = False  # what is known of this pod's part from a life before
    is_kept: bool = False
    is_warned: bool = False

    def told(self, sequence: int, more: Hold | None = None) -> str:
        """This pod's part in words, together with one more call."""
        run, holds = self.run, [*self.held.values(), *([] if more is None else [more])]
        tallies, steps = run.tallies, run.steps
        if more is not None:
            before = tallies.get(more.agent, Tally())
            tallies = tallies | {more.agent: replace(before, calls=before.calls + 1)}
            add(tallies[more.agent], more)
            steps += not more.is_again and not more.step
        return encode(
            Told(
                sequence,
                steps,
                run.refused,
                run.spent,
                sum(hold.nano_usd for hold in holds),
                run.first_spent,
                sum(hold.nano_usd for hold in holds if not hold.is_again),
                run.topped_up,
                run.first_topped_up,
                tallies,
            )
        ).decode()

    def hear(self, heard: Heard, pod: str, agent: str, step: int) -> None:
        """The run's state. What this pod is known to have used in a life before counts, if its own file lost it."""
        parts = {part.pod: read(part) for part in heard.parts}
        mine = parts.pop(pod, None)
        if mine is not None and not self.was_met:
            catch_up(self.run, mine)
        self.was_met = True
        self.seen.update(decode(name, type=tuple[str, int]) for name in heard.steps)
        if heard.is_again:
            self.seen.add((agent, step))
        self.view = View(heard.version, heard.named, parts, tuple(part for part in heard.parts if part.pod != pod))

    def is_outdated(self) -> None:
        """Nobody may be let in by what was heard before."""
        if self.view is not None:
            self.view.version = 0

    def let_in(self, reservation: int, hold: Hold, version: int, now_ms: int) -> None:
        """The others have taken it down."""
        run, tally = self.run, self.run.tally(hold.agent)
        if not hold.is_again:
            if hold.step:
                run.seen.add((hold.agent, hold.step))
                self.seen.add((hold.agent, hold.step))
            else:
                run.steps += 1
        tally.calls += 1
        add(tally, hold)
        run.used_ms = now_ms
        run.in_flight += 1
        self.held[reservation] = hold
        if self.view is not None:
            self.view.version = version
            self.view.named += bool(hold.step) and not hold.is_again

    def ended(self, reservation: int, call: Call) -> None:
        """The call's usage and cost are known."""
        hold, run, usage = self.held.pop(reservation), self.run, call.usage
        tally = run.tally(hold.agent)
        tally.pending_nano_usd -= hold.nano_usd
        tally.pending_input -= hold.input_tokens
        tally.pending_output -= hold.output_tokens
        tally.input_tokens += (usage.input_tokens or 0) + (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        tally.output_tokens += (usage.output_tokens or 0) + (usage.reasoning_tokens or 0)
        tally.nano_usd += call.nano_usd
        run.spent += call.nano_usd
        run.first_spent += 0 if hold.is_again else call.nano_usd
        run.in_flight -= 1


class AllPods:
    """How the run stands for one call, by this pod's part and the others'. `own` is this pod's without the call."""

    def __init__(self, own: Own, is_again: bool) -> None:
        self._run = run = own.run
        view = own.view
        self._others = () if view is None else tuple(view.others.values())
        self._held = own.held.values()
        self.is_again = is_again
        self.steps = run.steps + sum(other.steps for other in self._others) + (0 if view is None else view.named)
        self._agents = {run.agent_account(name): name for name in run.plan.agents}

    def tokens(self, agent: str) -> tuple[int, int]:
        tallies = self._tallies(agent)
        return (
            sum(tally.input_tokens + tally.pending_input for tally in tallies),
            sum(tally.output_tokens + tally.pending_output for tally in tallies),
        )

    def taken(self, account: str) -> int:
        run, others = self._run, self._others
        if account == run.account:
            return run.spent + sum(hold.nano_usd for hold in self._held) + sum(other.spent + other.held for other in others)
        if account == run.first_account:
            held = sum(hold.nano_usd for hold in self._held if not hold.is_again)
            return run.first_spent + held + sum(other.first_spent + other.first_held for other in others)
        return sum(tally.nano_usd + tally.pending_nano_usd for tally in self._tallies(self._agents[account]))

    def limit(self, account: str) -> int:
        run, others = self._run, self._others
        if account == run.account:
            return run.plan.total_nano_usd + run.topped_up + sum(other.topped_up for other in others)
        if account == run.first_account:
            return run.first_nano_usd + run.first_topped_up + sum(other.first_topped_up for other in others)
        agent = self._agents[account]
        return (run.plan.agents[agent].max_nano_usd or 0) + sum(tally.topped_up_nano_usd for tally in self._tallies(agent))

    def accounts(self, agent: str) -> list[str]:
        """Those that a call of this agent is on."""
        share = self._run.plan.agents.get(agent)
        own = [self._run.agent_account(agent)] if share is not None and share.max_nano_usd is not None else []
        return [*([] if self.is_again else [self._run.first_account]), self._run.account, *own]

    def spent(self) -> int:
        return self._run.spent + sum(other.spent for other in self._others)

    def _tallies(self, agent: str) -> list[Tally]:
        found = [self._run.tallies.get(agent), *(other.tallies.get(agent) for other in self._others)]
        return [tally for tally in found if tally is not None]


def hold_of(run: Run, call: Call, is_again: bool, is_full: bool) -> Hold:
    """What the call may use at most. `is_full`: so many steps were made that those with a number are counted like others."""
    agent = call.agent if call.agent in run.plan.agents else ""
    step = 0 if is_full and not is_again else call.request.caller.step
    return Hold(agent, step, is_again, call.max_nano_usd, most_input(call), most_output(call))


def add(tally: Tally, hold: Hold) -> None:
    tally.pending_nano_usd += hold.nano_usd
    tally.pending_input += hold.input_tokens
    tally.pending_output += hold.output_tokens


def read(part: Part) -> Told:
    """What a pod has said; one of which nothing is heard any more holds nothing, and has used what it has."""
    told = decode(part.text, type=Told)
    if part.is_live:
        return told
    tallies = {
        name: replace(tally, pending_nano_usd=0, pending_input=0, pending_output=0) for name, tally in told.tallies.items()
    }  # fmt: skip
    return replace(told, held=0, first_held=0, tallies=tallies)


def catch_up(run: Run, known: Told) -> None:
    """Whatever was lost here and is known there counts. All of it only grows, but what is in flight, which a new life has none of."""
    run.steps, run.refused = max(run.steps, known.steps), max(run.refused, known.refused)
    run.spent, run.first_spent = max(run.spent, known.spent), max(run.first_spent, known.first_spent)
    run.topped_up = max(run.topped_up, known.topped_up)
    run.first_topped_up = max(run.first_topped_up, known.first_topped_up)
    for name, other in known.tallies.items():
        tally = run.tally(name)
        for counter in ("calls", "refused", "nano_usd", "input_tokens", "output_tokens", "topped_up_nano_usd"):
            setattr(tally, counter, max(getattr(tally, counter), getattr(other, counter)))


def catch_up_with_ledger(run: Run, ledger: Ledger, now_ns: int) -> None:
    """The journal has all that was posted; the file may lack the last second. What is known of it only as spent was a first try's."""
    balance = ledger.balance(run.account, now_ns)
    if balance is not None:
        more = max(0, balance.used_nano_usd - run.spent)
        run.spent, run.first_spent = run.spent + more, run.first_spent + more
        run.topped_up = max(run.topped_up, balance.topped_up_nano_usd)
    if run.spent and not run.plan.agents:
        run.tally("").nano_usd = run.spent
    for name in run.plan.agents:
        balance = ledger.balance(run.agent_account(name), now_ns)
        if balance is not None:
            tally = run.tally(name)
            tally.nano_usd = max(tally.nano_usd, balance.used_nano_usd)
            tally.topped_up_nano_usd = max(tally.topped_up_nano_usd, balance.topped_up_nano_usd)


def whole(plan: RunPlan, opened_ms: int, heard: Heard) -> Run:
    """All pods' parts together."""
    run = Run(plan, opened_ms, opened_ms, steps=heard.named, generation="all")
    for told in map(read, heard.parts):
        run.steps += told.steps
        run.refused += told.refused
        run.spent += told.spent
        run.first_spent += told.first_spent
        run.topped_up += told.topped_up
        run.first_topped_up += told.first_topped_up
        for name, other in told.tallies.items():
            tally = run.tally(name)
            for counter in Tally.__struct_fields__:
                setattr(tally, counter, getattr(tally, counter) + getattr(other, counter))
    return run


def step_words(steps: Iterable[tuple[str, int]]) -> list[str]:
    return [encode(step).decode() for step in steps]
