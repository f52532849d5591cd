"""Providers that fail: tried again, replaced, or told to the caller with what was produced and what it cost. Always settled, once."""

from __future__ import annotations

import asyncio

import grpc
import msgspec
import pytest

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import free_port
from tests.fakes.script import Fail, HangUp, Raw, Say, Stall, Tokens, Tool, Vectors
from tests.fakes.wires import Anthropic, OpenAI
from tests.flow.reading import account, failed, nano_usd, settled_once, stream_failed, streamed, tokens

ALL = ("openai", "anthropic", "google", "ollama", "compatible")
CANCEL_S = 1.0


def ask(model: str, tenant: str = "", node: str = "", **fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="Tell me a story.", model=model, caller=pb.Caller(tenant=tenant, node=node), **fields)


@pytest.mark.parametrize("provider", ALL)
async def test_fallback_before_the_first_piece(sidecar, upstream, fresh, tenant, provider):
    model = fresh(provider)
    upstream.on(model, Fail(500))
    got = await streamed(sidecar.llm.Stream(ask(model, tenant, "flow.chain")))
    assert got.text == "Hello, world!"
    assert (got.start.model, got.start.fallback, got.end.fallback) == ("compatible-default", True, True)
    tried = [(a.model, a.outcome) for a in got.end.attempts]
    assert tried[0] == (model, "PROVIDER_UNAVAILABLE")
    assert tried[-1] == ("compatible-default", "ok")
    assert len(tried) == len(upstream.asked(model)) + 1
    assert (await sidecar.metrics())("llm_fallback_total", model="compatible-default") > 0


@pytest.mark.parametrize("provider", ["openai", "compatible"])
async def test_used_up_quota_goes_to_the_next_model_at_once(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Fail(429, "You exceeded your current quota.", "insufficient_quota"))
    reply = await sidecar.llm.Generate(ask(model, node="flow.chain"))
    assert [(a.model, a.outcome) for a in reply.attempts] == [(model, "PROVIDER_QUOTA_EXHAUSTED"), ("compatible-default", "ok")]


@pytest.mark.parametrize("provider", ["openai", "anthropic", "compatible"])
async def test_retry_after_is_kept(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Fail(429, headers=(("Retry-After", "1"),)), Say())
    reply = await sidecar.llm.Generate(ask(model))
    assert [a.outcome for a in reply.attempts] == ["PROVIDER_RATE_LIMITED", "ok"]
    assert not reply.fallback
    first, second = upstream.asked(model)
    assert second.arrived_at - first.arrived_at >= 1.0


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
async def test_connection_lost_before_the_answer_is_tried_again(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, HangUp(), Say(pieces=("At last.",)))
    reply = await sidecar.llm.Generate(ask(model))
    assert reply.text == "At last."
    assert [a.outcome for a in reply.attempts] == ["PROVIDER_UNAVAILABLE", "ok"]


@pytest.mark.parametrize("provider", ALL)
@pytest.mark.parametrize("cut", ["reset", "close"])
async def test_cut_stream_is_an_error_with_its_part_and_its_price(sidecar, upstream, fresh, tenant, provider, cut):
    model = fresh(provider)
    upstream.on(model, Say(pieces=("Once ", "upon ", "a time"), cut=cut, cut_after=2, tokens=Tokens(input=50, output=9)))
    got = await stream_failed(sidecar.llm.Stream(ask(model, tenant, "flow.chain")))
    assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_CUT")
    assert got.streamed.text == got.partial.text == "Once upon "
    assert got.partial.usage.output_tokens > 0
    assert got.partial.usage.input_tokens > 0
    assert got.partial.usage.estimated
    assert [(a.model, a.outcome) for a in got.partial.attempts] == [(model, "STREAM_CUT")]
    cost = await settled_once(sidecar, model, "STREAM_CUT", tenant)
    assert cost == got.partial.cost.nano_usd == nano_usd(got.partial.usage)


@pytest.mark.parametrize(
    ("provider", "cut"),
    [(p, c) for p in ("openai", "anthropic", "compatible") for c in ("no_finish", "no_end")]
    + [("google", "no_finish"), ("ollama", "no_end")],
)
async def test_whole_text_without_its_end_is_cut_too(sidecar, upstream, fresh, provider, cut):
    model = fresh(provider)
    upstream.on(model, Say(cut=cut, cut_after=99))
    got = await stream_failed(sidecar.llm.Stream(ask(model)))
    assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_CUT")
    assert got.partial.text == "Hello, world!"


