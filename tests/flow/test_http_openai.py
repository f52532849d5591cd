"""OpenAI's HTTP API through the socket, byte for byte: what published clients read, and what they do not look at."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

import pytest

from sidecar.v1 import llm_pb2 as pb
from tests.conftest import SMALL_MODELS
from tests.fakes.running import provider_tables, serving
from tests.fakes.script import Fail, Say, Tokens, Tool, Vectors, vector_of
from tests.flow.reading import account, settled_once

LIMITS = (
    ("x-ratelimit-limit-requests", "100"),
    ("x-ratelimit-remaining-requests", "7"),
    ("x-ratelimit-reset-requests", "30s"),
    ("x-ratelimit-limit-tokens", "5000"),
    ("x-ratelimit-remaining-tokens", "900"),
    ("x-ratelimit-reset-tokens", "30s"),
)

SOON = {"x-request-timeout-ms": "3000"}


def ask(model: str, tenant: str = "", **fields: Any) -> dict[str, Any]:
    own = {"sidecar": {"caller": {"tenant": tenant}}} if tenant else {}
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], **own, **fields}


async def post(http, sidecar, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any, dict[str, str]]:
    async with http.post(sidecar.http_url + path, json=body, headers=headers) as response:
        return response.status, await response.json(), {name.lower(): value for name, value in response.headers.items()}


async def stream(http, sidecar, body: Any) -> tuple[list[str], dict[str, str]]:
    """The data of every event, as it stands."""
    async with http.post(f"{sidecar.http_url}/v1/chat/completions", json={**body, "stream": True}) as response:
        assert response.content_type == "text/event-stream", await response.text()
        text = await response.text()
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks], {name.lower(): value for name, value in response.headers.items()}


# --- whole answers ----------------------------------------------------------------------------------------------------------------


async def test_whole_answer(http, sidecar, upstream, fresh, tenant):
    model = fresh("openai")
    upstream.on(model, Say(pieces=("It ", "rains."), tokens=Tokens(input=100, cached=20, output=30, reasoning=5), headers=LIMITS))
    status, said, headers = await post(http, sidecar, ask(model, tenant))
    assert status == 200
    facts = said.pop("sidecar")
    assert said == {
        "id": f"chatcmpl-{facts['id']}",
        "object": "chat.completion",
        "created": said["created"],
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "It rains.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 35,
            "total_tokens": 155,
            "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }
    cost = 100 * 1000 + 20 * 250 + 30 * 4000 + 5 * 5000
    assert (facts["provider"], facts["model"], facts["fallback"], facts["cache"]) == ("openai", model, False, {"kind": "KIND_NONE"})
    assert facts["cost"] == {"nano_usd": cost, "as_of": "2026-01-02"}
    assert {name: headers[name] for name in headers if name.startswith("x-sidecar")} == {
        "x-sidecar-id": facts["id"],
        "x-sidecar-provider": "openai",
        "x-sidecar-model": model,
        "x-sidecar-fallback": "false",
        "x-sidecar-cache": "none",
        "x-sidecar-cost-nano-usd": str(cost),
    }
    assert headers["x-request-id"] == facts["id"]
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("100", "7")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("5000", "900")
    assert headers["x-ratelimit-reset-tokens"].endswith("ms")
    assert await settled_once(sidecar, model, "ok", tenant) == cost


async def test_one_cache_and_one_account_behind_both_doors(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("Only once.",)), Say(pieces=("Twice.",)))
    remembered = {"sidecar": {"caller": {"tenant": tenant}, "cache": {"mode": "MODE_DEFAULT"}}}
    await post(http, sidecar, ask(model) | remembered)
    paid = (await account(sidecar, tenant)).used_nano_usd
    assert paid > 0
    asked = pb.GenerateRequest(
        model=model,
        caller=pb.Caller(tenant=tenant),
        cache=pb.CachePolicy(mode=pb.CachePolicy.MODE_DEFAULT),
        messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="Hi")])],
    )
    assert (await sidecar.llm.Generate(asked)).cache.kind == pb.CacheResult.KIND_EXACT
    _, said, headers = await post(http, sidecar, ask(model) | remembered)
    assert said["choices"][0]["message"]["content"] == "Only once."
    assert (headers["x-sidecar-cache"], headers["x-sidecar-cost-nano-usd"]) == ("exact", "0")
    assert (said["sidecar"]["cache"]["kind"], said["sidecar"]["attempts"]) == ("KIND_EXACT", [])
    assert (await account(sidecar, tenant)).used_nano_usd == paid


async def test_fallback_is_told(http, start_sidecar, upstream, tenant):
    sidecar = await start_sidecar()
    upstream.on("compatible-default", Fail(429, code="insufficient_quota"), Say())
    status, said, headers = await post(http, sidecar, ask("auto", tenant), **{"x-sidecar-node": "flow.chain"})
    assert (status, said["model"], headers["x-sidecar-model"]) == (200, "compatible-spare", "compatible-spare")
    assert (headers["x-sidecar-fallback"], said["sidecar"]["fallback"]) == ("true", True)
    assert [one["outcome"] for one in said["sidecar"]["attempts"]] == ["PROVIDER_QUOTA_EXHAUSTED", "ok"]


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings(http, sidecar, upstream, fresh, form):
    model = fresh("compatible")
    upstream.on(model, Vectors(tokens=9))
    body = {"model": model, "input": ["one", "two"], "dimensions": 4, "encoding_format": form}
    status, said, headers = await post(http, sidecar, body, "/v1/embeddings")
    assert status == 200
    facts = said.pop("sidecar")
    found = [one.pop("embedding") for one in said["data"]]
    if form == "base64":
        found = [list(struct.unpack("<4f", base64.b64decode(one))) for one in found]
    assert found == [vector_of("one", 4), vector_of("two", 4)]
    assert said == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}, {"object": "embedding", "index": 1}],
        "model": model,
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }
    assert headers["x-sidecar-cost-nano-usd"] == str(facts["cost"]["nano_usd"]) == "9000"


async def test_embeddings_of_tokens_are_those_of_their_texts(http, sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Vectors(tokens=9))
    body = {"model": model, "input": [[15_339, 1917], [0], [9468, 239]], "dimensions": 4}  # the last has half of an emoji
    status, said, _ = await post(http, sidecar, body, "/v1/embeddings")
    assert status == 200
    assert (await upstream.request(model)).body["input"] == ["hello world", "!", "\ufffd"]
    assert [one["embedding"] for one in said["data"]] == [vector_of(text, 4) for text in ("hello world", "!", "\ufffd")]
    assert said["sidecar"]["notices"] == ["1 inputs begin or end within a character: the model sees U+FFFD there"]
    assert (await post(http, sidecar, {"model": model, "input": [15_339, 1917]}, "/v1/embeddings"))[0] == 200
    assert (await upstream.request(model, 1)).body["input"] == ["hello world"]
    for wrong in ([[0], [100_257]], [[0], ["x"]], [-1], [0, 1.5]):
        status, said, _ = await post(http, sidecar, {"model": model, "input": wrong}, "/v1/embeddings")
        assert (status, said["error"]["param"]) == (400, "input"), said


# --- streams ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_usage", [False, True])
async def test_stream_chunk_by_chunk(http, sidecar, upstream, fresh, with_usage):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("It ", "rains."), delay_ms=30))
    more = {"stream_options": {"include_usage": True}} if with_usage else {}
    data, headers = await stream(http, sidecar, ask(model, **more))
    assert data.pop() == "[DONE]"
    chunks = [json.loads(one) for one in data]
    assert {(one["id"], one["object"], one["model"]) for one in chunks} == {(chunks[0]["id"], "chat.completion.chunk", model)}
    usage = chunks.pop() if with_usage else None
    assert all(("usage" in one) == with_usage and not one.get("usage") for one in chunks)
    deltas = [one["choices"][0]["delta"] for one in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(one["content"] for one in deltas[1:-1]) == "It rains."
    assert deltas[-1] == {}
    assert [one["choices"][0]["finish_reason"] for one in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    if usage is not None:
        assert usage["choices"] == []
        assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (11, 7)
    assert (usage or chunks[-1])["sidecar"]["cost"]["nano_usd"] == 39_000
    assert (headers["x-sidecar-model"], headers["x-sidecar-fallback"], headers["cache-control"]) == (
        model,
        "false",
        "no-cache, no-transform",
    )


async def test_tools_are_streamed_as_they_come(http, sidecar, upstream, fresh):
    model = fresh("compatible")
    tools = (Tool("weather", '{"city":"Seoul"}', id="call_a"), Tool("time", "{}", id="call_b"))
    upstream.on(model, Say(pieces=(), tools=tools, finish="tool_calls", split=120))
    declared = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("weather", "time")]
    data, _ = await stream(http, sidecar, ask(model, tools=declared))
    chunks = [json.loads(one) for one in data[:-1]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    calls: dict[int, dict[str, Any]] = {}
    for one in chunks:
        for piece in one["choices"][0]["delta"].get("tool_calls", ()):
            known = calls.setdefault(piece["index"], {"arguments": ""})
            known["arguments"] += piece["function"]["arguments"]
            if "id" in piece:  # only the first piece names the call
                assert "id" not in known
                known |= {"id": piece["id"], "name": piece["function"]["name"], "type": piece["type"]}
    assert calls == {
        0: {"id": "call_a", "name": "weather", "type": "function", "arguments": '{"city":"Seoul"}'},
        1: {"id": "call_b", "name": "time", "type": "function", "arguments": "{}"},
    }


async def test_broken_stream_has_an_error_and_no_done(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("half an ", "answer"), cut="close"))
    data, _ = await stream(http, sidecar, ask(model, tenant))
    assert "[DONE]" not in data
    chunks = [json.loads(one) for one in data]
    assert all(one["choices"][0]["finish_reason"] is None for one in chunks[:-1])
    error = chunks[-1]["error"]
    assert (error["type"], error["code"], error["sidecar"]["reason"]) == ("server_error", "stream_cut", "STREAM_CUT")
    assert error["sidecar"]["partial"]["text"] == "half an "
    assert int(error["sidecar"]["partial"]["cost"]["nano_usd"]) == await settled_once(sidecar, model, "STREAM_CUT", tenant) > 0


# --- what is refused --------------------------------------------------------------------------------------------------------------

REFUSED = {
    "logprobs": True,
    "top_logprobs": 3,
    "n": 2,
    "logit_bias": {"50256": -100},
    "frequency_penalty": 0.5,
    "parallel_tool_calls": False,
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "functions": [],
    "reasoning_effort": "high",
    "web_search_options": {},
    "invented": 1,
}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "role": ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
    "name": ({"messages": [{"role": "user", "content": "Hi", "name": "ann"}]}, "messages[0].name"),
    "sound": ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages[0].content[0].type"),
    "inside": ({"messages": [{"role": "user", "content": "Hi", "mood": "good"}]}, "messages[0].mood"),
    "temperature": ({"temperature": 3}, "temperature"),
    "limit": ({"max_completion_tokens": 0}, "max_completion_tokens"),
    "both limits": ({"max_completion_tokens": 5, "max_tokens": 6}, "max_tokens"),
    "options without a stream": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "tool choice": ({"tool_choice": "maybe"}, "tool_choice"),
    "schema": ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema"),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    "vendor field": ({"sidecar": {"model": "x"}}, "sidecar.model"),
    "vendor field inside": ({"sidecar": {"caller": {"tenat": "x"}}}, "sidecar.caller.tenat"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_served_is_refused_by_name(http, sidecar, upstream, name):
    before = len(upstream.asked("compatible-default"))
    status, said, headers = await post(http, sidecar, ask("compatible-default", **{name: REFUSED[name]}))
    error = said["error"]
    assert (status, error["type"], error["param"], headers["x-should-retry"]) == (400, "invalid_request_error", name, "false")
    assert error["message"].startswith(name)
    assert len(upstream.asked("compatible-default")) == before


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_mistake_is_told_with_its_place(http, sidecar, mistake):
    wrong, place = MISTAKES[mistake]
    status, said, _ = await post(http, sidecar, ask("compatible-default") | wrong)
    assert (status, said["error"]["type"], said["error"]["param"]) == (400, "invalid_request_error", place), said


async def test_what_changes_nothing_may_be_said(http, sidecar, upstream, fresh):
    model = fresh("compatible")
    meaningless = {"n": 1, "logprobs": False, "top_logprobs": 0, "frequency_penalty": 0, "logit_bias": {}, "store": False, "seed": None}
    assert (await post(http, sidecar, ask(model, **meaningless)))[0] == 200
    assert not {*meaningless} & {*(await upstream.request(model)).body}


async def test_unknown_parameters_may_be_let_pass(http, start_sidecar, upstream):
    sidecar = await start_sidecar(http='unknown_parameters = "pass"')
    asked = len(upstream.asked("compatible-default"))
    status, _, _ = await post(http, sidecar, ask("compatible-default", reasoning_effort="high", invented={"deep": [1, 2]}))
    assert status == 200
    body = upstream.asked("compatible-default")[asked].body
    assert (body["reasoning_effort"], body["invented"]) == ("high", {"deep": [1, 2]})
    status, said, _ = await post(http, sidecar, ask("compatible-default", logprobs=True))
    assert (status, said["error"]["param"]) == (400, "logprobs")  # what would be lost on the way back is refused all the same


# --- failures ---------------------------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[Fail, int, str, str]] = {
    "rate limit": (Fail(429, headers=(("retry-after", "3600"),)), 429, "requests", "rate_limit_exceeded"),
    "rejected": (Fail(400, "no such thing"), 400, "invalid_request_error", "provider_rejected"),
    "too long": (Fail(400, code="context_length_exceeded"), 400, "invalid_request_error", "context_length_exceeded"),
    "gone": (Fail(404, code="model_not_found"), 404, "invalid_request_error", "model_not_found"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", FAILURES)
async def test_failure_before_the_first_piece(http, sidecar, upstream, fresh, kind, streamed):
    step, status, type_, code = FAILURES[kind]
    model = fresh("openai")
    upstream.on(model, step)
    got, said, headers = await post(http, sidecar, ask(model, stream=streamed))
    error = said["error"]
    assert (got, error["type"], error["code"]) == (status, type_, code), said
    assert headers["x-request-id"] == headers["x-sidecar-id"] == error["sidecar"]["id"]
    assert error["message"] == error["sidecar"]["message"]
    if kind == "rate limit":
        assert headers["retry-after"] == "3600"
        assert 3_590_000 < int(headers["retry-after-ms"]) <= 3_600_000


async def test_failures_that_set_a_provider_aside(http, start_sidecar, upstream):
    """In a sidecar of their own: others would not ask that provider first for a while."""
    sidecar = await start_sidecar()
    for step, status, type_, code in (
        (Fail(429, code="insufficient_quota"), 429, "insufficient_quota", "insufficient_quota"),
        (Fail(401), 503, "server_error", "provider_auth_failed"),
    ):
        upstream.on("compatible-default", step)
        got, said, headers = await post(http, sidecar, ask("compatible-default"))
        assert (got, said["error"]["type"], said["error"]["code"], headers["x-should-retry"]) == (status, type_, code, "false")
    upstream.on("compatible-default", Say())


async def test_used_up_account_says_how_it_stands(http, tmp_path, upstream):
    tables = "[limits]\ntenant_day_tokens = 20\n" + provider_tables(upstream.url, "compatible") + SMALL_MODELS
    async with serving(tmp_path, tables) as sidecar:
        status, said, headers = await post(http, sidecar, ask("compatible-default", "poor"))
    assert (status, said["error"]["code"], said["error"]["type"]) == (429, "insufficient_quota", "insufficient_quota")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("20", "20")
    assert said["error"]["sidecar"]["facts"]["account"].startswith("tenant:poor:")


async def test_limits_are_told_while_they_hold_and_when_they_are_reached(http, tmp_path, upstream):
    tables = "[limits]\ntenant_requests_per_minute = 2\n" + provider_tables(upstream.url, "compatible") + SMALL_MODELS
    upstream.on("compatible-default", Say(headers=LIMITS), Say())
    async with serving(tmp_path, tables) as sidecar:
        told = [await post(http, sidecar, ask("compatible-default", "busy", max_tokens=9), **SOON) for _ in range(3)]
    assert [status for status, _, _ in told] == [200, 200, 429]
    assert told[2][1]["error"]["code"] == "rate_limit_exceeded"
    left = [(headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) for _, _, headers in told]
    assert left == [("2", "1"), ("2", "0"), ("2", "0")]  # the tenant's own, which are tighter than the provider's
    assert told[0][2]["x-ratelimit-limit-tokens"] == "5000"
    assert int(told[2][2]["retry-after"]) > 0
    assert told[2][2]["x-ratelimit-reset-requests"].endswith("ms")


async def test_wrong_token_in_openais_words(http, start_sidecar):
    token = hashlib.sha256(b"right").hexdigest()
    sidecar = await start_sidecar(f'[auth.tokens.acme]\nsha256 = "{token}"\ntenant = "acme"\n')
    status, said, headers = await post(http, sidecar, ask("compatible-default"), authorization="Bearer wrong")
    assert (status, said["error"]["code"], headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    status, said, _ = await post(http, sidecar, ask("compatible-default"), authorization="Bearer right")
    assert status == 200
    async with http.get(f"{sidecar.http_url}/v1/models", headers={"authorization": "Bearer wrong"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (401, "invalid_api_key")
