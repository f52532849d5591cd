"""The operators' door: OpsService."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from sidecar import VERSION
from sidecar.call import Call, Candidate
from sidecar.catalog import Model
from sidecar.edge.calls import Calls
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.rpc import either_request, make_call
from sidecar.edge.wire import duration, set_cost
from sidecar.engine import Engine
from sidecar.pipeline import plan
from sidecar.v1 import ops_pb2 as pb
from sidecar.v1 import ops_pb2_grpc


class OpsService(ops_pb2_grpc.OpsServiceServicer):
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
                providers=[self._provider(name, now) for name in sorted({*self._engine.settings.providers, *self._engine.providers})],
                calls_in_flight=len(self._calls),
                draining=self._calls.draining,
                environment=self._engine.settings.profile.name,
                notices=self._notices,
            )

    def _provider(self, name: str, now: float) -> pb.ProviderStatus:
        settings = self._engine.settings.providers.get(name)
        status = pb.ProviderStatus(
            name=name,
            kind=(settings.kind or name) if settings is not None else name,
            configured=name in self._engine.providers,
            has_key=settings is not None and settings.api_key is not None,
        )
        record = self._engine.meter.providers.get(name)
        if record is not None:
            status.attempts, status.failures, status.last_error = record.attempts, record.failures, record.last_error
            if record.last_error:
                status.last_error_age.CopyFrom(duration(now - record.last_error_at))
        return status

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            models = sorted(self._engine.catalog.models.values(), key=lambda m: (m.provider, m.id))
            return pb.ListModelsResponse(models=[self._model(m) for m in models if request.provider in ("", m.provider)])

    def _model(self, model: Model) -> pb.Model:
        return pb.Model(
            name=model.id,
            provider=model.provider,
            available=model.provider in self._engine.providers,
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            capabilities=sorted(model.capabilities),
            input_usd_per_million=_usd(model.prices.input) if model.prices.is_known else "",
            output_usd_per_million=_usd(model.prices.output) if model.prices.is_known else "",
            price_as_of=model.as_of.isoformat() if model.as_of else "",
            retires_on=model.retires_on.isoformat() if model.retires_on else "",
            successor=model.successor or "",
        )

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log) as rescue:
            rescue.call = call = make_call(self._engine, "count_tokens", either_request(request), context, None)
            self._calls.require_ready()
            plan(self._engine, call)
            dearest = max(call.candidates, key=lambda c: c.max_nano_usd)
            response = pb.ExplainResponse(
                candidates=[_candidate(c) for c in call.candidates],
                skipped=[pb.Skipped(model=s.model, reason=s.reason) for s in call.skipped],
                accounts=self._accounts(call, dearest.max_nano_usd, max(c.input_tokens + c.max_output_tokens for c in call.candidates)),
                notices=call.notices,
                service=call.service,
                node=call.node_name,
            )
            set_cost(response.max_cost, dearest.max_nano_usd, dearest.model)
            return response

    def _accounts(self, call: Call, nano_usd: int, tokens: int) -> list[pb.AccountView]:
        now_ns = self._engine.wall_ns()
        views = []
        for name, rule in self._engine.budgets.accounts(call):
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
            return pb.DrainResponse(calls_in_flight=await self._drain())


def _candidate(candidate: Candidate) -> pb.Candidate:
    found = pb.Candidate(
        model=candidate.model.id,
        provider=candidate.model.provider,
        reason=candidate.reason,
        input_tokens=candidate.input_tokens,
        estimated=candidate.estimated,
        max_output_tokens=candidate.max_output_tokens,
        fallback=candidate.fallback,
    )
    set_cost(found.max_cost, candidate.max_nano_usd, candidate.model)
    return found


def _usd(pico_per_token: int) -> str:
    """Pico-USD per token is micro-USD per million tokens: six decimals, without the zeros at the end."""
    whole, micro = divmod(pico_per_token, 1_000_000)
    return f"{whole}.{micro:06d}".rstrip("0").rstrip(".")
