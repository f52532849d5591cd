"""The operators' door to the usage log."""

from __future__ import annotations

from datetime import date, timedelta

from msgspec.json import decode

from sidecar.days import month_begin
from sidecar.edge.budget_ops import listed
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.wire import duration
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest, NoUsageLog, UnknownCall
from sidecar.forgetting import complain, given_by, invalidate
from sidecar.stages.identify import checked_name
from sidecar.store import usage_reports as reports
from sidecar.store.cache_invalidation import Invalidation
from sidecar.store.usage import NOT_KEPT, UsageLog
from sidecar.store.usage_reports import Sums
from sidecar.store.usage_rows import Row
from sidecar.v1 import ops_pb2 as pb

_GROUPS, _MOST_GROUPS = 1_000, 10_000  # listed when the request names no number, and at most
_CALLS, _MOST_CALLS = 100, 1_000
_VOTES = {pb.VOTE_UNSPECIFIED: None, pb.VOTE_UP: 1, pb.VOTE_DOWN: -1}


class UsageOps:
    """The part of OpsService that reads the usage log, and adds what people thought of an answer."""

    _engine: Engine

    async def ReportUsage(self, request: pb.ReportUsageRequest, context: Context) -> pb.ReportUsageResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            usage, today = self._log()
            begin, end = reports.period(request.filter.from_day, request.filter.to_day, month_begin(today), today)
            by = reports.checked_groups(request.by, "by")
            where = _equals(request.filter)
            limit = listed(request.limit, _GROUPS, _MOST_GROUPS)
            groups, total = await usage.ask(lambda ask: reports.report(ask, usage.days, begin, end, by, where, limit))
            return pb.ReportUsageResponse(
                groups=[pb.UsageGroup(keys=group.keys, sums=_sums(group)) for group in groups],
                total=_sums(total),
                from_day=begin.isoformat(),
                to_day=(end - timedelta(1)).isoformat(),
                time_zone=self._engine.settings.usage.time_zone,
            )

    async def ListCalls(self, request: pb.ListCallsRequest, context: Context) -> pb.ListCallsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            usage, today = self._log()
            where = _equals(request.filter, "id")
            first = reports.EVER if "id" in where else today
            begin, end = reports.period(request.filter.from_day, request.filter.to_day, first, today)
            limit = listed(request.limit, _CALLS, _MOST_CALLS)
            before = _cursor(request.before)
            rows = await usage.ask(
                lambda ask: reports.calls(ask, usage.days, begin, end, where, before, limit, is_failed=request.failed_only)
            )
            return pb.ListCallsResponse(calls=[_call(row) for row in rows])

    async def ForecastUsage(self, request: pb.ForecastUsageRequest, context: Context) -> pb.ForecastUsageResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            usage, _ = self._log()
            reports.checked_groups(request.equals, "equals")
            now_ms = self._engine.wall_ns() // 1_000_000
            found = await usage.ask(lambda ask: reports.forecast(ask, usage.days, now_ms, dict(request.equals)))
            return pb.ForecastUsageResponse(
                from_day=found.month[0].isoformat(),
                to_day=(found.month[1] - timedelta(1)).isoformat(),
                spent_nano_usd=found.spent_nano_usd,
                forecast_nano_usd=found.forecast_nano_usd,
                left=duration(found.left_ms / 1000),
                basis_from_day=found.basis[0].isoformat(),
                basis_to_day=(found.basis[1] - timedelta(1)).isoformat(),
                basis_nano_usd=found.basis_nano_usd,
                basis=duration(found.basis_ms / 1000),
            )

    async def GiveFeedback(self, request: pb.GiveFeedbackRequest, context: Context) -> pb.GiveFeedbackResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            if not request.id:
                raise InvalidRequest("id is empty; expected the id of a call, as its answer tells it", field="id")
            checked_name(request.id, "id")
            has_quality = request.HasField("quality")
            if has_quality and not 0 <= request.quality <= 1:  # also what is no number at all
                raise InvalidRequest(f"quality is {request.quality:g}; expected 0 to 1", field="quality")
            if request.vote not in _VOTES:
                raise InvalidRequest(f"vote is {request.vote}; expected VOTE_UP or VOTE_DOWN", field="vote")
            vote = _VOTES[request.vote]
            if not has_quality and vote is None:
                raise InvalidRequest("neither quality nor vote is set; expected one of them or both", field="quality")
            engine = self._engine
            given = engine.similar.given.pop(request.id, None) if vote == -1 else None  # where no log is kept
            if given is not None:
                await complain(engine, given)
                return pb.GiveFeedbackResponse()
            usage, _ = self._log()
            row = await usage.rate(request.id, round(request.quality * 1_000_000) if has_quality else None, vote)
            if row is None and vote == -1 and engine.answers.shared is not None and not usage.is_shared:
                await invalidate(engine, Invalidation(generation=0, entry=request.id, is_complaint=True))  # another pod's log may have it
            elif row is None:
                raise UnknownCall(f"the usage log has no call {request.id[:64]!r}; its rows are kept for usage.keep_days", field="id")
            elif vote == -1 and row.vote != -1:
                await complain(engine, given_by(engine, row))
            return pb.GiveFeedbackResponse()

    def _log(self) -> tuple[UsageLog, date]:
        """The log, and today in its time zone. Raises NoUsageLog."""
        usage = self._engine.usage
        if not usage.is_kept:
            raise NoUsageLog(NOT_KEPT)
        return usage, usage.days.of(self._engine.wall_ns() // 1_000_000)


def _equals(message: pb.UsageFilter, *more: str) -> dict[str, str]:
    reports.checked_groups(message.equals, "filter.equals", more)
    return dict(message.equals)


def _cursor(text: str) -> tuple[int, str] | None:
    """Time and id of the last call seen, as `_call` wrote them."""
    if not text:
        return None
    time_ms, dash, id_ = text.partition("-")
    if not dash or not time_ms.isascii() or not time_ms.isdigit() or len(time_ms) > 15:
        raise InvalidRequest(f"before is {text[:60]!r}; expected the cursor of a call", field="before")
    return int(time_ms), id_


def _sums(group: Sums) -> pb.UsageSums:
    return pb.UsageSums(**group.figures)


def _call(row: Row) -> pb.UsageCall:
    call = pb.UsageCall(
        id=row.id,
        time_ms=row.time_ms,
        cursor=f"{row.time_ms}-{row.id}",
        operation=row.operation,
        model=row.model,
        provider=row.provider,
        endpoint=row.endpoint,
        status=row.status,
        finish=row.finish,
        cost_nano_usd=row.cost_nano_usd,
        duration_ms=row.duration_ms,
        first_token_ms=row.first_token_ms,
        attempts=row.attempts,
        failed_attempts_nano_usd=row.failed_attempts_nano_usd,
        fallback=bool(row.fallback),
        primary_model=row.primary_model,
        primary_nano_usd=row.primary_nano_usd,
        cache=row.cache,
        saved_nano_usd=row.answer_saved_nano_usd or 0,
        prompt_name=row.prompt_name,
        prompt_version=row.prompt_version,
        idempotency_key=row.idempotency_key,
        trace_id=row.trace_id,
        quality=None if row.quality_ppm is None else row.quality_ppm / 1_000_000,
        vote=pb.VOTE_UP if row.vote == 1 else pb.VOTE_DOWN if row.vote == -1 else pb.VOTE_UNSPECIFIED,
    )
    caller, usage = call.caller, call.usage
    caller.service, caller.node, caller.tenant, caller.user = row.service, row.node, row.tenant, row.user_id
    caller.plan, caller.run, caller.agent, caller.step = row.plan, row.run, row.agent, row.step
    caller.tags.update(decode(row.tags, type=dict[str, str]))
    usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens = (
        row.input_tokens,
        row.cached_input_tokens,
        row.cache_write_tokens,
    )
    usage.output_tokens, usage.reasoning_tokens, usage.estimated = row.output_tokens, row.reasoning_tokens, bool(row.estimated)
    return call
