"""The operators' door: OpsService."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Literal

from sidecar import VERSION
from sidecar.caching import look_up
from sidecar.call import Call, Candidate
from sidecar.catalog import Model
from sidecar.edge.audit import Audited
from sidecar.edge.budget_ops import BudgetOps
from sidecar.edge.cache_ops import CacheOps
from sidecar.edge.calls import Calls
from sidecar.edge.health import node_statuses, set_health
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.rpc import either_request, make_call
from sidecar.edge.run_ops import RunOps
from sidecar.edge.usage_ops import UsageOps
from sidecar.edge.wire import duration, set_cost
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest, NotAllowed, UnknownBreaker
from sidecar.pipeline import plan
from sidecar.policies.breakers import BreakerFacts
from sidecar.request import GenerateRequest
from sidecar.settings.reading import nearest, shown
from sidecar.stages.identify import checked_name
from sidecar.v1 import ops_pb2 as pb
from sidecar.v1 import ops_pb2_grpc

_EVENTS = 100  # listed when the request names no number
_FORCED: dict[int, Literal["open", "closed"] | None] = {
    pb.SetBreakerRequest.STATE_OPEN: "open",
    pb.SetBreakerRequest.STATE_CLOSED: "closed",
    pb.SetBreakerRequest.STATE_AUTO: None,
}


class OpsService(BudgetOps, CacheOps, RunOps, UsageOps, ops_pb2_grpc.OpsServiceServicer):
    """Reads what is there; `drain` is the app's, because health has to follow."""

    def __init__(self, engine: Engine, calls: Calls, drain: Callable[[], Awaitable[int]], notices: tuple[str, ...]) -> None:
        self._engine = engine
        self._calls = calls
        self._drain = drain
        self._notices = notices
        self._started = time.monotonic()

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            now = time.monotonic()
            return pb.GetStatusResponse(
                version=VERSION,
                uptime=duration(now - self._started),
                providers=[self._provider(name, now) for name in sorted({*self._engine.settings.providers, *self._engine.connected})],
                calls_in_flight=len(self._calls),
                draining=self._calls.draining,
                environment=self._engine.settings.profile.name,
                notices=[*self._notices, *self._engine.health.notices.values()],
                nodes=node_statuses(self._engine),
            )

    def _provider(self, name: str, now: float) -> pb.ProviderStatus:
        settings = self._engine.settings.providers.get(name)
        status = pb.ProviderStatus(
            name=name,
            kind=(settings.kind or name) if settings is not None else name,
            configured=name in self._engine.connected,
            has_key=settings is not None and settings.has_key,
        )
        record = self._engine.meter.providers.get(name)
        if record is not None:
            status.attempts, status.failures, status.last_error = record.attempts, record.failures, record.last_error
            if record.last_error:
                status.last_error_age.CopyFrom(duration(now - record.last_error_at))
        set_health(status, self._engine)
        return status

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            models = sorted(self._engine.catalog.models.values(), key=lambda m: (m.provider, m.id))
            connected = self._engine.connected
            return pb.ListModelsResponse(
                models=[_model(m, is_available=m.provider in connected) for m in models if request.provider in ("", m.provider)]
            )

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            rescue.call = call = make_call(self._engine, "count_tokens", either_request(request), context, None, None)
            self._calls.require_ready()
            plan(self._engine, call)
            dearest = max(call.candidates, key=lambda c: c.max_nano_usd)
            response = pb.ExplainResponse(
                candidates=[self._candidate(call, c) for c in call.candidates],
                skipped=[pb.Skipped(model=s.model, reason=s.reason) for s in call.skipped],
                accounts=self._accounts(call, dearest.max_nano_usd, max(c.input_tokens + c.max_output_tokens for c in call.candidates)),
                notices=call.notices,
                service=call.service,
                node=call.node_name,
                complexity=call.complexity,
            )
            set_cost(response.max_cost, dearest.max_nano_usd, dearest.model)
            if isinstance(call.request, GenerateRequest):
                found = await look_up(self._engine, call)
                response.cache = f"{found.decision}: {found.why}"
            return response

    def _candidate(self, call: Call, candidate: Candidate) -> pb.Candidate:
        engine = self._engine
        service = call.service if call.service in engine.settings.services else ""  # as breakers are kept
        breaker = engine.breakers.find(service, candidate.target)
        found = pb.Candidate(
            model=candidate.model.id,
            provider=candidate.model.provider,
            reason=candidate.reason,
            input_tokens=candidate.input_tokens,
            estimated=candidate.estimated,
            max_output_tokens=candidate.max_output_tokens,
            fallback=candidate.fallback,
            endpoint=candidate.endpoint,
            breaker=breaker.state(engine.clock_ns()) if breaker is not None else "closed",
        )
        set_cost(found.max_cost, candidate.max_nano_usd, candidate.model)
        return found

    def _accounts(self, call: Call, nano_usd: int, tokens: int) -> list[pb.AccountView]:
        now_ns = self._engine.wall_ns()
        views = []
        for name, rule in self._engine.budgets.accounts(call, now_ns):
            view = pb.AccountView(name=name, limit_nano_usd=rule.limit_nano_usd or 0, limit_tokens=rule.limit_tokens or 0)
            balance = self._engine.ledger.balance(name, now_ns)
            if balance is not None:
                view.used_nano_usd, view.pending_nano_usd = balance.used_nano_usd, balance.pending_nano_usd
                view.used_tokens, view.pending_tokens = balance.used_tokens, balance.pending_tokens
            held_usd, held_tokens = view.used_nano_usd + view.pending_nano_usd, view.used_tokens + view.pending_tokens
            over_usd = rule.limit_nano_usd is not None and nano_usd > 0 and held_usd + nano_usd > rule.limit_nano_usd
            over_tokens = rule.limit_tokens is not None and tokens > 0 and held_tokens + tokens > rule.limit_tokens
            view.refuses = rule.mode == "refuse" and (over_usd or over_tokens)
            views.append(view)
        return views

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine, before = self._engine, {"draining": self._calls.draining}
            async with engine.audit.turn, Audited(engine, context, "Drain", "sidecar", before, {"draining": True}):
                calls_in_flight = await self._drain()
            return pb.DrainResponse(calls_in_flight=calls_in_flight)

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            if request.limit < 0:
                raise InvalidRequest(f"limit is {request.limit}; expected 1 or more, or 0 for {_EVENTS}", field="limit")
            now = self._engine.clock_ns() / 1e9
            latest = self._engine.meter.events.latest(request.limit or _EVENTS, request.kind)
            return pb.ListEventsResponse(
                events=[pb.Event(age=duration(now - e.at), kind=e.kind, message=e.message, facts=e.facts) for e in latest]
            )

    async def ListBreakers(self, request: pb.ListBreakersRequest, context: Context) -> pb.ListBreakersResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            rows = self._engine.breakers.listing(self._engine.clock_ns())
            return pb.ListBreakersResponse(breakers=[_breaker(row) for row in rows if request.service in ("", row.service)])

    async def SetBreaker(self, request: pb.SetBreakerRequest, context: Context) -> pb.SetBreakerResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            if request.state not in _FORCED:
                raise InvalidRequest(f"state is {request.state}; expected STATE_OPEN, STATE_CLOSED or STATE_AUTO", field="state")
            breaker = self._engine.breakers.find(request.service, request.target)
            if breaker is None:
                raise self._unknown_breaker(request)
            engine, forced = self._engine, _FORCED[request.state]
            async with engine.audit.turn:
                was = breaker.facts(engine.clock_ns())
                before, after = {"state": was.state, "forced": was.forced}, {"state": forced or "closed", "forced": forced is not None}
                async with Audited(engine, context, "SetBreaker", f"{request.service} {request.target}".strip(), before, after):
                    breaker.force(forced)  # it tells of it: a log line, a metric, an event
            return pb.SetBreakerResponse(breaker=_breaker(breaker.facts(engine.clock_ns())))

    def _unknown_breaker(self, request: pb.SetBreakerRequest) -> UnknownBreaker:
        targets = [row.target for row in self._engine.breakers.listing(self._engine.clock_ns()) if row.service == request.service]
        service = f"service {shown(request.service)}" if request.service else 'service "" (those that settings do not name)'
        if targets:
            field, found = "target", f"{service} has no breaker of target {shown(request.target)}"
        else:
            field, found = "service", f"{service} has no breakers"
        hint = nearest(request.target, targets)
        return UnknownBreaker(
            f"{found}{hint}; ListBreakers lists those in use: a breaker is made when its model is first asked", field=field
        )

    async def SetPreference(self, request: pb.SetPreferenceRequest, context: Context) -> pb.SetPreferenceResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            tenant, user = _person(request)
            plan = checked_name(request.plan, "plan")
            for field in ("plan", "model"):
                if not getattr(request, field):
                    raise InvalidRequest(f"{field} is empty; expected the user's plan and the model that they prefer", field=field)
            model = self._allowed(plan, checked_name(request.model, "model"))
            engine, stored = self._engine, self._engine.user_preferences
            async with engine.audit.turn:
                before = stored.of(tenant, user)
                if before != model:
                    async with Audited(engine, context, "SetPreference", f"{tenant}/{user}", {"model": before}, {"model": model}):
                        has_gone = await stored.set(tenant, user, model)
                    if has_gone:
                        told = "there is no room for more users' preferences: the one first set the longest ago was forgotten"
                        engine.meter.event("alert", told, tenant=tenant)
            return pb.SetPreferenceResponse()

    def _allowed(self, name: str, ref: str) -> str:
        """The model as the plan writes it, however the request does. Raises UnknownModel or NotAllowed."""
        engine = self._engine
        wanted = engine.catalog.model(ref)
        choices = self._choices(name)
        for choice in choices:
            model = engine.catalog.model(choice)
            if (model.provider, model.name) == (wanted.provider, wanted.name):
                return choice
        if choices:
            raise NotAllowed(f"plan {shown(name)} does not allow {wanted.id}; choose one of {', '.join(choices)}", field="model")
        others = ", ".join(sorted(other for other in engine.settings.plans if self._choices(other))) or "none"
        raise NotAllowed(
            f"plan {shown(name)} stores no preferences (plans.{name}.preferred is not set); plans that do: {others}", field="plan"
        )

    def _choices(self, plan: str) -> tuple[str, ...]:
        found = self._engine.settings.plans.get(plan)
        return found.preferred if found is not None else ()

    async def GetPreference(self, request: pb.GetPreferenceRequest, context: Context) -> pb.GetPreferenceResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            tenant, user = _person(request)
            choices = self._choices(checked_name(request.plan, "plan"))
            return pb.GetPreferenceResponse(model=self._engine.user_preferences.of(tenant, user), choices=choices)

    async def DeletePreference(self, request: pb.DeletePreferenceRequest, context: Context) -> pb.DeletePreferenceResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            tenant, user = _person(request)
            engine, stored = self._engine, self._engine.user_preferences
            async with engine.audit.turn:
                before = stored.of(tenant, user)
                if before:
                    async with Audited(engine, context, "DeletePreference", f"{tenant}/{user}", {"model": before}, {"model": ""}):
                        await stored.delete(tenant, user)
            return pb.DeletePreferenceResponse()


