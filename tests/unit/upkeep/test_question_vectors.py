"""Similar questions that are found by a model's vectors."""

from __future__ import annotations

import asyncio

from sidecar import caching, errors
from sidecar.call import Usage, Vectors
from sidecar.upkeep.cache_calls import QuestionVectors
from tests.unit.caching.parts import SIMILAR, Embedder, OpenJudge, ask
from tests.unit.fakes import Bench


class Meanings(Embedder):
    """The first word is what a text means."""

    async def embed(self, ask):
        self.asks.append(ask)
        return Vectors([[1.0, float(text.split()[0] == "reset"), 0.2] for text in ask.inputs], Usage(7))


def with_vectors(monkeypatch, **environ):
    """A bench whose verifier lets through whatever is near enough."""

    class Verdict:
        veto = ""

        def __init__(self, cosine):
            self.score = cosine

    bench = Bench(**SIMILAR, **environ, SIDECAR_CACHE__EMBEDDING="openai/text-embedding-3-small")
    bench.engine.similar.judge = OpenJudge()
    bench.engine.similar.embed = QuestionVectors(bench.engine)
    monkeypatch.setattr(caching, "compare", lambda _asked, _stored, cosine=None: Verdict(cosine or 0.0))
    meanings = Meanings("openai")
    bench.openai.embed = meanings.embed
    return bench, meanings


async def test_what_letters_do_not_show_is_found_by_vectors_and_these_are_paid(monkeypatch):
    bench, meanings = with_vectors(monkeypatch)
    first = await bench.run(ask("reset the password of my account"))
    call = await bench.run(ask("reset credentials, please, as I have lost them"))
    assert (call.recalled.kind, call.recalled.source) == ("semantic", first.id)
    assert call.recalled.similarity > 0.999
    other = await bench.run(ask("who may sign a contract"))  # its cosine is 0.72
    assert other.recalled is None
    assert [len(ask.inputs) for ask in meanings.asks] == [1, 1, 1]
    bench.assert_settled(used=2 * 15 + 3 * 7)
    again = await bench.run(ask("who may sign a contract", temperature=0.1))  # another partition: its vector is known, and costs nothing
    assert again.recalled is None
    assert len(meanings.asks) == 3


async def test_vectors_that_do_not_come_in_time_or_are_none_fail_no_call(monkeypatch):
    bench, _ = with_vectors(monkeypatch, SIDECAR_CACHE__EMBEDDING_MS="50")
    await bench.run(ask("reset one"))
    for trouble in (5.0, errors.ProviderUnavailable("down"), [[0.0, 0.0, 0.0]], [[1.0, 2.0]]):

        async def embed(asked, trouble=trouble):
            if isinstance(trouble, float):
                await asyncio.sleep(trouble)
            if isinstance(trouble, Exception):
                raise trouble
            return Vectors(trouble, Usage(1))

        bench.openai.embed = embed
        call = await bench.run(ask(f"reset another {trouble!r}"))
        assert (call.recalled, call.error) == (None, None)
    bench.assert_settled()
