"""A provider's figures are the truth unless they cannot be true: then ours are posted, marked, and somebody is told."""

from __future__ import annotations

import pytest

from sidecar.call import Chunk, Usage
from sidecar.request import GenerateRequest, Image, Message, Text
from tests.unit.fakes import Bench, caller

END = {"finish": "stop", "raw_finish": "stop", "last": True}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Usage(-5, 0, 0, 0, 3), "input_tokens -5"),
        (Usage(10, 0, 0, 0, -1), "output_tokens -1"),
        (Usage(10, -1, 0, 0, 3), "cached_input_tokens -1"),
        (Usage(10**12, 0, 0, 0, 3), "1000000000000 input tokens, where gpt-4o takes in 128000"),
        (Usage(10, 0, 10**12, 0, 3), "1000000000010 input tokens"),
        (Usage(10, 0, 0, 0, 10**12), "1000000000000 output tokens, where gpt-4o puts out at most 16384"),
        (Usage(10, 0, 0, 0, 3, 10**12), "1000000000003 output tokens"),
        (Usage(2**63, 0, 0, 0, 2**63), "input tokens, where"),
    ],
)
async def test_figures_that_cannot_be_true_are_never_posted(said: Usage, told: str) -> None:
    bench = Bench(first=[(Chunk(text="three short words"), Chunk(usage=said, **END))])
    call = await bench.run()
    assert call.error is None
    (tried,) = call.attempts
    assert tried.estimated
    assert tried.usage == Usage(tried.candidate.input_tokens, 0, 0, 0, 3, 0)
    assert call.nano_usd == tried.candidate.model.prices.cost(tried.usage) <= call.max_nano_usd
    (event,) = bench.engine.meter.events.latest(10, "alert")
    assert told in event.message
    bench.assert_settled(used=tried.candidate.input_tokens + 3)


async def test_figures_that_surprise_are_posted_as_they_are() -> None:
    said = Usage(400_000, 0, 0, 0, 60_000, 0)
    bench = Bench(first=[(Chunk(text="hi"), Chunk(usage=said, **END))])
    call = await bench.run()
    assert (call.usage, call.estimated) == (said, False)
    assert not bench.engine.meter.events.latest(10, "alert")


@pytest.mark.parametrize("said", [Usage(0, 0, 0, 0, 0, 0), Usage(0, 0, 0, 0, 0)])
async def test_an_answer_for_nothing_is_counted_by_us(said: Usage) -> None:
    bench = Bench(first=[(Chunk(text="three short words"), Chunk(usage=said, **END))])
    call = await bench.run()
    assert call.estimated
    assert (call.usage.input_tokens, call.usage.output_tokens) == (call.attempts[0].candidate.input_tokens, 3)
    assert call.nano_usd > 0


async def test_a_prompt_that_was_all_in_the_cache_is_no_estimate() -> None:
    bench = Bench(first=[(Chunk(text="hi"), Chunk(usage=Usage(0, 9, 0, 0, 1), **END))])
    call = await bench.run()
    assert (call.usage, call.estimated) == (Usage(0, 9, 0, 0, 1, 0), False)


async def test_more_writes_for_an_hour_than_writes_are_all_writes() -> None:
    bench = Bench(first=[(Chunk(text="hi"), Chunk(usage=Usage(1, 0, None, 50, 1), **END))])
    assert (await bench.run()).usage == Usage(1, 0, 50, 50, 1, 0)


async def test_a_models_pictures_are_held_and_posted() -> None:
    bench = Bench(SIDECAR_MODELS__GPT_4O__IMAGE="0.002", SIDECAR_MODELS__GPT_4O__CALL="0.001")
    picture = Image(url="https://example.com/a.png")
    request = GenerateRequest(
        caller=caller("core.react_agent"), model="gpt-4o", messages=(Message("user", (Text("what is it?"), picture, picture)),)
    )
    call = await bench.run(request)
    assert call.error is None
    assert call.nano_usd == 2 * 2_000_000 + 1_000_000 + 10 * 2_500 + 5 * 10_000
    assert call.max_nano_usd >= call.nano_usd


async def test_a_call_that_may_write_to_its_providers_cache_is_held_at_that_price() -> None:
    bench = Bench()
    plain = await bench.run(GenerateRequest(prompt="hello", model="claude-sonnet-4-6"))
    writes = await bench.run(
        GenerateRequest(prompt="hello", model="claude-sonnet-4-6", provider_options={"cache_control": {"type": "ephemeral", "ttl": "1h"}})
    )
    tokens = writes.candidates[0].input_tokens
    assert writes.max_nano_usd - plain.max_nano_usd == tokens * 3_000, "6.00 in place of 3.00 USD per million"


async def test_what_costs_what_others_cost_is_marked_as_estimated() -> None:
    new = {"PROVIDER": "openai", "CONTEXT_TOKENS": "1000"}
    bench = Bench(SIDECAR_CATALOG__UNPRICED="estimate", **{f"SIDECAR_MODELS__GPT_9__{key}": value for key, value in new.items()})
    call = await bench.run(GenerateRequest(prompt="hello", model="gpt_9"))
    assert call.error is None
    assert call.estimated
    assert call.nano_usd > 0
