"""Every call, answered by every provider: what was asked reaches it, what it says reaches the caller, with tokens and price."""

from __future__ import annotations

import asyncio
import json
import math

import grpc
import pytest

from sidecar.v1 import llm_pb2 as pb
from tests.conduct.faults import KEYS
from tests.fakes.script import Fail, Say, Tokens, Tool, Vectors, vector_of
from tests.fakes.wires import Anthropic, Google, Ollama
from tests.flow.reading import account, failed, nano_usd, streamed, tokens

ALL = ("openai", "anthropic", "google", "ollama", "compatible")
EMBEDDERS = ("openai", "google", "ollama", "compatible")
WEATHER = pb.Tool(
    name="weather",
    description="Tells the weather.",
    parameters='{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}',
)
SCHEMA = """{"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}, "required": ["b", "a"],
"additionalProperties": false}"""


def turns(*said: tuple[int, str]) -> list[pb.Message]:
    return [pb.Message(role=role, parts=[pb.Part(text=text)]) for role, text in said]


def spent(provider: str, usage: Tokens) -> tuple[int, int, int, int, int]:
    """What the sidecar must report for these tokens: a wire that cannot say a thing cannot report it."""
    if provider == "ollama":  # it knows a prompt and an answer, and nothing of caches or of reasoning
        return usage.input + usage.cached, 0, 0, usage.output + usage.reasoning, 0
    if provider == "google":  # written tokens are not told apart
        return usage.input + usage.cache_write, usage.cached, 0, usage.output, usage.reasoning
    return usage.input, usage.cached, usage.cache_write, usage.output, usage.reasoning


@pytest.mark.parametrize("provider", ALL)
async def test_generate(sidecar, upstream, fresh, tenant, provider):
    model = fresh(provider)
    usage = Tokens(input=100, cached=20, cache_write=0, output=30, reasoning=5)
    upstream.on(model, Say(pieces=("Grüße ", "aus ", "서울 🌦"), tokens=usage))
    reply = await sidecar.llm.Generate(pb.GenerateRequest(prompt="Hi", model=model, caller=pb.Caller(tenant=tenant)))
    assert reply.text == "Grüße aus 서울 🌦"
    assert reply.finish_reason == pb.FINISH_REASON_STOP
    assert (reply.model, reply.provider, reply.fallback) == (model, provider, False)
    assert tokens(reply.usage) == spent(provider, usage)
    assert not reply.usage.estimated
    assert reply.cost.nano_usd == nano_usd(reply.usage) > 0
    assert reply.cost.as_of == "2026-01-02"
    assert [(a.provider, a.model, a.outcome) for a in reply.attempts] == [(provider, model, "ok")]
    assert reply.timing.total.ToNanoseconds() > 0
    assert len(reply.id) == 32
    paid = await account(sidecar, tenant)
    assert (paid.used_nano_usd, paid.pending_nano_usd, paid.pending_tokens) == (reply.cost.nano_usd, 0, 0)
    assert paid.used_tokens == sum(tokens(reply.usage))


@pytest.mark.parametrize("provider", ALL)
async def test_stream(sidecar, upstream, fresh, tenant, provider):
    model = fresh(provider)
    pieces = tuple(f"[{i}]" for i in range(40))
    usage = Tokens(input=100, cached=20, output=30, reasoning=5)
    upstream.on(model, Say(pieces=pieces, tokens=usage, delay_ms=2))
    got = await streamed(sidecar.llm.Stream(pb.GenerateRequest(prompt="Hi", model=model, caller=pb.Caller(tenant=tenant))))
    assert got.text == "".join(pieces)
    assert (got.start.model, got.start.provider, got.start.id) == (model, provider, got.end.id)
    assert got.end.finish_reason == pb.FINISH_REASON_STOP
    assert tokens(got.end.usage) == spent(provider, usage)
    assert got.end.cost.nano_usd == nano_usd(got.end.usage) > 0
    assert got.end.timing.first_token.ToNanoseconds() <= got.end.timing.total.ToNanoseconds()
    paid = await account(sidecar, tenant)
    assert (paid.used_nano_usd, paid.pending_nano_usd) == (got.end.cost.nano_usd, 0)


@pytest.mark.parametrize("provider", ALL)
async def test_pieces_arrive_while_the_provider_still_speaks(sidecar, upstream, fresh, provider):
    model, gate = fresh(provider), asyncio.Event()
    upstream.on(model, Say(pieces=("first", " second"), gate=gate, hold_after=1))
    stream = sidecar.llm.Stream(pb.GenerateRequest(prompt="Hi", model=model))
    assert (await stream.read()).WhichOneof("event") == "start"
    assert (await stream.read()).text_delta == "first"  # the provider has not said, nor will it before the gate opens, the second piece
    gate.set()
    assert (await stream.read()).text_delta == " second"
    assert (await stream.read()).WhichOneof("event") == "end"
    assert await stream.read() is grpc.aio.EOF