@pytest.mark.parametrize("provider", ALL)
async def test_error_event_in_the_middle_of_a_stream(sidecar, upstream, fresh, tenant, provider):
    model = fresh(provider)
    upstream.on(model, Say(error_after=2))
    got = await stream_failed(sidecar.llm.Stream(ask(model, tenant)))
    assert got.code == grpc.StatusCode.DATA_LOSS
    assert got.reason == "PROVIDER_UNAVAILABLE"
    assert got.partial.text == got.streamed.text == "Hello, "
    assert await settled_once(sidecar, model, "PROVIDER_UNAVAILABLE", tenant) == got.partial.cost.nano_usd > 0


async def test_caller_may_have_a_cut_stream_begun_again(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("Once ", "upon "), cut="close", cut_after=1), Say(pieces=("Once ", "more")))
    got = await streamed(sidecar.llm.Stream(ask(model, tenant, on_cut=pb.ON_CUT_RESTART)))
    assert got.text == "Once more"
    assert got.restarts == ["STREAM_CUT"]
    assert [a.outcome for a in got.end.attempts] == ["STREAM_CUT", "ok"]
    assert got.end.cost.nano_usd > nano_usd(pb.Usage(input_tokens=11, output_tokens=7))  # the first try is paid for too
    assert (await account(sidecar, tenant)).used_nano_usd == got.end.cost.nano_usd


async def test_caller_may_have_a_stream_held_until_it_is_whole(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("Once ", "upon "), cut="close", cut_after=1), Say(pieces=("Once ", "more")))
    got = await streamed(sidecar.llm.Stream(ask(model, on_cut=pb.ON_CUT_HOLD)))
    assert (got.text, got.restarts, got.kinds.count("text_delta")) == ("Once more", [], 1)


async def test_held_tool_calls_keep_their_places(sidecar, upstream, fresh):
    """Anthropic counts its blocks: with text before it, the first call has the index 1."""
    model = fresh("anthropic")
    both = (Tool("weather", '{"city":"Seoul"}', id="a"), Tool("weather", '{"city":"Busan"}', id="b"))
    upstream.on(model, Say(pieces=("Let me look.",), tools=both, finish="tool_calls"))
    got = await streamed(sidecar.llm.Stream(ask(model, on_cut=pb.ON_CUT_HOLD, tools=[pb.Tool(name="weather")])))
    assert [(call.id, call.arguments) for call in got.tools] == [(tool.id, tool.arguments) for tool in both]
    assert list(got.end.tool_calls) == got.tools


@pytest.mark.parametrize("provider", ALL)
async def test_answer_without_a_word_is_one_where_the_callers_stop_may_be_the_first(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(pieces=()))
    got = await streamed(sidecar.llm.Stream(ask(model, stop=["."])))
    assert (got.kinds, got.text) == (["start", "end"], "")
    whole = await sidecar.llm.Generate(ask(model, stop=["."]))
    assert (whole.text, whole.finish_reason) == ("", pb.FINISH_REASON_STOP)


@pytest.mark.parametrize("provider", ALL)
async def test_refused_request_costs_nothing(sidecar, upstream, fresh, tenant, provider):
    """A failure that the provider answered with an error costs nothing and holds nothing."""
    model = fresh(provider)
    upstream.on(model, Fail(400, "messages: roses are red"))
    got = await failed(sidecar.llm.Generate(ask(model, tenant)))
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROVIDER_REJECTED")
    assert "roses are red" in got.message
    assert got.facts["provider_status"] == "400"
    assert await settled_once(sidecar, model, "PROVIDER_REJECTED", tenant) == 0
    assert len(upstream.asked(model)) == 1


@pytest.mark.parametrize("provider", ALL)
async def test_model_that_the_provider_does_not_know(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Fail(404, f"model {model} not found"))
    got = await failed(sidecar.llm.Generate(ask(model)))
    assert (got.code, got.reason) == (grpc.StatusCode.NOT_FOUND, "PROVIDER_MODEL_UNKNOWN")


