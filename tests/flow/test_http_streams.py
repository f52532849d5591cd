"""The HTTP door through its socket: answers as server-sent events, and clients that lose them and come back."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest_asyncio

from sidecar.v1 import ops_pb2
from tests.conftest import usual_tables
from tests.fakes.running import serving
from tests.fakes.script import Fail, Say, Tool
from tests.flow.events import Event, ask, events
from tests.flow.reading import account, settled_once


async def read_all(response: aiohttp.ClientResponse) -> list[Event]:
    return [event async for event in events(response)]


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
    await exchange.hung_up()
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


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def patient(upstream, tmp_path_factory):
    """A sidecar whose streams say something twice a second, and live on without a client for a while."""
    http = "heartbeat_ms = 300\nresume_ms = 1500\nresume_bytes = 20_000"
    async with serving(tmp_path_factory.mktemp("patient"), usual_tables(upstream.url), http=http) as running:
        yield running


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
    gate, asked = asyncio.Event(), len(upstream.asked("compatible-default"))
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
    assert len(upstream.asked("compatible-default")) == asked + 1
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
    assert 1.0 < exchange.closed_at - gone_at < 1.5 + 1.0
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
        async with http.post(sidecar.http_url + "/v1/generate", json=ask("compatible-default")) as refused:
            assert (refused.status, (await refused.json())["error"]["reason"]) == (503, "DRAINING")
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
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
