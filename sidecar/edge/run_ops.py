"""The operators' door to runs with a plan, and to limits per minute."""

from __future__ import annotations

from contextlib import suppress

from sidecar._core import Balance
from sidecar.edge.audit import Audited
from sidecar.edge.budget_ops import balance_message, listed
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.run_plans import plan_message, run_plan
from sidecar.edge.wire import duration
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest, StoreFailed, UnknownRun
from sidecar.policies.runs import Run, RunPlan, check, summary
from sidecar.policies.shared_runs import SharedRuns
from sidecar.stages.identify import checked_name
from sidecar.v1 import budgets_pb2 as pb


class RunOps:
    """The part of OpsService that opens, closes and lists runs."""

    _engine: Engine

    async def OpenRun(self, request: pb.OpenRunRequest, context: Context) -> pb.OpenRunResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine, (tenant, name) = self._engine, _named(request)
            runs = engine.budgets.runs
            plan = run_plan(request.plan, "plan", tenant, name)
            check(plan)
            for share in plan.agents.values():
                if share.model:
                    engine.catalog.model(share.model)  # UnknownModel
            if runs.shared is not None:
                return await self._open_in_all(runs.shared, plan, context)
            async with engine.audit.turn:
                known = runs.find(tenant, name)
                if known is None or known.plan != plan:
                    async with Audited(engine, context, "OpenRun", f"{tenant}/{name}", {}, {"total_nano_usd": plan.total_nano_usd}):
                        opened = runs.open(plan, engine.wall_ns() // 1_000_000)
                        try:
                            await engine.budgets.keep_runs()
                        except StoreFailed:
                            runs.close(opened, engine.ledger)
                            raise
                    known = opened
            return pb.OpenRunResponse(run=self._run(known))

    async def CloseRun(self, request: pb.CloseRunRequest, context: Context) -> pb.CloseRunResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine, (tenant, name) = self._engine, _named(request)
            shared = engine.budgets.runs.shared
            if shared is not None:
                return pb.CloseRunResponse(run=self._run(await self._close_in_all(shared, tenant, name, context)))
            async with engine.audit.turn:
                run = engine.budgets.runs.find(tenant, name)
                if run is None:
                    raise _unknown(tenant, name)
                before = self._run(run)
                facts = {"steps": run.steps, "used_nano_usd": before.balance.used_nano_usd}
                async with Audited(engine, context, "CloseRun", f"{tenant}/{name}", {}, facts):
                    balance = engine.budgets.runs.close(run, engine.ledger)
                    message, told = summary(run, balance)
                    engine.meter.event("run", message, "info", **told)
                    with suppress(StoreFailed):  # it is written down later; the summary is worth more now
                        await engine.budgets.keep_runs()
            return pb.CloseRunResponse(run=self._run(run, balance))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            limit, shared = listed(request.limit, 100, 10_000), self._engine.budgets.runs.shared
            if shared is not None:
                return pb.ListRunsResponse(runs=[self._run(run) for run in await shared.listing(request.tenant, request.run, limit)])
            found = [
                run
                for run in self._engine.budgets.runs.listing()
                if request.tenant in ("", run.plan.tenant) and request.run in ("", run.plan.run)
            ]
            return pb.ListRunsResponse(runs=[self._run(run) for run in found[:limit]])

    async def ListRates(self, request: pb.ListRatesRequest, context: Context) -> pb.ListRatesResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine, tenant = self._engine, checked_name(request.tenant, "tenant") or "default"
            waiting, standings = engine.admission.tenants.standings(tenant)
            response = pb.ListRatesResponse(waiting=waiting)
            for rates, found in ((response.tenant, standings), (response.models, engine.quotas.listing(engine.clock_ns()))):
                for one in found:
                    rates.add(
                        of=one.target, unit=one.unit, limit=one.limit, remaining=one.remaining, resets_in=duration(one.reset_after_ns / 1e9)
                    )
            return response

    async def _open_in_all(self, shared: SharedRuns, plan: RunPlan, context: Context) -> pb.OpenRunResponse:
        engine, name = self._engine, f"{plan.tenant}/{plan.run}"
        if shared.plan_of(plan.tenant, plan.run) != plan:
            async with (
                engine.audit.turn,
                Audited(engine, context, "OpenRun", name, {}, {"total_nano_usd": plan.total_nano_usd}),
            ):
                await shared.open(plan, is_reopening=True)
        (run,) = await shared.listing(plan.tenant, plan.run, 1) or [Run(plan, engine.wall_ns() // 1_000_000, 0, generation="all")]
        return pb.OpenRunResponse(run=self._run(run))

    async def _close_in_all(self, shared: SharedRuns, tenant: str, name: str, context: Context) -> Run:
        engine = self._engine
        async with engine.audit.turn:
            before = await shared.listing(tenant, name, 1)
            if not before:
                raise _unknown(tenant, name)
            facts = {"steps": before[0].steps, "used_nano_usd": before[0].spent}
            async with Audited(engine, context, "CloseRun", f"{tenant}/{name}", {}, facts):
                run = await shared.close(tenant, name)
                if run is None:
                    raise _unknown(tenant, name)
                message, told = summary(run, None)
                engine.meter.event("run", message, "info", **told)
        return run

    def _run(self, run: Run, last: Balance | None = None) -> pb.Run:
        now_ns = self._engine.wall_ns()
        balance = last or (None if run.generation else self._engine.ledger.balance(run.account, now_ns))
        message = pb.Run(
            tenant=run.plan.tenant,
            run=run.plan.run,
            plan=plan_message(run.plan),
            age=duration(max(0, now_ns / 1e9 - run.opened_ms / 1e3)),
            steps=run.steps,
            refused=run.refused,
            balance=pb.Balance(
                account=run.account,
                limit_nano_usd=run.plan.total_nano_usd + run.topped_up,
                used_nano_usd=run.spent,
                pending_nano_usd=run.held,
                topped_up_nano_usd=run.topped_up,
            )
            if balance is None
            else balance_message(run.account, balance, now_ns),
        )
        for name, tally in sorted(run.tallies.items()):
            message.agents.add(
                agent=name,
                calls=tally.calls,
                refused=tally.refused,
                nano_usd=tally.nano_usd,
                input_tokens=tally.input_tokens,
                output_tokens=tally.output_tokens,
            )
        return message


def _unknown(tenant: str, name: str) -> UnknownRun:
    return UnknownRun(f"no run {name[:80]!r} of tenant {tenant[:80]!r} is open; ListRuns lists those that are", field="run")


def _named(request: pb.OpenRunRequest | pb.CloseRunRequest) -> tuple[str, str]:
    """Tenant and run, as calls have them. Raises InvalidRequest."""
    if not request.run:
        raise InvalidRequest("run is empty; expected caller.run of the calls that are meant", field="run")
    return checked_name(request.tenant, "tenant") or "default", checked_name(request.run, "run")