async def test_silent_providers_are_left_for_the_next_one(start_sidecar, upstream):
    sidecar = await start_sidecar("[timeouts]\nfirst_token_ms = 300\nidle_ms = 300\n")
    upstream.on("never", Stall())
    got = await streamed(sidecar.llm.Stream(ask("compatible/never", node="flow.chain")))
    assert [(a.model, a.outcome) for a in got.end.attempts] == [("compatible/never", "PROVIDER_TIMEOUT"), ("compatible-default", "ok")]
    assert got.end.fallback
    await (await upstream.request("never")).ended(within_s=CANCEL_S)
    gate = asyncio.Event()
    upstream.on("halting", Say(gate=gate, hold_after=2))
    cut = await stream_failed(sidecar.llm.Stream(ask("compatible/halting", node="flow.chain")))
    assert (cut.code, cut.reason) == (grpc.StatusCode.DATA_LOSS, "PROVIDER_TIMEOUT")
    assert cut.partial.text == "Hello, "
    await (await upstream.request("halting")).ended(within_s=CANCEL_S)


async def test_slow_reader_is_no_silent_provider(start_sidecar, upstream):
    sidecar = await start_sidecar("[timeouts]\nidle_ms = 200\n")
    upstream.on("fluent", Say(pieces=("x" * 10_000,) * 200))
    stream = sidecar.llm.Stream(ask("compatible/fluent"))
    assert (await stream.read()).WhichOneof("event") == "start"
    await asyncio.sleep(1)  # longer than the provider may be silent, while the provider waits for us
    text = deltas = 0
    while (event := await stream.read()) is not grpc.aio.EOF:
        text += len(event.text_delta)
        deltas += event.WhichOneof("event") == "text_delta"
    assert text == 2_000_000
    assert deltas < 200  # what waits for a slow reader is joined


async def test_open_breaker_goes_to_the_next_model_without_asking(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Fail(503))
    await sidecar.llm.Generate(ask(model, node="flow.chain"))
    asked = len(upstream.asked(model))
    assert asked == 3  # in a row, by default
    began_at = asyncio.get_running_loop().time()
    reply = await sidecar.llm.Generate(ask(model, node="flow.chain"))
    assert asyncio.get_running_loop().time() - began_at < 1.0
    assert (reply.model, reply.fallback) == ("compatible-default", True)
    assert len(upstream.asked(model)) == asked
    assert (await sidecar.metrics())("llm_circuit_breaker_state", model=model) == 2


async def test_breaker_tries_again_after_its_time(start_sidecar, upstream):
    sidecar = await start_sidecar("[services.flow]\nbreaker_failures = 1\nbreaker_open_ms = 2500\n")
    upstream.on("moody", Fail(503), Say(pieces=("Better now.",)))
    assert (await sidecar.llm.Generate(ask("compatible/moody", node="flow.chain"))).model == "compatible-default"
    assert (await sidecar.llm.Generate(ask("compatible/moody", node="flow.chain"))).model == "compatible-default"
    assert len(upstream.asked("moody")) == 1
    await asyncio.sleep(2.6)
    reply = await sidecar.llm.Generate(ask("compatible/moody", node="flow.chain"))
    assert (reply.text, reply.fallback) == ("Better now.", False)
    assert (await sidecar.metrics())("llm_circuit_breaker_state", model="moody") == 0


async def test_provider_that_is_not_there(start_sidecar):
    sidecar = await start_sidecar(f'[providers.gone]\nbase_url = "http://127.0.0.1:{free_port()}/v1"\n')
    got = await failed(sidecar.llm.Generate(ask("gone/model")))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE")
    assert "gone/model" in got.message
    assert (await sidecar.llm.Generate(ask("gone/model", node="flow.chain"))).fallback
    status = await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())
    gone = next(p for p in status.providers if p.name == "gone")
    assert gone.failures == gone.attempts > 0
    assert gone.last_error.startswith("PROVIDER_UNAVAILABLE: ")


async def test_redirect_is_not_followed(sidecar, upstream, fresh):
    """A prompt and a key go where settings say, and nowhere else."""
    model, elsewhere = fresh("compatible"), fresh("compatible")
    upstream.on(model, Fail(307, headers=(("Location", f"{upstream.url}/compatible/v1/chat/completions?{elsewhere}"),)))
    got = await failed(sidecar.llm.Generate(ask(model)))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "PROVIDER_GARBLED")
    assert not any(elsewhere in exchange.path for exchange in upstream.exchanges)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "compatible"])