def _person(request: pb.SetPreferenceRequest | pb.GetPreferenceRequest | pb.DeletePreferenceRequest) -> tuple[str, str]:
    """Tenant and user, as calls have them. Raises InvalidRequest."""
    if not request.user:
        raise InvalidRequest("user is empty; expected the user whose preference is meant", field="user")
    return checked_name(request.tenant, "tenant") or "default", checked_name(request.user, "user")


def _breaker(row: BreakerFacts) -> pb.BreakerStatus:
    status = pb.BreakerStatus(service=row.service, target=row.target, state=row.state, forced=row.forced, changes=row.changes)
    if row.open_left_ns is not None:
        status.open_left.CopyFrom(duration(row.open_left_ns / 1e9))
    return status


def _model(model: Model, *, is_available: bool) -> pb.Model:
    return pb.Model(
        name=model.id,
        provider=model.provider,
        available=is_available,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        capabilities=sorted(model.capabilities),
        input_usd_per_million=_usd(model.prices.input) if model.prices.is_known else "",
        output_usd_per_million=_usd(model.prices.output) if model.prices.is_known else "",
        price_as_of=model.as_of.isoformat() if model.as_of else "",
        retires_on=model.retires_on.isoformat() if model.retires_on else "",
        successor=model.successor or "",
    )


def _usd(pico_per_token: int) -> str:
    """Pico-USD per token is micro-USD per million tokens: six decimals, without the zeros at the end."""
    whole, micro = divmod(pico_per_token, 1_000_000)
    return f"{whole}.{micro:06d}".rstrip("0").rstrip(".")
