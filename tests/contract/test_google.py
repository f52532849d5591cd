"""Google: the wire as golden cases, the SDK's exceptions, and the connected provider against a fake on a real socket."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import pytest
from google.genai import _api_client as sdk_client
from google.genai import errors as sdk_errors
from google.genai import types as sdk_types

from sidecar.answer import Answer
from sidecar.call import Call, Chunk, EmbedAsk, GenerateAsk
from sidecar.edge.wire import delta_events, generate_request, tool_call_messages
from sidecar.errors import (
    ProviderAuthFailed,
    ProviderError,
    ProviderGarbled,
    ProviderModelUnknown,
    ProviderRateLimited,
    ProviderUnavailable,
    SettingsError,
    StreamCut,
)
from sidecar.providers import Provider
from sidecar.providers import google as ours
from sidecar.providers.google_wire import FINISHES
from sidecar.request import GenerateRequest, Message, Text
from sidecar.settings.routing import ProviderSettings
from sidecar.v1 import llm_pb2 as pb
from tests.contract import golden
from tests.contract.fake import Emitted, FakeProvider, Script

KEY = "AIza-secret-0123456789"
HELLO = GenerateAsk(model="gemini-x", messages=(Message("user", (Text("Hello"),)),), stream=True, max_output_tokens=10)
SSE = {"Content-Type": "text/event-stream"}


@pytest.mark.parametrize("case", golden.cases("google", "ask"))
def test_builds_the_body(case: dict[str, Any]) -> None:
    assert ours.request(golden.ask_of(case["ask"])) == case["body"]


@pytest.mark.parametrize("case", golden.cases("google", "embed"))
def test_builds_the_body_for_embeddings(case: dict[str, Any]) -> None:
    assert ours.embed_request(golden.embed_ask_of(case["embed"])) == case["body"]


@pytest.mark.parametrize("case", golden.cases("google", "reply"))
def test_reads_a_whole_answer(case: dict[str, Any]) -> None:
    assert golden.plain_of(ours.reply(golden.wire(case["reply"]))) == case["chunk"]


@pytest.mark.parametrize("case", golden.cases("google", "events"))
def test_reads_a_stream(case: dict[str, Any]) -> None:
    whole = ours.WholeStream()
    chunks = [whole(read) for event in case["events"] if (read := ours.chunk(golden.wire(event))) is not None]
    assert [golden.plain_of(chunk) for chunk in chunks] == case["chunks"]


@pytest.mark.parametrize("case", golden.cases("google", "vectors"))
def test_reads_embeddings(case: dict[str, Any]) -> None:
    found = ours.vectors(golden.wire(case["vectors"]))
    assert [pytest.approx(vector) for vector in case["found"]["vectors"]] == [list(vector) for vector in found.vectors]
    assert golden.plain_of(found.usage) == case["found"]["usage"]


def said_in(event: bytes) -> Chunk:
    read = ours.chunk(event)
    assert read is not None
    return read


@pytest.mark.parametrize("case", golden.cases("google", "failures"))
def test_tells_failures_apart(case: dict[str, Any]) -> None:
    for status, headers, body, kind, said in case["failures"]:
        error = ours.failure(status, headers, golden.wire(body))
        expected = {"status": status, "retry_after_ms": None, **said}
        assert (type(error).__name__, {name: getattr(error, name) for name in expected}) == (kind, expected), body


# Each reason the SDK knows is either an ending of an answer or none; a new one has to be put on one side.
NO_WHOLE_ANSWER = {
    "FINISH_REASON_UNSPECIFIED",
    "OTHER",
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "MISSING_THOUGHT_SIGNATURE",
    "MALFORMED_RESPONSE",
    "IMAGE_OTHER",
    "NO_IMAGE",
    "PUP_LIMITED_DISABLED",
}


@pytest.mark.parametrize("reason", [reason.value for reason in sdk_types.FinishReason])
def test_translates_every_finish_reason(reason: str) -> None:
    read = said_in(golden.wire({"candidates": [{"finishReason": reason}]}))
    assert (read.raw_finish, read.last) == (reason, True)
    assert (read.finish is None) == (reason in NO_WHOLE_ANSWER)
    assert read.finish == FINISHES.get(reason)


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    part = {"functionCall": {"name": "now", "args": {}}}
    event = golden.wire({"candidates": [{"content": {"parts": [part, part]}}], "responseId": "r1"})
    whole = ours.WholeStream()
    calls = [*whole(said_in(event)).tool_calls, *whole(said_in(event)).tool_calls]
    assert len({call.id for call in calls}) == 4
    assert [call.index for call in calls] == [0, 1, 2, 3]
    assert ours.WholeStream()(said_in(event)).tool_calls == tuple(calls[:2])
    other = said_in(event.replace(b"r1", b"r2"))
    assert {call.id for call in other.tool_calls}.isdisjoint(call.id for call in calls)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"<html>", b"[]", b'{"candidates":[]}', b'{"candidates":"x"}', b'{"usageMetadata":{}}', b'{"cand']
)
def test_garbage_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProviderGarbled):
        ours.reply(body)


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3-flash-preview"])
def test_a_signature_goes_to_the_caller_and_back(model: str) -> None:
    first, second = ({"functionCall": {"id": name, "name": "now", "args": {}}} for name in "ab")
    parts = [{**first, "thoughtSignature": "c2ln+/=="}, second]
    reply = golden.wire({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})
    said = ours.reply(reply)
    answer = Answer()
    answer.add(said)
    calls = tool_call_messages(answer)
    assert [one.signature for one in calls] == ["c2ln+/==", ""]
    call = Call(id="1", operation="stream", request=GenerateRequest(), metadata={}, arrived=0, deadline=0)
    call.answer = answer
    for chunks in ([said], [Chunk(tool_calls=answer.tool_deltas())]):  # as it came, and as a held answer goes on
        assert [event.tool_call_delta.signature for event in delta_events(call, chunks)] == ["c2ln+/==", ""]
    sent_back = pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(tool_call=one) for one in calls])
    messages = generate_request(pb.GenerateRequest(messages=[sent_back])).messages
    [turn] = ours.request(GenerateAsk(model=model, messages=messages, stream=False, max_output_tokens=1))["contents"]
    assert turn["parts"] == parts


@pytest.mark.parametrize("body", [b"", b"{}", b'{"embeddings":null}', b'{"embeddings":[{"values":["x"]}]}'])
def test_garbage_is_no_vector(body: bytes) -> None:
    with pytest.raises(ProviderGarbled):
        ours.vectors(body)


def test_an_array_of_an_error_is_that_error() -> None:
    with pytest.raises(ProviderUnavailable, match="overloaded"):
        ours.chunk(b'[{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]')


# --- the SDK's exceptions


def own_exceptions() -> list[type[BaseException]]:
    return [
        kind
        for module in (sdk_errors, sdk_client)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, BaseException) and not issubclass(kind, Warning) and kind.__module__ == module.__name__
    ]


@pytest.mark.parametrize("kind", own_exceptions(), ids=lambda kind: kind.__name__)
def test_every_exception_of_the_sdk_has_a_meaning(kind: type[BaseException]) -> None:
    assert kind.__name__ in ours.EXCEPTIONS, f"{kind.__name__} is new: give it a meaning in EXCEPTIONS"


async def test_a_key_of_the_wrong_kind_is_found_out_by_the_sdk() -> None:
    provider = await ours.connect(ProviderSettings(name="google", kind="google", api_key=KEY))
    assert isinstance(provider, ours.Google)
    provider._sdk._api_client.api_key = "auth_tokens/0123456789"
    with pytest.raises(ProviderAuthFailed, match="EphemeralTokenAPIKeyError"):
        await provider.generate(HELLO, Emitted())
    await provider.close()


def test_arguments_that_are_no_utf8_are_garbage() -> None:
    with pytest.raises(ProviderGarbled, match="not UTF-8"):
        ours.reply(b'{"candidates":[{"finishReason":"STOP","content":{"parts":[{"functionCall":{"name":"n","args":{"a":"\xff"}}}]}}]}')


@pytest.mark.parametrize("body", golden.HOSTILE, ids=lambda body: repr(body[:8]))
def test_hostile_bytes_are_garbage(body: bytes) -> None:
    for read in (ours.reply, ours.chunk, ours.vectors):
        with pytest.raises(ProviderGarbled):
            read(body)
    assert isinstance(ours.failure(500, {}, body), ProviderUnavailable)


# --- connected


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n".encode() for event in events)


def event(text: str, **more: Any) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, **more}],
        "responseId": "r1",
        "modelVersion": "gemini-x-1",
    }


END = event("", finishReason="STOP") | {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 3}}


async def connected(fake: FakeProvider, **more: Any) -> Provider:
    settings = {"name": "google", "kind": "google", "api_key": KEY, "base_url": fake.url, "connect_timeout_ms": 500, **more}
    return await ours.connect(ProviderSettings(**settings))


@pytest.mark.parametrize(("path", "expected"), [("", "/v1/"), ("/v1beta", "/v1beta/"), ("/gateway/v1alpha/", "/gateway/v1alpha/")])
async def test_a_whole_answer(path: str, expected: str) -> None:
    async with FakeProvider(Script([json.dumps(END).encode()])) as fake:
        provider = await connected(fake, base_url=fake.url + path, headers={"X-Team": "a"})
        emitted = Emitted()
        await provider.generate(golden.ask_of({"model": "gemini-x", "messages": [{"role": "user", "parts": [{"text": "x"}]}]}), emitted)
        await provider.close()
    [asked], [chunk] = fake.asked, emitted
    assert asked.path == f"{expected}models/gemini-x:generateContent"
    assert (asked.headers["x-goog-api-key"], asked.headers["X-Team"], asked.headers["Content-Type"]) == (KEY, "a", "application/json")
    assert "google-genai-sdk" in asked.headers["x-goog-api-client"]
    assert chunk.head is not None
    assert (chunk.head.request_id, chunk.finish, chunk.last) == ("r1", "stop", True)


async def test_a_stream_cut_inside_a_character_with_usage_after_its_end() -> None:
    later = {"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 4}, "responseId": "r1"}
    whole = sse(event("안녕"), event("안녕"), END, later)
    cut = whole.index("녕".encode()) + 1
    async with FakeProvider(Script([whole[:cut], whole[cut : cut + 1], whole[cut + 1 :]], headers=SSE)) as fake:
        provider = await connected(fake)
        emitted = Emitted()
        await provider.generate(HELLO, emitted)
        await provider.close()
    answer = emitted.answer()
    answer.prove("google", may_be_empty=False)
    assert (answer.text, answer.model) == ("안녕안녕", "gemini-x-1")
    assert answer.head is not None
    assert answer.head.request_id == "r1"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 4)
    assert fake.asked[0].path == "/v1/models/gemini-x:streamGenerateContent?alt=sse"


async def fails(script: Script) -> tuple[ProviderError, Emitted, FakeProvider]:
    async with FakeProvider(script) as fake:
        provider = await connected(fake)
        emitted = Emitted()
        with pytest.raises(ProviderError) as caught:
            await provider.generate(HELLO, emitted)
        await provider.close()
    return caught.value, emitted, fake


async def test_nothing_is_sent_twice() -> None:
    """The SDK's own transport waits up to 10 s and then asks again."""
    error, _, fake = await fails(Script([None]))
    assert (type(error), len(fake.asked)) == (ProviderUnavailable, 1)
    body = b'{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}'
    error, _, fake = await fails(Script([body], status=503))
    assert (type(error), len(fake.asked)) == (ProviderUnavailable, 1)


