"""The operators' door to budgets: limits, balances, reservations, and who may spend."""

from __future__ import annotations

import asyncio
import heapq
from uuid import uuid4

from msgspec.json import encode
from msgspec.structs import asdict

from sidecar._core import Balance
from sidecar.edge.audit import Audited
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.wire import duration
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest
from sidecar.policies.budgets import Override, Row, TopUp
from sidecar.settings.budgets import Mode
from sidecar.stages.identify import checked_name
from sidecar.v1 import budgets_pb2 as pb
from sidecar.v1 import llm_pb2

_MODES: dict[int, Mode] = {
    pb.BUDGET_MODE_UNSPECIFIED: "refuse",
    pb.BUDGET_MODE_REFUSE: "refuse",
    pb.BUDGET_MODE_WARN: "warn",
    pb.BUDGET_MODE_SHADOW: "shadow",
    pb.BUDGET_MODE_OFF: "off",
}
_NUMBERS = {
    "refuse": pb.BUDGET_MODE_REFUSE,
    "warn": pb.BUDGET_MODE_WARN,
    "shadow": pb.BUDGET_MODE_SHADOW,
    "off": pb.BUDGET_MODE_OFF,
}
_MOST = 2**63 - 1
_AT_ONCE = 1_000  # accounts to look at before calls have a turn
_LONGEST = 4_096  # bytes of an account's name, as the ledger has it


