"""Answered before? Then answer from memory. Being asked right now by somebody else? Then wait for that answer."""

from __future__ import annotations

from sidecar.caching import (
    Batch,
    Caching,
    Landed,
    best,
    exact,
    give,
    given_to,
    land,
    most_age_ns,
    near,
    replay,
    semantic,
    server_of,
    similar,
)
from sidecar.call import Call, Recalled
from sidecar.engine import Engine
from sidecar.errors import NotCached
from sidecar.policies.cache_keys import NO_KEY, key_of
from sidecar.policies.cache_repeats import Repeat
from sidecar.policies.cache_rules import Rule, acceptance, rule_of
from sidecar.policies.cache_similar import Likely
from sidecar.request import EmbedRequest
from sidecar.store.answers import Found
from sidecar.time_limit import TimeLimit
from sidecar.trace_context import trace_id


async def again(engine: Engine, call: Call, repeat: Repeat) -> bool:
    """Answer with what answered the very same request before, if that is still in memory and nothing has changed: see `Repeats`.

    Writes what all stages up to here would write but needs, size and complexity, which nobody reads any more. False: nothing is written,
    and the call goes the whole way.
    """
    before, now_ns = repeat.call, engine.clock_ns()
    kept = engine.answers.fresh(repeat.caching.key.digest, now_ns, most_age_ns(before))
    if kept is not repeat.kept or engine.dear_calls.is_throttled(before, now_ns):
        call.repeat = None
        return False
    call.service, call.node_name, call.node = before.service, before.node_name, before.node
    call.tenant, call.user, call.plan, call.agent = before.tenant, before.user, before.plan, before.agent
    call.trace_id = trace_id(call.metadata)
    call.messages, call.candidates, call.skipped = before.messages, before.candidates, before.skipped
    if before.notices:
        call.notices = [*before.notices]
    call.caching, call.served, call.answer = repeat.caching, before.served, before.answer
    call.saved_nano_usd = before.saved_nano_usd
    call.recalled = how = Recalled("exact", 1.0, 1.0, max(0, now_ns - kept.kept_ns), kept.call_id, before.saved_nano_usd)
    if not engine.usage.is_kept:
        engine.similar.remember(given_to(call, how, kept.named))
    if call.send is not None and call.answer is not None and call.served is not None:
        with TimeLimit(call.deadline):
            await replay(engine, call.send, call.served, call.answer)
    return True


async def recall(engine: Engine, call: Call) -> bool:
    """Look for an answer to this question, where the call or its node lets the cache be used.

    Writes caching and, where there is an answer, recalled, answer (or vectors) and served, sends it on to a stream's reader, and returns
    True. False: somebody must be asked; identical calls then wait for what becomes of this one. Raises NotCached in mode `only` where
    there is none.
    """
    request = call.request
    rule = rule_of(call, engine.settings.cache)
    if rule is None:
        return False
    if isinstance(request, EmbedRequest):
        return _recall_vectors(engine, call, request, rule)
    key = key_of(call, rule.scope, engine.settings.cache.version)
    if key is None:
        if rule.must:
            raise _not_cached()
        return False
    call.caching = caching = Caching(rule, key, engine.answers.invalidations.generation)
    if not rule.reads:
        if rule.must:
            raise _not_cached()
        return False
    if (found := _known(engine, call, key.digest)) is not None:
        await give(engine, call, found, exact(found))
        return True
    if not rule.must:
        while isinstance(told := await engine.flights.join(key.digest), Landed):
            if not _will_do(engine, call, told.found):
                continue  # it was invalidated meanwhile, and one of those who waited asks anew
            if told.how.kind == "semantic" and engine.similar.judge is not None:
                found, how = told.found, told.how
                engine.similar.judge.gave(call, Likely(found.entry, found.age_ns, True, how.similarity, how.score, ""))
            await give(engine, call, told.found, told.how)
            return True
        caching.leads = told == "lead"
    hit = await _elsewhere(engine, call, key.digest) or await _similar(engine, call, caching)
    if hit is not None:
        found, how = hit
        land(engine, call, found, how)
        await give(engine, call, found, how)
        return True
    if rule.must:
        raise _not_cached()
    return False


def _will_do(engine: Engine, call: Call, found: Found) -> bool:
    """An answer that another call has got meanwhile."""
    is_young = found.age_ns <= most_age_ns(call)
    return is_young and server_of(call, found.entry) is not None and not engine.answers.is_gone(found.entry)


async def _similar(engine: Engine, call: Call, caching: Caching) -> tuple[Found, Recalled] | None:
    """An answer to a similar question, where the node has it so and it is proven how seldom such answers are wrong."""
    rule, judge = caching.rule, engine.similar.judge
    if rule.semantic == "off":
        return None
    if engine.answers.shared is not None and caching.key.is_similar:
        engine.answers.shared.want(caching.key.partition)
    least, most_ns = acceptance(engine.settings, call.service), most_age_ns(call)
    likely = best(similar(engine, call, caching), least, most_ns) or best(await near(engine, call, caching, least), least, most_ns)
    if likely is None:
        return None
    # Where no provider may be asked nothing can be audited.
    if rule.semantic == "on" and judge is not None and (not judge.unproven(call, likely) if rule.must else judge.may_give(call, likely)):
        judge.gave(call, likely)
        engine.answers.find(likely.entry.digest, engine.clock_ns(), most_age_ns(call))  # it was wanted, and is worth its room
        return Found(likely.entry, likely.age_ns), semantic(likely)
    caching.would_be = likely
    return None


async def _elsewhere(engine: Engine, call: Call, digest: bytes) -> tuple[Found, Recalled] | None:
    found = await engine.answers.fetch(digest, engine.clock_ns(), most_age_ns(call))
    return (found, exact(found)) if found is not None and server_of(call, found.entry) is not None else None


def _recall_vectors(engine: Engine, call: Call, request: EmbedRequest, rule: Rule) -> bool:
    """Are all of the first candidate's vectors known? Where some are missing the attempt stage asks for these alone."""
    call.caching = Caching(rule, NO_KEY, engine.answers.invalidations.generation)
    if not rule.reads and not rule.must:
        return False
    batch = Batch(engine, call, request, call.candidates[0])
    if batch.missing:
        if rule.must:
            raise NotCached(f"cache.mode is only, and {len(batch.missing)} of {len(request.inputs)} inputs are not known; use default")
        return False
    call.vectors, call.served = batch.whole(None), call.candidates[0]
    call.recalled = Recalled("exact", 1.0, 1.0, 0, "", call.saved_nano_usd)
    return True


def _known(engine: Engine, call: Call, digest: bytes) -> Found | None:
    found = engine.answers.find(digest, engine.clock_ns(), most_age_ns(call))
    return found if found is not None and server_of(call, found.entry) is not None else None


def _not_cached() -> NotCached:
    return NotCached("cache.mode is only, and this call has not been answered before; use default to ask a provider")
