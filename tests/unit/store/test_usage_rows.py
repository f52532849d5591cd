"""What a row of the usage log says of a call that the real pipeline ended; never what was said in it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC

import pytest
from msgspec.structs import replace

from sidecar.call import Chunk, Usage
from sidecar.catalog.facts import Prices
from sidecar.days import Days, zone_of
from sidecar.errors import ProviderQuotaExhausted, ProviderRejected, SidecarError
from sidecar.pipeline import run
from sidecar.request import Caller, GenerateRequest
from sidecar.store.usage_rows import Row, ended, row
from tests.unit.fakes import DONE, Bench, caller
from tests.unit.store.usage_parts import NOON_MS, a_log, listed_in, ms, some_calls


async def rows_of(tmp_path, bench: Bench, *requests: GenerateRequest) -> list[Row]:
    """One row per request, oldest first."""
    log, _ = a_log(tmp_path)
    bench.engine.meter.on_call = log.ended
    for number, request in enumerate(requests):
        call = bench.call(request)
        call.id = f"c{number}"
        with contextlib.suppress(SidecarError):
            await run(bench.engine, call)
    log.close()
    return sorted(listed_in(tmp_path), key=lambda r: r.id)


async def test_who_asked_is_in_the_row_and_never_what_was_said(tmp_path):
    who = Caller("", "core.react_agent", "acme", "kim", "premium", "r1", "planner", 3, {"team": "ü"})
    request = GenerateRequest(
        caller=who, prompt="the SECRET question", idempotency_key="k1", prompt_name="greet", prompt_version="7", system="SECRET"
    )
    (found,) = await rows_of(tmp_path, Bench([(Chunk(text="the SECRET answer"), DONE)]), request)
    assert (found.service, found.node, found.tenant, found.user_id, found.plan) == ("core", "react_agent", "acme", "kim", "premium")
    assert (found.run, found.agent, found.step, found.tags) == ("r1", "planner", 3, '{"team":"ü"}')
    assert (found.idempotency_key, found.prompt_name, found.prompt_version) == ("k1", "greet", "7")
    assert (found.status, found.finish, found.operation, found.attempts) == ("ok", "stop", "stream", 1)
    assert (found.input_tokens, found.output_tokens, found.cost_nano_usd, found.estimated) == (10, 5, 75_000, 0)
    assert found.first_token_ms is not None
    assert "SECRET" not in str(found)


async def test_cached_failed_and_refused_calls_have_rows_too(tmp_path):
    bench = Bench([(Chunk(text="hi"), DONE), (ProviderRejected("no"),)])
    cached = GenerateRequest(caller=caller("core.react_agent"), prompt="hello", cache_mode="default")
    plain = GenerateRequest(caller=caller("core.react_agent"), prompt="another")
    unknown = GenerateRequest(caller=caller("core.react_agent"), prompt="x", model="no-such-model")
    first, second, failed, refused = await rows_of(tmp_path, bench, cached, cached, plain, unknown)
    assert (first.cache, first.cost_nano_usd) == ("", 75_000)
    assert (second.cache, second.status, second.cost_nano_usd, second.attempts, second.model) == ("exact", "ok", 0, 0, "gpt-4o")
    assert (failed.status, failed.cost_nano_usd, failed.attempts) == ("PROVIDER_REJECTED", 0, 1)
    assert (refused.status, refused.model, refused.attempts, refused.tenant) == ("UNKNOWN_MODEL", "", 0, "default")


async def test_a_refusal_for_money_has_a_row(tmp_path):
    (found,) = await rows_of(
        tmp_path, Bench(SIDECAR_LIMITS__TENANT_DAY_USD="0.000001"), GenerateRequest(caller=caller("core.react_agent"), prompt="hello")
    )
    assert (found.status, found.cost_nano_usd) == ("BUDGET_EXCEEDED", 0)


async def test_a_cancelled_stream_has_a_row_with_what_it_cost(tmp_path):
    bench = Bench([(Chunk(text="a beginning"), 30.0, DONE)])
    log, _ = a_log(tmp_path)
    bench.engine.meter.on_call = log.ended
    task = asyncio.create_task(run(bench.engine, bench.call()))
    while not bench.text():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    log.close()
    (found,) = listed_in(tmp_path)
    assert (found.status, found.estimated, found.finish) == ("CANCELLED", 1, "")
    assert found.cost_nano_usd == found.failed_attempts_nano_usd > 0
    assert found.output_tokens > 0


async def test_a_fallback_is_compared_with_the_model_that_was_wanted(tmp_path):
    bench = Bench([(ProviderQuotaExhausted("used up"),)], [(Chunk(text="hi"), DONE)])
    (found,) = await rows_of(tmp_path, bench, GenerateRequest(caller=caller("core.react_agent"), prompt="hello"))
    gpt = bench.engine.catalog.model("gpt-4o").prices
    assert (found.model, found.fallback, found.primary_model, found.attempts) == ("claude-sonnet-4-6", 1, "gpt-4o", 2)
    assert found.primary_nano_usd == gpt.cost(Usage(10, 0, 0, 0, 5, 0))
    assert found.failed_attempts_nano_usd == 0


async def test_prompt_caching_is_worked_out_at_the_models_own_prices(tmp_path):
    done = Chunk(finish="stop", raw_finish="stop", usage=Usage(100, 1_000, 500, 200, 5, 0), last=True)
    request = GenerateRequest(caller=caller("core.react_agent"), prompt="hello", model="claude-sonnet-4-6")
    bench = Bench((), [(Chunk(text="hi"), done)])
    (found,) = await rows_of(tmp_path, bench, request)
    prices = bench.engine.catalog.model("claude-sonnet-4-6").prices
    assert found.cache_saved_nano_usd == 1_000 * (prices.input - prices.cached_input) // 1000 > 0
    written = 300 * (prices.cache_write_5m - prices.input) + 200 * (prices.cache_write_1h - prices.input)
    assert found.cache_write_extra_nano_usd == written // 1000 > 0
    # What it cost, and what it would have cost without: the difference is what was saved less what was spent on it.
    without = prices.cost(Usage(1_600, 0, 0, 0, 5, 0))
    assert without - found.cost_nano_usd == found.cache_saved_nano_usd - found.cache_write_extra_nano_usd


async def test_prompt_caching_of_a_long_call_is_worked_out_at_the_prices_of_long_calls(tmp_path):
    done = Chunk(finish="stop", raw_finish="stop", usage=Usage(100, 300_000, 0, 0, 5, 0), last=True)
    environ = {"SIDECAR_LIMITS__TENANT_DAY_USD": "1000", "SIDECAR_LIMITS__TENANT_DAY_TOKENS": "1000000000"}
    bench = Bench((), [(Chunk(text="hi"), done)], **environ)
    prices = bench.engine.catalog.model("claude-sonnet-4-6").prices
    dearer = Prices(input=prices.input * 2, cached_input=prices.cached_input * 3, output=prices.output)
    asked = GenerateRequest(caller=caller("core.react_agent"), prompt="hello", model="claude-sonnet-4-6")
    call = bench.call(asked)
    await run(bench.engine, call)
    (tried,) = call.attempts
    model = replace(tried.candidate.model, prices=replace(prices, over=((200_000, dearer),)))
    call.attempts[0] = replace(tried, candidate=replace(tried.candidate, model=model))
    made = row(ended(call, 0.0, NOON_MS * 1_000_000), Days(UTC))
    assert made.cache_saved_nano_usd == 300_000 * (dearer.input - dearer.cached_input) // 1000


async def test_the_sum_of_rows_is_what_the_ledger_posted(tmp_path):
    bench = Bench(
        [(Chunk(text="hi"), DONE), (ProviderQuotaExhausted("x"),), (Chunk(text="half"), ProviderRejected("no"))], [(Chunk(text="ok"), DONE)]
    )
    log, _ = a_log(tmp_path)
    bench.engine.meter.on_call = log.ended
    await some_calls(bench, 40)
    log.close()
    balance = bench.ledger.balance("tenant:default:day", time.time_ns())
    rows = listed_in(tmp_path)
    assert len(rows) == 40
    assert sum(r.cost_nano_usd for r in rows) == balance.used_nano_usd > 0
    tokens = sum(r.input_tokens + r.cached_input_tokens + r.cache_write_tokens + r.output_tokens + r.reasoning_tokens for r in rows)
    assert tokens == balance.used_tokens


def test_texts_are_as_every_store_takes_them():
    bench_call = Bench().call(GenerateRequest(caller=Caller(tags={"k\0": "\ud800" + "ü" * 300}), prompt="p", prompt_name="n\0" * 200))
    bench_call.tenant = "가" * 200
    made = row(ended(bench_call, 0.25, NOON_MS * 1_000_000), Days(UTC))
    assert made.tenant == "가" * 85
    assert "\0" not in made.prompt_name
    assert len(made.prompt_name) == 256
    assert made.time_ms == NOON_MS - 250


def test_the_day_is_the_time_zones_own():
    call = Bench().call()
    before_midnight = ms(2026, 11, 21) + 15 * 3_600_000 - 1  # in Seoul, nine hours ahead, a millisecond before the 22nd
    seoul = Days(zone_of("Asia/Seoul"))
    assert row(ended(call, 0.0, before_midnight * 1_000_000), seoul).day == "2026-11-21"
    assert row(ended(call, 0.0, (before_midnight + 1) * 1_000_000), seoul).day == "2026-11-22"
    assert row(ended(call, 0.0, (before_midnight + 1) * 1_000_000), Days(UTC)).day == "2026-11-21"
