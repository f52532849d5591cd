"""Quotas: settings', and what providers' headers say."""

import pytest

from sidecar import errors
from sidecar._core import Limiter
from sidecar.call import Chunk, Head
from sidecar.policies.quotas import observe
from tests.unit.fakes import DONE, Bench


@pytest.mark.parametrize(
    "stated",
    [
        {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "7"},
        {"anthropic-ratelimit-requests-limit": "100", "anthropic-ratelimit-requests-remaining": "7"},
    ],
)
def test_provider_says_what_is_left(stated):
    limiter = Limiter(requests=1000, tokens=None)
    observe(limiter, stated, 1)
    assert limiter.remaining(1)[0] == 7


def test_nonsense_is_passed_over():
    limiter = Limiter(requests=1000, tokens=None)
    observe(limiter, {"x-ratelimit-remaining-requests": "many", "x-ratelimit-limit-tokens": "9" * 40}, 1)
    assert limiter.remaining(1)[0] == 1000


async def test_used_up_quota_goes_to_the_next_model_and_unused_tokens_come_back():
    bench = Bench(SIDECAR_MODELS__GPT_4O__REQUESTS_PER_MINUTE="1")
    first, second = await bench.run(), await bench.run()
    assert first.served.model.provider == "openai"
    assert second.served.model.provider == "anthropic"
    quota = bench.engine.quotas.of(first.served.model)
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
    assert bench.engine.quotas.of(call.served.model).remaining(bench.engine.clock_ns())[0] <= 2
