"""The HTTP door through its socket: what is asked and answered as JSON."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.fakes.script import Fail, Stall, Vectors
from tests.flow.events import ask
from tests.flow.reading import settled_once


async def post(http, sidecar, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    async with http.post(sidecar.http_url + path, json=body, headers=headers) as response:
        return response.status, await response.json(), {name.lower(): value for name, value in response.headers.items()}


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
    line = json.loads(await sidecar.logged(f'"tenant":"{tenant}"'))
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
    await exchange.hung_up()
    assert await settled_once(sidecar, model, "CANCELLED", tenant) > 0
