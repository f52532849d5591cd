"""Anthropic: the wire as golden cases, the SDK's exceptions, and the connected provider against a fake on a real socket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import anthropic
import httpx2
import pytest

from sidecar.call import GenerateAsk
from sidecar.errors import ProviderError, ProviderGarbled, ProviderRejected, ProviderTimeout, ProviderUnavailable, SettingsError, StreamCut
from sidecar.providers import Provider
from sidecar.providers import anthropic as ours
from sidecar.providers.anthropic_wire import FINISHES
from sidecar.request import Message, Text
from sidecar.settings.routing import ProviderSettings
from tests.contract import golden
from tests.contract.fake import Emitted, FakeProvider, Script

KEY = "sk-ant-secret-0123456789"
HELLO = GenerateAsk(model="claude-x", messages=(Message("user", (Text("Hello"),)),), stream=True, max_output_tokens=10)
SSE = {"Content-Type": "text/event-stream; charset=utf-8"}


@pytest.mark.parametrize("case", golden.cases("anthropic", "ask"))
def test_builds_the_body(case: dict[str, Any]) -> None:
    assert ours.request(golden.ask_of(case["ask"])) == case["body"]


@pytest.mark.parametrize("case", golden.cases("anthropic", "reply"))
def test_reads_a_whole_answer(case: dict[str, Any]) -> None:
    assert golden.plain_of(ours.reply(golden.wire(case["reply"]))) == case["chunk"]


@pytest.mark.parametrize("case", golden.cases("anthropic", "events"))
def test_reads_a_stream(case: dict[str, Any]) -> None:
    whole = ours.StreamedCalls()
    chunks = [whole(read) for event in case["events"] if (read := ours.chunk(golden.wire(event))) is not None]
    assert [golden.plain_of(c) for c in chunks] == case["chunks"]


@pytest.mark.parametrize("case", golden.cases("anthropic", "failures"))
def test_tells_failures_apart(case: dict[str, Any]) -> None:
    for status, headers, body, kind, said in case["failures"]:
        error = ours.failure(status, headers, golden.wire(body))
        expected = {"status": status, "retry_after_ms": None, **said}
        assert (type(error).__name__, {name: getattr(error, name) for name in expected}) == (kind, expected), body


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
        ("a_new_reason", None),
    ],
)
def test_translates_every_stop_reason(raw: str, finish: str | None) -> None:
    read = ours.chunk(golden.wire({"type": "message_delta", "delta": {"stop_reason": raw}, "usage": {"output_tokens": 1}}))
    assert read is not None
    assert (read.finish, read.raw_finish) == (finish, raw)


def test_knows_every_stop_reason_of_the_sdk() -> None:
    assert set(get_args(anthropic.types.StopReason)) == set(FINISHES)


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"[1]", b'{"type":"message","content":"x"}', b'{"content":[]}', b'{"type":"mess'])
def test_garbage_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProviderGarbled):
        ours.reply(body)


@pytest.mark.parametrize(
    "event", [b"{}", b"x", b'{"type":"content_block_delta"}', b'{"type":"message_start"}', b'{"type":"message_delta","delta":1}']
)
def test_a_broken_event_is_garbage(event: bytes) -> None:
    with pytest.raises(ProviderGarbled):
        ours.chunk(event)


def test_refuses_what_the_wire_has_no_place_for() -> None:
    with pytest.raises(ProviderRejected, match=r"temperature is 1\.5; Anthropic takes 0 to 1"):
        ours.request(golden.ask_of({"messages": [], "temperature": 1.5}))


@pytest.mark.parametrize("arguments", ["", " \n"])
def test_a_call_without_arguments_has_an_empty_object(arguments: str) -> None:
    call = {"role": "assistant", "parts": [{"tool_call": {"id": "t1", "name": "now", "arguments": arguments}}]}
    assert ours.request(golden.ask_of({"messages": [call]}))["messages"][0]["content"][0]["input"] == {}


# --- the SDK's exceptions

BY_STATUS = {
    "BadRequestError": (400, "ProviderRejected"),
    "AuthenticationError": (401, "ProviderAuthFailed"),
    "PaymentRequiredError": (402, "ProviderQuotaExhausted"),
    "PermissionDeniedError": (403, "ProviderAuthFailed"),
    "NotFoundError": (404, "ProviderModelUnknown"),  # the address may be wrong; another candidate has another one
    "RequestTimeoutError": (408, "ProviderTimeout"),
    "ConflictError": (409, "ProviderUnavailable"),
    "PreconditionFailedError": (412, "ProviderRejected"),
    "ContentTooLargeError": (413, "ProviderContextExceeded"),
    "UnprocessableEntityError": (422, "ProviderRejected"),
    "RateLimitError": (429, "ProviderRateLimited"),
    "RequestHeaderFieldsTooLargeError": (431, "ProviderRejected"),
    "ClientClosedRequestError": (499, "ProviderUnavailable"),
    "InternalServerError": (500, "ProviderUnavailable"),
    "HTTPNotImplementedError": (501, "ProviderRejected"),
    "ServiceUnavailableError": (503, "ProviderUnavailable"),
    "GatewayTimeoutError": (504, "ProviderTimeout"),
    "OverloadedError": (529, "ProviderUnavailable"),
}
# Of the SDK's agents, command line and other clouds: `post` cannot raise them.
ELSEWHERE = {
    "ToolsetUsageError",
    "ToolsetConfigError",
    "ToolsetContractError",
    "ToolsetsFixedError",
    "ToolsetClosedError",
    "MissingDependencyError",
    "MutuallyExclusiveAuthError",
}


def descendants(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def sdk_errors() -> list[type[BaseException]]:
    return [anthropic.AnthropicError, *descendants(anthropic.AnthropicError)]


@pytest.mark.parametrize("kind", sdk_errors(), ids=lambda kind: kind.__name__)
def test_every_exception_of_the_sdk_has_a_meaning(kind: type[BaseException]) -> None:
    if kind is anthropic.APIStatusError or kind.__name__ in ELSEWHERE:
        return
    if issubclass(kind, anthropic.APIStatusError):
        assert any(base.__name__ in BY_STATUS for base in kind.__mro__), f"{kind.__name__} is a status of no class known here"
    else:
        assert kind.__name__ in ours.EXCEPTIONS, f"{kind.__name__} is new: give it a meaning in EXCEPTIONS"


@pytest.mark.parametrize(("status", "expected"), BY_STATUS.values(), ids=BY_STATUS)
def test_every_status_has_a_meaning_without_a_body(status: int, expected: str) -> None:
    assert type(ours.failure(status, {}, b"")).__name__ == expected


async def test_what_the_sdk_raises_around_a_transport_error_is_read_by_its_cause() -> None:
    provider = ours.Anthropic("anthropic", anthropic.AsyncAnthropic(api_key=KEY), KEY)
    shell = anthropic.APIConnectionError(request=httpx2.Request("POST", "http://localhost"))
    shell.__cause__ = httpx2.ConnectTimeout("slow")
    assert isinstance(provider.meant(shell, "x"), ProviderTimeout)
    shell.__cause__ = ValueError("odd")
    assert isinstance(provider.meant(shell, "x"), ProviderUnavailable)
    leaked = provider.meant(anthropic.CredentialsError(f"no {KEY} here"), "x")
    assert (type(leaked).__name__, KEY in leaked.message) == ("ProviderAuthFailed", False)
    await provider.close()


def test_arguments_that_are_no_utf8_are_garbage() -> None:
    with pytest.raises(ProviderGarbled, match="not UTF-8"):
        ours.reply(b'{"type":"message","content":[{"type":"tool_use","id":"t","name":"n","input":{"a":"\xff"}}]}')


@pytest.mark.parametrize("body", golden.HOSTILE, ids=lambda body: repr(body[:8]))
def test_hostile_bytes_are_garbage(body: bytes) -> None:
    for read in (ours.reply, ours.chunk):
        with pytest.raises(ProviderGarbled):
            read(body)
    assert isinstance(ours.failure(500, {}, body), ProviderUnavailable)


# --- connected


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}   \n\n".encode() for e in events)


START = {"type": "message_start", "message": {"model": "claude-x-1", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "안녕"}}
END = ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}, {"type": "message_stop"})


async def connected(fake: FakeProvider, **more: Any) -> Provider:
    settings = {"name": "anthropic", "kind": "anthropic", "api_key": KEY, "base_url": fake.url, "connect_timeout_ms": 500, **more}
    return await ours.connect(ProviderSettings(**settings))


async def test_a_whole_answer() -> None:
    body = {"type": "message", "model": "claude-x-1", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": {}}
    headers = {"request-id": "req_1", "anthropic-ratelimit-requests-remaining": "49"}
    async with FakeProvider(Script([json.dumps(body).encode()], headers=headers)) as fake:
        provider = await connected(fake, headers={"anthropic-beta": "x-2026"})
        emitted = Emitted()
        ask = golden.ask_of({"messages": [{"role": "user", "parts": [{"text": "Hello"}]}], "temperature": 0.5})
        await provider.generate(ask, emitted)
        await provider.close()
    [asked] = fake.asked
    [chunk] = emitted
    assert (asked.path, asked.body["temperature"], asked.headers["Authorization"]) == ("/v1/messages", 0.5, f"Bearer {KEY}")
    assert (asked.headers["anthropic-version"], asked.headers["anthropic-beta"]) == ("2023-06-01", "x-2026")
    assert chunk.head is not None
    assert (chunk.text, chunk.head.request_id, dict(chunk.head.limits)) == ("Hi", "req_1", {"anthropic-ratelimit-requests-remaining": "49"})


async def test_a_stream_cut_inside_a_character_and_an_event() -> None:
    whole = sse(START, DELTA, DELTA, *END)
    pieces = [whole[:200], whole[200:201], whole[201:]]
    async with FakeProvider(Script(pieces, headers={**SSE, "request-id": "req_2"})) as fake:
        provider = await connected(fake, base_url=fake.url + "/v1/")
        emitted = Emitted()
        await provider.generate(HELLO, emitted)
        await provider.close()
    answer = emitted.answer()
    answer.prove("anthropic", may_be_empty=False)
    assert answer.text == "안녕안녕"
    assert answer.head is not None
    assert answer.head.request_id == "req_2"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (9, 3) if answer.usage else False
    assert fake.asked[0].path == "/v1/messages"
    assert "temperature" not in fake.asked[0].body
    assert fake.asked[0].headers["anthropic-version"] != "2023-06-01"


async def fails(script: Script, ask: GenerateAsk = HELLO) -> tuple[ProviderError, Emitted, FakeProvider]:
    async with FakeProvider(script) as fake:
        provider = await connected(fake)
        emitted = Emitted()
        with pytest.raises(ProviderError) as caught:
            await provider.generate(ask, emitted)
        await provider.close()
    return caught.value, emitted, fake


async def test_an_error_in_the_middle_of_a_stream_comes_after_what_was_said() -> None:
    error, emitted, _ = await fails(
        Script([sse(START, DELTA, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})], headers=SSE)
    )
    assert (type(error), error.code, emitted.answer().text) == (ProviderUnavailable, "overloaded_error", "안녕")


async def test_an_unknown_end_is_no_answer_but_is_accounted() -> None:
    odd = {"type": "message_delta", "delta": {"stop_reason": "a_new_reason"}, "usage": {"output_tokens": 3}}
    error, emitted, _ = await fails(Script([sse(START, DELTA, odd)], headers=SSE))
    answer = emitted.answer()
    assert (type(error), error.code, answer.text) == (ProviderGarbled, "a_new_reason", "안녕")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 3


async def test_nothing_is_sent_twice() -> None:
    error, _, fake = await fails(Script([None]))
    assert (type(error), len(fake.asked)) == (ProviderUnavailable, 1)
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    error, _, fake = await fails(Script([body], status=529, headers={"retry-after": "0", "x-should-retry": "true"}))
    assert (type(error), error.retry_after_ms, len(fake.asked)) == (ProviderUnavailable, 0, 1)
    error, _, fake = await fails(Script([b""], status=307, headers={"Location": "/elsewhere"}))
    assert (type(error), len(fake.asked)) == (ProviderGarbled, 1)


async def test_a_connection_lost_in_the_middle_is_a_cut() -> None:
    error, emitted, fake = await fails(Script([sse(START, DELTA), None], headers=SSE))
    assert (type(error), emitted.answer().text, len(fake.asked)) == (StreamCut, "안녕", 1)


async def test_a_connection_lost_in_an_answer_that_is_no_stream() -> None:
    error, _, fake = await fails(Script([b"<html>", None], headers={"Content-Type": "text/html"}))
    assert (type(error), len(fake.asked)) == (ProviderUnavailable, 1)
    error, _, fake = await fails(Script([b'{"type"', None], status=500))
    assert (type(error), len(fake.asked)) == (ProviderUnavailable, 1)


async def test_html_under_200_is_garbage() -> None:
    for ask in (HELLO, golden.ask_of({"messages": [{"role": "user", "parts": [{"text": "x"}]}]})):
        error, _, _ = await fails(Script([b"<html>Sign in</html>"], headers={"Content-Type": "text/html"}), ask)
        assert isinstance(error, ProviderGarbled)


async def test_the_key_is_in_no_error() -> None:
    body = json.dumps({"type": "error", "error": {"type": "authentication_error", "message": f"invalid key {KEY}"}}).encode()
    error, _, _ = await fails(Script([body], status=401))
    assert KEY not in str(error)
    assert "anthropic/claude-x" in str(error)


async def test_no_server_is_unavailable() -> None:
    async with FakeProvider(Script()) as fake:
        provider = await connected(fake)
    with pytest.raises(ProviderUnavailable, match="anthropic/claude-x"):
        await provider.generate(HELLO, Emitted())
    await provider.close()


async def test_without_a_key_or_an_address_of_its_own_it_does_not_start() -> None:
    with pytest.raises(SettingsError, match="ANTHROPIC_API_KEY"):
        await ours.connect(ProviderSettings(name="anthropic", kind="anthropic"))


def test_no_sdk_is_imported_before_connect() -> None:
    code = (
        "import sys, sidecar.providers.anthropic, sidecar.providers.google, sidecar.providers.ollama;"
        "sys.exit(' '.join({'anthropic', 'google.genai', 'httpx2', 'pydantic'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""


async def test_without_its_sdk_it_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(SettingsError, match=r"anthropic is not installed; install llm-sidecar\[anthropic\]"):
        await ours.connect(ProviderSettings(name="anthropic", kind="anthropic", api_key=KEY))


async def test_what_came_before_garbage_is_passed_on() -> None:
    error, emitted, _ = await fails(Script([sse(DELTA) + b"data: {broken\n\n"], headers=SSE))
    assert (type(error), emitted.answer().text) == (ProviderGarbled, "안녕")


def test_an_error_in_place_of_a_message_has_its_class() -> None:
    with pytest.raises(ProviderUnavailable):
        ours.reply(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
