"""Vectors of texts, remembered one by one."""

from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.call import Usage, Vectors
from sidecar.request import NOBODY, EmbedRequest
from tests.unit.caching.parts import Embedder
from tests.unit.fakes import Bench, caller


def embed(*inputs, mode="default", **fields):
    return EmbedRequest(caller=caller("oracle.embedding", **fields), inputs=inputs, cache_mode=mode)


def embedding(**environ):
    bench = Bench(**environ)
    bench.openai = bench.engine.providers["openai"] = Embedder("openai")
    return bench


async def test_batch_asks_and_pays_only_for_what_is_missing():
    bench = embedding()
    await bench.run(embed("a", "bb"), stream=False)
    call = await bench.run(embed("ccc", "a", "dddd", "bb"), stream=False)
    assert [ask.inputs for ask in bench.openai.asks] == [("a", "bb"), ("ccc", "dddd")]
    assert [vector[0] for vector in call.vectors.vectors] == [3, 1, 4, 2]
    assert (call.cached_inputs, call.usage.input_tokens) == (2, 14)
    assert call.nano_usd == 280  # 14 tokens at 0.02 USD a million
    again = await bench.run(embed("a", "dddd"), stream=False)
    assert (again.recalled.kind, again.cached_inputs, again.nano_usd) == ("exact", 2, 0)
    assert again.saved_nano_usd > 0
    assert len(bench.openai.asks) == 2
    bench.assert_settled(used=28)


async def test_vectors_of_other_tenants_or_lengths_are_not_known():
    bench = embedding()
    await bench.run(embed("a"), stream=False)
    await bench.run(embed("a", tenant="b"), stream=False)
    await bench.run(EmbedRequest(caller=caller("oracle.embedding"), inputs=("a",), dimensions=3, cache_mode="default"), stream=False)
    await bench.run(embed("a", mode=""), stream=False)
    assert len(bench.openai.asks) == 4
    with pytest.raises(errors.NotCached, match="1 of 2 inputs"):
        await bench.run(embed("a", "z", mode="only"), stream=False)
    assert NOBODY.tenant == ""


async def test_batch_whose_rest_is_garbled_remembers_nothing_wrong():
    bench = embedding()
    await bench.run(embed("a"), stream=False)

    class Short(Embedder):
        async def embed(self, ask):
            return Vectors([], Usage(1))

    bench.engine.providers["openai"] = Short("openai")
    with pytest.raises(errors.ProviderGarbled, match="0 vectors for 1 inputs"):
        await bench.run(embed("a", "bb"), stream=False)
    with pytest.raises(errors.NotCached):
        await bench.run(embed("bb", mode="only"), stream=False)