@pytest.mark.parametrize("provider", ALL)
async def test_system_turns_and_sampling_reach_the_provider(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    request = pb.GenerateRequest(
        model=model,
        system="Be brief.",
        messages=turns((pb.ROLE_USER, "one?"), (pb.ROLE_ASSISTANT, "two"), (pb.ROLE_USER, "three?")),
        temperature=0.25,
        top_p=0.5,
        max_output_tokens=77,
        stop=["END"],
    )
    assert (await sidecar.llm.Generate(request)).text == "Hello, world!"
    exchange = await upstream.request(model)
    body, sent = exchange.body, json.dumps(exchange.body)
    order = [sent.index(word) for word in ("one?", "two", "three?")]
    assert order == sorted(order)
    assert "Be brief." in sent
    place = body if exchange.wire not in (Google, Ollama) else body["generationConfig" if exchange.wire is Google else "options"]
    assert 0.25 in place.values()
    assert 0.5 in place.values()
    assert 77 in place.values()
    assert ["END"] in place.values()


@pytest.mark.parametrize("provider", ALL)
@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_tools_there_and_back(sidecar, upstream, fresh, provider, way):
    model = fresh(provider)
    upstream.on(model, Say(pieces=(), tools=(Tool("weather", '{"city":"Seoul"}'),), finish="tool_calls"), Say(pieces=("Rain.",)))
    asked = pb.GenerateRequest(model=model, messages=turns((pb.ROLE_USER, "Weather?")), tools=[WEATHER])
    if way == "Generate":
        reply = await sidecar.llm.Generate(asked)
        calls = reply.tool_calls
        end = reply
    else:
        got = await streamed(sidecar.llm.Stream(asked))
        calls, end = got.tools, got.end
        assert list(end.tool_calls) == calls
    assert end.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert [c.name for c in calls] == ["weather"]
    assert json.loads(calls[0].arguments) == {"city": "Seoul"}
    assert calls[0].id
    sent = json.dumps((await upstream.request(model)).body)
    assert "Tells the weather." in sent
    back = pb.GenerateRequest(model=model, tools=[WEATHER], messages=turns((pb.ROLE_USER, "Weather?")))
    back.messages.append(pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(tool_call=calls[0])]))
    result = pb.ToolResult(tool_call_id=calls[0].id, content='{"sky": "grey"}')
    back.messages.append(pb.Message(role=pb.ROLE_TOOL, parts=[pb.Part(tool_result=result)]))
    assert (await sidecar.llm.Generate(back)).text == "Rain."
    assert "grey" in json.dumps((await upstream.request(model, 1)).body)


@pytest.mark.parametrize("provider", ["openai", "compatible"])
async def test_two_tool_calls_in_pieces_keep_apart(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    both = (Tool("weather", '{"city":"Seoul"}', id="a", piece=3), Tool("weather", '{"city":"Busan"}', id="b", piece=5))
    upstream.on(model, Say(pieces=("Let me look.",), tools=both, finish="tool_calls"))
    got = await streamed(sidecar.llm.Stream(pb.GenerateRequest(model=model, prompt="Weather?", tools=[WEATHER])))
    assert [(c.id, json.loads(c.arguments)["city"]) for c in got.tools] == [("a", "Seoul"), ("b", "Busan")]
    assert got.text == "Let me look."


@pytest.mark.parametrize("provider", ["openai", "google", "ollama", "compatible"])
async def test_json_object_is_asked_for(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(pieces=('{"a": 1}',)))
    asked = pb.GenerateRequest(model=model, prompt="JSON!", response_format=pb.ResponseFormat(json_object=pb.JsonObjectFormat()))
    assert json.loads((await sidecar.llm.Generate(asked)).text) == {"a": 1}
    body = (await upstream.request(model)).body
    assert "json" in json.dumps(body.get("response_format") or body.get("format") or body["generationConfig"])


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
async def test_strict_schema_reaches_the_provider_in_its_order(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(pieces=('{"b":', ' 2, "a": 1}')))
    form = pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(name="pair", schema=SCHEMA, strict=True))
    got = await streamed(sidecar.llm.Stream(pb.GenerateRequest(model=model, prompt="?", response_format=form)))
    assert json.loads(got.text) == {"b": 2, "a": 1}
    sent = json.dumps((await upstream.request(model)).body)
    assert sent.index('"b"') < sent.index('"a"')


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
async def test_strict_answer_that_does_not_fit_is_never_passed_on(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(pieces=('{"b": "two"', ', "a": 1}')))
    form = pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(schema=SCHEMA, strict=True))
    got = await failed(sidecar.llm.Generate(pb.GenerateRequest(model=model, prompt="?", response_format=form)))
    assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "SCHEMA_VIOLATED")
    assert got.partial.cost.nano_usd > 0  # it was billed all the same


