"""Budgets of every scope, dear calls, what operators change, and usage that cannot be, over a real socket."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest_asyncio

from sidecar.v1 import budgets_pb2 as bpb
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.conftest import SMALL_MODELS
from tests.fakes.running import Sidecar, model_row, provider_tables, start
from tests.fakes.script import Say, Stall, Tokens
from tests.flow.reading import account, failed, streamed, tokens

M = "compatible-default"
COST = 39_000  # nano-USD: the fake's 11 tokens in and 7 out, at the test models' prices
EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
DAY = "tenant:acme:day"


def ask(tenant: str = "acme", **fields) -> pb.GenerateRequest:
    caller = {"tenant": tenant} | {name: fields.pop(name) for name in ("service", "node", "user", "plan", "run", "agent") if name in fields}
    return pb.GenerateRequest(**{"prompt": "hi", "model": M, "max_output_tokens": 10, "caller": pb.Caller(**caller)} | fields)


async def accounts(sidecar, **fields) -> dict[str, ops_pb2.AccountView]:
    """The accounts that such a call is on."""
    return {one.name: one for one in (await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=ask(**fields)))).accounts}


async def events(sidecar, kind: str) -> list[ops_pb2.Event]:
    return [*reversed((await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(kind=kind))).events)]


async def balance(sidecar, name: str = DAY) -> bpb.Balance:
    return (await sidecar.ops.GetBudget(bpb.GetBudgetRequest(account=name))).balance


Start = Callable[..., Awaitable[Sidecar]]


@pytest_asyncio.fixture(loop_scope="session")
async def start_own(upstream, tmp_path) -> AsyncIterator[Start]:
    """A factory of sidecars whose settings are all the test's own, with `compatible` or the providers named."""
    running: list[Sidecar] = []

    async def factory(tables: str, server: str = "", *providers: str) -> Sidecar:
        own = provider_tables(upstream.url, *(providers or ("compatible",))) + SMALL_MODELS
        running.append(await start(tmp_path, own + tables, server))
        return await running[-1].until_serving()

    yield factory
    for one in running:
        await one.stop(within_s=3)


