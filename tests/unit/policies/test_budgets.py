"""Which accounts a call is on, in which window, under which rule; and what operators set in place of settings."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from msgspec.json import encode

from sidecar._core import Denial, Ledger
from sidecar.call import Call
from sidecar.errors import InvalidRequest, Overloaded, StoreFailed
from sidecar.policies import budgets as module
from sidecar.policies.budgets import Budgets, Override, TopUp
from sidecar.request import GenerateRequest
from sidecar.settings import Settings, load
from sidecar.settings.budgets import BudgetRow
from sidecar.settings.operation import Limits
from sidecar.settings.reading import NanoUsd
from sidecar.settings.routing import Plan

NOON = 1_795_262_400_000_000_000  # 2026-11-21 12:00 UTC, a Saturday
DAY_NS = 86_400_000_000_000


def call(tenant: str = "acme", **fields: str) -> Call:
    made = Call(id="c", operation="generate", request=GenerateRequest(prompt="hi"), metadata={}, arrived=0.0, deadline=1.0, send=None)
    made.tenant = tenant
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def ns(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000_000


def made(limits: Limits | None = None, plans: dict[str, Plan] | None = None, **rows: BudgetRow) -> Budgets:
    return Budgets(Settings(limits=limits or Limits(), plans=plans or {}, budgets=rows))


def names(budgets: Budgets, **fields: str) -> list[str]:
    return [name for name, _ in budgets.accounts(call(**fields), NOON)]


def test_the_tenants_day_is_that_of_the_time_zone_in_settings():
    budgets = made(Limits(time_zone="Asia/Seoul", tenant_day_tokens=7, warn_percent=50))
    ((name, before),) = budgets.accounts(call("acme"), ns("2026-03-01 23:59:59", "Asia/Seoul"))
    ((_, after),) = budgets.accounts(call("other"), ns("2026-03-02 00:00", "Asia/Seoul"))
    assert name == "tenant:acme:day"
    assert before.window == (ns("2026-03-01", "Asia/Seoul"), ns("2026-03-02", "Asia/Seoul"))
    assert after.window == (ns("2026-03-02", "Asia/Seoul"), ns("2026-03-03", "Asia/Seoul"))
    assert (after.limit_nano_usd, after.limit_tokens, after.warn_percent, after.mode) == (30_000_000_000, 7, 50, "refuse")


def test_one_rule_serves_all_calls_of_a_day():
    budgets, now_ns = made(), ns("2026-03-01 12:00", "UTC")
    assert budgets.accounts(call("a"), now_ns)[0][1] is budgets.accounts(call("b"), now_ns + 1)[0][1]


def test_the_shipped_alarms_are_the_policys_and_refuse_nothing():
    found = dict(Budgets(load(None, {})).accounts(call(), NOON))
    alarms = {name: rule for name, rule in found.items() if name.startswith("company:")}
    assert {name: (rule.limit_nano_usd or 0) // 10**9 for name, rule in alarms.items()} == {
        "company:day_warning": 100,
        "company:day_critical": 300,
        "company:week_warning": 500,
        "company:week_critical": 1_500,
        "company:month_warning": 2_000,
        "company:month_critical": 5_000,
    }
    assert {(rule.mode, rule.warn_percent) for rule in alarms.values()} == {("warn", 100)}
    assert list(found) == ["tenant:acme:day", *alarms]


ROWS = {scope: BudgetRow(scope, limit_tokens=9) for scope in ("company", "service", "node", "tenant", "user", "plan", "run", "agent")}
WHOLE = {"service": "core", "node_name": "pivot", "user": "kim", "plan": "free", "run": "r1", "agent": "writer"}


def test_every_scope_has_accounts_of_its_own():
    assert names(made(**ROWS), **WHOLE) == [
        "tenant:acme:day",
        "company:company",
        "service:core:service",
        "node:core.pivot:node",
        "tenant:acme:tenant",
        "user:acme:kim:user",
        "plan:acme:free:plan",
        "run:acme:r1:run",
        "agent:acme:r1:writer:agent",
    ]


def test_a_call_that_names_no_user_node_plan_or_run_is_on_none_of_theirs():
    assert names(made(**ROWS), service="core", agent="writer") == [
        "tenant:acme:day", "company:company", "service:core:service", "tenant:acme:tenant",
    ]  # fmt: skip


def test_no_two_callers_share_an_account_whatever_they_call_themselves():
    """`a:b` of tenant `x` and `b` of tenant `x:a` are two people."""
    budgets = made(user=BudgetRow("user", limit_tokens=1), agent=BudgetRow("agent", limit_tokens=1))
    people = [("x", "a:b"), ("x:a", "b"), ("x%3Aa", "b"), ("x", "a%3Ab"), ("x:", ":b"), ("x", "::b")]
    assert len({names(budgets, tenant=tenant, user=user)[1] for tenant, user in people}) == len(people)
    runs = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c")]
    assert len({names(budgets, run=run, agent=agent)[-1] for run, agent in runs}) == len(runs)


def test_every_account_that_a_call_is_on_is_known_by_its_name():
    budgets = made(**ROWS)
    strange = {**WHOLE, "tenant": "a:b%c", "user": "u:v", "run": "r:s", "agent": "x:y"}
    for fields in (WHOLE, strange):
        for name, rule in budgets.accounts(call(**fields), NOON):
            assert budgets.rule_of(name, NOON) is rule


@pytest.mark.parametrize("account", ["tenant:acme", "tenant:acme:week", "nobody:acme:day", "", "tenant::day", "user:kim:user", "company:x"])
def test_no_row_makes_other_accounts(account):
    budgets = made(**ROWS)
    assert budgets.row_of(account) is None
    with pytest.raises(InvalidRequest, match=r"expected one account of the form .*tenant:\*:day") as caught:
        budgets.known(account)
    assert caught.value.field == "account"


def test_a_row_itself_is_no_account():
    with pytest.raises(InvalidRequest):
        made().known("tenant:*:day")


def test_of_limits_one_only():
    budgets = made(core=BudgetRow("service", of="core", limit_tokens=1), pro=BudgetRow("plan", "month", of="pro", limit_tokens=1))
    assert names(budgets, service="core", plan="free") == ["tenant:acme:day", "service:core:core"]
    assert names(budgets, service="vision", plan="pro") == ["tenant:acme:day", "plan:acme:pro:pro"]


def test_a_plans_month_is_the_tenants_under_that_plan():
    budgets = made(plans={"free": Plan(month_tokens=5), "pro": Plan(month_nano_usd=7), "paid": Plan()})
    found = {plan: budgets.accounts(call(plan=plan), NOON)[1:] for plan in ("free", "pro", "paid", "unheard")}
    ((name, free),), ((_, pro),) = found["free"], found["pro"]
    assert name == "plan:acme:free:month"
    assert (free.limit_nano_usd, free.limit_tokens, pro.limit_nano_usd, pro.limit_tokens) == (None, 5, 7, None)
    assert free.window == (ns("2026-11-01", "UTC"), ns("2026-12-01", "UTC"))
    assert (found["paid"], found["unheard"]) == ((), ())


def test_windows_and_zones_are_the_rows():
    budgets = made(
        w=BudgetRow("tenant", "week", limit_tokens=1, time_zone="Asia/Seoul"),
        h=BudgetRow("tenant", "hour", limit_tokens=1),
        m=BudgetRow("tenant", "minute", limit_tokens=1),
    )
    week, hour, minute = (rule.window for _, rule in budgets.accounts(call(), NOON)[1:])
    assert week == (ns("2026-11-16", "Asia/Seoul"), ns("2026-11-23", "Asia/Seoul"))
    assert hour == (NOON, NOON + 3_600 * 10**9)
    assert minute == (NOON, NOON + 60 * 10**9)


# --- what operators set


async def test_what_an_operator_sets_is_in_force_for_that_account_alone():
    budgets = made()
    await budgets.override("tenant:acme:day", Override(limit_tokens=3, mode="warn", warn_percent=10), 1)
    ((_, own),), ((_, other),) = budgets.accounts(call("acme"), NOON), budgets.accounts(call("other"), NOON)
    assert (own.limit_nano_usd, own.limit_tokens, own.mode, own.warn_percent) == (None, 3, "warn", 10)
    assert (other.limit_nano_usd, other.limit_tokens) == (30_000_000_000, 1_000_000)
    tomorrow = budgets.accounts(call("acme"), NOON + DAY_NS)[0][1]
    assert (tomorrow.limit_tokens, tomorrow.window) == (3, other.window and (other.window[0] + DAY_NS, other.window[1] + DAY_NS))
    await budgets.override("tenant:acme:day", None, 1)
    assert budgets.accounts(call("acme"), NOON)[0][1] == other


async def test_a_row_without_a_limit_waits_for_one():
    budgets = made(user_day=BudgetRow("user"))
    assert names(budgets, user="kim") == ["tenant:acme:day"]
    await budgets.override("user:acme:kim:day", Override(limit_tokens=1), 1)
    assert names(budgets, user="kim") == ["tenant:acme:day", "user:acme:kim:day"]
    assert names(budgets, user="lee") == ["tenant:acme:day"]


async def test_a_tenant_without_limits_can_be_frozen_all_the_same():
    """Its account stays, without a limit."""
    budgets, ledger = made(), Ledger()
    await budgets.override("tenant:acme:day", Override(mode="off"), 1)
    accounts = budgets.accounts(call(), NOON)
    assert [(name, rule.limit_nano_usd, rule.limit_tokens) for name, rule in accounts] == [("tenant:acme:day", None, None)]
    ledger.reserve(accounts, 10**15, 10**12, 1, NOON)
    ledger.freeze("tenant:acme:day")
    denied = ledger.reserve(accounts, 1, 1, 1, NOON)
    assert isinstance(denied, Denial)
    assert denied.reason == "frozen"


async def test_off_keeps_no_account_of_any_other_row():
    budgets = made(service_day=BudgetRow("service", limit_tokens=1), mute=BudgetRow("service", limit_tokens=1, mode="off"))
    assert names(budgets, service="core") == ["tenant:acme:day", "service:core:day"]
    await budgets.override("service:core:day", Override(limit_tokens=1, mode="off"), 1)
    assert names(budgets, service="core") == ["tenant:acme:day"]


async def test_what_was_kept_is_in_force_again():
    kept: dict[tuple[str, str], str] = {}

    async def keep(changes):
        kept.update(changes)

    before = made(user_day=BudgetRow("user"))
    before.restore({}, keep, 1)
    await before.override("user:acme:kim:day", Override(limit_nano_usd=5, warn_percent=7), 1)
    after = made(user_day=BudgetRow("user"))
    after.restore({**kept, ("budget", "team:gone:day"): kept["budget", "user:acme:kim:day"]}, keep, 1)
    ((_, rule),) = after.accounts(call(user="kim"), NOON)[1:]
    assert (rule.limit_nano_usd, rule.limit_tokens, rule.warn_percent) == (5, None, 7)
    await after.override("user:acme:kim:day", None, 1)
    assert kept["budget", "user:acme:kim:day"] == '[2,""]'


async def test_what_cannot_be_kept_is_not_in_force():
    async def keep(_):
        raise StoreFailed("full")

    budgets = made()
    budgets.restore({}, keep, 1)
    with pytest.raises(StoreFailed):
        await budgets.override("tenant:acme:day", Override(limit_tokens=1), 1)
    assert budgets.accounts(call(), NOON)[0][1].limit_tokens == 1_000_000


async def test_only_so_many_can_be_set(monkeypatch):
    monkeypatch.setattr(module, "MOST_OVERRIDES", 2)
    budgets = made()
    for tenant in ("a", "b", "a"):
        await budgets.override(f"tenant:{tenant}:day", Override(limit_tokens=1), 1)
    with pytest.raises(Overloaded, match="2 accounts are set already"):
        await budgets.override("tenant:c:day", Override(limit_tokens=1), 1)
    await budgets.override("tenant:a:day", None, 1)
    await budgets.override("tenant:c:day", Override(limit_tokens=1), 1)


async def test_a_limit_lowered_below_what_is_spent_refuses_and_raised_again_lets_through():
    budgets, ledger = made(), Ledger()
    held = ledger.reserve(budgets.accounts(call(), NOON), 0, 500, 10**9, NOON)
    ledger.post(held.id, 0, 500, NOON)
    await budgets.override("tenant:acme:day", Override(limit_tokens=100), 1)
    denied = ledger.reserve(budgets.accounts(call(), NOON), 0, 1, 10**9, NOON)
    assert isinstance(denied, Denial)
    assert (denied.account, denied.limit, denied.used) == ("tenant:acme:day", 100, 500)
    await budgets.override("tenant:acme:day", Override(limit_tokens=501), 1)
    assert not isinstance(ledger.reserve(budgets.accounts(call(), NOON), 0, 1, 10**9, NOON), Denial)


# --- what operators hear of


def test_a_threshold_is_told_with_account_threshold_and_window():
    budgets, ledger = made(Limits(tenant_day_tokens=10)), Ledger()
    held = ledger.reserve(budgets.accounts(call(), NOON), 0, 8, 10**9, NOON)
    assert held.warnings == ["tenant:acme:day"]
    message, facts = budgets.reached("tenant:acme:day", ledger.balance("tenant:acme:day", NOON), NOON)
    assert message == "account tenant:acme:day has reached 80 % of its limit: 8 tokens of 10 tokens are used or held"
    assert (
        facts.items()
        >= {
            "account": "tenant:acme:day",
            "threshold": "80",
            "window": "2026-11-21T00:00:00+00:00",
            "ends": "2026-11-22T00:00:00+00:00",
            "unit": "tokens",
            "used": "8",
            "limit": "10",
            "mode": "refuse",
        }.items()
    )


def test_an_account_that_refuses_is_told_of_once_in_its_window():
    budgets, ledger = made(Limits(tenant_day_tokens=10)), Ledger()

    def told(at_ns: int, used: int = 5):
        if used:
            ledger.reserve(budgets.accounts(call(), at_ns), 0, used, 10**12, at_ns)
        denied = ledger.reserve(budgets.accounts(call(), at_ns), 0, 11, 10**9, at_ns)
        return budgets.used_up(denied, at_ns)

    assert told(NOON, 4) is None  # there is room for others
    message, facts = told(NOON, 1)
    assert message == "account tenant:acme:day refuses calls: 5 tokens of 10 tokens are used or held, and 11 tokens were asked for"
    assert (facts["threshold"], facts["account"]) == ("100", "tenant:acme:day")
    assert told(NOON + 1, 0) is None
    assert told(NOON + DAY_NS) is not None
    ledger.freeze("tenant:acme:day")
    assert told(NOON + 2 * DAY_NS) is None  # it does not refuse for its limit


def test_an_account_that_refuses_now_for_money_and_now_for_tokens_is_told_of_once_for_each():
    budgets, ledger = made(Limits(tenant_day_nano_usd=NanoUsd(8), tenant_day_tokens=10)), Ledger()
    ledger.reserve(budgets.accounts(call(), NOON), 6, 6, 10**12, NOON)

    def told(nano_usd: int, tokens: int) -> bool:
        denied = ledger.reserve(budgets.accounts(call(), NOON), nano_usd, tokens, 10**9, NOON)
        return budgets.used_up(denied, NOON) is not None

    assert [told(5, 0), told(0, 5), told(5, 0), told(0, 5)] == [True, True, False, False]


def test_a_million_tenants_take_bounded_memory_and_come_back_exactly():
    """Nothing in Python grows with them; the ledger packs accounts that nobody uses."""
    budgets, ledger, many = made(), Ledger(), 1_000_000
    before = resident_bytes()
    for number in range(many):
        held = ledger.reserve(budgets.accounts(call(f"t{number}"), NOON), number, 1, 10**9, NOON)
        ledger.post(held.id, number, 1, NOON)
        if number % 100_000 == 0:
            ledger.expire(NOON)
    ledger.expire(NOON)
    assert resident_bytes() - before < 200 * 2**20
    assert (len(budgets.overrides), len(budgets.held), len(budgets._own_rules), len(budgets._told)) == (0, 0, 0, 0)
    assert (ledger.accounts(), ledger.pending()) == (many, 0)
    for number in range(0, many, 9_973):
        found = ledger.balance(f"tenant:t{number}:day", NOON)
        assert (found.used_nano_usd, found.used_tokens, found.pending_tokens) == (number, 1, 0)
    again = ledger.reserve(budgets.accounts(call("t5"), NOON), 7, 1, 10**9, NOON)
    ledger.post(again.id, 7, 1, NOON)
    assert ledger.balance("tenant:t5:day", NOON).used_nano_usd == 12


async def test_what_was_written_down_when_the_process_ended_is_put_in_force_by_the_next_one():
    kept: dict[tuple[str, str], str | None] = {}

    class EndedError(Exception):
        pass

    async def keep(changes):
        kept.update(changes)
        raise EndedError

    def started(ledger: Ledger) -> Budgets:
        budgets = made()
        budgets.bind(ledger, lambda: NOON)
        budgets.restore(dict(kept), keep, NOON // 1_000_000)
        return budgets

    ledger = Ledger()
    ends_ns = started(ledger).rule_of("tenant:acme:day", NOON).window[1]
    for number, (kind, name, text) in enumerate(
        (
            ("frozen", "acme", "yes"),
            ("top_up", "x", encode(TopUp("tenant:acme:day", ends_ns, 7, 1)).decode()),
            ("top_up", "y", encode(TopUp("tenant:acme:day", ends_ns, 5, 0)).decode()),
        )
    ):
        with pytest.raises(EndedError):
            await started(ledger).words.say(kind, name, text, NOON // 1_000_000 + number)
    for _ in range(2):  # and what is in force is not put there again
        started(ledger)
        balance = ledger.balance("tenant:acme:day", NOON)
        assert (balance.frozen, balance.topped_up_nano_usd, balance.topped_up_tokens) == (True, 12, 1)


async def test_the_one_account_of_a_row_is_set_under_the_rows_own_name():
    budgets = made(company_day=BudgetRow(limit_nano_usd=9), only_acme=BudgetRow("tenant", of="acme", limit_nano_usd=9))
    for account in ("company:day", "tenant:acme:only_acme"):
        await budgets.override(account, Override(5), 1)
        assert budgets.rule_of(account, NOON).limit_nano_usd == 5


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
