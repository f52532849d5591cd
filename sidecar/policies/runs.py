"""Runs with a plan: a total with a reserve for retries, a share for each agent, a number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from sidecar._core import Balance, Ledger, Rule
from sidecar.call import Call
from sidecar.errors import InvalidRequest, Overloaded
from sidecar.policies.run_rules import is_closed, most_input, most_output, objection
from sidecar.request import Priority

if TYPE_CHECKING:
    from sidecar.policies.shared_runs import SharedRuns

MOST_RUNS = 10_000  # about 100 MB with 100 agents each and nothing forgotten; a few MB as runs are
_MOST_AGENTS = 100
DEFAULT_RESERVE_PERCENT = 15
_MOST_CLOSED = 10_000
MOST_STEPS_SEEN = 10_000  # of one run: beyond that a step asked again is taken for a new one


class Share(Struct, frozen=True):
    """What one agent may use in the whole run. None: no limit of its own."""

    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_nano_usd: int | None = None
    model: str = ""  # the one it asks, others only as fallbacks; "": any
    priority: Priority = "normal"


class RunPlan(Struct, frozen=True):
    """`reserve_percent` of the total is for steps asked again and for tries that were billed and had to be repeated."""

    tenant: str
    run: str
    total_nano_usd: int
    reserve_percent: int = DEFAULT_RESERVE_PERCENT
    max_steps: int | None = None
    agents: Mapping[str, Share] = {}


class Tally(Struct, omit_defaults=True):
    """What one agent has used. Pending: the most that its calls in flight may. Of shared runs also the money held, and what was added."""

    calls: int = 0
    refused: int = 0
    nano_usd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    pending_input: int = 0
    pending_output: int = 0
    pending_nano_usd: int = 0
    topped_up_nano_usd: int = 0


class Run(Struct):
    """One open run. `seen` are the steps, as (agent, step), that have been let in; the money is in the ledger. Times are Unix time.

    Of a run that pods share (it has a `generation`, another one each time it is opened) this is one pod's part, or all of them together:
    `steps` are those without a number, and the money is here, in nano-USD.
    """

    plan: RunPlan
    opened_ms: int
    used_ms: int
    steps: int = 0
    refused: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)
    in_flight: int = 0
    generation: str = ""
    spent: int = 0
    first_spent: int = 0
    topped_up: int = 0
    first_topped_up: int = 0

    @property
    def account(self) -> str:
        """The ledger's account of the whole run."""
        return account_of(self.plan.tenant, self.plan.run)

    @property
    def first_account(self) -> str:
        """That of first tries: the total less the reserve."""
        return f"run:{escaped(self.plan.tenant)}:{self.plan.run}:plan-first"

    def agent_account(self, agent: str) -> str:
        return f"agent:{escaped(self.plan.tenant)}:{escaped(self.plan.run)}:{agent}:plan"

    @property
    def first_nano_usd(self) -> int:
        """What the plan gives first tries."""
        return self.plan.total_nano_usd * (100 - self.plan.reserve_percent) // 100

    @property
    def held(self) -> int:
        """Of a run that pods share: nano-USD that calls in flight hold."""
        return sum(tally.pending_nano_usd for tally in self.tallies.values())

    def rules(self) -> dict[str, Rule]:
        """Every account of the run with its limit. They have no window: they last until the run is closed.

        Of a run that pods share this pod's ledger keeps what was spent here, and refuses nothing.
        """
        plan = self.plan
        if self.generation:
            limits = {self.account: plan.total_nano_usd} | {
                self.agent_account(name): share.max_nano_usd for name, share in plan.agents.items()
            }
            return {name: Rule(limit_nano_usd=limit, mode="shadow") for name, limit in limits.items()}
        found = {
            self.account: Rule(limit_nano_usd=plan.total_nano_usd),
            self.first_account: Rule(limit_nano_usd=self.first_nano_usd),
        }
        for name, share in plan.agents.items():
            if share.max_nano_usd is not None:
                found[self.agent_account(name)] = Rule(limit_nano_usd=share.max_nano_usd)
        return found

    def tally(self, agent: str) -> Tally:
        """Agents that the plan does not name are counted together."""
        return self.tallies.setdefault(agent if agent in self.plan.agents else "", Tally())


