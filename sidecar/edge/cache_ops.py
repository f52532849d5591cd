"""The operators' door to the cache."""

from __future__ import annotations

from sidecar.caching import look_up
from sidecar.edge.audit import Audited
from sidecar.edge.calls import Calls
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.rpc import make_call
from sidecar.edge.wire import duration, generate_request
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest
from sidecar.forgetting import invalidate
from sidecar.pipeline import plan
from sidecar.policies.cache_audits import Standing
from sidecar.policies.cache_rules import life_ms
from sidecar.policies.cache_similar import Likely
from sidecar.stages.identify import checked_name
from sidecar.store.cache_invalidation import Invalidation
from sidecar.v1 import cache_pb2 as pb

_NAMES = ("tenant", "user", "service", "node", "model", "prompt_name", "prompt_version", "call_id")


class CacheOps:
    """The part of OpsService that looks into the cache and takes things out of it."""

    _engine: Engine
    _calls: Calls

    async def InvalidateCache(self, request: pb.InvalidateCacheRequest, context: Context) -> pb.InvalidateCacheResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            engine = self._engine
            what = _invalidation(request, engine.wall_ns() // 1_000_000)
            said = {name: value for name in _NAMES if (value := getattr(request, name))} or {"everything": "true"}
            async with engine.audit.turn, Audited(engine, context, "InvalidateCache", " ".join(said.values()), {}, said):
                found, problems = await invalidate(engine, what)
            return pb.InvalidateCacheResponse(
                memory=found.get("memory", 0),
                vectors=found.get("vectors", 0),
                file=found.get("file", 0),
                redis=found.get("redis", 0),
                problems=problems,
            )

    async def CacheLookup(self, request: pb.CacheLookupRequest, context: Context) -> pb.CacheLookupResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            engine = self._engine
            rescue.call = call = make_call(engine, "count_tokens", generate_request(request.generate), context, None, None)
            self._calls.require_ready()
            plan(engine, call)
            found = await look_up(engine, call)
            response = pb.CacheLookupResponse(
                decision=found.decision,
                why=found.why,
                acceptance=found.acceptance,
                candidates=[_candidate(one) for one in found.candidates],
            )
            if found.rule is not None and found.key is not None:
                response.reads, response.writes = found.rule.reads, found.rule.writes
                response.life.CopyFrom(duration(life_ms(call, found.rule, engine.settings.cache) / 1000))
                response.key, response.partition = found.key.digest.hex(), found.key.partition.hex()
            if found.exact is not None:
                response.exact.CopyFrom(_candidate(found.exact))
            return response

    async def ListCacheProofs(self, request: pb.ListCacheProofsRequest, context: Context) -> pb.ListCacheProofsResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log):
            if request.node and "." not in checked_name(request.node, "node"):
                raise InvalidRequest(f"node is {request.node!r}; expected service.node", field="node")
            rule, judge = self._engine.settings.cache.audit, self._engine.similar.judge
            standings = judge.standings(request.node) if judge is not None else []
            return pb.ListCacheProofsResponse(
                proofs=[_proof(one) for one in standings],
                target=rule.target,
                confidence=rule.confidence,
                share=rule.share,
            )


def _proof(one: Standing) -> pb.CacheProof:
    name = one.namespace
    return pb.CacheProof(
        node=name.node,
        tenants=name.tenants,
        model=name.model,
        prompt_name=name.prompt_name,
        prompt_version=name.prompt_version,
        rules=name.rules,
        audits=one.audits,
        failures=one.failures,
        complaints=one.complaints,
        served=one.served,
        bound=one.bound,
        open=one.is_open,
        alarmed=one.is_alarmed,
    )


def _invalidation(request: pb.InvalidateCacheRequest, now_ms: int) -> Invalidation:
    """Raises InvalidRequest."""
    for name in _NAMES:
        checked_name(getattr(request, name), name)
    before_ms = 0
    if request.HasField("older_than"):
        age_ms = request.older_than.ToMilliseconds()
        if age_ms < 0:
            raise InvalidRequest(f"older_than is {age_ms} ms; it cannot be negative", field="older_than")
        before_ms = max(1, now_ms - age_ms)
    is_something = bool(before_ms) or any(getattr(request, name) for name in _NAMES)
    if is_something == request.everything:
        found = "set together with something else" if is_something else "not set, and nothing else is either"
        raise InvalidRequest(f"everything is {found}; set what shall be invalidated, or everything alone", field="everything")
    if request.user and not request.tenant:
        raise InvalidRequest("user is set without tenant; users of different tenants may have the same name", field="tenant")
    if request.node and "." not in request.node:
        raise InvalidRequest(f"node is {request.node!r}; expected service.node", field="node")
    return Invalidation(
        generation=0,
        tenant=request.tenant,
        user=request.user,
        service=request.service,
        node=request.node,
        model=request.model,
        prompt_name=request.prompt_name,
        prompt_version=request.prompt_version,
        before_ms=before_ms,
        entry=request.call_id,
    )


def _candidate(one: Likely) -> pb.CacheCandidate:
    found = pb.CacheCandidate(
        source_call_id=one.entry.call_id,
        fresh=one.is_fresh,
        model=one.entry.named.model,
        similarity=one.similarity,
        score=one.score,
        veto=one.veto,
        deciding=one.deciding,
        features=one.features,
    )
    found.age.CopyFrom(duration(one.age_ns / 1e9))
    return found