async def test_an_error_event_comes_after_what_was_said() -> None:
    error, emitted, _ = await fails(
        Script([sse(event("안녕"), {"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED"}})], headers=SSE)
    )
    assert (type(error), error.status, emitted.answer().text) == (ProviderRateLimited, 429, "안녕")


async def test_an_error_without_a_stream_under_200() -> None:
    error, _, _ = await fails(Script([b'[{"error":{"code":404,"message":"models/x is not found","status":"NOT_FOUND"}}]']))
    assert isinstance(error, ProviderModelUnknown)


async def test_a_malformed_answer_is_none_but_is_accounted() -> None:
    end = END | {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}
    error, emitted, _ = await fails(Script([sse(event("안녕"), end)], headers=SSE))
    answer = emitted.answer()
    assert (type(error), error.code, answer.text) == (ProviderGarbled, "MALFORMED_FUNCTION_CALL", "안녕")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 3


async def test_a_connection_lost_in_the_middle_is_a_cut() -> None:
    error, emitted, fake = await fails(Script([sse(event("안녕")), None], headers=SSE))
    assert (type(error), emitted.answer().text, len(fake.asked)) == (StreamCut, "안녕", 1)


async def test_the_key_is_in_no_error() -> None:
    body = json.dumps({"error": {"code": 400, "message": f"API key not valid: {KEY}", "status": "INVALID_ARGUMENT"}}).encode()
    error, _, fake = await fails(Script([body], status=400))
    assert isinstance(error, ProviderAuthFailed)
    assert KEY not in str(error)
    assert KEY not in fake.asked[0].path


