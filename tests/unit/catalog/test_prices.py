"""What calls cost: exact, rounded once, by the tier that the input reaches, never above what was held, never free by accident."""

from __future__ import annotations

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import catalog
from sidecar.call import Usage
from sidecar.catalog import Catalog
from sidecar.catalog.facts import Prices
from sidecar.errors import SettingsError
from sidecar.settings import load

TODAY = date(2026, 11, 21)
RATES = ("input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "reasoning")


def known(**environ: str) -> Catalog:
    return catalog.load(load(None, environ), TODAY)


rates = st.fixed_dictionaries({name: st.integers(0, 100_000_000) for name in RATES})
flat = st.fixed_dictionaries({"call": st.integers(0, 10**9), "image": st.integers(0, 10**9)})


@st.composite
def prices(draw: st.DrawFn) -> Prices:
    both = draw(flat)
    over = tuple((least, Prices(**draw(rates), **both)) for least in sorted(draw(st.sets(st.integers(1, 2_000), max_size=3))))
    return Prices(**draw(rates), **both, over=over)


tokens = st.integers(0, 3_000)


@given(prices(), tokens, tokens, tokens, tokens, tokens, tokens, st.integers(0, 5), tokens, tokens)
def test_nothing_costs_more_than_the_most(
    priced: Prices,
    fresh: int,
    cached: int,
    written: int,
    hourly: int,
    output: int,
    reasoning: int,
    images: int,
    more_in: int,
    more_out: int,
) -> None:
    usage = Usage(fresh, cached, written, min(written, hourly), output, reasoning)
    entry, exit_ = fresh + cached + written, output + reasoning
    assert priced.cost(usage, images) <= priced.most(entry + more_in, exit_ + more_out, images, writes="1h")
    short = Usage(fresh, cached, written, 0, output, reasoning)
    assert priced.cost(short, images) <= priced.most(entry, exit_, images, writes="5m")
    unwritten = Usage(fresh, cached, 0, 0, output, reasoning)
    assert priced.cost(unwritten, images) <= priced.most(fresh + cached, exit_, images)


@given(prices(), tokens, tokens, tokens, tokens, tokens)
def test_the_cost_is_the_exact_sum_rounded_up_once(
    priced: Prices, fresh: int, cached: int, written: int, output: int, reasoning: int
) -> None:
    entry = fresh + cached + written
    at = priced
    for least, dearer in priced.over:
        if entry > least:
            at = dearer
    pico = fresh * at.input + cached * at.cached_input + written * at.cache_write_5m + output * at.output + reasoning * at.reasoning
    exact = Fraction(pico, 1000) + (at.call if entry + output + reasoning else 0)
    assert 0 <= priced.cost(Usage(fresh, cached, written, 0, output, reasoning)) - exact < 1


def test_a_long_prompt_is_dearer_as_a_whole_from_the_token_after_the_threshold() -> None:
    gpt = known().model("gpt-5.4").prices
    assert gpt.cost(Usage(272_000, 0, 0, 0, 1_000)) == 272_000 * 2_500 + 1_000 * 15_000
    assert gpt.cost(Usage(272_001, 0, 0, 0, 1_000)) == 272_001 * 5_000 + 1_000 * 22_500
    assert gpt.cost(Usage(1, 272_000, 0, 0, 1_000)) == 5_000 + 272_000 * 500 + 1_000 * 22_500, "cached tokens are input too"
    assert gpt.most(272_001, 10) == 272_001 * 5_000 + 10 * 22_500
    assert gpt.most(272_000, 10) == 272_000 * 2_500 + 10 * 15_000


def test_a_price_per_call_and_per_picture() -> None:
    own = known(
        SIDECAR_PROVIDERS__VLLM__BASE_URL="http://vllm/v1",
        SIDECAR_MODELS__QWEN__PROVIDER="vllm",
        SIDECAR_MODELS__QWEN__INPUT="0.10",
        SIDECAR_MODELS__QWEN__OUTPUT="0.30",
        SIDECAR_MODELS__QWEN__CALL="0.005",
        SIDECAR_MODELS__QWEN__IMAGE="0.001",
    )
    found = own.model("qwen").prices
    assert found.cost(Usage(10, 0, 0, 0, 10), images=2) == 5_000_000 + 2 * 1_000_000 + 10 * 100 + 10 * 300
    assert found.most(10, 10, 2) == found.cost(Usage(10, 0, 0, 0, 10), images=2)
    assert found.cost(Usage(0, 0, 0, 0, 0, 0), images=2) == 0, "nobody answered"


def test_settings_add_a_tier_and_change_one() -> None:
    own = known(
        SIDECAR_MODELS__GPT_4O__OVER__100000__INPUT="5.00",
        SIDECAR_MODELS__GPT_4O__OVER__100000__OUTPUT="20.00",
        SIDECAR_MODELS__GPT_4O__OVER__9000__INPUT="3.00",
        SIDECAR_MODELS__GPT_4O__OVER__9000__OUTPUT="12.00",
    )
    over = own.models["gpt-4o"].prices.over
    assert [(least, one.input, one.cached_input, one.reasoning) for least, one in over] == [
        (9_000, 3_000_000, 3_000_000, 12_000_000),
        (100_000, 5_000_000, 5_000_000, 20_000_000),
    ]


def test_a_model_of_a_billing_provider_without_a_price_is_refused() -> None:
    new = {"SIDECAR_MODELS__GPT_9__PROVIDER": "openai", "SIDECAR_MODELS__GPT_9__CONTEXT_TOKENS": "1000"}
    with pytest.raises(SettingsError, match=r'models\.gpt_9\.output: is missing, .* or catalog\.unpriced = "estimate"'):
        known(**new)


def test_or_it_is_counted_at_its_providers_dearest_and_says_so() -> None:
    new = {
        "SIDECAR_MODELS__GPT_9__PROVIDER": "openai",
        "SIDECAR_MODELS__GPT_9__CONTEXT_TOKENS": "1000",
        "SIDECAR_CATALOG__UNPRICED": "estimate",
        "SIDECAR_NODES__RAG__ANSWER__PRIMARY": "gpt_9",
    }
    own = known(**new)
    found = own.model("gpt_9").prices
    assert (found.is_known, found.is_estimated) == (True, True)
    for model in own.models.values():
        if model.provider == "openai":
            assert found.most(300_000, 1_000, writes="1h") >= model.prices.most(300_000, 1_000, writes="1h")
    assert any(notice.startswith("gpt_9 has no price of its own and is counted at its provider's dearest") for notice in own.notices)


def test_a_server_of_ones_own_is_free_and_says_so() -> None:
    own = known(SIDECAR_PROVIDERS__VLLM__BASE_URL="http://vllm/v1", SIDECAR_NODES__RAG__ANSWER__PRIMARY="vllm/qwen")
    assert own.model("vllm/qwen").prices.cost(Usage(1_000, 0, 0, 0, 1_000)) == 0
    assert [notice for notice in own.notices if "vllm/qwen" in notice] == [
        "vllm/qwen has no price, so its calls are counted as free: "
        """give [models."qwen"] with provider = 'vllm' its input and output prices (rag.answer)"""
    ]
