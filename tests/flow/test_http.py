"""The HTTP door through its socket: what is asked and answered as JSON, and answers as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from sidecar.v1 import ops_pb2
from tests.fakes.script import Fail, Say, Stall, Tool, Vectors
from tests.flow.events import Event, events
from tests.flow.reading import account, settled_once

GONE_S = 1.0


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def ask(model: str, tenant: str = "", **fields: Any) -> dict[str, Any]:
    return {"prompt": "Tell me a story.", "model": model, "caller": {"tenant": tenant}, **fields}


async def post(http, sidecar, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    async with http.post(sidecar.http_url + path, json=body, headers=headers) as response:
        return response.status, await response.json(), {name.lower(): value for name, value in response.headers.items()}


async def read_all(response: aiohttp.ClientResponse) -> list[Event]:
    return [event async for event in events(response)]


# --- unary ------------------------------------------------------------------------------------------------------------------------


async def test_generate_answers_in_the_contracts_words(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    status, said, headers = await post(http, sidecar, "/v1/generate", ask(model, tenant))
    assert status == 200
    assert (said["text"], said["model"], said["finish_reason"]) == ("Hello, world!", model, "FINISH_REASON_STOP")
    assert said["usage"] == {"input_tokens": "11", "output_tokens": "7"}
    assert said["cost"]["nano_usd"] == str(11 * 1000 + 7 * 4000)
    assert "aiohttp" not in headers["server"]
    assert await settled_once(sidecar, model, "ok", tenant) == 39_000


@pytest.mark.parametrize("style", ["camel", "snake"])
async def test_both_spellings_of_a_field_are_understood(http, sidecar, upstream, fresh, style):
    model = fresh("compatible")
    name = {"camel": "maxOutputTokens", "snake": "max_output_tokens"}[style]
    status, _, _ = await post(http, sidecar, "/v1/generate", ask(model, **{name: 17}))
    assert status == 200
    assert (await upstream.request(model)).body["max_tokens"] == 17


async def test_embed(http, sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Vectors(size=3))
    status, said, _ = await post(http, sidecar, "/v1/embed", {"inputs": ["a", "b"], "model": model})
    assert status == 200
    assert [len(vector["values"]) for vector in said["vectors"]] == [3, 3]


async def test_count_tokens(http, sidecar, upstream, fresh):
    model = fresh("compatible")
    status, said, _ = await post(http, sidecar, "/v1/count_tokens", {"generate": {"prompt": "one two three", "model": model}})
    assert status == 200
    assert int(said["input_tokens"]) > 0
    assert upstream.asked(model) == []


async def test_headers_say_who_asks(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"x-sidecar-tenant": tenant, "X-Sidecar-Node": "flow.chain", "x-sidecar-user": "kim", "traceparent": trace}
    status, _, _ = await post(http, sidecar, "/v1/generate", {"prompt": "hi", "model": model}, **headers)
    assert status == 200
    assert await settled_once(sidecar, model, "ok", tenant) > 0
    async with asyncio.timeout(5):
        while f'"tenant":"{tenant}"' not in sidecar.log:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)
    line = next(json.loads(line) for line in sidecar.log.splitlines() if f'"tenant":"{tenant}"' in line)
    assert (line["service"], line["node"], line["user"], line["trace_id"]) == ("flow", "chain", "kim", trace.split("-")[1])


@pytest.mark.parametrize(("name", "value"), [("x-request-timeout-ms", "700"), ("grpc-timeout", "700m")])
async def test_deadline_comes_as_a_header(http, sidecar, upstream, fresh, tenant, name, value):
    model = fresh("compatible")
    upstream.on(model, Stall())
    began = time.monotonic()
    status, said, _ = await post(http, sidecar, "/v1/generate", ask(model, tenant), **{name: value})
    assert time.monotonic() - began < 5
    assert (status, said["error"]["code"], said["error"]["reason"]) == (504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert int(said["error"]["partial"]["cost"]["nano_usd"]) == await settled_once(sidecar, model, "DEADLINE_EXCEEDED", tenant) > 0


# --- mistakes ---------------------------------------------------------------------------------------------------------------------

MISTAKES = {
    "unknown field": ('{"promt": "x"}', 400, "promt", 'did you mean "prompt"?'),
    "unknown field inside": (
        '{"messages": [{"role": "ROLE_USER", "parts": [{"txt": "x"}]}]}',
        400,
        "messages[0].parts[0].txt",
        'did you mean "text"?',
    ),
    "wrong type": ('{"prompt": 5}', 400, "prompt", "prompt cannot be read"),
    "wrong type inside": ('{"caller": {"step": "x"}}', 400, "caller.step", "caller.step cannot be read"),
    "wrong enum": ('{"prompt": "x", "cache": {"mode": "SOON"}}', 400, "cache.mode", "SOON"),
    "twice": ('{"prompt": "x", "maxOutputTokens": 1, "max_output_tokens": 2}', 400, "", "multiple"),
    "broken": ('{"prompt": "x",, }', 400, "", "byte 15"),
    "cut": ('{"prompt": "x', 400, "", "truncated"),
    "empty": ("", 400, "", "empty"),
    "no object": ("[1]", 400, "", "no object"),
    "nothing asked": ("{}", 400, "prompt", "prompt"),
    "deep": ("[" * 100_000, 400, "", "no JSON"),
    "value": ('{"prompt": "x", "temperature": 7}', 400, "temperature", "temperature"),
    "unknown model": ('{"prompt": "x", "model": "no-such"}', 400, "model", "no-such"),
}


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/stream"])
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_mistake_is_told_with_its_place(http, sidecar, mistake, path):
    body, status, field, words = MISTAKES[mistake]
    headers = {"content-type": "application/json"}
    async with http.post(sidecar.http_url + path, data=body, headers=headers) as response:
        said = (await response.json())["error"]
    assert (response.status, said["code"], said.get("field", "")) == (status, "INVALID_ARGUMENT", field), said
    assert words in said["message"]
    assert "\n" not in said["message"]
    assert response.headers["x-should-retry"] == "false"


async def test_what_is_no_request_of_ours(http, sidecar):
    for method, path, status in (("GET", "/v1/generate", 405), ("POST", "/v1/nothing", 404), ("PUT", "/", 404)):
        async with http.request(method, sidecar.http_url + path, json={}) as response:
            assert response.status == status
            said = (await response.json())["error"]
            assert said["reason"] == "INVALID_REQUEST"
            assert ("/v1/chat/completions, " in said["message"]) == (status == 404)  # who took another path is told which there are
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}):
        async with http.post(sidecar.http_url + "/v1/generate", data=b"{}", headers=headers) as response:
            assert response.status == 415
    for name, value in (("x-request-timeout-ms", "-5"), ("grpc-timeout", "5"), ("x-sidecar-user", "a" * 300)):
        status, said, _ = await post(http, sidecar, "/v1/generate", {"prompt": "x", "model": "echo/echo"}, **{name: value})
        assert (status, said["error"]["reason"]) == (400, "INVALID_REQUEST"), name
        assert name in said["error"]["message"]


async def test_body_that_is_too_large(http, sidecar):
    status, said, _ = await post(http, sidecar, "/v1/generate", {"prompt": "x" * 9_000_000})
    assert status == 413
    assert "server.max_message_bytes" in said["error"]["message"]


async def test_failure_says_what_to_do_and_what_it_cost(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Fail(429, headers=(("Retry-After", "70"),)))
    status, said, headers = await post(http, sidecar, "/v1/generate", ask(model, tenant), **{"accept-language": "ko"})
    error = said["error"]
    assert (status, error["code"], error["reason"], error["retryable"]) == (429, "RESOURCE_EXHAUSTED", "PROVIDER_RATE_LIMITED", True)
    assert 65_000 < error["retry_after_ms"] <= 90_000
    assert int(headers["retry-after"]) == -(-error["retry_after_ms"] // 1000)
    assert error["degradation"]["language"] == "ko"
    assert error["partial"]["attempts"][0]["outcome"] == "PROVIDER_RATE_LIMITED"
    assert error["id"] == headers["x-sidecar-id"]


async def test_caller_who_leaves_stops_the_provider(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Stall())
    async with aiohttp.ClientSession() as session:
        call = asyncio.ensure_future(session.post(sidecar.http_url + "/v1/generate", json=ask(model, tenant)))
        exchange = await upstream.request(model)
        call.cancel()
    gone_at = asyncio.get_running_loop().time()
    await exchange.ended(within_s=5)
    assert exchange.closed_at - gone_at < GONE_S
    assert await settled_once(sidecar, model, "CANCELLED", tenant) > 0


# --- streams ----------------------------------------------------------------------------------------------------------------------


async def test_stream_is_told_event_by_event(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(reasoning=("Hm.",), tools=(Tool("look", '{"for": "it"}'),), finish="tool_calls", delay_ms=20))
    async with http.post(sidecar.http_url + "/v1/stream", json=ask(model, tenant, tools=[{"name": "look"}])) as response:
        headers = response.headers
        assert (response.status, headers["content-type"]) == (200, "text/event-stream")
        assert (headers["x-accel-buffering"], headers["cache-control"]) == ("no", "no-cache, no-transform")
        said = await read_all(response)
    assert said[0] == Event("retry", 1000)
    kinds = [event.kind for event in said[1:]]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert set(kinds) == {"start", "reasoning", "text", "tool_call", "end"}
    ids = [event.id for event in said[1:]]
    call_id = said[1].data["id"]
    assert ids == [f"{call_id}.{number}" for number in range(1, len(ids) + 1)]
    assert "".join(event.data["text"] for event in said if event.kind == "text") == "Hello, world!"
    assert "".join(event.data["text"] for event in said if event.kind == "reasoning") == "Hm."
    calls = [event.data for event in said if event.kind == "tool_call"]
    assert (calls[0]["index"], calls[0]["name"]) == (0, "look")
    assert "".join(call.get("arguments", "") for call in calls) == '{"for": "it"}'
    end = said[-1].data
    assert (end["finish_reason"], end["usage"]["output_tokens"]) == ("FINISH_REASON_TOOL_CALLS", "7")
    assert int(end["cost"]["nano_usd"]) == await settled_once(sidecar, model, "ok", tenant)


async def test_pieces_come_when_they_are_there(http, sidecar, upstream, fresh):
    model, gate = fresh("compatible"), asyncio.Event()
    upstream.on(model, Say(gate=gate, hold_after=1))
    async with http.post(sidecar.http_url + "/v1/stream", json=ask(model)) as response:
        coming = events(response)
        async with asyncio.timeout(5):
            while (event := await anext(coming)).kind != "text":
                pass
        assert event.data == {"text": "Hello"}  # and the provider has said no more yet
        gate.set()
        rest = [event async for event in coming]
    assert rest[-1].kind == "end"


async def test_failure_before_the_first_piece_has_a_status(http, sidecar, upstream, fresh):
    model = fresh("compatible")
    upstream.on(model, Fail(400, "no such thing"))
    async with http.post(sidecar.http_url + "/v1/stream", json=ask(model)) as response:
        assert (response.status, response.content_type) == (400, "application/json")
        assert (await response.json())["error"]["reason"] == "PROVIDER_REJECTED"


async def test_cut_stream_ends_with_an_error_and_what_it_cost(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(cut="reset", cut_after=2))
    async with http.post(sidecar.http_url + "/v1/stream", json=ask(model, tenant)) as response:
        said = await read_all(response)
    error = said[-1]
    assert error.kind == "error"
    assert (error.data["code"], error.data["reason"]) == ("DATA_LOSS", "STREAM_CUT")
    assert error.data["partial"]["text"] == "Hello, "
    assert int(error.data["partial"]["cost"]["nano_usd"]) == await settled_once(sidecar, model, "STREAM_CUT", tenant) > 0
    assert error.data["degradation"]["action"]


async def test_restart_and_notice_are_events(http, sidecar, upstream, tenant):
    upstream.on("compatible-default", Say(cut="reset", cut_after=1))
    body = {"prompt": "x", "caller": {"node": "flow.chain", "tenant": tenant}, "on_cut": "ON_CUT_RESTART"}
    async with http.post(sidecar.http_url + "/v1/stream", json=body) as response:
        said = await read_all(response)
    upstream.on("compatible-default", Say())
    kinds = [event.kind for event in said]
    assert "restart" in kinds
    restart = said[kinds.index("restart")].data
    assert (restart["reason"], restart["start"]["model"]) == ("STREAM_CUT", "compatible-spare")
    async with http.post(sidecar.http_url + "/v1/stream", json={**body, "caller": {"node": "flow.unheard"}}) as response:
        notices = [event.data["message"] for event in await read_all(response) if event.kind == "notice"]
    assert any("flow.unheard" in notice for notice in notices)


async def test_page_that_is_closed_stops_the_provider(http, sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=(" word",) * 1000, delay_ms=10))
    response = await http.post(sidecar.http_url + "/v1/stream", json=ask(model, tenant))
    async for event in events(response):
        if event.kind == "text":
            break
    exchange = await upstream.request(model)
    response.close()
    gone_at = asyncio.get_running_loop().time()
    await exchange.ended(within_s=5)
    assert exchange.closed_at - gone_at < GONE_S
    assert await settled_once(sidecar, model, "CANCELLED", tenant) > 0


async def test_slow_reader_holds_the_provider_back(sidecar, upstream, fresh, tenant):
    model = fresh("compatible")
    upstream.on(model, Say(pieces=("x" * 50_000,) * 1000))
    host, _, port = sidecar.http_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    body = json.dumps(ask(model, tenant)).encode()
    writer.write(b"POST /v1/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await reader.readline()
    exchange = await upstream.request(model)
    sent = -1
    async with asyncio.timeout(20):
        while exchange.pieces_sent != sent:
            sent = exchange.pieces_sent
            await asyncio.sleep(0.5)
    assert 0 < sent < 500  # 50 MB were to come
    writer.transport.abort()
    await exchange.ended(within_s=5)
    assert await settled_once(sidecar, model, "CANCELLED", tenant) > 0


async def test_connection_is_kept_for_the_next_request(sidecar, upstream, fresh):
    body = json.dumps(ask(fresh("compatible"))).encode()
    host, _, port = sidecar.http_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + f"{len(body)}\r\n\r\n"
    async with asyncio.timeout(10):
        for path in ("/v1/stream", "/v1/stream", "/v1/generate"):
            writer.write(head.format(path).encode() + body)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            if path == "/v1/stream":
                assert b"event: end" in await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()


# --- signs of life, and coming back -----------------------------------------------------------------------------------------------

RESUMABLE = {"x-sidecar-resume": "true"}


@pytest_asyncio.fixture(loop_scope="session")
async def patient(start_sidecar):
    """A sidecar whose streams say something twice a second, and live on without a client for a while."""
    return await start_sidecar(http="heartbeat_ms = 300\nresume_ms = 1500\nresume_bytes = 20_000")


async def begin(http, sidecar, model: str, tenant: str = "", pieces: int = 1) -> tuple[aiohttp.ClientResponse, list[Event]]:
    """A resumable stream, and its events up to so many pieces of text."""
    response = await http.post(sidecar.http_url + "/v1/stream", json=ask(model, tenant), headers=RESUMABLE)
    seen: list[Event] = []
    async for event in events(response):
        seen.append(event)
        if sum(e.kind == "text" for e in seen) == pieces:
            return response, seen
    raise AssertionError(f"it ended: {seen}")


async def resume(http, sidecar, last_id: str) -> aiohttp.ClientResponse:
    return await http.post(sidecar.http_url + "/v1/stream", headers={"last-event-id": last_id})


async def test_silence_is_broken_by_comments(http, patient, upstream):
    gate = asyncio.Event()
    upstream.on("compatible-default", Say(gate=gate, hold_after=0))
    async with http.post(patient.http_url + "/v1/stream", json=ask("compatible-default")) as response:
        coming = events(response)
        async with asyncio.timeout(10):
            first = [(await anext(coming)).kind for _ in range(3)]
            gate.set()
            rest = [event.kind async for event in coming]
    assert first == ["retry", ":", ":"] or first == [":", ":", ":"]
    assert rest[-1] == "end"
    upstream.on("compatible-default", Say())


async def test_lost_connection_is_taken_up_where_it_broke(http, patient, upstream, tenant):
    gate = asyncio.Event()
    words = tuple(f" w{number}" for number in range(30))
    upstream.on("compatible-default", Say(pieces=words, delay_ms=5, gate=gate, hold_after=20))
    response, seen = await begin(http, patient, "compatible-default", tenant, pieces=5)
    response.close()
    texts = [event for event in seen if event.kind == "text"]
    async with await resume(http, patient, texts[2].id) as again:  # the last two were lost on the way
        coming = events(again)
        async with asyncio.timeout(5):
            more = [await anext(coming) for _ in range(3)]
            gate.set()
            more += [event async for event in coming]
    more = [event for event in more if event.kind not in (":", "retry")]
    heard = texts[:3] + [event for event in more if event.kind == "text"]
    assert "".join(event.data["text"] for event in heard) == "".join(words)
    assert more[-1].kind == "end"
    numbers = [int(event.id.partition(".")[2]) for event in more]
    assert numbers == list(range(int(texts[2].id.partition(".")[2]) + 1, numbers[-1] + 1))
    assert len(upstream.asked("compatible-default")) >= 1
    paid = await account(patient, tenant)
    assert paid.pending_nano_usd == 0
    assert paid.used_nano_usd == int(more[-1].data["cost"]["nano_usd"])  # once
    async with await resume(http, patient, more[-2].id) as after_its_end:
        assert [event.kind async for event in events(after_its_end)][-1] == "end"
    upstream.on("compatible-default", Say())


async def test_nobody_comes_back(http, patient, upstream, tenant):
    upstream.on("compatible-default", Say(pieces=(" word",) * 2000, delay_ms=10))
    response, seen = await begin(http, patient, "compatible-default", tenant)
    exchange = upstream.asked("compatible-default")[-1]
    response.close()
    gone_at = asyncio.get_running_loop().time()
    await exchange.ended(within_s=10)
    assert 1.0 < exchange.closed_at - gone_at < 1.5 + GONE_S
    await patient.until_idle()
    assert (await account(patient, tenant)).pending_nano_usd == 0
    async with asyncio.timeout(5):
        while True:
            async with await resume(http, patient, seen[-1].id) as late:
                if late.status == 410:
                    break
    upstream.on("compatible-default", Say())


async def test_buffer_is_bounded_while_nobody_reads(http, patient, upstream):
    upstream.on("compatible-default", Say(pieces=("x" * 50_000,) * 1000))
    response, _ = await begin(http, patient, "compatible-default")
    exchange = upstream.asked("compatible-default")[-1]
    response.close()
    await exchange.ended(within_s=10)
    assert exchange.pieces_sent < 500  # of 50 MB the rest stayed where it was
    upstream.on("compatible-default", Say())


async def test_events_that_are_no_longer_kept_are_not_passed_over(http, patient, upstream):
    upstream.on("compatible-default", Say(pieces=("x" * 2_000,) * 100, delay_ms=2))
    response, seen = await begin(http, patient, "compatible-default", pieces=80)
    response.close()
    first = next(event for event in seen if event.id)
    async with await resume(http, patient, first.id) as again:
        assert again.status == 410
        assert "http.resume_bytes" in (await again.json())["error"]["message"]
    upstream.on("compatible-default", Say())


async def test_last_event_id_of_nobody(http, sidecar):
    for last_id in ("0" * 32 + ".1", "nonsense", "x.y"):
        async with await resume(http, sidecar, last_id) as response:
            said = (await response.json())["error"]
            assert (response.status, said["field"]) == (410, "last-event-id")
            assert "x-sidecar-resume: true" in said["message"]


# --- the end of the process -------------------------------------------------------------------------------------------------------


async def test_draining_refuses_new_calls_and_lets_streams_end(http, start_sidecar, upstream):
    sidecar = await start_sidecar()
    gate = asyncio.Event()
    upstream.on("compatible-default", Say(gate=gate, hold_after=1))
    async with http.post(sidecar.http_url + "/v1/stream", json=ask("compatible-default")) as response:
        coming = events(response)
        while (await anext(coming)).kind != "text":
            pass
        assert (await sidecar.ops.Drain(ops_pb2.DrainRequest())).calls_in_flight == 1
        status, said, headers = await post(http, sidecar, "/v1/generate", ask("compatible-default"))
        assert (status, said["error"]["reason"]) == (503, "DRAINING")
        assert headers["retry-after"] == "1"
        assert headers["connection"] == "close"
        gate.set()
        assert [event.kind async for event in coming][-1] == "end"


async def test_streams_in_flight_are_told_when_the_grace_is_over(http, start_sidecar, upstream):
    sidecar = await start_sidecar(server="grace_ms = 300")
    upstream.on("compatible-default", Say(pieces=(" word",) * 1000, delay_ms=20))
    async with http.post(sidecar.http_url + "/v1/stream", json=ask("compatible-default")) as response:
        coming = events(response)
        while (await anext(coming)).kind != "text":
            pass
        ended = asyncio.ensure_future(sidecar.stop())
        last = [event async for event in coming][-1]
    assert (last.kind, last.data["reason"], last.data["code"]) == ("error", "DRAINING", "UNAVAILABLE")
    assert last.data["partial"]["text"].startswith(" word")
    assert await ended == 0
    upstream.on("compatible-default", Say())