@pytest.mark.parametrize("provider", ALL)
async def test_image_reaches_the_provider(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    image = pb.Image(data=b"\x89PNG-not-really", mime_type="image/png")
    message = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="What is this?"), pb.Part(image=image)])
    assert (await sidecar.llm.Generate(pb.GenerateRequest(model=model, messages=[message]))).text
    assert "iVBORy1ub3QtcmVhbGx5" in json.dumps((await upstream.request(model)).body)


FINISHES = [
    *((p, "length", pb.FINISH_REASON_LENGTH) for p in ALL),
    *((p, "content_filter", pb.FINISH_REASON_CONTENT_FILTER) for p in ("openai", "google", "compatible")),
    *((p, "refusal", pb.FINISH_REASON_REFUSAL) for p in ("openai", "anthropic", "compatible")),
]


@pytest.mark.parametrize(("provider", "finish", "expected"), FINISHES)
async def test_finish_reasons_are_answers(sidecar, upstream, fresh, provider, finish, expected):
    model = fresh(provider)
    upstream.on(model, Say(pieces=("As far", " as it went"), finish=finish))
    whole = await sidecar.llm.Generate(pb.GenerateRequest(model=model, prompt="?"))
    got = await streamed(sidecar.llm.Stream(pb.GenerateRequest(model=model, prompt="?")))
    assert (whole.finish_reason, got.end.finish_reason) == (expected, expected)
    assert whole.text == got.text == "As far as it went"
    assert len(upstream.asked(model)) == 2  # an answer is never a reason to ask again


@pytest.mark.parametrize("provider", ALL)
async def test_reasoning_is_shown_and_apart(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(reasoning=("Let me", " think."), pieces=("42",), tokens=Tokens(input=10, output=1, reasoning=9)))
    whole = await sidecar.llm.Generate(pb.GenerateRequest(model=model, prompt="?"))
    got = await streamed(sidecar.llm.Stream(pb.GenerateRequest(model=model, prompt="?")))
    assert (whole.reasoning, whole.text) == (got.reasoning, got.text) == ("Let me think.", "42")
    if provider != "ollama":
        assert tokens(whole.usage) == tokens(got.end.usage) == (10, 0, 0, 1, 9)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "compatible"])
async def test_the_providers_own_id_is_told(sidecar, fresh, provider):
    model = fresh(provider)
    assert (await sidecar.llm.Generate(pb.GenerateRequest(model=model, prompt="?"))).provider_request_id == "req_fake"
    assert (await streamed(sidecar.llm.Stream(pb.GenerateRequest(model=model, prompt="?")))).end.provider_request_id == "req_fake"


async def test_anthropic_counts_cache_writes(sidecar, upstream, fresh):
    model = fresh("anthropic")
    upstream.on(model, Say(tokens=Tokens(input=3, cached=50, cache_write=200, output=4)))
    got = await streamed(sidecar.llm.Stream(pb.GenerateRequest(model=model, prompt="?")))
    assert tokens(got.end.usage) == (3, 50, 200, 4, 0)
    assert got.end.cost.nano_usd == nano_usd(got.end.usage)
    assert (await upstream.request(model)).wire is Anthropic


@pytest.mark.parametrize("provider", ["openai", "ollama", "compatible", "google"])
@pytest.mark.parametrize("way", ["Generate", "Stream"])
async def test_usage_that_the_provider_does_not_tell_is_estimated(sidecar, upstream, fresh, provider, way):
    model = fresh(provider)
    upstream.on(model, Say(tokens=None))
    asked = pb.GenerateRequest(model=model, prompt="How many tokens is this?")
    end = await sidecar.llm.Generate(asked) if way == "Generate" else (await streamed(sidecar.llm.Stream(asked))).end
    assert end.usage.estimated
    assert end.usage.input_tokens > 0
    assert end.usage.output_tokens > 0
    assert end.cost.nano_usd == nano_usd(end.usage)


@pytest.mark.parametrize("provider", EMBEDDERS)
async def test_embed(sidecar, upstream, fresh, tenant, provider):
    model = fresh(provider)
    upstream.on(model, Vectors(size=16, tokens=6, backwards=provider in ("openai", "compatible")))
    reply = await sidecar.llm.Embed(pb.EmbedRequest(inputs=["eins", "zwei", "drei"], model=model, caller=pb.Caller(tenant=tenant)))
    for vector, text in zip(reply.vectors, ("eins", "zwei", "drei"), strict=True):
        expected = vector_of(text, 16)
        length = math.hypot(*expected) if provider == "google" else 1  # Gemini's are brought to length 1
        assert list(vector.values) == pytest.approx([value / length for value in expected], rel=1e-6)
    assert (reply.model, reply.provider, reply.fallback) == (model, provider, False)
    assert reply.usage.input_tokens > 0
    assert reply.usage.estimated == (provider == "google")  # its wire does not tell
    assert reply.cost.nano_usd == nano_usd(reply.usage)
    assert (await account(sidecar, tenant)).used_nano_usd == reply.cost.nano_usd