async def test_each_scope_refuses_by_name_and_nobody_else(start_sidecar):
    sidecar = await start_sidecar(f"""
[budgets.service_day]
of = "vision"
limit_usd = "0.00015"
[budgets.node_pivots]
scope = "node"
of = "core.pivot"
window = "week"
limit_tokens = 60
[budgets.user_month]
limit_usd = "0.00015"
[plans.tiny]
models = ["{M}"]
month_tokens = 60
""")
    for name, who, others in (
        ("service:vision:day", {"service": "vision"}, {"service": "weaver"}),
        ("node:core.pivot:pivots", {"service": "core", "node": "pivot"}, {"service": "core", "node": "other"}),
        ("user:acme:kim:month", {"service": "s1", "user": "kim"}, {"service": "s1", "user": "lee"}),
        ("plan:acme:tiny:month", {"service": "s2", "plan": "tiny"}, {"service": "s2", "plan": "paid"}),
    ):
        for _ in range(2):
            await sidecar.llm.Generate(ask(**who))
        got = await failed(sidecar.llm.Generate(ask(**who)))
        assert (got.code, got.reason, got.facts["account"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED", name)
        assert got.facts["mode"] == "manual"
        assert got.retry_after_s is not None
        assert got.degradation is not None
        found = (await accounts(sidecar, **who))[name]
        assert (found.pending_nano_usd, found.pending_tokens) == (0, 0)
        assert found.refuses
        told = [one.facts["threshold"] for one in await events(sidecar, "budget") if one.facts["account"] == name]
        assert told[-1] == "100"
        await sidecar.llm.Generate(ask(**others))


async def test_alarms_of_what_all_spend_together_refuse_nothing(start_own):
    sidecar = await start_own(
        '[budgets.company_day_warning]\nlimit_usd = "0.00005"\n[budgets.company_week_critical]\nlimit_usd = "0.00005"\n'
    )
    for tenant in ("a", "b", "c"):
        await sidecar.llm.Generate(ask(tenant))
    told = [(one.facts["account"], one.facts["threshold"], one.facts["mode"]) for one in await events(sidecar, "budget")]
    assert sorted(told) == [("company:day_warning", "100", "warn"), ("company:week_critical", "100", "warn")]
    assert (await accounts(sidecar))["company:day_warning"].used_nano_usd == 3 * COST
    metric = await sidecar.metrics()
    assert metric("llm_budget_warning_total") == 2


async def test_a_tenants_day_warns_at_80_and_refuses_at_100(start_own):
    sidecar = await start_own("[limits]\ntenant_day_tokens = 100\n")
    calls = 0
    while True:
        try:
            await sidecar.llm.Generate(ask())
            calls += 1
        except grpc.aio.AioRpcError:
            break
    assert calls == 4  # 18 tokens each, and the last one that fits leaves room for the 38 that the next could take
    told = [(one.facts["account"], one.facts["threshold"]) for one in await events(sidecar, "budget")]
    assert told == [(DAY, "80"), (DAY, "100")]
    got = await failed(sidecar.llm.Generate(ask()))
    assert (got.code, got.reason, got.facts["mode"], got.facts["unit"]) == (*EXHAUSTED, "manual", "tokens")
    assert len(await events(sidecar, "budget")) == 2


async def test_what_operators_set_holds_at_once_and_over_kill_9(start_own, tmp_path):
    server = f'data_dir = "{tmp_path}/data"'
    first = await start_own('[auth]\nops_sha256 = "' + OPERATOR_SHA256 + '"\n', server)
    ops = as_operator(first)
    spent = await first.llm.Generate(ask())
    lower = await ops(first.ops.SetBudget, bpb.SetBudgetRequest(account=DAY, limit_nano_usd=10_000, warn_percent=50))
    assert (lower.budget.limit_nano_usd, lower.budget.HasField("limit_tokens"), lower.budget.overridden) == (10_000, False, True)
    assert (lower.balance.used_nano_usd, lower.balance.limit_nano_usd) == (spent.cost.nano_usd, 10_000)
    got = await failed(first.llm.Generate(ask()))
    assert (got.code, got.reason, got.facts["account"], got.facts["limit"]) == (*EXHAUSTED, DAY, "10000")
    await first.llm.Generate(ask("other"))
    added = await ops(first.ops.TopUpBudget, bpb.TopUpBudgetRequest(account=DAY, nano_usd=1_000_000))
    assert (added.balance.limit_nano_usd, added.balance.topped_up_nano_usd) == (1_010_000, 1_000_000)
    await first.llm.Generate(ask())
    assert not (await ops(first.ops.FreezeTenant, bpb.FreezeTenantRequest(tenant="evil"))).was_frozen
    assert (await ops(first.ops.FreezeTenant, bpb.FreezeTenantRequest(tenant="evil"))).was_frozen
    assert (await ops(first.ops.GetBudget, bpb.GetBudgetRequest(account="tenant:evil:day"))).balance.frozen
    frozen = await failed(first.llm.Generate(ask("evil")))
    assert (frozen.code, frozen.reason, frozen.retry_after_s) == (*EXHAUSTED, None)
    assert "is frozen: nothing may be spent on it" in frozen.message
    first.process.send_signal(signal.SIGKILL)
    await first.process.wait()

    second = await start_own('[auth]\nops_sha256 = "' + OPERATOR_SHA256 + '"\n', server)
    ops = as_operator(second)
    kept = await ops(second.ops.GetBudget, bpb.GetBudgetRequest(account=DAY))
    assert (kept.budget.limit_nano_usd, kept.budget.warn_percent, kept.budget.row) == (10_000, 50, "tenant_day")
    assert (kept.balance.limit_nano_usd, kept.balance.used_nano_usd) == (1_010_000, 2 * COST)
    assert (await failed(second.llm.Generate(ask("evil")))).reason == "BUDGET_EXCEEDED"
    assert (await ops(second.ops.UnfreezeTenant, bpb.UnfreezeTenantRequest(tenant="evil"))).was_frozen
    assert not (await ops(second.ops.GetBudget, bpb.GetBudgetRequest(account="tenant:evil:day"))).balance.frozen
    await second.llm.Generate(ask("evil"))
    again = await ops(second.ops.DeleteBudget, bpb.DeleteBudgetRequest(account=DAY))
    assert (again.budget.limit_tokens, again.budget.overridden) == (1_000_000, False)
    await ops(second.ops.DeleteBudget, bpb.DeleteBudgetRequest(account=DAY))  # nothing to delete, nothing to write down
    lines = [json.loads(line) for line in (tmp_path / "data/audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["subject"]) for line in lines] == [
        ("SetBudget", DAY), ("TopUpBudget", DAY), ("FreezeTenant", "evil"), ("FreezeTenant", "evil"), ("UnfreezeTenant", "evil"),
        ("DeleteBudget", DAY),
    ]  # fmt: skip
    assert {(line["who"], line["user"]) for line in lines} == {("operator", "kim")}
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines)
    assert (lines[0]["before"]["limit_nano_usd"], lines[0]["after"]["limit_nano_usd"]) == (30_000_000_000, 10_000)
    assert [one.facts["action"] for one in (await ops(second.ops.ListEvents, ops_pb2.ListEventsRequest(kind="audit"))).events] == [
        "DeleteBudget", "UnfreezeTenant",
    ]  # fmt: skip


OPERATOR_SHA256 = "f1abe1b083d12d181ae136cfc75b8d18a8ecb43ac4e9d1a36d6a9c75b6016b61"  # of "guess"


def as_operator(sidecar):
    """Calls an RPC with the operator's token and a name."""
    return lambda rpc, request: rpc(request, metadata=(("authorization", "Bearer guess"), ("x-sidecar-user", "kim")))


async def test_a_change_that_cannot_be_written_down_is_not_made(start_own, tmp_path):
    data = tmp_path / "data"
    sidecar = await start_own("", f'data_dir = "{data}"')
    (data / "audit.jsonl").unlink()
    (data / "audit.jsonl").symlink_to("/dev/full")
    assert await sidecar.stop() == 0
    sidecar = await start_own("", f'data_dir = "{data}"')
    got = await failed(sidecar.ops.SetBudget(bpb.SetBudgetRequest(account=DAY, limit_tokens=1)))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
    assert "nothing was changed" in got.message
    await sidecar.llm.Generate(ask())


async def test_wrong_requests_of_operators(sidecar):
    limit = {"account": DAY, "limit_tokens": 1}
    for rpc, request, field, told in (
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(limit_tokens=1), "account", "for example tenant:acme:day"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(**limit | {"account": "tenant:acme:year"}), "account", "tenant:*:day"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(**limit | {"account": "tenant:*:day"}), "account", "one account of the form"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(**limit | {"account": "tenant:a\nb:day"}), "account", "printable"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(**limit | {"account": "x" * 5_000}), "account", "4096 bytes"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(account=DAY, limit_tokens=-1), "limit_tokens", "is -1; expected 0 or more"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(account=DAY, limit_nano_usd=-(2**63)), "limit_nano_usd", "is -9223372036854775808"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(account=DAY), "limit_nano_usd", "BUDGET_MODE_OFF"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(**limit, mode=9), "mode", "is 9; expected one of BUDGET_MODE_UNSPECIFIED"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(**limit, warn_percent=101), "warn_percent", "is 101; expected 1 to 100"),
        (sidecar.ops.SetBudget, bpb.SetBudgetRequest(**limit, warn_percent=-1), "warn_percent", "is -1"),
        (sidecar.ops.GetBudget, bpb.GetBudgetRequest(account="run:acme:r:plan"), "account", "expected one account"),
        (sidecar.ops.DeleteBudget, bpb.DeleteBudgetRequest(account="nothing"), "account", 'is "nothing"'),
        (sidecar.ops.TopUpBudget, bpb.TopUpBudgetRequest(account=DAY), "nano_usd", "neither nano_usd nor tokens"),
        (sidecar.ops.TopUpBudget, bpb.TopUpBudgetRequest(account=DAY, nano_usd=-1), "nano_usd", "is -1; expected 0 or more"),
        (sidecar.ops.TopUpBudget, bpb.TopUpBudgetRequest(account=DAY, tokens=2**63 - 1), "tokens", "at most 9223372036854775807"),
        (sidecar.ops.TopUpBudget, bpb.TopUpBudgetRequest(account="user:acme:kim:day", tokens=1), "tokens", "SetBudget gives it one"),
        (sidecar.ops.FreezeTenant, bpb.FreezeTenantRequest(), "tenant", "tenant is empty"),
        (sidecar.ops.FreezeTenant, bpb.FreezeTenantRequest(tenant="a\tb"), "tenant", "printable characters"),
        (sidecar.ops.UnfreezeTenant, bpb.UnfreezeTenantRequest(), "tenant", "tenant is empty"),
        (sidecar.ops.ListBudgets, bpb.ListBudgetsRequest(limit=-1), "limit", "is -1; expected 1 to 10000, or 0 for 1000"),
        (sidecar.ops.ListBalances, bpb.ListBalancesRequest(limit=1_001), "limit", "is 1001"),
        (sidecar.ops.ListReservations, bpb.ListReservationsRequest(limit=-1), "limit", "is -1"),
    ):
        got = await failed(rpc(request))
        assert (got.code, got.reason, got.field) == (*INVALID, field), got
        assert told in got.message


async def test_budgets_and_balances_are_listed_page_by_page(sidecar, tenant):
    """What nobody has used has the row's limit; of what was used there is a balance."""
    unused = await sidecar.ops.GetBudget(bpb.GetBudgetRequest(account=f"tenant:{tenant}-unheard:day"))
    assert (unused.budget.limit_tokens, unused.budget.overridden) == (100_000_000, False)
    assert (unused.balance.used_nano_usd, unused.balance.limit_nano_usd) == (0, 30_000_000_000)
    assert 0 < unused.balance.resets_in.seconds <= 86_400
    names = sorted(f"{tenant}-{letter}" for letter in "abc")
    for name in names:
        await sidecar.llm.Generate(ask(name))
    wanted = [f"tenant:{name}:day" for name in names]
    found, after = [], ""
    while page := (await sidecar.ops.ListBalances(bpb.ListBalancesRequest(prefix=f"tenant:{tenant}-", limit=2, after=after))).balances:
        found += [(one.account, one.used_nano_usd, one.pending_nano_usd) for one in page]
        after = page[-1].account
    assert found == [(name, COST, 0) for name in wanted]
    await sidecar.ops.SetBudget(bpb.SetBudgetRequest(account=wanted[0], limit_tokens=5, mode=bpb.BUDGET_MODE_SHADOW))
    listed = {one.account: one for one in (await sidecar.ops.ListBudgets(bpb.ListBudgetsRequest())).budgets}
    assert list(listed) == sorted(listed)
    assert {"tenant:*:day", "service:*:day", "user:*:*:month", "company:week_critical"} <= set(listed)
    assert (listed[wanted[0]].limit_tokens, listed[wanted[0]].mode, listed[wanted[0]].row) == (5, bpb.BUDGET_MODE_SHADOW, "tenant_day")
    await sidecar.llm.Generate(ask(names[0]))  # shadow: it is over its limit, and counted only
    assert (await balance(sidecar, wanted[0])).refusals == 1
    (page,) = (await sidecar.ops.ListBudgets(bpb.ListBudgetsRequest(prefix="company:", limit=1, after="company:day_warning"))).budgets
    assert page.account == "company:month_critical"


async def test_what_calls_in_flight_hold_is_listed_and_given_back(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Stall())
    waiting = asyncio.ensure_future(failed(sidecar.llm.Generate(ask(tenant, model=model, agent="writer"), timeout=30)))
    await upstream.request(model)
    listed = await sidecar.ops.ListReservations(bpb.ListReservationsRequest(tenant=tenant))
    (held,) = listed.reservations
    assert (listed.total, held.caller.tenant, held.caller.agent) == (1, tenant, "writer")
    assert f"tenant:{tenant}:day" in held.accounts
    found = await balance(sidecar, f"tenant:{tenant}:day")
    assert (found.pending_nano_usd, found.pending_tokens) == (held.nano_usd, held.tokens)
    assert held.nano_usd > 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await sidecar.until_idle()
    assert not (await sidecar.ops.ListReservations(bpb.ListReservationsRequest(tenant=tenant))).total
    found = await balance(sidecar, f"tenant:{tenant}:day")
    assert (found.pending_nano_usd, found.pending_tokens) == (0, 0)


async def test_short_answers_let_more_callers_in_and_a_long_one_is_an_overrun(start_own, upstream):
    """Of 2,000 tokens the most, 1,000 for each answer, fits once; what 99 of 100 answers came within fits ten times."""
    sidecar = await start_own("[limits]\nreserve_quantile = 0.99\ntenant_day_tokens = 3_800\n" + model_row("brief", "compatible"))
    hold = {"max_output_tokens": 1_000, "service": "rag", "node": "answer", "model": "brief"}
    upstream.on("brief", Say())
    for _ in range(100):  # 18 tokens each
        await sidecar.llm.Generate(ask(**hold))
    explained = await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=ask(**hold)))
    (candidate,) = explained.candidates
    assert candidate.max_output_tokens == 1_000
    most = candidate.max_cost.nano_usd
    assert most > 1_000 * 4_000  # a dry run tells the most
    gate = asyncio.Event()
    upstream.on("brief", *[Say(gate=gate)] * 9, Say(gate=gate, tokens=Tokens(output=500)))
    calls = [asyncio.ensure_future(sidecar.llm.Generate(ask(**hold), timeout=30)) for _ in range(10)]
    while (listed := await sidecar.ops.ListReservations(bpb.ListReservationsRequest(tenant="acme"))).total < 10:
        await asyncio.sleep(0.01)
        assert not any(call.done() for call in calls)
    assert {held.tokens for held in listed.reservations} == {candidate.input_tokens + 7}
    assert all(held.nano_usd < most / 10 for held in listed.reservations)
    gate.set()
    replies = await asyncio.gather(*calls)
    await sidecar.until_idle()
    found = await balance(sidecar)
    assert sorted(reply.usage.output_tokens for reply in replies) == [7] * 9 + [500]
    assert (found.used_tokens, found.pending_tokens, found.pending_nano_usd) == (109 * 18 + 511, 0, 0)
    assert found.used_nano_usd == 100 * COST + sum(reply.cost.nano_usd for reply in replies)
    assert (await sidecar.metrics())("llm_budget_overrun_total") == 1
    own = await failed(sidecar.llm.Generate(ask(**hold | {"node": "other", "max_output_tokens": 1_400})))  # nothing is known of that node
    assert (own.code, own.reason) == EXHAUSTED


