"""Bad input, item by item: a typed status whose message says field, value and limit; and the server goes on."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from tests.fakes.script import Raw, Say, Stall
from tests.flow import raw_http2
from tests.flow.reading import failed, stream_failed, streamed

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ALL = ("openai", "anthropic", "google", "ollama", "compatible")
M = "compatible-default"


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def goes_on(sidecar):
    """Whatever a test sent: afterwards the server answers."""
    yield
    assert (await sidecar.llm.Generate(pb.GenerateRequest(prompt="still there?", model="echo/echo"), timeout=10)).text == "still there?"
    await sidecar.until_idle()
    assert sidecar.process.returncode is None


def user(*parts: pb.Part) -> pb.Message:
    return pb.Message(role=pb.ROLE_USER, parts=parts)


def text(value: str = "hi") -> pb.Part:
    return pb.Part(text=value)


def ask(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"prompt": "hi", "model": M} | fields)


def schema(value: str, **rest: object) -> pb.ResponseFormat:
    return pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(schema=value, **rest))


def called(*ids: str, arguments: str = "{}") -> pb.Message:
    calls = [pb.Part(tool_call=pb.ToolCall(id=one, name="t", arguments=arguments)) for one in ids]
    return pb.Message(role=pb.ROLE_ASSISTANT, parts=calls)


def answered(*ids: str) -> pb.Message:
    return pb.Message(role=pb.ROLE_TOOL, parts=[pb.Part(tool_result=pb.ToolResult(tool_call_id=one, content="x")) for one in ids])


PNG = pb.Part(image=pb.Image(data=b"x", mime_type="image/png"))
TOOL = pb.Tool(name="t", parameters='{"type": "object"}')
RESULT = pb.Part(tool_result=pb.ToolResult(tool_call_id="nobody", content="x"))

# id: request, reason, field, what the message must name
BAD = {
    "empty_prompt": (ask(prompt=""), "INVALID_REQUEST", "prompt", ("prompt", "messages")),
    "blank_prompt": (ask(prompt=" \n\t"), "INVALID_REQUEST", "prompt", ("white space",)),
    "blank_messages": (ask(prompt="", messages=[user(text(" \n"))]), "INVALID_REQUEST", "messages", ("say something",)),
    "no_messages": (pb.GenerateRequest(), "INVALID_REQUEST", "prompt", ("messages",)),
    "empty_messages": (ask(prompt="", messages=[user()]), "INVALID_REQUEST", "messages[0].parts", ("empty",)),
    "empty_part": (ask(prompt="", messages=[user(pb.Part())]), "INVALID_REQUEST", "messages[0].parts[0]", ("text", "image")),
    "unset_role": (ask(prompt="", messages=[pb.Message(parts=[text()])]), "INVALID_REQUEST", "messages[0].role", ("0", "ROLE_USER")),
    "unknown_role": (
        ask(prompt="", messages=[pb.Message(role=9, parts=[text()])]), "INVALID_REQUEST", "messages[0].role", ("9", "ROLE_USER"),
    ),
    "prompt_and_messages": (ask(messages=[user(text())]), "INVALID_REQUEST", "prompt", ("prompt", "messages", "both")),
    "five_megabytes": (ask(prompt="x" * 5_000_000), "INVALID_REQUEST", "prompt", ("5000000", "4194304")),
    "over_the_context": (ask(model="compatible-small", prompt="word " * 1000), "PROMPT_TOO_LONG", "prompt", ("200", "compatible-small")),
    "image_without_vision": (
        ask(model="compatible-blind", prompt="", messages=[user(text(), PNG)]),
        "UNSUPPORTED_FEATURE", "messages", ("image", "compatible-blind"),
    ),
    "tools_without_tools": (ask(model="compatible-blind", tools=[TOOL]), "UNSUPPORTED_FEATURE", "tools", ("tools", "compatible-blind")),
    "temperature_nan": (ask(temperature=math.nan), "INVALID_REQUEST", "temperature", ("nan", "0 to 2")),
    "temperature_three": (ask(temperature=3.0), "INVALID_REQUEST", "temperature", ("3.0", "0 to 2")),
    "temperature_infinite": (ask(temperature=math.inf), "INVALID_REQUEST", "temperature", ("inf", "0 to 2")),
    "top_p_zero": (ask(top_p=0.0), "INVALID_REQUEST", "top_p", ("0.0", "at most 1")),
    "max_tokens_zero": (ask(max_output_tokens=0), "INVALID_REQUEST", "max_output_tokens", ("0", "at least 1")),
    "max_tokens_negative": (ask(max_output_tokens=-5), "INVALID_REQUEST", "max_output_tokens", ("-5", "at least 1")),
    "schema_no_json": (ask(response_format=schema("{not json")), "INVALID_REQUEST", "response_format.json_schema.schema", ("JSON",)),
    "schema_no_schema": (
        ask(response_format=schema('{"type": "banana"}')), "INVALID_REQUEST", "response_format.json_schema.schema", ("banana",),
    ),
    "schema_empty": (ask(response_format=schema("")), "INVALID_REQUEST", "response_format.json_schema.schema", ("empty",)),
    "schema_no_object": (ask(response_format=schema("[1]")), "INVALID_REQUEST", "response_format.json_schema.schema", ("object",)),
    "schema_name": (
        ask(response_format=schema('{"type": "object"}', name="a b")), "INVALID_REQUEST", "response_format.json_schema.name", ("a b", "64"),
    ),
    "tool_parameters": (
        ask(tools=[pb.Tool(name="t", parameters='{"type": 7}')]), "INVALID_REQUEST", "tools[0].parameters", ("7",),
    ),
    "tool_name": (ask(tools=[pb.Tool(name="no spaces please")]), "INVALID_REQUEST", "tools[0].name", ("no spaces please", "64")),
    "tool_twice": (ask(tools=[TOOL, TOOL]), "INVALID_REQUEST", "tools[1].name", ("t", "differ")),
    "tool_choice_of_nothing": (ask(tool_choice=pb.ToolChoice(mode=3)), "INVALID_REQUEST", "tool_choice", ("tools is empty",)),
    "tool_choice_unknown": (ask(tools=[TOOL], tool_choice=pb.ToolChoice(mode=9)), "INVALID_REQUEST", "tool_choice.mode", ("9", "0 to 4")),
    "result_of_nothing": (
        ask(prompt="", messages=[user(text()), pb.Message(role=pb.ROLE_TOOL, parts=[RESULT])]),
        "INVALID_REQUEST", "messages[1].parts[0]", ("nobody",),
    ),
    "call_with_broken_arguments": (
        ask(prompt="", messages=[user(text()), called("c1", arguments='{"a": '), answered("c1")]),
        "INVALID_REQUEST", "messages[1].parts[0].tool_call.arguments", ("no JSON",),
    ),
    "call_with_a_list_for_arguments": (
        ask(prompt="", messages=[user(text()), called("c1", arguments="[1]"), answered("c1")]),
        "INVALID_REQUEST", "messages[1].parts[0].tool_call.arguments", ("no JSON object",),
    ),
    "call_without_result": (
        ask(prompt="", messages=[user(text()), called("c1"), user(text())]),
        "INVALID_REQUEST", "messages[1].parts[0]", ("c1", "ROLE_TOOL"),
    ),
    "second_call_without_result": (
        ask(prompt="", messages=[user(text()), called("c1", "c2"), answered("c1"), user(text())]),
        "INVALID_REQUEST", "messages[1].parts[1]", ("c2", "tool_result"),
    ),
    "last_call_without_result": (
        ask(prompt="", messages=[user(text()), called("c1", "c2"), answered("c2")]),
        "INVALID_REQUEST", "messages[1].parts[0]", ("c1",),
    ),
    "image_in_an_answer": (
        ask(prompt="", messages=[pb.Message(role=pb.ROLE_ASSISTANT, parts=[PNG]), user(text())]),
        "INVALID_REQUEST", "messages[0].parts[0]", ("image", "ROLE_ASSISTANT"),
    ),
    "image_type": (
        ask(prompt="", messages=[user(text(), pb.Part(image=pb.Image(data=b"x", mime_type="image/tiff")))]),
        "INVALID_REQUEST", "messages[0].parts[1].image.mime_type", ("image/tiff", "image/png"),
    ),
    "answer_last": (
        ask(prompt="", messages=[user(text()), pb.Message(role=pb.ROLE_ASSISTANT, parts=[text()])]),
        "INVALID_REQUEST", "messages", ("ROLE_ASSISTANT",),
    ),
    "system_late": (
        ask(prompt="", messages=[user(text()), pb.Message(role=pb.ROLE_SYSTEM, parts=[text()]), user(text())]),
        "INVALID_REQUEST", "messages[1]", ("ROLE_SYSTEM",),
    ),
    "stops": (ask(stop=list("abcde")), "INVALID_REQUEST", "stop", ("5", "4")),
    "unknown_model": (ask(model="gpt-4oo"), "UNKNOWN_MODEL", "model", ("gpt-4oo", "gpt-4o")),
    "unknown_provider": (ask(model="opnai/gpt-4o"), "UNKNOWN_MODEL", "model", ("opnai", "openai")),
    "unknown_model_of_a_provider": (ask(model="openai/gpt-4oo"), "UNKNOWN_MODEL", "model", ("gpt-4oo", "gpt-4o")),
    "model_too_long": (ask(model="m" * 300), "INVALID_REQUEST", "model", ("300 bytes", "256")),
    "model_with_newline": (ask(model="compatible/a\nb"), "INVALID_REQUEST", "model", ("a\\nb", "printable")),
    "tenant_too_long": (ask(caller=pb.Caller(tenant="x" * 300)), "INVALID_REQUEST", "caller.tenant", ("300", "256")),
    "tenant_with_newline": (ask(caller=pb.Caller(tenant="a\nb")), "INVALID_REQUEST", "caller.tenant", ("a\\nb",)),
    "node_of_another_service": (ask(caller=pb.Caller(service="a", node="b.c")), "INVALID_REQUEST", "caller.node", ("b.c", "'a'")),
    "step": (ask(caller=pb.Caller(step=-1)), "INVALID_REQUEST", "caller.step", ("-1",)),
    "cache_mode": (ask(cache=pb.CachePolicy(mode=9)), "INVALID_REQUEST", "cache.mode", ("9",)),
    "on_cut": (ask(on_cut=9), "INVALID_REQUEST", "on_cut", ("9",)),
    "idempotency_key": (ask(idempotency_key="k" * 257), "INVALID_REQUEST", "idempotency_key", ("257", "256")),
    "option_model": (ask(provider_options={"model": "dearer"}), "INVALID_REQUEST", "provider_options.model", ("dearer", "set model")),
    "schema_of_nobody": (
        ask(response_format=schema('{"$schema": "http://example.com/mine"}')),
        "INVALID_REQUEST", "response_format.json_schema.schema", ("example.com",),
    ),
    "schema_from_elsewhere": (
        ask(response_format=schema('{"$ref": "file:///etc/passwd"}')), "INVALID_REQUEST", "response_format.json_schema.schema", ("file:///",),
    ),
    "schema_without_bottom": (
        ask(response_format=schema('{"not": ' * 50_000 + "{}" + "}" * 50_000)),
        "INVALID_REQUEST", "response_format.json_schema.schema", ("recursion",),
    ),
    "arguments_without_bottom": (
        ask(tools=[pb.Tool(name="t", parameters="[" * 100_000)]), "INVALID_REQUEST", "tools[0].parameters", ("recursion",),
    ),
    "echo_option": (ask(model="echo/echo", provider_options={"fial": "cut"}), "INVALID_REQUEST", "provider_options", ("fial",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_bad_request(sidecar, case):
    request, reason, field, named = BAD[case]
    for got in (
        await failed(sidecar.llm.Generate(request)),
        await stream_failed(sidecar.llm.Stream(request)),
        await failed(sidecar.llm.CountTokens(pb.CountTokensRequest(generate=request))) if case != "echo_option" else None,
    ):
        if got is None:
            continue
        assert (got.code, got.reason, got.field) == (INVALID, reason, field), got
        for word in named:
            assert word in got.message, f"{word!r} is not in {got.message!r}"
        assert len(got.message) < 500
        assert got.partial is None or case == "echo_option"  # only echo itself can judge its options: it was asked


OWNED_OPTIONS = {
    "model": "dearer",
    "messages": [{"role": "user", "content": "secret"}],
    "contents": [],
    "prompt": "secret",
    "system": "secret",
    "system_instruction": {"parts": []},
    "input": "secret",
    "stream": True,
    "stream_options": {"include_usage": False},
    "n": 2,
    "max_tokens": 100_000,
    "max_completion_tokens": 100_000,
    "max_output_tokens": 100_000,
    "generationConfig.maxOutputTokens": 100_000,
    "generation_config.max_output_tokens": 100_000,
    "generationConfig.candidateCount": 4,
    "options.num_predict": -1,
    "extra_body.model": "dearer",
}


@pytest.mark.parametrize("name", OWNED_OPTIONS)
async def test_option_that_the_request_has_a_field_for(sidecar, upstream, fresh, name):
    model = fresh("compatible")
    outer, dot, inner = name.partition(".")
    options = {outer: {"x": 1, inner: OWNED_OPTIONS[name]} if dot else OWNED_OPTIONS[name]}
    for got in (
        await failed(sidecar.llm.Generate(ask(model=model, provider_options=options))),
        await stream_failed(sidecar.llm.Stream(ask(model=model, provider_options=options))),
        await failed(sidecar.llm.Embed(pb.EmbedRequest(model=model, inputs=["a"], provider_options=options))),
    ):
        assert (got.code, got.reason, got.field) == (INVALID, "INVALID_REQUEST", f"provider_options.{name}"), got
        assert got.field in got.message
        assert "secret" not in got.message
        assert got.partial is None
    assert upstream.asked(model) == []


async def test_options_that_only_look_like_fields_are_handed_on(sidecar, upstream, fresh):
    model = fresh("compatible")
    options = {"n": 1, "metadata": {"model": "mine"}, "logit_bias": {"17": -1}}
    await sidecar.llm.Generate(ask(model=model, provider_options=options))
    body = (await upstream.request(model)).body
    assert {key: body[key] for key in options} == options


async def test_huge_max_tokens_is_lowered_and_told(sidecar, upstream, fresh):
    model = fresh("compatible")
    reply = await sidecar.llm.Generate(ask(model=model, max_output_tokens=2**62))
    assert (await upstream.request(model)).body["max_tokens"] == 8_192
    assert any("max_output_tokens" in notice and "8192" in notice for notice in reply.notices)


BAD_TEXTS = {
    "no_inputs": (pb.EmbedRequest(model=M), "INVALID_REQUEST", "inputs", ("0", "2048")),
    "blank_input": (pb.EmbedRequest(model=M, inputs=["a", " \n"]), "INVALID_REQUEST", "inputs[1]", ("white space",)),
    "empty_input": (pb.EmbedRequest(model=M, inputs=["a", ""]), "INVALID_REQUEST", "inputs[1]", ("empty",)),
    "too_many": (pb.EmbedRequest(model=M, inputs=["a"] * 2049), "INVALID_REQUEST", "inputs", ("2049", "2048")),
    "dimensions": (pb.EmbedRequest(model=M, inputs=["a"], dimensions=0), "INVALID_REQUEST", "dimensions", ("0",)),
    "no_embedder": (pb.EmbedRequest(model="compatible-blind", inputs=["a"]), "UNSUPPORTED_FEATURE", "model", ("embed", "compatible-blind")),
    "anthropic": (pb.EmbedRequest(model="anthropic-0", inputs=["a"]), "UNSUPPORTED_FEATURE", "model", ("embed", "anthropic-0")),
    "unknown": (
        pb.EmbedRequest(model="text-embedding-4", inputs=["a"]),
        "UNKNOWN_MODEL",
        "model",
        ("text-embedding-4", "text-embedding-3"),
    ),
    "over_the_context": (pb.EmbedRequest(model="compatible-small", inputs=["word " * 1000]), "PROMPT_TOO_LONG", "inputs", ("200",)),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
async def test_bad_embed_request(sidecar, case):
    request, reason, field, named = BAD_TEXTS[case]
    got = await failed(sidecar.llm.Embed(request))
    assert (got.code, got.reason, got.field) == (INVALID, reason, field), got
    for word in named:
        assert word in got.message, f"{word!r} is not in {got.message!r}"


async def test_nothing_to_count(sidecar):
    got = await failed(sidecar.llm.CountTokens(pb.CountTokensRequest()))
    assert (got.code, got.field) == (INVALID, "request")


# --- the transport ----------------------------------------------------------------------------------------------------------------


async def test_message_over_the_size_limit(sidecar):
    got = await failed(sidecar.llm.Generate(ask(prompt="x" * 9_000_000)))
    assert got.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "9000" in got.message  # its size
    assert "8388608" in got.message  # the limit


async def test_metadata_that_is_not_utf8(sidecar):
    message = ask(model="echo/echo").SerializeToString()
    answer = await raw_http2.call(sidecar.target, "/sidecar.v1.LLMService/Generate", message, (b"x-sidecar-tenant", b"caf\xff\xfe"))
    assert b"grpc-status\x013" in answer, answer  # INVALID_ARGUMENT
    assert b"x-sidecar-tenant" in answer
    good = await raw_http2.call(sidecar.target, "/sidecar.v1.LLMService/Generate", message, (b"x-sidecar-tenant", b"cafe"))
    assert b"grpc-status\x010" in good, good


@pytest.mark.parametrize("left", [b"0m", b"1n"])
@pytest.mark.parametrize("method", ["Generate", "Stream", "Embed"])
async def test_deadline_of_nothing(sidecar, upstream, fresh, left, method):
    model = fresh("compatible")
    request = pb.EmbedRequest(model=model, inputs=["x"]) if method == "Embed" else ask(model=model)
    answer = await raw_http2.call(sidecar.target, f"/sidecar.v1.LLMService/{method}", request.SerializeToString(), (b"grpc-timeout", left))
    assert b"grpc-status\x014" in answer or b"reset or goaway" in answer, answer  # DEADLINE_EXCEEDED
    assert left != b"0m" or upstream.asked(model) == []  # gRPC rounds the nanosecond up to a millisecond, in which a question can be sent


@pytest.mark.parametrize("left_s", [0, -1])
async def test_deadline_that_has_passed(sidecar, left_s):
    assert (await failed(sidecar.llm.Generate(ask(), timeout=left_s))).code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_deadline_shorter_than_the_provider_needs(sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Say(first_delay_ms=5000))
    got = await failed(sidecar.llm.Generate(ask(model=model), timeout=0.4))
    assert got.code == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_bytes_that_are_no_message(sidecar):
    answer = await raw_http2.call(sidecar.target, "/sidecar.v1.LLMService/Generate", b"\xff\xff\xff\xff")
    assert b"grpc-status\x01" in answer
    assert b"grpc-status\x010" not in answer


async def test_method_that_does_not_exist(sidecar):
    assert b"grpc-status\x0212" in await raw_http2.call(sidecar.target, "/sidecar.v1.LLMService/Guess", b"")  # UNIMPLEMENTED


# --- a provider that answers nonsense ---------------------------------------------------------------------------------------------

HTML = b"<html><body>Welcome to the captive portal</body></html>"
NONSENSE = {
    "html": Raw(HTML, "text/html"),
    "html_called_json": Raw(HTML, "application/json"),
    "empty_object": Raw(b"{}"),
    "broken_json": Raw(b'{"choices": [{"mess', "application/json"),
    "json_array": Raw(b"[1, 2]"),
    "nothing": Raw(b""),
    "binary": Raw(bytes(range(256)), "application/octet-stream"),
}
STREAMED_NONSENSE = {
    "html": Raw(HTML, "text/html"),
    "html_called_events": Raw(HTML, "text/event-stream"),
    "empty_object": Raw(b"{}", "application/json"),
    "empty_object_event": Raw(b"data: {}\n\n", "text/event-stream"),
    "broken_json": Raw(b'data: {"choices": [{"del\n\n', "text/event-stream"),
    "empty_stream": Raw(b"", "text/event-stream"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def nonsense(sidecar, upstream, fresh):
    """Every provider with every kind of nonsense at the same time: each is tried again with pauses, which add up one by one."""

    async def one(provider: str, way: str, name: str, step: Raw):
        if provider == "ollama" and step.body.startswith(b"data: "):
            step = Raw(step.body.removeprefix(b"data: ").replace(b"\n\n", b"\n"), "application/x-ndjson")
        model = fresh(provider)
        upstream.on(model, step)
        request = ask(model=model)
        return await (failed(sidecar.llm.Generate(request)) if way == "Generate" else stream_failed(sidecar.llm.Stream(request)))

    steps = {("Generate", name): step for name, step in NONSENSE.items()} | {
        ("Stream", name): step for name, step in STREAMED_NONSENSE.items()
    }
    keys = [(provider, way, name) for provider in ALL for way, name in steps]
    return dict(zip(keys, await asyncio.gather(*(one(*key, steps[key[1:]]) for key in keys)), strict=True))


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("provider", ALL)
async def test_nonsense_for_an_answer(nonsense, provider, name):
    got = nonsense[provider, "Generate", name]
    reason = "PROVIDER_WRONG_TYPE" if "html" in name else "PROVIDER_GARBLED"
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, reason), got
    assert got.message.startswith(provider) or provider in got.message.lower()
    assert len(got.message) < 500


@pytest.mark.parametrize("name", STREAMED_NONSENSE)
@pytest.mark.parametrize("provider", ALL)
async def test_nonsense_for_a_stream(nonsense, provider, name):
    got = nonsense[provider, "Stream", name]
    unavailable, lost = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS
    known = ((unavailable, "PROVIDER_GARBLED"), (unavailable, "PROVIDER_WRONG_TYPE"), (lost, "STREAM_CUT"))
    assert (got.code, got.reason) in known, got
    assert got.streamed.kinds == []


@pytest.mark.parametrize("provider", ALL)
async def test_unknown_events_are_tolerated(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(unknown_events=True))
    assert (await streamed(sidecar.llm.Stream(ask(model=model)))).text == "Hello, world!"


@pytest.mark.parametrize("provider", ALL)
async def test_line_of_a_megabyte(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(pieces=("a" * 1_100_000, "!")))
    got = await streamed(sidecar.llm.Stream(ask(model=model)))
    assert len(got.text) == 1_100_001


@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("provider", ALL)
async def test_split_inside_a_character(sidecar, upstream, fresh, provider, split):
    model = fresh(provider)
    upstream.on(model, Say(pieces=("날씨는 ", "🌦️👩‍🚀", " é"), split=split))
    assert (await streamed(sidecar.llm.Stream(ask(model=model)))).text == "날씨는 🌦️👩‍🚀 é"


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google", "compatible"])
async def test_unknown_finish_reason_is_no_proof_of_an_end(sidecar, upstream, fresh, provider):
    model = fresh(provider)
    upstream.on(model, Say(raw_finish="BORED"))
    got = await stream_failed(sidecar.llm.Stream(ask(model=model)))
    assert got.code == grpc.StatusCode.DATA_LOSS
    assert got.partial.text == "Hello, world!"


async def test_stalling_provider_does_not_stop_the_others(sidecar, upstream, fresh):
    stalled, well = fresh("compatible"), fresh("compatible")
    upstream.on(stalled, Stall())
    waiting = [sidecar.llm.Generate(ask(model=stalled)) for _ in range(20)]
    await upstream.request(stalled, 19)
    assert (await sidecar.llm.Generate(ask(model=well), timeout=5)).text == "Hello, world!"
    for call in waiting:
        call.cancel()