@pytest.mark.parametrize("provider", EMBEDDERS)
async def test_embed_shortened(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    reply = await sidecar.llm.Embed(pb.EmbedRequest(inputs=["eins"], model=model, dimensions=4))
    assert len(reply.vectors[0].values) == 4


async def test_openai_vectors_travel_as_base64(sidecar, upstream, fresh):
    model = fresh("openai")
    await sidecar.llm.Embed(pb.EmbedRequest(inputs=["eins"], model=model))
    assert (await upstream.request(model)).body["encoding_format"] == "base64"  # as text they cost five times the time


@pytest.mark.parametrize("provider", ALL)
async def test_count_tokens_calls_nobody(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    counted = await sidecar.llm.CountTokens(
        pb.CountTokensRequest(generate=pb.GenerateRequest(model=model, prompt="one two three", tools=[WEATHER]))
    )
    bare = await sidecar.llm.CountTokens(pb.CountTokensRequest(generate=pb.GenerateRequest(model=model, prompt="one two three")))
    assert counted.input_tokens > bare.input_tokens >= 3
    assert (counted.model, counted.provider, counted.context_tokens) == (model, provider, 100_000)
    assert counted.input_cost.nano_usd == counted.input_tokens * 1_000
    assert upstream.asked(model) == []


async def test_count_tokens_is_exact_where_the_tokenizer_is_public(sidecar):
    asked = pb.GenerateRequest(model="gpt-4o", prompt="tiktoken is great!")
    counted = await sidecar.llm.CountTokens(pb.CountTokensRequest(generate=asked))
    assert (counted.tokenizer, counted.estimated) == ("o200k_base", False)
    assert counted.input_tokens == 6 + 7  # six tokens of text, and OpenAI's own frame around one user message
    embedded = await sidecar.llm.CountTokens(
        pb.CountTokensRequest(embed=pb.EmbedRequest(inputs=["tiktoken is great!"], model="text-embedding-3-small"))
    )
    assert (embedded.tokenizer, embedded.input_tokens) == ("cl100k_base", 6)


async def test_echo_answers_all_four_calls(sidecar):
    asked = pb.GenerateRequest(model="echo/echo", prompt="to be or not to be")
    whole = await sidecar.llm.Generate(asked)
    got = await streamed(sidecar.llm.Stream(asked))
    assert whole.text == got.text == "to be or not to be"
    assert got.kinds.count("text_delta") > 1
    assert whole.cost.nano_usd == 0
    assert whole.usage.output_tokens == 6
    vectors = await sidecar.llm.Embed(pb.EmbedRequest(inputs=["a", "a", "b"], model="echo/echo"))
    assert vectors.vectors[0] == vectors.vectors[1] != vectors.vectors[2]
    assert (await sidecar.llm.CountTokens(pb.CountTokensRequest(generate=asked))).input_tokens > 0


async def test_provider_options_are_handed_through(sidecar, upstream, fresh):
    model = fresh("openai")
    asked = pb.GenerateRequest(model=model, prompt="?", temperature=0.5)
    asked.provider_options.update({"service_tier": "flex", "temperature": 0.75, "top_logprobs": 3})
    await sidecar.llm.Generate(asked)
    body = (await upstream.request(model)).body
    assert (body["service_tier"], body["temperature"]) == ("flex", 0.75)
    assert isinstance(body["top_logprobs"], int)


async def test_caller_may_come_as_metadata(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    reply = await sidecar.llm.Generate(pb.GenerateRequest(model=model, prompt="?"), metadata=(("x-sidecar-tenant", tenant),))
    assert (await account(sidecar, tenant)).used_nano_usd == reply.cost.nano_usd


async def test_unknown_node_is_answered_with_a_notice(sidecar, upstream):
    reply = await sidecar.llm.Generate(pb.GenerateRequest(prompt="?", caller=pb.Caller(node="flow.nowhere")))
    assert reply.model == "compatible-default"
    assert any("flow.nowhere" in notice for notice in reply.notices)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
async def test_a_key_never_shows(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Fail(401, message="Incorrect API key provided: sk-test-openai-000000 sk-ant-test-000000 AIzaTest000000000"))
    got = await failed(sidecar.llm.Generate(pb.GenerateRequest(model=model, prompt="?")))
    assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROVIDER_AUTH_FAILED")
    for shown in (got.message, str(got), sidecar.log):
        assert not any(key in shown for key in KEYS)
    assert len(upstream.asked(model)) == 1