class _Here:
    """How a run stands that is this sidecar's own: its money is in the ledger."""

    def __init__(self, run: Run, call: Call, rules: Mapping[str, Rule], ledger: Ledger, now_ns: int) -> None:
        self._run = run
        self._rules = rules
        self._ledger = ledger
        self._now_ns = now_ns
        self.steps = run.steps
        self.is_again = is_again(run, call)

    def tokens(self, agent: str) -> tuple[int, int]:
        tally = self._run.tally(agent)
        return tally.input_tokens + tally.pending_input, tally.output_tokens + tally.pending_output

    def taken(self, account: str) -> int:
        balance = self._ledger.balance(account, self._now_ns)
        return 0 if balance is None else balance.used_nano_usd + balance.pending_nano_usd

    def limit(self, account: str) -> int:
        balance = self._ledger.balance(account, self._now_ns)
        return (self._rules[account].limit_nano_usd if balance is None else balance.limit_nano_usd) or 0


class Runs:
    """The open runs, at most 10,000. A call is of a run by its tenant and run.

    Nothing here awaits, so what a call is let in with is there when the ledger is asked.
    """

    def __init__(self, idle_hours: int = 24, most: int = MOST_RUNS) -> None:
        self._idle_ms = idle_hours * 3_600_000
        self._most = most
        self._runs: dict[tuple[str, str], Run] = {}
        self._rules: dict[str, Rule] = {}
        self._closed: dict[tuple[str, str], None] = {}  # the one closed the longest ago first
        self._let_in: dict[int, tuple[Run, Tally, int, int]] = {}  # by reservation
        self.changed: dict[tuple[str, str], Run | None] = {}  # what has to be kept; None: it is gone
        self.shared: SharedRuns | None = None  # where pods share runs, what is here are this pod's parts

    def __len__(self) -> int:
        return len(self._runs)

    def listing(self) -> list[Run]:
        return list(self._runs.values())

    def find(self, tenant: str, run: str) -> Run | None:
        return self._runs.get((tenant, run))

    def of(self, call: Call, now_ns: int) -> Run | None:
        """The run that this call is of; its first call may bring the plan along. Raises BudgetExceeded for one that was closed.

        Raises what `open` raises too.
        """
        key = (call.tenant, call.run)
        if key in self._closed:
            raise is_closed(account_of(*key), call.run)
        brought = call.request.caller.run_plan
        if brought is not None:
            return self.open(replace(brought, tenant=call.tenant, run=call.run), now_ns // 1_000_000)
        return self._runs.get(key)

    async def join(self, call: Call, now_ns: int) -> Run | None:
        """The same, also where pods share runs and others have to be asked. Raises StoreFailed too."""
        return self.of(call, now_ns) if self.shared is None else await self.shared.join(call)

    def rule_of(self, account: str) -> Rule | None:
        rule = self._rules.get(account)
        return self.shared.rule_of(account) if rule is None and self.shared is not None else rule

    def top_ups(self, account: str, nano_usd: int) -> Iterator[tuple[str, Rule, int]]:
        """What an amount for an account of a run's means: of the total, first tries get their part. Nothing for other accounts."""
        if account in self._rules:
            yield account, self._rules[account], nano_usd
        for run in self._runs.values():
            if self.shared is not None:
                agent = next((name for name in run.plan.agents if run.agent_account(name) == account), None)
                if agent is not None or run.account == account:
                    self.shared.topped_up(run, agent, nano_usd)
            elif run.account == account:
                yield run.first_account, self._rules[run.first_account], nano_usd * (100 - run.plan.reserve_percent) // 100

    def open(self, plan: RunPlan, now_ms: int) -> Run:
        """Begin a run; one that is open with the same plan goes on. Raises InvalidRequest for a plan that cannot be, or another one than
        the open run's, and Overloaded.
        """
        key = (plan.tenant, plan.run)
        known = self._runs.get(key)
        if known is not None and known.plan == plan:
            return known
        check(plan)
        if known is not None:
            raise InvalidRequest(f"run {plan.run} of tenant {plan.tenant} is open with another plan; close it first", field="run")
        if len(self._runs) >= self._most:
            raise Overloaded(f"{self._most} runs are open, no more may be; close some (OpsService.CloseRun)")
        run = Run(plan, now_ms, now_ms)
        self.restore(run)
        self._closed.pop(key, None)
        self.changed[key] = run
        return run

    def restore(self, run: Run) -> None:
        """Put it among the open ones as it was kept; calls of another process hold nothing any more."""
        run.in_flight = 0
        for tally in run.tallies.values():
            tally.pending_input = tally.pending_output = tally.pending_nano_usd = 0
        self._runs[run.plan.tenant, run.plan.run] = run
        self._rules |= run.rules()

    def hand_over(self, run: Run, generation: str) -> None:
        """From now on it is one of all pods', of which this pod's part is here; or, without a generation, this sidecar's own."""
        for account in run.rules():
            self._rules.pop(account, None)
        run.steps += len(run.seen) * (bool(run.generation) - bool(generation))
        run.generation = generation
        self.restore(run)
        self.note(run)

    def idle(self, now_ms: int) -> list[Run]:
        """Those that had no call for so long that they are closed without being asked to be."""
        return [run for run in self._runs.values() if not run.in_flight and now_ms - run.used_ms >= self._idle_ms]

    def close(self, run: Run, ledger: Ledger) -> Balance | None:
        """End it and its accounts. Returns the total's last balance; calls in flight can still settle, new ones are refused."""
        key = (run.plan.tenant, run.plan.run)
        self._runs.pop(key, None)
        self._closed[key] = None
        if len(self._closed) > _MOST_CLOSED:
            del self._closed[next(iter(self._closed))]
        self.changed[key] = None
        last = None
        for account in run.rules():
            self._rules.pop(account, None)
            balance = ledger.close_account(account)
            last = balance if account == run.account else last
        return last

    # --- calls

    def accounts(self, call: Call) -> list[tuple[str, Rule]]:
        """The run's accounts that this call is on: the total, that of first tries unless it is one asked again, its agent's share."""
        run = self._runs.get((call.tenant, call.run))
        if run is None:
            return []
        names = [run.account, run.agent_account(call.agent)]
        if not is_again(run, call):
            names.insert(0, run.first_account)
        return [(name, self._rules[name]) for name in names if name in self._rules]

    def share(self, call: Call) -> Share | None:
        """What the plan gives the call's agent; None: no plan, or no share in it."""
        if self.shared is not None:
            plan = self.shared.plan_of(call.tenant, call.run)
        else:
            run = self._runs.get((call.tenant, call.run))
            plan = None if run is None else run.plan
        plan = call.request.caller.run_plan if plan is None else plan
        return None if plan is None else plan.agents.get(call.agent)

    def output_left(self, call: Call) -> int | None:
        """How many tokens the call's agent may still put out; None: no limit."""
        share = self.share(call)
        if share is None or share.max_output_tokens is None:
            return None
        if self.shared is not None:
            return max(0, share.max_output_tokens - self.shared.tokens(call.tenant, call.run, call.agent)[1])
        run = self._runs.get((call.tenant, call.run))
        tally = Tally() if run is None else run.tally(call.agent)
        return max(0, share.max_output_tokens - tally.output_tokens - tally.pending_output)

    def check(self, run: Run, call: Call, ledger: Ledger, now_ns: int) -> None:
        """Whether the plan lets the call in, the ledger's limits apart. Raises NotAllowed or BudgetExceeded."""
        if run.generation:
            return  # all pods decide, in `enter`
        found = objection(run, call, _Here(run, call, self._rules, ledger, now_ns))
        if found is not None:
            self.refused(run, call)
            raise found

    def refused(self, run: Run, call: Call) -> None:
        run.refused += 1
        run.tally(call.agent).refused += 1
        self.note(run)

    async def enter(self, run: Run, call: Call, reservation: int, now_ns: int) -> None:
        """The ledger holds the call's money: let it in, in all pods where they share runs. Raises NotAllowed, BudgetExceeded and
        StoreFailed.
        """
        if self.shared is None:
            self.let_in(run, call, reservation, now_ns)
        else:
            await self.shared.enter(run, call, reservation)

    def let_in(self, run: Run, call: Call, reservation: int, now_ns: int) -> None:
        """The ledger holds the call's money: count its step and hold its tokens."""
        run.used_ms = now_ns // 1_000_000
        if not is_again(run, call):
            run.steps += 1
            if call.request.caller.step and len(run.seen) < MOST_STEPS_SEEN:
                run.seen.add((call.agent, call.request.caller.step))
        tally = run.tally(call.agent)
        held_input, held_output = most_input(call), most_output(call)
        tally.pending_input += held_input
        tally.pending_output += held_output
        tally.calls += 1
        run.in_flight += 1
        self._let_in[reservation] = (run, tally, held_input, held_output)
        self.note(run)

    def ended(self, call: Call, reservation: int) -> None:
        """The call's usage and cost are known."""
        if self.shared is not None:
            self.shared.has_ended(call, reservation)
            return
        found = self._let_in.pop(reservation, None)
        if found is None:
            return
        run, tally, held_input, held_output = found
        usage = call.usage
        tally.pending_input -= held_input
        tally.pending_output -= held_output
        tally.input_tokens += (usage.input_tokens or 0) + (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        tally.output_tokens += (usage.output_tokens or 0) + (usage.reasoning_tokens or 0)
        tally.nano_usd += call.nano_usd
        run.in_flight -= 1
        self.note(run)

    def note(self, run: Run) -> None:
        key = (run.plan.tenant, run.plan.run)
        if self._runs.get(key) is run:  # it has not been closed meanwhile
            self.changed[key] = run


def summary(run: Run, last: Balance | None) -> tuple[str, dict[str, str]]:
    """What a run that was closed has used, in words and as facts."""
    plan = run.plan
    used = run.spent if last is None else last.used_nano_usd
    facts = {
        "tenant": plan.tenant,
        "run": plan.run,
        "used": str(used),
        "limit": str(plan.total_nano_usd),
        "steps": str(run.steps),
        "refused": str(run.refused),
        "agents": ", ".join(f"{name or '(others)'}: {tally.nano_usd}" for name, tally in sorted(run.tallies.items())),
    }
    spent = f"{used / 1e9:.6f} of {plan.total_nano_usd / 1e9:.6f} USD"
    return f"run {plan.run} of tenant {plan.tenant} is closed: {spent}, {run.steps} steps, {run.refused} calls refused", facts


def check(plan: RunPlan) -> None:
    """Raises InvalidRequest for a plan that cannot be."""
    for name, value in (("tenant", plan.tenant), ("run", plan.run)):
        if not value:
            raise InvalidRequest(f"{name} is empty; expected the {name} that the plan is for", field=name)
    _amount(plan.total_nano_usd, "total_nano_usd", least=1)
    if not 0 <= plan.reserve_percent <= 90:
        raise InvalidRequest(f"reserve_percent is {plan.reserve_percent}; expected 0 to 90, usually 15 to 20", field="reserve_percent")
    if plan.max_steps is not None and plan.max_steps < 1:
        raise InvalidRequest(f"max_steps is {plan.max_steps}; expected 1 or more, or none at all", field="max_steps")
    if len(plan.agents) > _MOST_AGENTS:
        raise InvalidRequest(f"agents has {len(plan.agents)} entries; expected at most {_MOST_AGENTS}", field="agents")
    for name, share in plan.agents.items():
        if not name:
            raise InvalidRequest("agents has one without a name; expected caller.agent of its calls", field="agents")
        for unit in ("max_input_tokens", "max_output_tokens", "max_nano_usd"):
            value = getattr(share, unit)
            if value is not None:
                _amount(value, f"agents[{name}].{unit}")
        if share.max_nano_usd is not None and share.max_nano_usd > plan.total_nano_usd:
            raise InvalidRequest(
                f"agents[{name}].max_nano_usd is {share.max_nano_usd}, more than the run's {plan.total_nano_usd}", field="agents"
            )


def escaped(part: str) -> str:
    """A part of an account's name that others follow: `:` ends it, so that one inside is written otherwise."""
    return part.replace("%", "%25").replace(":", "%3A") if ":" in part or "%" in part else part


def account_of(tenant: str, run: str) -> str:
    """The ledger's account of a whole run."""
    return f"run:{escaped(tenant)}:{run}:plan"


def _amount(value: int, field: str, least: int = 0) -> None:
    if not least <= value <= 2**63 - 1:
        raise InvalidRequest(f"{field} is {value}; expected {least} to {2**63 - 1}", field=field)


def is_again(run: Run, call: Call) -> bool:
    return bool(call.request.caller.step) and (call.agent, call.request.caller.step) in run.seen
