"""Clients that nobody here wrote, unmodified: what they ask for reaches the provider, and what it says reaches their users.

Every client is asked for the same cases (`programs/`), each in its own way; what its user saw must be the same.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.clients.talking import KINDS, Client
from tests.fakes.script import Fail, Say, Tokens, Tool, Vectors, vector_of
from tests.fakes.upstream import Upstream

OPENAI = [name for name, kind in KINDS.items() if kind.api == "openai"]
ANTHROPIC = [name for name, kind in KINDS.items() if kind.api == "anthropic"]
USED = Tokens(input=100, cached=20, cache_write=4, output=30, reasoning=5)
PAID = 100 * 1_000 + 20 * 250 + 4 * 1_250 + 30 * 4_000 + 5 * 5_000  # nano-USD, at the models' prices


def clients(*without: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", [name for name in KINDS if name not in without], indirect=True)


def counted(client: Client) -> list[int]:
    """The same tokens, as each API counts them: OpenAI's prompt has the cached ones in it, Anthropic's input has not."""
    return [124, 35] if client.kind.api == "openai" else [100, 20, 4, 35]


def well(seen: dict[str, Any]) -> dict[str, Any]:
    assert "error" not in seen, seen["error"]
    return seen


@pytest.mark.feature("text")
@clients()
async def test_text(client: Client, upstream: Upstream, model: str) -> None:
    upstream.on(model, Say(pieces=("Grüße ", "aus ", "서울 🌦"), tokens=USED))
    seen = well(await client.sees("text", model))
    assert seen["text"] == "Grüße aus 서울 🌦"
    assert seen["tokens"] == counted(client)
    assert seen.get("cost", PAID) == PAID
    assert seen.get("finish", "stop") in ("stop", "end_turn")
    body = (await upstream.request(model)).body
    assert (body["temperature"], body["stop"], body.get("max_completion_tokens", body.get("max_tokens"))) == (0.5, ["END"], 77)
    assert body["messages"][-1] == {"role": "user", "content": "Hi"}
    if client.kind.api == "openai":
        assert body["seed"] == 7
    else:
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.feature("stream")
@clients()
async def test_pieces_arrive_while_the_provider_still_speaks(client: Client, upstream: Upstream, model: str) -> None:
    gate = asyncio.Event()
    upstream.on(model, Say(pieces=("first", " second"), tokens=USED, gate=gate, hold_after=1))
    pieces, tokens = [], None
    async for facts in client.facts("stream", model):
        assert "error" not in facts, facts
        if "piece" in facts:
            pieces.append(facts["piece"])
            gate.set()  # the provider says its second piece only after the client's user has seen the first
        tokens = facts.get("tokens", tokens)
    assert pieces == ["first", " second"]
    assert tokens == counted(client)


@pytest.mark.feature("tools")
@clients()
async def test_tools_there_and_back(client: Client, upstream: Upstream, model: str) -> None:
    calls = (Tool("weather", '{"city":"Seoul"}', id="call_a"),)
    upstream.on(model, Say(pieces=(), tools=calls, finish="tool_calls"), Say(pieces=("It rains.",)))
    seen = well(await client.sees("tools", model))
    assert [(name, _parsed(arguments)) for name, arguments in seen["tools"]] == [("weather", {"city": "Seoul"})]
    assert seen["text"] == "It rains."
    assert "weather" in json.dumps((await upstream.request(model)).body["tools"])
    back = (await upstream.request(model, 1)).body["messages"]
    assert [turn["tool_calls"][0]["id"] for turn in back if turn.get("tool_calls")] == ["call_a"]
    assert [json.loads(turn["content"]) for turn in back if turn["role"] == "tool"] == [{"sky": "grey"}]


@pytest.mark.feature("tools, streamed")
@clients("pydantic-ai", "curl")
async def test_arguments_of_two_tools_arrive_in_pieces(client: Client, upstream: Upstream, model: str) -> None:
    calls = (
        Tool("weather", '{"city":"Seoul, South Korea"}', id="call_a", piece=5),
        Tool("weather", '{"city":"Oslo"}', id="call_b", piece=5),
    )
    upstream.on(model, Say(pieces=(), tools=calls, finish="tool_calls", split=150))
    seen = well(await client.sees("tools_streamed", model))
    assert [(name, _parsed(arguments)) for name, arguments in seen["tools"]] == [
        ("weather", {"city": "Seoul, South Korea"}),
        ("weather", {"city": "Oslo"}),
    ]
    assert "".join(piece or "" for piece in seen["pieces"]) == '{"city":"Seoul, South Korea"}{"city":"Oslo"}'
    assert len(seen["pieces"]) > 2


@pytest.mark.feature("image")
@clients()
async def test_a_picture_reaches_the_provider(client: Client, upstream: Upstream, model: str) -> None:
    upstream.on(model, Say(pieces=("A dot.",)))
    assert well(await client.sees("image", model))["text"] == "A dot."
    said = json.dumps((await upstream.request(model)).body["messages"])
    assert "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" in said
    assert "What is it?" in said


@pytest.mark.feature("JSON schema")
@clients()
async def test_json_by_a_strict_schema(client: Client, upstream: Upstream, model: str) -> None:
    upstream.on(model, Say(pieces=('{"city": "Seoul", ', '"degrees": 21}')))
    assert well(await client.sees("schema", model))["found"] == {"city": "Seoul", "degrees": 21}
    wanted = (await upstream.request(model)).body["response_format"]["json_schema"]
    assert wanted["strict"] is True
    assert set(wanted["schema"]["properties"]) == {"city", "degrees"}


@pytest.mark.feature("embeddings")
@clients("pydantic-ai", *ANTHROPIC)
async def test_embeddings(client: Client, upstream: Upstream, model: str) -> None:
    upstream.on(model, Vectors(tokens=9))
    seen = well(await client.sees("embeddings", model))
    assert seen["vectors"] == [vector_of("one", 4), vector_of("two", 4)]
    assert seen["plain"] == vector_of("one", 4)
    assert seen.get("tokens", 9) == 9


@pytest.mark.feature("models")
@clients("langchain", "pydantic-ai")
async def test_models_are_listed(client: Client, model: str) -> None:
    seen = well(await client.sees("models", model))
    assert {"auto", model} <= set(seen["models"])
    assert "gpt-4o" not in seen["models"]  # OpenAI has no key here
    assert seen["one"] == model


@pytest.mark.feature("count tokens")
@clients(*OPENAI)
async def test_tokens_are_counted(client: Client, upstream: Upstream, model: str) -> None:
    assert well(await client.sees("count", model))["tokens"] > 0
    assert not upstream.asked(model)


CLASSES = {  # how each client names what went wrong: an unknown model, a wrong parameter, 429
    "openai": ("NotFoundError", "BadRequestError", "RateLimitError"),
    "anthropic": ("NotFoundError", "BadRequestError", "RateLimitError"),
    "langchain": ("OpenAIModelNotFoundError", "OpenAIInvalidRequestError", "OpenAIRateLimitError"),
    "pydantic-ai": ("ModelNotFoundError", "ModelRequestRejectedError", "ModelRateLimitError"),
    "": ("Failed", "Failed", "Failed"),
}


@pytest.mark.feature("errors")
@clients()
async def test_an_unknown_model_is_not_found(client: Client, model: str) -> None:
    error = (await client.sees("unknown_model", model))["error"]
    assert error["class"] == CLASSES[client.kind.package][0]
    assert (error["status"], error["reason"]) == (404, "UNKNOWN_MODEL")
    assert error["code"] == ("model_not_found" if client.kind.api == "openai" else "not_found_error")


@pytest.mark.feature("errors")
@clients()
async def test_a_parameter_that_cannot_be_served_is_named(client: Client, upstream: Upstream, model: str) -> None:
    error = (await client.sees("wrong", model))["error"]
    assert error["class"] == CLASSES[client.kind.package][1]
    assert (error["status"], error["reason"]) == (400, "INVALID_REQUEST")
    if client.kind.api == "openai":
        assert error["param"] in ("logprobs", "logit_bias")
    else:
        assert error["code"] == "invalid_request_error"
    assert not upstream.asked(model)  # it was refused before anybody was asked


@pytest.mark.feature("errors")
@clients()
async def test_a_rate_limit_is_one(client: Client, upstream: Upstream, model: str) -> None:
    upstream.on(model, Fail(429, headers=(("retry-after", "3600"),)))  # longer than any caller waits, so it is told at once
    error = (await client.sees("overloaded", model))["error"]
    assert error["class"] == CLASSES[client.kind.package][2]
    assert (error["status"], error["reason"]) == (429, "PROVIDER_RATE_LIMITED")
    assert error["code"] == ("rate_limit_exceeded" if client.kind.api == "openai" else "rate_limit_error")
    assert error["retry_after"] == "3600"
    assert len(upstream.asked(model)) == 1


@pytest.mark.feature("broken stream")
@clients()
@pytest.mark.parametrize("cut", ["reset", "close", "no_finish"])
async def test_a_broken_stream_never_looks_whole(client: Client, upstream: Upstream, model: str, cut: Any) -> None:
    upstream.on(model, Say(pieces=("half an ", "answer"), cut=cut, cut_after=1))
    seen = await client.sees("broken", model)
    assert "done" not in seen
    assert "".join(seen["pieces"]).startswith("half an ")
    assert "tokens" not in seen
    if "reason" in seen["error"] and seen["error"]["reason"] is not None:
        assert seen["error"]["reason"] == "STREAM_CUT"
        assert seen["error"]["partial"].startswith("half an ")
    else:
        assert "stopped without" in seen["error"]["message"] or "hung up" in seen["error"]["message"]


@pytest.mark.feature("cancel")
@clients()
async def test_a_client_that_stops_reading_ends_the_providers_call(client: Client, upstream: Upstream, model: str) -> None:
    never = asyncio.Event()
    upstream.on(model, Say(pieces=("first", " second"), gate=never, hold_after=1))
    seen = well(await client.sees("cancel", model))
    assert seen["pieces"] == ["first"]
    exchange = await upstream.request(model)
    await exchange.ended(within_s=10)
    assert exchange.closed_at is not None


def _parsed(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments
