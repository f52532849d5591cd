"""Between a call and what is remembered: finding an answer for it, giving it, remembering its own. For the stages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sidecar._core import compare
from sidecar.answer import Answer
from sidecar.call import Call, Candidate, Chunk, Recalled, Send, Start, Usage, Vectors
from sidecar.counting import count_embed
from sidecar.engine import Engine
from sidecar.policies.cache_keys import Key, key_of, vector_keys
from sidecar.policies.cache_rules import Rule, acceptance, life_ms, may_keep, rule_of
from sidecar.policies.cache_similar import Given, Likely
from sidecar.request import EmbedRequest, GenerateRequest
from sidecar.store.answers import Found
from sidecar.store.cache_entry import Entry, Named


class Caching:
    """What the cache knows of one call while it is under way. `leads`: identical calls wait for what becomes of this one."""

    __slots__ = ("generation", "key", "leads", "rule", "vector", "would_be")

    def __init__(self, rule: Rule, key: Key, generation: int) -> None:
        self.rule = rule
        self.key = key
        self.generation = generation
        self.leads = False
        self.vector: Sequence[float] | None = None  # of the question, where one was made
        self.would_be: Likely | None = None  # a similar answer that was not given, to be compared with what a provider says


class Landed(Struct, frozen=True):
    """What those get who waited for an identical call."""

    found: Found
    how: Recalled


Decision = Literal["exact", "semantic", "shadow", "none"]


class Lookup(Struct, frozen=True):
    """What the cache would do. `shadow`: a similar answer is there, and is not given."""

    decision: Decision
    why: str
    acceptance: float
    rule: Rule | None = None
    key: Key | None = None
    exact: Likely | None = None
    candidates: list[Likely] = []


def most_age_ns(call: Call) -> int:
    """How old an answer the caller takes."""
    age_ms = call.request.cache_max_age_ms
    return 1 << 62 if age_ms is None else age_ms * 1_000_000


def server_of(call: Call, entry: Entry) -> Candidate | None:
    """The candidate whose model made this answer. None: it may not answer this call (any more)."""
    return next((c for c in call.candidates if _model(c) == entry.named.model), None)


async def give(engine: Engine, call: Call, found: Found, how: Recalled) -> None:
    """Answer the call with this. Writes recalled, saved_nano_usd, answer and served; a stream's reader gets it in pieces.

    The answer is the call's own from here on: what happens to the entry meanwhile does not matter.
    """
    served = server_of(call, found.entry)
    assert served is not None  # noqa: S101  (nobody gives what was not looked over)
    answer = found.entry.answer()
    call.recalled, call.saved_nano_usd = how, how.saved_nano_usd
    call.served, call.answer = served, answer
    if not engine.usage.is_kept:
        engine.similar.remember(given_to(call, how, found.entry.named))
    if call.send is not None:
        await replay(engine, call.send, served, answer)


async def replay(engine: Engine, send: Send, served: Candidate, answer: Answer) -> None:
    """Bring a whole answer as a stream would, in pieces."""
    await send(Start(served))
    pause_s = engine.settings.cache.replay_pause_ms / 1000
    for piece in pieces(answer, engine.settings.cache.replay_chars):
        await send((piece,))
        if pause_s and piece.finish is None:
            await asyncio.sleep(pause_s)


def pieces(answer: Answer, chars: int) -> Iterator[Chunk]:
    """An answer as a stream brings it: texts of about so many characters, cut behind white space where there is some."""
    for text in _cut(answer.reasoning, chars):
        yield Chunk(reasoning=text)
    texts = [*_cut(answer.text, chars)]
    for text in texts[:-1]:
        yield Chunk(text=text)
    yield Chunk(text=texts[-1] if texts else "", tool_calls=answer.tool_deltas(), finish=answer.finish)


def _cut(text: str, chars: int) -> Iterator[str]:
    begin = 0
    while begin < len(text):
        end = begin + chars
        if end < len(text):
            space = max(text.rfind(" ", begin, end), text.rfind("\n", begin, end))
            if space > begin + chars // 2:
                end = space + 1
        yield text[begin:end]
        begin = end


def exact(found: Found) -> Recalled:
    return Recalled("exact", 1.0, 1.0, found.age_ns, found.entry.call_id, found.entry.nano_usd)


def land(engine: Engine, call: Call, found: Found, how: Recalled) -> None:
    """Those who wait for what becomes of this call have their answer."""
    if call.caching is not None and call.caching.leads:
        call.caching.leads = False
        engine.flights.land(call.caching.key.digest, Landed(found, replace(how, joined=True)))


def similar(engine: Engine, call: Call, caching: Caching) -> list[Likely]:
    """Remembered answers to similar questions, best first, refused ones too. None that this call may not have."""
    key, now_ns = caching.key, engine.clock_ns()
    if not key.is_similar:
        return []
    likely = []
    for digest, similarity, score, veto in engine.similar.candidates(key.partition, key.question):
        found = engine.answers.old(digest, now_ns) if digest != key.digest else None
        if found is not None and server_of(call, found.entry) is not None:
            is_fresh = found.age_ns < found.entry.life_ms * 1_000_000
            likely.append(Likely(found.entry, found.age_ns, is_fresh, similarity, score, veto))
    return likely


async def near(engine: Engine, call: Call, caching: Caching, least: float) -> list[Likely]:
    """The same by the questions' vectors, where settings name a model that makes them: paid by this call's tenant, for the answer too.

    Both the cosine and the verifier's score must be at least this. Makes the question's vector, which its own answer is kept with.
    """
    key, now_ns = caching.key, engine.clock_ns()
    if engine.similar.embed is None or not key.is_similar or not engine.similar.is_short(key.question):
        return []
    caching.vector = vector = await engine.similar.embed(call, key.question)
    if vector is None:
        return []
    likely = []
    for digest, cosine in await engine.similar.nearest(key.partition, vector, least):
        found = engine.answers.old(digest, now_ns) if digest != key.digest else None
        if found is not None and server_of(call, found.entry) is not None:
            verdict = compare(key.question, found.entry.question, cosine)
            is_fresh = found.age_ns < found.entry.life_ms * 1_000_000
            likely.append(Likely(found.entry, found.age_ns, is_fresh, cosine, verdict.score, verdict.veto))
    return sorted(likely, key=lambda one: -one.score)


def best(likely: list[Likely], least: float, most_ns: int, *, only_fresh: bool = True) -> Likely | None:
    """The best that may be given: no veto, a score of at least this, and young enough."""
    for one in likely:
        if not one.veto and one.score >= least and (one.is_fresh or not only_fresh) and one.age_ns <= most_ns:
            return one
    return None


def semantic(likely: Likely) -> Recalled:
    return Recalled("semantic", likely.similarity, likely.score, likely.age_ns, likely.entry.call_id, likely.entry.nano_usd)


async def look_up(engine: Engine, call: Call) -> Lookup:
    """What the cache would do with a call whose candidates are known, and why. Nothing is given, counted or remembered."""
    rule = rule_of(call, engine.settings.cache)
    least = acceptance(engine.settings, call.service)
    key = key_of(call, rule.scope, engine.settings.cache.version) if rule is not None else None
    if rule is None or key is None:
        return Lookup("none", "neither the call nor its node lets the cache be used", least)
    caching = Caching(rule, key, engine.answers.invalidations.generation)
    now_ns = engine.clock_ns()
    found = engine.answers.old(key.digest, now_ns) or await engine.answers.fetch(key.digest, now_ns, most_age_ns(call))
    exact = None
    if found is not None:
        is_fresh = found.age_ns < found.entry.life_ms * 1_000_000 and found.age_ns <= most_age_ns(call)
        exact = Likely(found.entry, found.age_ns, is_fresh, 1.0, 1.0, "")
    likely = [_explained(one, key.question) for one in similar(engine, call, caching)] if rule.semantic != "off" else []
    decision, why = _decision(engine, call, caching, exact, likely, least)
    return Lookup(decision, why, least, rule, key, exact, likely)


def _decision(
    engine: Engine, call: Call, caching: Caching, exact: Likely | None, likely: list[Likely], least: float
) -> tuple[Decision, str]:
    rule = caching.rule
    if not rule.reads:
        return "none", "this call is not answered from memory, only remembered"
    if exact is not None and exact.is_fresh and server_of(call, exact.entry) is not None:
        return "exact", f"call {exact.entry.call_id} asked the same"
    if rule.semantic == "off":
        return "none", "the same was not asked before, or too long ago, and similar questions are not looked at (cache.semantic is off)"
    one = best(likely, least, most_age_ns(call))
    if one is None:
        return "none", "the same was not asked before, and no similar question is sure enough to ask the same"
    if rule.semantic == "shadow":
        return "shadow", f"call {one.entry.call_id} would do, and the node's cache.semantic is shadow: nothing similar is given"
    judge = engine.similar.judge
    unproven = judge.unproven(call, one) if judge is not None else "nothing proves it"
    if unproven:
        return "shadow", f"call {one.entry.call_id} would do, and it is not proven yet how seldom such answers are wrong: {unproven}"
    return "semantic", f"call {one.entry.call_id} asked the same in other words; a share of such calls is audited, and asks a provider"


def _explained(one: Likely, question: str) -> Likely:
    verdict = compare(question, one.entry.question)
    return replace(one, deciding=tuple(verdict.deciding), features=verdict.features)


def remember(engine: Engine, call: Call) -> None:
    """The call has ended: keep its answer if that is whole and may be, and tell those who wait for it. Never waits."""
    caching = call.caching
    if caching is None:
        return
    entry: Entry | None = None
    if may_keep(call, caching.rule):
        entry = _entry(engine, call, caching)
        try:
            engine.answers.keep(entry, engine.clock_ns())
            if caching.vector is not None:
                engine.similar.add_vector(entry, caching.vector)
        except UnicodeEncodeError:  # a provider's text may hold halves of characters, which nobody can write down
            entry = None
    if caching.would_be is not None and call.error is None and call.recalled is None and call.answer is not None:
        _audit(engine, call, caching.would_be, call.answer)
    if entry is not None:
        found = Found(entry, 0)
        land(engine, call, found, exact(found))
    if not caching.leads:
        return
    caching.leads = False
    digest = caching.key.digest
    if call.error is None and call.recalled is None:
        engine.flights.scatter(digest)
    else:
        engine.flights.hand_over(digest)


def _audit(engine: Engine, call: Call, would_be: Likely, fresh: Answer) -> None:
    """Where the remembered answer says something else it goes.

    On all pods only if such answers are given: then that is rare. Before, other pods give it to nobody but who asks its own question.
    """
    judge = engine.similar.judge
    if judge is None:
        return
    drop = engine.answers.drop if judge.unproven(call, would_be) else engine.answers.drop_everywhere
    judge.asked(call, would_be, fresh, lambda: drop(would_be.entry))


def given_to(call: Call, how: Recalled, named: Named) -> Given:
    """What a complaint about this call would be about."""
    node = f"{call.service}.{call.node_name}"
    return Given(call.id, how.kind, how.source, node, call.tenant, call.plan, named.model, named.prompt_name, named.prompt_version)


class Batch:
    """The texts of an embedding call, for one candidate: vectors that are known, and inputs that are `missing` and have to be asked for.

    Vectors of different models are never mixed: each candidate has its own.
    """

    __slots__ = ("_call", "_candidate", "_engine", "_keys", "_known", "_texts", "missing")

    def __init__(self, engine: Engine, call: Call, request: EmbedRequest, candidate: Candidate) -> None:
        self._engine = engine
        self._call = call
        self._candidate = candidate
        self._texts = request.inputs
        self._keys: list[bytes] | None = None
        self._known: list[list[float] | None] = []
        self.missing = request.inputs
        if call.caching is None:
            return
        rule = call.caching.rule
        self._keys = vector_keys(call, request, candidate, rule.scope, engine.settings.cache.version)
        if self._keys is not None and rule.reads:
            self._known = engine.vectors.find(self._keys, engine.clock_ns(), most_age_ns(call))
            self.missing = tuple(text for text, vector in zip(request.inputs, self._known, strict=True) if vector is None)

    @property
    def is_partial(self) -> bool:
        """Not all of it has to be asked for."""
        return len(self.missing) < len(self._texts)

    @property
    def missing_tokens(self) -> int:
        return count_embed(self._candidate.model.tokenizer, self.missing).tokens if self.missing else 0

    def whole(self, reply: Vectors | None) -> Vectors:
        """All vectors in the order of the inputs; those that have just come are remembered. Writes cached_inputs and saved_nano_usd."""
        call = self._call
        if reply is None:
            reply = Vectors((), Usage(0, 0, 0, 0, 0, 0))
        if call.caching is not None and call.caching.rule.writes and self._keys is not None:
            self._remember(call.caching, reply.vectors)
        if not self.is_partial:
            return reply
        fresh = iter(reply.vectors)
        call.cached_inputs = len(self._texts) - len(self.missing)
        saved = Usage(max(0, self._candidate.input_tokens - self.missing_tokens))
        call.saved_nano_usd = self._candidate.model.prices.cost(saved)
        return replace(reply, vectors=[next(fresh) if vector is None else vector for vector in self._known])

    def _remember(self, caching: Caching, vectors: Sequence[Sequence[float]]) -> None:
        call, engine = self._call, self._engine
        keys = [key for key, vector in zip(self._keys or (), self._known or [None] * len(self._texts), strict=True) if vector is None]
        named = Named(call.tenant, call.user, call.service, call.node_name, _model(self._candidate), "", "")
        if len(keys) == len(vectors):  # else it is no answer, and whoever asked says so
            for key, vector in zip(keys, vectors, strict=True):
                engine.vectors.keep(key, vector, named, caching.rule.life_ms, caching.generation, engine.clock_ns())


def _entry(engine: Engine, call: Call, caching: Caching) -> Entry:
    request, answer, served = call.request, call.answer, call.served
    assert isinstance(request, GenerateRequest)  # noqa: S101
    assert answer is not None and served is not None and answer.finish is not None  # noqa: S101, PT018  (`may_keep` has said so)
    life = life_ms(call, caching.rule, engine.settings.cache)
    named = Named(call.tenant, call.user, call.service, call.node_name, _model(served), request.prompt_name, request.prompt_version)
    return Entry(
        digest=caching.key.digest,
        partition=caching.key.partition,
        named=named,
        call_id=call.id,
        kept_ms=engine.wall_ns() // 1_000_000,
        life_ms=life,
        keep_ms=life + caching.rule.more_ms,
        generation=caching.generation,
        nano_usd=next((tried.nano_usd for tried in reversed(call.attempts) if tried.outcome == "ok"), 0),
        text=answer.text,
        reasoning=answer.reasoning,
        tool_calls=tuple((c.id, c.name, c.arguments, c.signature) for c in answer.tool_calls),
        finish=answer.finish,
        raw_finish=answer.raw_finish,
        model_said=answer.model,
        request_id=answer.head.request_id if answer.head is not None else "",
        question=caching.key.question if caching.rule.semantic != "off" and caching.key.is_similar else "",
    )


def _model(candidate: Candidate) -> str:
    return f"{candidate.model.provider}/{candidate.model.name}"