class BudgetOps:
    """The part of OpsService that shows and changes budgets."""

    _engine: Engine

    async def ListBudgets(self, request: pb.ListBudgetsRequest, context: Context) -> pb.ListBudgetsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            limit = listed(request.limit, 1_000, 10_000)
            listing = self._engine.budgets.listing()
            rest = (one for one in listing if one[0].startswith(request.prefix) and one[0] > request.after)
            found = heapq.nsmallest(limit, rest, key=lambda one: one[0])
            return pb.ListBudgetsResponse(budgets=[_budget(account, row, own, is_overridden=is_own) for account, row, own, is_own in found])

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.GetBudgetResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            account = _named(request.account)
            rule = self._engine.budgets.runs.rule_of(account)
            if rule is None:
                budget = self._in_force(account, self._engine.budgets.known(account))
            else:
                budget = pb.Budget(account=account, limit_nano_usd=rule.limit_nano_usd, mode=pb.BUDGET_MODE_REFUSE)
            return pb.GetBudgetResponse(budget=budget, balance=self._balance(account))

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Context) -> pb.SetBudgetResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine, account = self._engine, _named(request.account)
            row = engine.budgets.known(account)
            own = _override(request, row.of(account))
            async with engine.audit.turn, Audited(engine, context, "SetBudget", account, self._before(account, row), _words(own)):
                await engine.budgets.override(account, own, engine.wall_ns() // 1_000_000)
            return pb.SetBudgetResponse(budget=self._in_force(account, row), balance=self._balance(account))

    async def DeleteBudget(self, request: pb.DeleteBudgetRequest, context: Context) -> pb.DeleteBudgetResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine, account = self._engine, _named(request.account)
            row = engine.budgets.known(account)
            async with engine.audit.turn:
                if account in engine.budgets.overrides:
                    after = _words(row.of(account))
                    async with Audited(engine, context, "DeleteBudget", account, self._before(account, row), after):
                        await engine.budgets.override(account, None, engine.wall_ns() // 1_000_000)
            return pb.DeleteBudgetResponse(budget=self._in_force(account, row))

    async def ListBalances(self, request: pb.ListBalancesRequest, context: Context) -> pb.ListBalancesResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            limit, prefix, after = listed(request.limit, 100, 1_000), request.prefix, request.after
            ledger = self._engine.ledger

            def names() -> list[str]:
                return sorted(name for name in ledger.names() if name.startswith(prefix) and name > after)

            balances: list[pb.Balance] = []
            for number, name in enumerate(await asyncio.to_thread(names), 1):
                if ledger.balance(name, self._engine.wall_ns()) is not None:  # it was used in the window that it is in
                    balances.append(self._balance(name))
                if len(balances) == limit:
                    break
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            return pb.ListBalancesResponse(balances=balances)

    async def TopUpBudget(self, request: pb.TopUpBudgetRequest, context: Context) -> pb.TopUpBudgetResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine, account = self._engine, _named(request.account)
            for field in ("nano_usd", "tokens"):
                if getattr(request, field) < 0:
                    raise InvalidRequest(f"{field} is {getattr(request, field)}; expected 0 or more", field=field)
            if not request.nano_usd and not request.tokens:
                raise InvalidRequest("neither nano_usd nor tokens is set; expected one of them or both", field="nano_usd")
            async with engine.audit.turn:
                now_ns = engine.wall_ns()
                if engine.budgets.runs.rule_of(account) is None:
                    engine.budgets.known(account)
                rule, before = engine.budgets.rule_of(account, now_ns), engine.ledger.balance(account, now_ns)
                was = (0, 0) if before is None else (before.topped_up_nano_usd, before.topped_up_tokens)
                more = (request.nano_usd, request.tokens)
                limits = (None, None) if rule is None else (rule.limit_nano_usd, rule.limit_tokens)
                _require_room(account, limits, was, more)
                then = {"nano_usd": was[0] + more[0], "tokens": was[1] + more[1]}
                async with Audited(engine, context, "TopUpBudget", account, {"nano_usd": was[0], "tokens": was[1]}, then):
                    if rule is not None and rule.window is not None:
                        said = TopUp(account, rule.window[1], *more)
                        await engine.budgets.words.say("top_up", uuid4().hex, encode(said).decode(), now_ns // 1_000_000)
                    for name, its_rule, amount in engine.budgets.runs.top_ups(account, request.nano_usd):
                        engine.ledger.top_up(name, its_rule, amount, 0, now_ns)
            return pb.TopUpBudgetResponse(balance=self._balance(account))

    async def FreezeTenant(self, request: pb.FreezeTenantRequest, context: Context) -> pb.FreezeTenantResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            return pb.FreezeTenantResponse(was_frozen=await self._freeze(context, request.tenant, is_frozen=True))

    async def UnfreezeTenant(self, request: pb.UnfreezeTenantRequest, context: Context) -> pb.UnfreezeTenantResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            return pb.UnfreezeTenantResponse(was_frozen=await self._freeze(context, request.tenant, is_frozen=False))

    async def _freeze(self, context: Context, name: str, *, is_frozen: bool) -> bool:
        """Returns whether the tenant was frozen."""
        if not name:
            raise InvalidRequest("tenant is empty; expected the tenant that is meant", field="tenant")
        engine, tenant = self._engine, checked_name(name, "tenant")
        action, text = ("FreezeTenant", "yes") if is_frozen else ("UnfreezeTenant", "")
        async with engine.audit.turn:
            was_frozen = engine.budgets.is_frozen(tenant)
            async with Audited(engine, context, action, tenant, {"frozen": was_frozen}, {"frozen": is_frozen}):
                await engine.budgets.words.say("frozen", tenant, text, engine.wall_ns() // 1_000_000)
        return was_frozen

    async def ListReservations(self, request: pb.ListReservationsRequest, context: Context) -> pb.ListReservationsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            limit, now_ns = listed(request.limit, 100, 10_000), self._engine.wall_ns()
            found = [held for held in self._engine.budgets.held.values() if request.tenant in ("", held.call.tenant)]
            response = pb.ListReservationsResponse(total=len(found))
            for held in found[:limit]:
                call = held.call
                caller = llm_pb2.Caller(
                    service=call.service,
                    node=call.node_name,
                    tenant=call.tenant,
                    user=call.user,
                    plan=call.plan,
                    run=call.run,
                    agent=call.agent,
                )
                response.reservations.add(
                    call=call.id,
                    caller=caller,
                    nano_usd=call.max_nano_usd,
                    tokens=call.max_tokens,
                    age=duration((now_ns - held.since_ns) / 1e9),
                    accounts=held.accounts,
                )
            return response

    def _in_force(self, account: str, row: Row) -> pb.Budget:
        own = self._engine.budgets.overrides.get(account)
        return _budget(account, row, own or row.of(account), is_overridden=own is not None)

    def _before(self, account: str, row: Row) -> dict[str, object]:
        return _words(self._engine.budgets.overrides.get(account) or row.of(account))

    def _balance(self, account: str) -> pb.Balance:
        now_ns = self._engine.wall_ns()
        found, rule = self._engine.ledger.balance(account, now_ns), self._engine.budgets.rule_of(account, now_ns)
        shown = pb.Balance(account=account) if found is None else balance_message(account, found, now_ns)
        known = self._engine.sharing.leases.standing(account, now_ns) if self._engine.sharing is not None else None
        if known is not None:
            _, used, taken = known
            shown.all_pods.used_nano_usd, shown.all_pods.used_tokens = used
            shown.all_pods.set_aside_nano_usd, shown.all_pods.set_aside_tokens = taken[0] - used[0], taken[1] - used[1]
        tenant = account.removeprefix("tenant:").removesuffix(":day")
        if account == self._engine.budgets.tenant_account(tenant):
            shown.frozen = self._engine.budgets.is_frozen(tenant)  # also where it has spent nothing today
        if rule is None:
            return shown
        # What was set since the account was last used is in force with its next call.
        shown.ClearField("limit_nano_usd")
        shown.ClearField("limit_tokens")
        if rule.limit_nano_usd is not None:
            shown.limit_nano_usd = rule.limit_nano_usd + shown.topped_up_nano_usd
        if rule.limit_tokens is not None:
            shown.limit_tokens = rule.limit_tokens + shown.topped_up_tokens
        shared_runs = self._engine.budgets.runs.shared
        stood = shared_runs.standing(account) if shared_runs is not None else None
        if stood is not None:
            shown.limit_nano_usd, shown.all_pods.used_nano_usd, shown.all_pods.set_aside_nano_usd = stood
        if rule.window is not None:
            shown.resets_in.CopyFrom(duration((rule.window[1] - now_ns) / 1e9))
        return shown


def balance_message(account: str, found: Balance, now_ns: int) -> pb.Balance:
    message = pb.Balance(
        account=account,
        used_nano_usd=found.used_nano_usd,
        used_tokens=found.used_tokens,
        pending_nano_usd=found.pending_nano_usd,
        pending_tokens=found.pending_tokens,
        limit_nano_usd=found.limit_nano_usd,
        limit_tokens=found.limit_tokens,
        topped_up_nano_usd=found.topped_up_nano_usd,
        topped_up_tokens=found.topped_up_tokens,
        overruns=found.overruns,
        refusals=found.refusals,
        frozen=found.frozen,
    )
    if found.resets_at_ns is not None:
        message.resets_in.CopyFrom(duration((found.resets_at_ns - now_ns) / 1e9))
    return message


def listed(asked: int, usual: int, most: int) -> int:
    """How many to list. Raises InvalidRequest."""
    if not 0 <= asked <= most:
        raise InvalidRequest(f"limit is {asked}; expected 1 to {most}, or 0 for {usual}", field="limit")
    return asked or usual


def _named(account: str) -> str:
    if not account or len(account.encode()) > _LONGEST or not account.isprintable():
        raise InvalidRequest(
            f"account is {account[:80]!r}; expected 1 to {_LONGEST} bytes of printable characters, for example tenant:acme:day",
            field="account",
        )
    return account


def _override(request: pb.SetBudgetRequest, settings: Override) -> Override:
    """Raises InvalidRequest."""
    for field in ("limit_nano_usd", "limit_tokens"):
        if getattr(request, field) < 0:
            raise InvalidRequest(f"{field} is {getattr(request, field)}; expected 0 or more", field=field)
    if request.mode not in _MODES:
        raise InvalidRequest(f"mode is {request.mode}; expected one of {', '.join(pb.BudgetMode.keys())}", field="mode")
    if not 0 <= request.warn_percent <= 100:
        raise InvalidRequest(
            f"warn_percent is {request.warn_percent}; expected 1 to 100, or 0 for {settings.warn_percent}", field="warn_percent"
        )
    mode, has = _MODES[request.mode], request.HasField
    if mode != "off" and not has("limit_nano_usd") and not has("limit_tokens"):
        why = "neither limit_nano_usd nor limit_tokens is set; expected one of them or both, or mode BUDGET_MODE_OFF for no limit"
        raise InvalidRequest(why, field="limit_nano_usd")
    return Override(
        request.limit_nano_usd if has("limit_nano_usd") else None,
        request.limit_tokens if has("limit_tokens") else None,
        mode,
        request.warn_percent or settings.warn_percent,
    )


def _budget(account: str, row: Row, own: Override, *, is_overridden: bool = False) -> pb.Budget:
    return pb.Budget(
        account=account,
        row=row.name,
        window=row.row.window,
        time_zone=row.zone,
        limit_nano_usd=own.limit_nano_usd,
        limit_tokens=own.limit_tokens,
        mode=_NUMBERS[own.mode],
        warn_percent=own.warn_percent,
        overridden=is_overridden,
    )


def _words(own: Override) -> dict[str, object]:
    return asdict(own)


def _require_room(account: str, limits: tuple[int | None, int | None], was: tuple[int, int], more: tuple[int, int]) -> None:
    """Raises InvalidRequest where there is no limit to add to, or it would leave the range of numbers."""
    for field, limit, had, added in zip(("nano_usd", "tokens"), limits, was, more, strict=True):
        if added and limit is None:
            raise InvalidRequest(f"{account} has no limit in {field} to add to; SetBudget gives it one", field=field)
        if limit is not None and limit + had + added > _MOST:
            raise InvalidRequest(f"{field} is {added}, and the limit would be {limit + had + added}; expected at most {_MOST}", field=field)
