"""Runs with a plan: the reserve, agents' shares, steps, who is refused first, and what outlives a restart."""

from __future__ import annotations

import pytest
from msgspec.json import decode, encode

from sidecar._core import Denial, Ledger
from sidecar.call import Call, Usage
from sidecar.errors import BudgetExceeded, InvalidRequest, NotAllowed, Overloaded
from sidecar.policies.runs import Run, RunPlan, Runs, Share
from sidecar.request import Caller, GenerateRequest

NOON = 1_795_262_400_000_000_000
HOUR_MS = 3_600_000


class Size:
    """What the runs look at of a candidate."""

    def __init__(self, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens, self.max_output_tokens = input_tokens, output_tokens


def call(agent: str = "", step: int = 0, *, usd: int = 10, size: tuple[int, int] = (10, 10), plan: RunPlan | None = None) -> Call:
    """A call of run `r` that may cost so many nano-dollars."""
    request = GenerateRequest(prompt="hi", caller=Caller(step=step, run_plan=plan))
    made = Call(id="c", operation="generate", request=request, metadata={}, arrived=0.0, deadline=1.0, send=None)
    made.tenant, made.run, made.agent, made.max_nano_usd = "acme", "r", agent, usd
    made.candidates = (Size(*size),)  # type: ignore[assignment]
    return made


class Bench:
    """A run and its ledger: calls as the reserve and settle stages make them."""

    def __init__(self, total: int = 100, **plan) -> None:
        self.runs, self.ledger = Runs(), Ledger()
        self.run = self.runs.open(RunPlan("acme", "r", total, **plan), 0)

    def begin(self, one: Call) -> int:
        run = self.runs.of(one, NOON)
        assert run is self.run
        self.runs.check(run, one, self.ledger, NOON)
        held = self.ledger.reserve(self.runs.accounts(one), one.max_nano_usd, 1, 10**9, NOON)
        if isinstance(held, Denial):
            self.runs.refused(run, one)
            raise AssertionError(f"{held.account} {held.reason}")
        self.runs.let_in(run, one, held.id, NOON)
        return held.id

    def end(self, one: Call, held: int, usd: int, usage: tuple[int, int] = (1, 1)) -> None:
        one.nano_usd, one.usage = usd, Usage(usage[0], 0, 0, 0, usage[1], 0)
        self.ledger.post(held, usd, 1, NOON)
        self.runs.ended(one, held)

    def spend(self, one: Call, usd: int, usage: tuple[int, int] = (1, 1)) -> None:
        self.end(one, self.begin(one), usd, usage)

    def refusal(self, one: Call) -> str:
        """The account that refuses it."""
        with pytest.raises((BudgetExceeded, AssertionError)) as caught:
            self.begin(one)
        return caught.value.account if isinstance(caught.value, BudgetExceeded) else str(caught.value).partition(" ")[0]


def test_the_reserve_is_for_steps_asked_again():
    bench = Bench(100, reserve_percent=20)
    for step in range(1, 9):
        bench.spend(call(step=step), 10)
    assert bench.refusal(call(step=9)) == "run:acme:r:plan-first"
    bench.spend(call(step=8), 10)
    bench.spend(call(step=8), 10)
    assert bench.refusal(call(step=8)) == "run:acme:r:plan"
    assert bench.run.steps == 8


def test_an_agent_has_its_share_in_money():
    bench = Bench(100, reserve_percent=0, agents={"a": Share(max_nano_usd=20), "b": Share()})
    bench.spend(call("a"), 20)
    assert bench.refusal(call("a")) == "agent:acme:r:a:plan"
    bench.spend(call("b"), 10)


def test_an_agent_has_its_share_in_tokens_and_what_is_held_counts():
    bench = Bench(10_000, agents={"a": Share(max_input_tokens=25, max_output_tokens=35)})
    first, second = call("a"), call("a")
    held = bench.begin(first), bench.begin(second)
    assert bench.refusal(call("a")) == "agent:acme:r:a:plan:input"
    bench.end(first, held[0], 1, (2, 10))
    bench.end(second, held[1], 1, (2, 10))
    assert bench.runs.output_left(call("a")) == 15
    assert bench.refusal(call("a", size=(10, 16))) == "agent:acme:r:a:plan:output"
    bench.spend(call("a", size=(10, 15)), 1, (5, 15))
    assert bench.runs.output_left(call("a")) == 0
    tally = bench.run.tallies["a"]
    assert (tally.calls, tally.refused, tally.input_tokens, tally.output_tokens) == (3, 2, 9, 35)
    assert (tally.pending_input, tally.pending_output) == (0, 0)


def test_agents_that_the_plan_does_not_name_may_not_call():
    bench = Bench(agents={"a": Share()})
    for agent in ("b", ""):
        with pytest.raises(NotAllowed, match=r"has no agent .*; it has a"):
            bench.begin(call(agent))
    assert (bench.run.refused, bench.run.tallies[""].refused) == (2, 2)
    Bench().spend(call("anybody"), 1)  # a plan without agents is for all


def test_steps():
    bench = Bench(1_000, max_steps=3)
    bench.spend(call(step=1), 1)
    bench.spend(call(step=1), 1)  # again: no new one
    bench.spend(call(), 1)
    assert bench.refusal(call(step=4)) == "run:acme:r:plan:steps"
    bench.spend(call("other", step=1), 1)  # another agent's first
    assert bench.refusal(call(step=3)) == "run:acme:r:plan:steps"
    bench.spend(call(step=1), 1)
    assert bench.run.steps == 3


def test_optional_agents_are_refused_first_then_normal_ones_and_critical_ones_have_what_is_theirs():
    agents = {
        "must": Share(max_nano_usd=40, priority="critical"),
        "usual": Share(max_nano_usd=30),
        "extra": Share(max_nano_usd=90, priority="optional"),
    }
    bench = Bench(100, reserve_percent=0, agents=agents)
    bench.spend(call("extra"), 10)
    bench.spend(call("extra"), 10)
    bench.spend(call("extra"), 10)
    assert bench.refusal(call("extra")) == "run:acme:r:plan-first"  # 40 + 30 of the 70 that are left are not its own
    bench.spend(call("usual"), 10)
    assert bench.refusal(call("extra")) == "run:acme:r:plan-first"
    for _ in range(2):
        bench.spend(call("usual"), 10)
    for _ in range(4):
        bench.spend(call("must"), 10)
    assert bench.ledger.balance(bench.run.account, NOON).used_nano_usd == 100


def test_what_a_critical_agent_leaves_pending_is_kept_for_it_once():
    bench = Bench(100, reserve_percent=0, agents={"must": Share(max_nano_usd=50, priority="critical"), "usual": Share()})
    one = call("must", usd=50)
    held = bench.begin(one)
    for _ in range(5):
        bench.spend(call("usual"), 10)
    bench.end(one, held, 50)
    assert bench.ledger.balance(bench.run.account, NOON).used_nano_usd == 100


def test_the_first_call_may_bring_the_plan_and_later_ones_repeat_it():
    runs = Runs()
    plan = RunPlan("", "", 100, max_steps=2)
    opened = runs.of(call(plan=plan), NOON)
    assert opened is not None
    assert (opened.plan.tenant, opened.plan.run, opened.opened_ms) == ("acme", "r", NOON // 1_000_000)
    assert runs.of(call(plan=plan), NOON) is opened
    assert runs.of(call(), NOON) is opened
    with pytest.raises(InvalidRequest, match="is open with another plan"):
        runs.of(call(plan=RunPlan("", "", 101)), NOON)


def test_a_closed_run_refuses_also_a_call_that_brings_its_plan_and_can_be_opened_again():
    bench = Bench(100)
    late = call(usd=7)
    held = bench.begin(late)
    balance = bench.runs.close(bench.run, bench.ledger)
    assert (balance.used_nano_usd, balance.pending_nano_usd) == (0, 7)
    for one in (call(), call(plan=RunPlan("", "", 100))):
        with pytest.raises(BudgetExceeded, match="is closed: run r was ended"):
            bench.runs.of(one, NOON)
    bench.end(late, held, 7)
    assert bench.ledger.pending() == 0
    again = bench.runs.open(RunPlan("acme", "r", 50), 0)
    assert bench.runs.of(call(), NOON) is again
    assert again.steps == 0


def test_a_call_of_a_closed_run_writes_nothing_into_the_one_opened_after_it():
    bench = Bench(100)
    late = call(usd=7)
    held = bench.begin(late)
    bench.runs.close(bench.run, bench.ledger)
    again = bench.runs.open(RunPlan("acme", "r", 50), 0)
    bench.end(late, held, 7)
    assert bench.runs.changed["acme", "r"] is again
    assert (again.steps, again.tallies) == (0, {})


def test_a_run_is_the_same_after_a_restart_but_for_what_was_in_flight():
    bench = Bench(100, max_steps=5, agents={"a": Share(max_output_tokens=100, model="m", priority="critical")})
    bench.spend(call("a", step=1), 10, (3, 4))
    bench.begin(call("a", step=2))
    kept = encode(bench.run)
    after = Runs()
    after.restore(decode(kept, type=Run))
    (run,) = after.listing()
    assert (run.plan, run.steps, run.seen, run.in_flight) == (bench.run.plan, 2, {("a", 1), ("a", 2)}, 0)
    tally = run.tallies["a"]
    assert (tally.calls, tally.nano_usd, tally.input_tokens, tally.output_tokens) == (2, 10, 3, 4)
    assert (tally.pending_input, tally.pending_output) == (0, 0)
    assert after.accounts(call("a", step=3)) == bench.runs.accounts(call("a", step=3))


def test_a_run_without_calls_for_a_day_is_idle_and_one_in_flight_never():
    bench = Bench()
    one = call()
    held = bench.begin(one)
    noon_ms = NOON // 1_000_000
    assert bench.runs.idle(noon_ms + 48 * HOUR_MS) == []
    bench.end(one, held, 1)
    assert bench.runs.idle(noon_ms + 24 * HOUR_MS - 1) == []
    assert bench.runs.idle(noon_ms + 24 * HOUR_MS) == [bench.run]


def test_only_so_many_runs_are_open_and_only_so_many_closed_ones_are_known(monkeypatch):
    monkeypatch.setattr("sidecar.policies.runs._MOST_CLOSED", 3)
    runs, ledger = Runs(most=2), Ledger()
    for number in range(2):
        runs.open(RunPlan("t", f"r{number}", 1), 0)
    with pytest.raises(Overloaded, match="2 runs are open"):
        runs.open(RunPlan("t", "r2", 1), 0)
    for number in range(2, 9):
        runs.close(runs.listing()[0], ledger)
        runs.open(RunPlan("t", f"r{number}", 1), 0)
    assert (len(runs), len(runs._closed), len(runs._rules)) == (2, 3, 4)


def test_a_top_up_of_the_total_gives_first_tries_their_part():
    runs = Runs()
    runs.open(RunPlan("acme", "r", 100, reserve_percent=20), 0)
    assert [(name, amount) for name, _, amount in runs.top_ups("run:acme:r:plan", 50)] == [
        ("run:acme:r:plan", 50),
        ("run:acme:r:plan-first", 40),
    ]
    assert list(runs.top_ups("tenant:acme:day", 50)) == []


@pytest.mark.parametrize(
    ("plan", "field", "found"),
    [
        ({"tenant": ""}, "tenant", "tenant is empty"),
        ({"run": ""}, "run", "run is empty"),
        ({"total_nano_usd": 0}, "total_nano_usd", "is 0; expected 1 to 9223372036854775807"),
        ({"total_nano_usd": -1}, "total_nano_usd", "is -1"),
        ({"total_nano_usd": 2**63}, "total_nano_usd", "is 9223372036854775808"),
        ({"reserve_percent": -1}, "reserve_percent", "is -1; expected 0 to 90"),
        ({"reserve_percent": 91}, "reserve_percent", "is 91"),
        ({"max_steps": 0}, "max_steps", "is 0; expected 1 or more"),
        ({"agents": {"": Share()}}, "agents", "one without a name"),
        ({"agents": {"a": Share(max_input_tokens=-1)}}, "agents[a].max_input_tokens", "is -1; expected 0 to"),
        ({"agents": {"a": Share(max_output_tokens=-1)}}, "agents[a].max_output_tokens", "is -1"),
        ({"agents": {"a": Share(max_nano_usd=-5)}}, "agents[a].max_nano_usd", "is -5"),
        ({"agents": {"a": Share(max_nano_usd=101)}}, "agents", "is 101, more than the run's 100"),
        ({"agents": {f"a{n}": Share() for n in range(101)}}, "agents", "101 entries; expected at most 100"),
    ],
)
def test_plans_that_cannot_be(plan, field, found):
    runs = Runs()
    with pytest.raises(InvalidRequest) as caught:
        runs.open(RunPlan(**{"tenant": "acme", "run": "r", "total_nano_usd": 100, **plan}), 0)
    assert caught.value.field == field
    assert found in caught.value.message
    assert len(runs) == 0
