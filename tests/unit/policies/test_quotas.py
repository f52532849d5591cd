"""Quotas: settings', and what providers' headers say."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar import errors
from sidecar.call import Candidate, Chunk, Head, Usage
from sidecar.policies import quotas as module
from sidecar.policies.quotas import Quotas, Standing
from tests.unit.fakes import DONE, Bench

WALL_NS = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp()) * 1_000_000_000
S = 1_000_000_000


@pytest.fixture(scope="module")
def model():
    known = Bench().engine.catalog.model("gpt-4o")
    return replace(known, requests_per_minute=None, tokens_per_minute=None)


def asking(model, input_tokens=100, output_tokens=900, endpoint="", **facts):
    return Candidate(replace(model, **facts), None, "", input_tokens, False, output_tokens, 0, False, endpoint)


def standing(quotas, unit, now_ns=1):
    return next(one for one in quotas.listing(now_ns) if one.unit == unit)


def test_nobody_said_anything(model):
    quotas = Quotas()
    assert quotas.of(asking(model)) is None
    assert quotas.listing(1) == []


def test_settings_limit_each_endpoint_for_itself(model):
    quotas = Quotas()
    here, there = (asking(model, endpoint=name, requests_per_minute=1) for name in ("here", "there"))
    assert quotas.of(here).take(here, 1) is None
    assert quotas.of(here).take(here, 1).unit == "requests"
    assert quotas.of(there).take(there, 1) is None
    assert [(one.target, one.limit, one.remaining) for one in quotas.listing(1)] == [
        ("openai#here/gpt-4o", 1, 0),
        ("openai#there/gpt-4o", 1, 0),
    ]


@pytest.mark.parametrize(
    "stated",
    [
        {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "6m0s"},
        {
            "anthropic-ratelimit-requests-limit": "100",
            "anthropic-ratelimit-requests-remaining": "7",
            "anthropic-ratelimit-requests-reset": "2026-11-21T00:06:00Z",
        },
    ],
)
def test_provider_that_states_a_limit_has_one_from_then_on(model, stated):
    quotas, candidate = Quotas(), asking(model)
    quotas.observe(candidate, stated, 1, WALL_NS)
    quota = quotas.of(candidate)
    assert [quota.take(candidate, 1) for _ in range(7)] == [None] * 7
    exceeded = quota.take(candidate, 1)
    assert (exceeded.unit, exceeded.limit, exceeded.remaining) == ("requests", 100, 0)
    # 93 of them in 6 minutes, as the provider says: about one in 4 s, not in the 0.6 s of 100 a minute.
    assert exceeded.retry_after_ns == 4 * S
    assert standing(quotas, "requests") == Standing("openai/gpt-4o", "requests", 100, 0, 360 * S)


@pytest.mark.parametrize(("limit", "reset", "wait_s"), [("200", "24h", 60), ("200", "1h", 20), ("1", "6m", 360), ("1", "24h", 600)])
def test_used_up_day_is_tried_now_and_then(model, limit, reset, wait_s):
    """Nobody would ever learn that it is there again if nobody asked."""
    quotas, candidate = Quotas(), asking(model)
    said = {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
    quotas.observe(candidate, said, 1, WALL_NS)
    assert quotas.of(candidate).take(candidate, 1).retry_after_ns == pytest.approx(wait_s * S, rel=0.2)


def test_smaller_limit_holds_settings_or_the_providers(model):
    quotas, candidate = Quotas(), asking(model, requests_per_minute=50, tokens_per_minute=1_000_000)
    quotas.observe(candidate, {"x-ratelimit-limit-requests": "100", "x-ratelimit-limit-tokens": "30000"}, 1, WALL_NS)
    assert quotas.of(candidate).remaining(1) == (50, 30_000)
    assert [(one.unit, one.limit, one.reset_after_ns) for one in quotas.listing(1)] == [("requests", 50, 0), ("tokens", 30_000, 0)]
    assert quotas.of(candidate).take(candidate, 1) is None
    assert standing(quotas, "tokens").reset_after_ns == 2 * S  # 1,000 of 30,000 a minute flow in within 2 s


def test_what_was_not_used_comes_back(model):
    quotas, candidate = Quotas(), asking(model, tokens_per_minute=1_500)
    quota = quotas.of(candidate)
    assert quota.take(candidate, 1) is None
    assert quota.take(candidate, 1).unit == "tokens"
    quota.give_back(candidate, Usage(90, 10, 0, 0, 50, 0), 1)
    assert quota.remaining(1) == (None, 1_350)


ANTHROPIC = {
    "anthropic-ratelimit-input-tokens-limit": "1000",
    "anthropic-ratelimit-input-tokens-remaining": "250",
    "anthropic-ratelimit-output-tokens-limit": "800",
    "anthropic-ratelimit-output-tokens-remaining": "800",
    "anthropic-ratelimit-tokens-limit": "1800",
    "anthropic-ratelimit-tokens-remaining": "1050",
}


def test_anthropic_counts_input_apart_and_output_as_it_is_written(model):
    quotas, candidate = Quotas(), asking(model, output_tokens=64_000)
    quotas.observe(candidate, ANTHROPIC, 1, WALL_NS)
    quota = quotas.of(candidate)
    assert [quota.take(candidate, 1) for _ in range(2)] == [None, None]  # the most output is no matter
    exceeded = quota.take(candidate, 1)
    assert (exceeded.limit, exceeded.remaining) == (1_000, 50)
    quota.give_back(candidate, Usage(10, 90, 0, 0, 5_000, 0), 1)  # nor is input from a cache
    assert quota.take(candidate, 1) is None
    assert standing(quotas, "input-tokens").remaining == 40
    assert standing(quotas, "output-tokens").limit == 800


def test_refused_for_one_unit_takes_nothing_of_the_others(model):
    quotas, candidate = Quotas(), asking(model, requests_per_minute=10)
    quotas.observe(candidate, ANTHROPIC | {"anthropic-ratelimit-output-tokens-remaining": "0"}, 1, WALL_NS)
    quota = quotas.of(candidate)
    before = [one.remaining for one in quotas.listing(1)]
    assert (quota.take(candidate, 1).limit, before) == (800, [10, 250, 0])
    assert [one.remaining for one in quotas.listing(1)] == before


def test_call_that_is_more_than_a_stated_minute_goes_when_all_of_it_is_there(model):
    quotas, candidate = Quotas(), asking(model, output_tokens=128_000)
    quotas.observe(candidate, {"x-ratelimit-limit-tokens": "30000"}, 1, WALL_NS)
    quota = quotas.of(candidate)
    assert quota.take(candidate, 1) is None
    assert quota.take(candidate, 1).retry_after_ns == 60 * S
    quota.give_back(candidate, Usage(100, 0, 0, 0, 100, 0), 1)
    assert quota.remaining(1)[1] == 29_800


def test_call_that_is_more_than_settings_allow_is_told_that_no_wait_helps(model):
    quotas, candidate = Quotas(), asking(model, tokens_per_minute=999)
    assert quotas.of(candidate).take(candidate, 1).retry_after_ns is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("120ms", 0.12),
        ("6m0s", 360),
        ("1h2m3.5s", 3_723.5),
        ("500µs", 0.0005),
        ("0s", 0),
        ("2026-11-21T00:00:10Z", 10),
        ("2026-11-21T09:00:10+09:00", 10),
        ("2026-11-20T23:59:00Z", 0),
    ],
)
def test_resets(text, seconds):
    assert module._reset_after_ns(text, WALL_NS) == round(seconds * S)


@pytest.mark.parametrize(
    "text", ["", "soon", "1", "-1s", "s", "1.2.3s", "9" * 40 + "s", "200h", "2026-11-21T00:00:10", "9999-12-31T23:59:59Z", "1s" * 40, "٣s"]
)
def test_resets_that_are_none(text):
    assert module._reset_after_ns(text, WALL_NS) is None


NAMES = [f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")] + list(ANTHROPIC)


@given(st.dictionaries(st.sampled_from(NAMES), st.one_of(st.text(max_size=80), st.from_regex(r"[0-9.TZ:+\-hms]{1,40}"))))
def test_nothing_that_a_header_says_is_an_exception(headers):
    quotas, candidate = Quotas(), asking(Bench().engine.catalog.model("gpt-4o"), requests_per_minute=10)
    quotas.observe(candidate, headers, 1, WALL_NS)
    quotas.of(candidate).take(candidate, 2)
    assert all(one.remaining <= one.limit for one in quotas.listing(3))


def test_nonsense_is_passed_over(model):
    quotas, candidate = Quotas(), asking(model, requests_per_minute=1000)
    said = {"x-ratelimit-remaining-requests": "many", "x-ratelimit-limit-tokens": "9" * 40, "x-ratelimit-limit-requests": "0"}
    quotas.observe(candidate, said, 1, WALL_NS)
    assert quotas.of(candidate).remaining(1) == (1000, None)
    quotas.observe(other := asking(model, endpoint="x"), said, 1, WALL_NS)
    assert quotas.of(other) is None


def test_memory_does_not_grow_with_the_names_of_models(model, monkeypatch):
    monkeypatch.setattr(module, "_MOST_STATED", 3)
    quotas = Quotas()
    for number in range(10):
        quotas.observe(asking(model, name=f"m{number}"), {"x-ratelimit-limit-requests": "5"}, 1, WALL_NS)
        quotas.of(asking(model, name="m0"))  # in use all the time
    assert {one.target for one in quotas.listing(1)} == {"openai/m0", "openai/m8", "openai/m9"}


async def test_used_up_quota_goes_to_the_next_model_and_unused_tokens_come_back():
    bench = Bench(SIDECAR_MODELS__GPT_4O__REQUESTS_PER_MINUTE="1")
    first, second = await bench.run(), await bench.run()
    assert first.served.model.provider == "openai"
    assert second.served.model.provider == "anthropic"
    quota = bench.engine.quotas.of(first.served)
    assert quota.remaining(bench.engine.clock_ns())[1] >= 2_000_000 - 15 - 100


async def test_all_quotas_used_up_tells_the_wait():
    environ = {"SIDECAR_MODELS__GPT_4O__REQUESTS_PER_MINUTE": "1", "SIDECAR_NODES__CORE__REACT_AGENT__FALLBACKS": "gpt-4o"}
    bench = Bench(**environ, SIDECAR_PROFILE__FALLBACKS="gpt-4o")
    await bench.run()
    with pytest.raises(errors.RateLimited) as refusal:
        await bench.run()
    assert refusal.value.retry_after_ms > 1000


async def test_headers_of_an_answer_are_adopted():
    bench = Bench([(Chunk(head=Head(limits={"x-ratelimit-remaining-requests": "1"})), Chunk(text="a"), DONE)])
    call = await bench.run()
    assert bench.engine.quotas.of(call.served).remaining(bench.engine.clock_ns())[0] <= 2


async def test_provider_without_a_quota_in_settings_is_believed_while_it_still_streams():
    said = Head(limits={"anthropic-ratelimit-requests-limit": "2", "anthropic-ratelimit-requests-remaining": "0"})
    bench = Bench([(errors.ProviderQuotaExhausted("out of credit"),)], [(Chunk(head=said), Chunk(text="a"), errors.StreamCut("cut"))])
    with pytest.raises(errors.StreamCut):
        await bench.run()
    with pytest.raises(errors.SidecarError):
        await bench.run()
    assert len(bench.anthropic.asks) == 1
