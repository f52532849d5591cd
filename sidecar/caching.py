"""Between a call and what is remembered: finding an answer for it, giving it, remembering its own. For the stages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from sidecar.answer import Answer
from sidecar.call import Call, Candidate, Chunk, EmbedRequest, GenerateRequest, Recalled, Start, Usage, Vectors
from sidecar.counting import count_embed
from sidecar.engine import Engine
from sidecar.policies.cache_keys import Key, vector_keys
from sidecar.policies.cache_rules import Rule, may_keep
from sidecar.store.answers import Found
from sidecar.store.cache_entry import Entry, Named


class Caching:
    """What the cache knows of one call while it is under way. `leads`: identical calls wait for what becomes of this one."""

    __slots__ = ("generation", "key", "leads", "rule")

    def __init__(self, rule: Rule, key: Key, generation: int) -> None:
        self.rule = rule
        self.key = key
        self.generation = generation
        self.leads = False


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
    if call.send is None:
        return
    await call.send(Start(served))
    pause_s = engine.settings.cache.replay_pause_ms / 1000
    for piece in pieces(answer, engine.settings.cache.replay_chars):
        await call.send((piece,))
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


def exact(found: Found, *, joined: bool = False) -> Recalled:
    return Recalled("exact", 1.0, 1.0, found.age_ns, found.entry.call_id, found.entry.nano_usd, joined)


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
        except UnicodeEncodeError:  # a provider's text may hold halves of characters, which nobody can write down
            entry = None
    if not caching.leads:
        return
    caching.leads = False
    digest = caching.key.digest
    if entry is not None:
        engine.flights.land(digest, Found(entry, 0))
    elif call.error is None and call.recalled is None:
        engine.flights.scatter(digest)
    else:
        engine.flights.hand_over(digest)


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
    named = Named(call.tenant, call.user, call.service, call.node_name, _model(served), request.prompt_name, request.prompt_version)
    return Entry(
        digest=caching.key.digest,
        partition=caching.key.partition,
        named=named,
        call_id=call.id,
        kept_ms=engine.wall_ns() // 1_000_000,
        life_ms=caching.rule.life_ms,
        keep_ms=caching.rule.keep_ms,
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