async def test_many_inputs_go_in_batches_and_come_back_in_order() -> None:
    def batch(start: int, count: int) -> Script:
        vectors = [{"values": [float(start + i), 0.5]} for i in range(count)]
        return Script([json.dumps({"embeddings": vectors, "usageMetadata": {"promptTokenCount": count}}).encode()])

    async with FakeProvider(batch(1, 100), batch(101, 50)) as fake:
        provider = await connected(fake)
        found = await provider.embed(EmbedAsk(model="gemini-embedding-001", inputs=tuple(map(str, range(150)))))
        await provider.close()
    assert [len(asked.body["requests"]) for asked in fake.asked] == [100, 50]
    assert fake.asked[0].path == "/v1/models/gemini-embedding-001:batchEmbedContents"
    assert (len(found.vectors), found.usage.input_tokens) == (150, 150)
    assert [round(vector[0] / vector[1] / 2) for vector in found.vectors] == list(range(1, 151))


async def test_too_few_vectors_are_garbage() -> None:
    async with FakeProvider(Script([b'{"embeddings":[{"values":[1.0]}]}'])) as fake:
        provider = await connected(fake)
        with pytest.raises(ProviderGarbled, match="1 vectors came for 2 inputs"):
            await provider.embed(EmbedAsk(model="e", inputs=("a", "b")))
        await provider.close()


async def test_without_a_key_or_an_address_of_its_own_it_does_not_start() -> None:
    with pytest.raises(SettingsError, match="GOOGLE_API_KEY"):
        await ours.connect(ProviderSettings(name="google", kind="google"))


async def test_a_key_that_is_none_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"GOOGLE_API_KEY: .*live API") as caught:
        await ours.connect(ProviderSettings(name="google", kind="google", api_key="auth_tokens/0123456789"))
    assert "0123456789" not in str(caught.value)


async def test_without_its_sdk_it_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.genai.types", None)
    with pytest.raises(SettingsError, match=r"google-genai is not installed; install llm-sidecar\[google\]"):
        await ours.connect(ProviderSettings(name="google", kind="google", api_key=KEY))
