"""Every model has failed: better an old answer than none, where the node has it so."""

from __future__ import annotations

from msgspec.structs import replace

from sidecar.caching import Caching, best, exact, give, most_age_ns, semantic, server_of, similar
from sidecar.call import Call, Recalled
from sidecar.engine import Engine
from sidecar.errors import ProviderContextExceeded, ProviderError, ProviderRejected, RateLimited, SidecarError
from sidecar.policies.cache_rules import acceptance
from sidecar.store.answers import Found
from sidecar.time_limit import TimeLimit

_LAST_S = 1.0  # for a stream's reader to take it; callers' own deadlines are a little later than ours


async def stale(engine: Engine, call: Call, failure: SidecarError | TimeoutError) -> bool:
    """Answer with what was said to the same question before, however old, and say so. Returns whether there was anything.

    Writes recalled, answer and served, and a notice. What the failed tries cost is posted all the same; the old answer costs nothing. Not
    where the fault is the question's, where the sidecar itself refused, or where the caller has seen part of another answer.
    """
    caching = call.caching
    if caching is None or not caching.rule.stale or call.sent is not None or not _all_have_failed(call, failure):
        return False
    hit = _same(engine, call, caching) or _similar(engine, call, caching)
    if hit is None:
        return False
    found, how = hit
    reason = failure.reason if isinstance(failure, SidecarError) else "DEADLINE_EXCEEDED"
    is_same = found.entry.digest == caching.key.digest
    whose, may = ("this answer", "may") if is_same else ("this answer to a similar question", "may not be what was asked, or")
    call.notices.append(f"every model failed ({reason}); {whose} is {_words(found.age_ns)} old, and {may} no longer be right")
    with TimeLimit(max(call.deadline, engine.clock_ns() / 1e9 + _LAST_S)):
        await give(engine, call, found, how)
    return True


def _same(engine: Engine, call: Call, caching: Caching) -> tuple[Found, Recalled] | None:
    found = engine.answers.old(caching.key.digest, engine.clock_ns())
    if found is None or found.age_ns > most_age_ns(call) or server_of(call, found.entry) is None:
        return None
    return found, replace(exact(found), kind="stale")


def _similar(engine: Engine, call: Call, caching: Caching) -> tuple[Found, Recalled] | None:
    """With a stricter score than while models answer. It need not be proven yet that such answers are right: nobody else answers, and the
    caller is told; but not where audits find them wrong.
    """
    if caching.rule.semantic != "on" or engine.similar.judge is None:
        return None
    least = max(acceptance(engine.settings, call.service), engine.settings.cache.stale_acceptance)
    likely = best(similar(engine, call, caching), least, most_age_ns(call), only_fresh=False)
    if likely is None or engine.similar.judge.refutes(call, likely):
        return None
    return Found(likely.entry, likely.age_ns), replace(semantic(likely), kind="stale")


def _all_have_failed(call: Call, failure: SidecarError | TimeoutError) -> bool:
    if call.reservation is None:
        return False  # nobody was asked yet: the sidecar itself said no, or the time was over in its queue
    if isinstance(failure, TimeoutError):
        return call.begun is not None
    return isinstance(failure, ProviderError | RateLimited) and not isinstance(failure, ProviderRejected | ProviderContextExceeded)


def _words(age_ns: int) -> str:
    seconds = age_ns // 1_000_000_000
    for size, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            many = seconds // size
            return f"{many} {word}{'s' * (many > 1)}"
    return f"{seconds} second{'s' * (seconds != 1)}"