async def test_dear_calls_are_told_of_throttled_and_halted(start_own, upstream):
    sidecar = await start_own(
        '[limits]\ncall_log_usd = "0.00001"\ncall_notify_usd = "0.001"\ncall_throttle_usd = "0.002"\ncall_halt_usd = "0.1"\n'
        '[tiers]\ncheap = "compatible/cheap"\n[nodes.flow.dear]\nprimary = "compatible/compatible-default"\n'
        + model_row("cheap", "compatible", input="0.10", output="0.40", reasoning="0.40", cached_input="0.01", cache_write_5m="0.10")
    )

    def dear(output: int = 7, **fields) -> pb.GenerateRequest:
        upstream.on(M, Say(tokens=Tokens(output=output)))
        return ask(node="flow.dear", **{"model": "", "max_output_tokens": 1_000} | fields)

    answer = await sidecar.llm.Generate(dear())
    assert (answer.model, answer.cost.nano_usd) == (M, COST)
    await sidecar.logged('"dear call"')
    assert not await events(sidecar, "dear_call")
    await sidecar.llm.Generate(dear(300))
    await sidecar.llm.Generate(dear(300))
    assert [one.facts["action"] for one in await events(sidecar, "dear_call")] == ["notify"]
    await sidecar.llm.Generate(dear(600))
    assert [one.facts["action"] for one in await events(sidecar, "dear_call")] == ["notify", "throttle"]
    cheap = await sidecar.llm.Generate(dear())
    assert (cheap.model, cheap.fallback) == ("cheap", False)
    assert any("limits.call_throttle_usd" in notice for notice in cheap.notices)
    assert (await sidecar.llm.Generate(dear(model=M))).model == "cheap"  # the request's own choice too
    assert (await sidecar.llm.Generate(ask(node="flow.dear", tenant="other", model=""))).model == M
    got = await failed(sidecar.llm.Generate(ask("other", prompt="word " * 90_000)))
    assert (got.code, got.reason, got.facts["account"], got.facts["limit"]) == (*EXHAUSTED, "call", "100000000")
    assert "limits.call_halt_usd" in got.message