async def test_connection_that_the_provider_closed_is_not_used_again(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    wire = Anthropic if provider == "anthropic" else OpenAI
    body = msgspec.json.encode(wire.whole(Say(pieces=("first",)), model))
    upstream.on(model, Raw(body, promised=len(body), then="reset"), Say(pieces=("second",)))
    assert (await sidecar.llm.Generate(ask(model))).text == "first"
    await asyncio.sleep(0.1)
    second = await sidecar.llm.Generate(ask(model))
    assert (second.text, [a.outcome for a in second.attempts]) == ("second", ["ok"])


async def test_unary_answer_without_a_finish_reason_is_cut(sidecar, upstream, fresh, tenant):
    models = [fresh(provider) for provider in ("openai", "anthropic", "compatible")]
    for model in models:
        upstream.on(model, Say(cut="no_finish"))
    calls = [failed(sidecar.llm.Generate(ask(model, tenant), timeout=20)) for model in models]
    for got in await asyncio.gather(*calls):
        assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_CUT"), got
        assert got.partial.text == "Hello, world!"
        assert got.partial.cost.nano_usd > 0


async def test_retired_model_is_answered_by_its_successor(sidecar, upstream):
    reply = await sidecar.llm.Generate(ask("claude-sonnet-4"))
    assert reply.model == "claude-sonnet-4-6"
    assert any("retired" in notice and "claude-sonnet-4-6" in notice for notice in reply.notices)


async def test_a_hundred_streams_at_once_are_whole(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    pieces = tuple(f"<{i}>" for i in range(30))
    upstream.on(model, Say(pieces=pieces, delay_ms=5))
    got = await asyncio.gather(*(streamed(sidecar.llm.Stream(ask(model, tenant))) for _ in range(100)))
    assert {one.text for one in got} == {"".join(pieces)}
    assert len({one.end.id for one in got}) == 100
    paid = await account(sidecar, tenant)
    assert paid.used_nano_usd == sum(one.end.cost.nano_usd for one in got)
    assert paid.pending_nano_usd == 0


async def test_budget_refuses_before_anything_is_asked(start_sidecar, upstream, tenant):
    sidecar = await start_sidecar(
        "[nodes.flow.cheap]\nprimary = 'compatible/compatible-default'\nmax_output_tokens = 100\n".replace("'", '"')
        + '[budgets.tenant_month]\nlimit_usd = "0.1"\n'
    )
    rich = await account(sidecar, tenant)
    assert rich.limit_nano_usd == 30_000_000_000
    upstream.on("compatible-default", Say(tokens=Tokens(input=11, output=30_000)))  # 0.12 USD: an overrun, posted in full
    reply = await sidecar.llm.Generate(ask("", tenant, "flow.cheap"))
    assert reply.cost.nano_usd == 120_011_000
    upstream.on("compatible-default", Say())
    before = len(upstream.asked("compatible-default"))
    got = await failed(sidecar.llm.Generate(ask("", tenant, "flow.cheap")))
    assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
    assert f"tenant:{tenant}:month" in got.message
    assert got.retry_after_s > 0
    assert len(upstream.asked("compatible-default")) == before
    assert (await sidecar.llm.Generate(ask("", tenant + "x", "flow.cheap"))).text == "Hello, world!"


async def test_missing_vector_is_no_answer(sidecar, upstream, fresh, tenant):
    models = {provider: fresh(provider) for provider in ("openai", "google", "ollama", "compatible")}

    async def ask_for_three(model: str):
        upstream.on(model, Vectors(missing=1))
        return await failed(sidecar.llm.Embed(pb.EmbedRequest(inputs=["a", "b", "c"], model=model, caller=pb.Caller(tenant=tenant))))

    for got in await asyncio.gather(*map(ask_for_three, models.values())):
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "PROVIDER_GARBLED"), got
        assert "3" in got.message
        assert "2" in got.message


async def test_wrong_content_length_is_a_failure(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Raw(b'{"choices": [', promised=5000), Say())
    reply = await sidecar.llm.Generate(ask(model))
    assert [a.outcome for a in reply.attempts] == ["PROVIDER_UNAVAILABLE", "ok"]
    assert tokens(reply.usage) == (11, 0, 0, 7, 0)
