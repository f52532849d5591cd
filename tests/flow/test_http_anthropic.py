"""Anthropic's HTTP API through the socket: its events in their exact order, its errors, and what published clients do not look at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.conftest import SMALL_MODELS
from tests.fakes.running import provider_tables, serving
from tests.fakes.script import Fail, Say, Tokens, Tool
from tests.flow.events import Event, events
from tests.flow.reading import settled_once

TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("weather", "time")]
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
LIMITS = (
    ("anthropic-ratelimit-requests-limit", "50"),
    ("anthropic-ratelimit-requests-remaining", "49"),
    ("anthropic-ratelimit-requests-reset", "2099-01-01T00:00:00Z"),
)


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"anthropic-version": "2023-06-01"}) as session:
        yield session


def ask(model: str, tenant: str = "", **fields: Any) -> dict[str, Any]:
    own = {"sidecar": {"caller": {"tenant": tenant}}} if tenant else {}
    return {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **own, **fields}


async def post(http, sidecar, body: Any, path: str = "/v1/messages", **headers: str) -> tuple[int, Any, dict[str, str]]:
    async with http.post(sidecar.http_url + path, json=body, headers=headers) as response:
        return response.status, await response.json(), {name.lower(): value for name, value in response.headers.items()}


async def stream(http, sidecar, body: Any) -> list[Event]:
    async with http.post(f"{sidecar.http_url}/v1/messages", json={**body, "stream": True}) as response:
        assert response.content_type == "text/event-stream", await response.text()
        found = [event async for event in events(response)]
    assert all(event.data["type"] == event.kind for event in found)
    return found


def told(found: list[Event]) -> list[str]:
    """The order of events, deltas of one block as one word, as `KIND of WHAT [index]`."""
    lines: list[str] = []
    for event in found:
        block = event.data.get("content_block") or event.data.get("delta") or {}
        what = f" {block['type']}" if "type" in block else ""
        index = f" {event.data['index']}" if "index" in event.data else ""
        line = event.kind + what + index
        if not lines or lines[-1] != line:
            lines.append(line)
    return lines


async def test_whole_answer(http, sidecar, upstream, fresh, tenant):
    model = fresh("anthropic")
    upstream.on(model, Say(pieces=("It ", "rains."), tokens=Tokens(input=100, cached=20, cache_write=4, output=30), headers=LIMITS))
    status, said, headers = await post(http, sidecar, ask(model, tenant))
    assert status == 200
    facts, usage = said.pop("sidecar"), said.pop("usage")
    assert said == {
        "id": f"msg_{facts['id']}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": "It rains.", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (100, 20, 4)
    assert usage["output_tokens"] == 30
    assert headers["request-id"] == headers["x-sidecar-id"] == facts["id"]
    assert (headers["x-sidecar-provider"], headers["x-sidecar-model"]) == ("anthropic", model)
    assert (headers["x-sidecar-fallback"], headers["x-sidecar-cache"]) == ("false", "none")
    cost = await settled_once(sidecar, model, "ok", tenant)
    assert headers["x-sidecar-cost-nano-usd"] == str(facts["cost"]["nano_usd"]) == str(cost)
    assert (headers["anthropic-ratelimit-requests-limit"], headers["anthropic-ratelimit-requests-remaining"]) == ("50", "49")
    assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")


@pytest.mark.parametrize("provider", ["anthropic", "compatible"])
async def test_events_in_their_exact_order(http, sidecar, upstream, fresh, provider):
    model = fresh(provider)
    tools = (Tool("weather", '{"city":"Seoul"}', id="call_a", piece=4), Tool("time", "{}", id="call_b"))
    upstream.on(model, Say(pieces=("Let me ", "look."), tools=tools, finish="tool_calls", split=100))
    found = await stream(http, sidecar, ask(model, tools=TOOLS))
    assert told(found) == [
        "message_start",
        "ping",
        "content_block_start text 0",
        "content_block_delta text_delta 0",
        "content_block_stop 0",
        "content_block_start tool_use 1",
        "content_block_delta input_json_delta 1",
        "content_block_stop 1",
        "content_block_start tool_use 2",
        "content_block_delta input_json_delta 2",
        "content_block_stop 2",
        "message_delta",
        "message_stop",
    ]
    start = found[0].data["message"]
    assert (start["content"], start["stop_reason"], start["model"]) == ([], None, model)
    begun = [event.data["content_block"] for event in found if event.kind == "content_block_start"]
    assert [(one["id"], one["name"], one["input"]) for one in begun[1:]] == [("call_a", "weather", {}), ("call_b", "time", {})]
    written = {1: "", 2: ""}
    for event in found:
        if event.kind == "content_block_delta" and event.data["index"]:
            written[event.data["index"]] += event.data["delta"]["partial_json"]
    assert [json.loads(text) for text in written.values()] == [{"city": "Seoul"}, {}]
    end = found[-2].data
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"], end["sidecar"]["cost"]["nano_usd"]) == (11, 7, 39_000)


async def test_thinking_is_a_block_of_its_own_where_it_may_pass(http, start_sidecar, upstream):
    sidecar = await start_sidecar(http='unknown_parameters = "pass"')
    upstream.on("compatible-default", Say(reasoning=("Hm",), pieces=("Yes.",)), Say(reasoning=("Hm",), pieces=("Yes.",)), Say())
    found = await stream(http, sidecar, ask("compatible-default", **THINKS))
    assert told(found)[2:8] == [
        "content_block_start thinking 0",
        "content_block_delta thinking_delta 0",
        "content_block_stop 0",
        "content_block_start text 1",
        "content_block_delta text_delta 1",
        "content_block_stop 1",
    ]
    _, said, _ = await post(http, sidecar, ask("compatible-default", **THINKS))
    assert [block["type"] for block in said["content"]] == ["thinking", "text"]


async def test_broken_stream_has_an_error_and_no_message_stop(http, sidecar, upstream, fresh, tenant):
    model = fresh("anthropic")
    upstream.on(model, Say(pieces=("half an ", "answer"), cut="close"))
    found = await stream(http, sidecar, ask(model, tenant))
    kinds = [event.kind for event in found]
    assert kinds[-1] == "error"
    assert not {"message_delta", "message_stop"} & {*kinds}
    error = found[-1].data["error"]
    assert (error["type"], error["sidecar"]["reason"]) == ("api_error", "STREAM_CUT")
    assert error["sidecar"]["partial"]["text"] == "half an "
    assert int(error["sidecar"]["partial"]["cost"]["nano_usd"]) == await settled_once(sidecar, model, "STREAM_CUT", tenant) > 0


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no limit": ({"max_tokens": None}, "max_tokens"),
    "limit": ({"max_tokens": 0}, "max_tokens"),
    "no messages": ({"messages": []}, "messages"),
    "invented": ({"invented": 1}, "invented"),
    "top_k": ({"top_k": 5}, "top_k"),
    "thinking": (THINKS, "thinking"),
    "servers": ({"mcp_servers": [{"type": "url", "url": "https://x.example"}]}, "mcp_servers"),
    "one of its own tools": ({"tools": [{"type": "web_search_20250305", "name": "web_search", "input_schema": {}}]}, "tools[0].type"),
    "one tool at a time": (
        {"tools": TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "tool_choice.disable_parallel_tool_use",
    ),
    "inside": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "mood": 1}]}]}, "messages[0].content[0].mood"),
    "document": ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_mistake_is_told_with_its_place(http, sidecar, upstream, mistake):
    wrong, place = MISTAKES[mistake]
    before = len(upstream.asked("compatible-default"))
    status, said, headers = await post(http, sidecar, ask("compatible-default") | wrong)
    assert (status, said["type"], said["error"]["type"]) == (400, "error", "invalid_request_error")
    assert said["error"]["sidecar"]["field"] == place, said
    assert headers["x-should-retry"] == "false"
    assert len(upstream.asked("compatible-default")) == before


FAILURES: dict[str, tuple[Fail, int, str]] = {
    "rate limit": (Fail(429, headers=(("retry-after", "3600"),)), 429, "rate_limit_error"),
    "rejected": (Fail(400, "no such thing"), 400, "invalid_request_error"),
    "gone": (Fail(404), 404, "not_found_error"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", FAILURES)
async def test_failure_before_the_first_piece(http, sidecar, upstream, fresh, kind, streamed):
    step, status, type_ = FAILURES[kind]
    model = fresh("anthropic")
    upstream.on(model, step)
    got, said, headers = await post(http, sidecar, ask(model, stream=streamed))
    assert (got, said["type"], said["error"]["type"]) == (status, "error", type_), said
    assert said["request_id"] == headers["request-id"] == said["error"]["sidecar"]["id"]
    assert headers.get("retry-after") == ("3600" if kind == "rate limit" else None)


async def test_limits_are_told_when_they_are_reached(http, tmp_path, upstream):
    tables = "[limits]\ntenant_requests_per_minute = 1\n" + provider_tables(upstream.url, "compatible") + SMALL_MODELS
    async with serving(tmp_path, tables) as sidecar:
        told = [await post(http, sidecar, ask("compatible-default", "busy"), **{"x-request-timeout-ms": "3000"}) for _ in range(2)]
    assert [status for status, _, _ in told] == [200, 429]
    assert told[1][1]["error"]["type"] == "rate_limit_error"
    for _, _, headers in told:
        assert (headers["anthropic-ratelimit-requests-limit"], headers["anthropic-ratelimit-requests-remaining"]) == ("1", "0")
        assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")


async def test_models_and_counts_in_anthropics_words(http, sidecar, upstream, fresh):
    model = fresh("anthropic")
    status, said, _ = await post(http, sidecar, ask(model) | {"max_tokens": None}, "/v1/messages/count_tokens")
    assert (status, said["input_tokens"] > 0, said["sidecar"]["model"]) == (200, True, model)
    async with http.get(f"{sidecar.http_url}/v1/models/{model}") as response:
        assert {"type": "model", "id": model, "display_name": model}.items() <= (await response.json()).items()
    async with http.get(f"{sidecar.http_url}/v1/models/nobody") as response:
        assert (response.status, (await response.json())["error"]["type"]) == (404, "not_found_error")