async def test_limits_per_minute_can_be_read_and_give_back_what_was_not_used(start_own):
    sidecar = await start_own(
        "[limits]\ntenant_tokens_per_minute = 60_000\ntenant_requests_per_minute = 60\n"
        + model_row("metered", "compatible", requests_per_minute=100, tokens_per_minute=100_000)
    )
    before = await sidecar.ops.ListRates(bpb.ListRatesRequest(tenant="acme"))
    assert [(one.unit, one.limit, one.remaining) for one in before.tenant] == [("requests", 60, 60), ("tokens", 60_000, 60_000)]
    assert not before.models
    await sidecar.llm.Generate(ask(model="metered", max_output_tokens=5_000))
    after = await sidecar.ops.ListRates(bpb.ListRatesRequest(tenant="acme"))
    # 18 tokens were used of 5,028 that were taken; some have flowed in since.
    assert 60_000 - 18 <= after.tenant[1].remaining <= 60_000
    assert {(one.of, one.unit, one.limit) for one in after.models} == {
        ("compatible/metered", "requests", 100), ("compatible/metered", "tokens", 100_000),
    }  # fmt: skip
    assert all(one.remaining >= one.limit - 18 for one in after.models)


ABSURD = (-5, 10**12, 10**19)
PRICES = ("input", "cached_input", "cache_write_5m", "output", "reasoning")


async def test_usage_that_cannot_be_is_estimated_told_and_never_posted(start_own, upstream, tmp_path):
    names = [f"{provider}-absurd{number}" for provider in ("openai", "anthropic", "google", "ollama") for number in range(len(ABSURD))]
    rows = "".join(model_row(name, name.partition("-")[0]) for name in names)
    rows += '[catalog]\nunpriced = "estimate"\n' + model_row("unpriced", "openai", **dict.fromkeys(PRICES))
    sidecar = await start_own(rows, f'data_dir = "{tmp_path}/data"', "openai", "anthropic", "google", "ollama", "compatible")
    answers = []
    for number, name in enumerate(names):
        absurd = ABSURD[number % len(ABSURD)]
        upstream.on(name, Say(tokens=Tokens(input=absurd)), Say(tokens=Tokens(output=absurd)))
        answers.append(await sidecar.llm.Generate(ask(model=name)))
        answers.append((await streamed(sidecar.llm.Stream(ask(model=name)))).end)
    for answer in answers:
        assert answer.usage.estimated, answer
        assert all(0 <= count < 100 for count in tokens(answer.usage)), answer
        assert 0 < answer.cost.nano_usd < 1_000_000, answer
    found = await account(sidecar, "acme")
    assert (found.pending_nano_usd, found.pending_tokens) == (0, 0)
    assert found.used_nano_usd == sum(answer.cost.nano_usd for answer in answers)
    assert found.used_tokens == sum(sum(tokens(answer.usage)) for answer in answers)
    logged = (await sidecar.ops.ListCalls(ops_pb2.ListCallsRequest(limit=1_000))).calls
    assert {row.id: (row.status, row.cost_nano_usd, row.usage) for row in logged} == {
        answer.id: ("ok", answer.cost.nano_usd, answer.usage) for answer in answers
    }
    unpriced = await sidecar.llm.Generate(ask("other", model="unpriced"))
    assert unpriced.cost.nano_usd > 0  # the dearest prices of its provider: never free
    assert (await account(sidecar, "other")).used_nano_usd == unpriced.cost.nano_usd
    told = await events(sidecar, "alert")
    for name in names:
        assert any(name in one.message for one in told), name
