"""OpenAI's format, spoken by `openai` and `compatible`: the wire as golden cases, garbage, and the SDK's exceptions."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import aiohttp
import httpx2
import msgspec
import openai as sdk
import pytest

from sidecar.call import Chunk, EmbedAsk, GenerateAsk
from sidecar.errors import (
    ProviderAuthFailed,
    ProviderError,
    ProviderGarbled,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    SettingsError,
    StreamCut,
)
from sidecar.providers import compatible, openai
from sidecar.request import Image, Message
from sidecar.settings.routing import ProviderSettings
from tests.contract import golden

MODULES = {"openai": openai, "compatible": compatible}
REQUEST = httpx2.Request("POST", "https://api.openai.com/v1/chat/completions")


@pytest.mark.parametrize("provider", MODULES)
def test_builds_the_body(provider: str, subtests: pytest.Subtests) -> None:
    for param in golden.cases(provider, "ask"):
        with subtests.test(param.id):
            [case] = param.values
            body = MODULES[provider].request(golden.ask_of(case["ask"]))
            assert json.loads(msgspec.json.encode(body)) == case["body"]


@pytest.mark.parametrize("provider", MODULES)
def test_builds_the_body_for_embeddings(provider: str, subtests: pytest.Subtests) -> None:
    for param in golden.cases(provider, "embed"):
        with subtests.test(param.id):
            [case] = param.values
            body = MODULES[provider].embedding(golden.embed_ask_of(case["embed"]))
            assert json.loads(msgspec.json.encode(body)) == case["body"]


@pytest.mark.parametrize("case", golden.cases("openai", "reply"))
def test_reads_a_whole_answer(case: dict[str, Any]) -> None:
    assert golden.plain_of(openai.reply(golden.wire(case["reply"]))) == case["chunk"]


@pytest.mark.parametrize("case", golden.cases("openai", "events"))
def test_reads_a_stream(case: dict[str, Any]) -> None:
    read = openai.reader()
    chunks = [chunk for event in case["events"] if (chunk := read(golden.wire(event))) is not None]
    assert [golden.plain_of(chunk) for chunk in chunks] == case["chunks"]


@pytest.mark.parametrize("case", golden.cases("openai", "vectors"))
def test_reads_vectors(case: dict[str, Any]) -> None:
    found = openai.vectors(golden.wire(case["vectors"]))
    told = {"vectors": [list(v) for v in found.vectors], "input_tokens": found.usage.input_tokens, "model": found.model}
    assert told == case["found"]


@pytest.mark.parametrize("case", golden.cases("openai", "failures"))
def test_tells_failures_apart(case: dict[str, Any], subtests: pytest.Subtests) -> None:
    for status, headers, body, kind, said in case["failures"]:
        with subtests.test(f"{status} {body}"):
            error = openai.failure(status, headers, golden.wire(body), whose="openai/gpt-4o")
            expected = {"status": status, "retry_after_ms": None, **said}
            assert (type(error).__name__, {name: getattr(error, name) for name in expected}) == (kind, expected)
            assert error.message.startswith("openai/gpt-4o: ")


def test_carries_an_images_detail() -> None:
    image = Image(url="https://example.com/a.png", detail="low")
    body = openai.request(GenerateAsk(model="m", messages=(Message("user", (image,)),), stream=False, max_output_tokens=1))
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}]}
    ]


# --- what is no answer

CHOICE = '{"index":0,"message":{"content":"x"},"finish_reason":"stop"}'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "an empty body"),
        ("<html><body>It works!</body></html>", "HTML"),
        ("{}", "no message"),
        ('{"choices":[]}', "no message"),
        ('{"choices":[{"index":0,"finish_reason":"stop"}]}', "no message"),
        ('{"choices":[{"index":0,"message":{"content":"x"', "broken JSON"),
        ('{"choices":[{"message":{"content":5}}]}', r"another shape.*choices\[0\]\.message\.content"),
        ("[]", "another shape"),
        ('{"error":' + "[" * 100_000, "broken JSON"),
        ('{"choices":[' + CHOICE + "," + CHOICE.replace(":0,", ":1,") + "]}", "second choice"),
        ('{"choices":[{"message":{"tool_calls":[{"id":"a","type":"custom","custom":{}}]}}]}', "type 'custom'"),
    ],
)
def test_garbage_is_no_answer(body: str, said: str) -> None:
    with pytest.raises(ProviderGarbled, match=said):
        openai.reply(body.encode(), whose="openai/gpt-4o")


def test_text_that_is_no_utf8_is_no_answer() -> None:
    with pytest.raises(ProviderGarbled):
        openai.reply(b'{"choices":[{"message":{"content":"\xff"},"finish_reason":"stop"}]}')


@pytest.mark.parametrize("event", ["x", "{", '{"choices":[{"delta":{"content":[]}}]}', '{"choices":1}', "[DONE"])
def test_a_broken_event_is_garbage(event: str) -> None:
    with pytest.raises(ProviderGarbled):
        openai.reader()(event.encode())


def test_two_calls_under_one_index_are_garbage() -> None:
    read = openai.reader()
    call = '{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"%s","function":{"name":"now","arguments":"{}"}}]}}]}'
    read((call % "call_a").encode())
    with pytest.raises(ProviderGarbled, match="'call_a' and 'call_b', share the index 0"):
        read((call % "call_b").encode())


def test_an_error_inside_a_stream_raises_its_class() -> None:
    with pytest.raises(ProviderRateLimited, match="Rate limit reached"):
        openai.reader("openai/gpt-4o")(b'{"error":{"message":"Rate limit reached","type":"tokens","code":"rate_limit_exceeded"}}')


def test_an_unknown_finish_reason_is_left_to_whoever_reads_the_whole_stream() -> None:
    read = openai.reader()
    ending = read(b'{"choices":[{"delta":{},"finish_reason":"abort"}]}')
    assert ending == Chunk(raw_finish="abort")
    usage = read(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}')
    assert usage is not None
    assert usage.usage is not None
    assert read(b"[DONE]") == Chunk(last=True)


def _embeddings(*items: tuple[int, Any]) -> bytes:
    return msgspec.json.encode({"data": [{"index": index, "embedding": vector} for index, vector in items], "model": "m"})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{}", "no embeddings"),
        (b'{"data":[]}', "no embeddings"),
        (b'{"data":[{"embedding":[1.0]}]}', "index"),
        (_embeddings((0, [1, 2])), "1 vectors came for 2 inputs"),
        (_embeddings((0, [1, 2]), (0, [1, 2])), "do not count them: 0, 0"),
        (_embeddings((1, [1, 2]), (2, [1, 2])), "do not count them: 1, 2"),
        (_embeddings((0, [1, 2]), (1, [1, 2]), (2, [1, 2])), "3 vectors"),
        (_embeddings((0, [1, 2]), (1, [1, 2, 3])), r"different lengths: \[2, 3\]"),
        (_embeddings((0, [1, 2]), (1, [])), "input 1 is empty"),
        (_embeddings((0, [1, 2]), (1, "AAAA")), "input 1 is no base64 of float32"),
        (_embeddings((0, [1, 2]), (1, "no base64!")), "input 1 is no base64 of float32"),
        (_embeddings((0, [1, 2]), (1, base64.b64encode(b"\x00\x00\xc0\x7f" * 2).decode())), "input 1 is not finite"),
    ],
)
def test_vectors_that_do_not_fit_the_inputs_are_garbage(body: bytes, said: str) -> None:
    with pytest.raises(ProviderGarbled, match=said):
        openai.vectors(body, count=2, dimensions=2)


def test_vectors_of_another_length_than_asked_are_garbage() -> None:
    with pytest.raises(ProviderGarbled, match="3 dimensions were asked for, vectors of 2 came"):
        openai.vectors(_embeddings((0, [1, 2])), count=1, dimensions=3)


def test_no_error_holds_a_key() -> None:
    key = "my-own-key-of-no-known-shape"
    for said in (
        f"Incorrect API key provided: {key}.",
        "Incorrect API key provided: sk-proj-abcdefgh1234.",
        "Bearer abcdefgh1234 is wrong",
    ):
        body = msgspec.json.encode({"error": {"message": said, "code": "invalid_api_key"}})
        for error in (openai.failure(401, {}, body, key=key), _raised(body, key)):
            assert isinstance(error, ProviderAuthFailed)
            assert "[key]" in error.message
            assert not any(part in error.message for part in (key, "abcdefgh1234"))


def _raised(event: bytes, key: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        openai.reader("openai", key)(event)
    return caught.value


def test_no_error_holds_what_a_server_quotes_of_the_prompt() -> None:
    body = msgspec.json.encode({"message": "[{'type': 'missing', 'loc': ('body',), 'msg': 'Field required', 'input': {'p': 'secret'}}]"})
    assert "secret" not in openai.failure(400, {}, body).message
    body = msgspec.json.encode({"detail": [{"loc": ["body", "n"], "msg": "not an integer", "input": "secret"}]})
    error = openai.failure(422, {}, body)
    assert "not an integer" in error.message
    assert "secret" not in error.message


def test_a_long_message_is_cut() -> None:
    error = openai.failure(400, {}, msgspec.json.encode({"error": {"message": "a" * 10_000}}))
    assert len(error.message) == 400


# --- the SDK's exceptions


def _subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(_subclasses(below) for below in kind.__subclasses__()))


def test_every_exception_the_sdk_exports_has_a_row() -> None:
    exported = {kind.__name__ for kind in list(vars(sdk).values()) if isinstance(kind, type) and issubclass(kind, Exception)}
    own = {kind.__name__ for kind in _subclasses(sdk.OpenAIError) if kind.__module__ in ("openai", "openai._exceptions")}
    assert {name for name in exported | own if not name.startswith("_")} == set(openai.EXCEPTIONS)


@pytest.mark.parametrize("kind", sorted(_subclasses(sdk.APIStatusError), key=str), ids=str)
def test_a_status_is_read_from_the_answer(kind: Any) -> None:
    response = httpx2.Response(429, json={"error": {"message": "No credit", "code": "insufficient_quota"}}, request=REQUEST)
    error = kind(response=response, body=None) if kind is sdk.OAuthError else kind("No credit", response=response, body=None)
    ours = openai.translated(error, "openai/gpt-4o")
    assert (type(ours).__name__, ours.status, ours.code) == ("ProviderQuotaExhausted", 429, "insufficient_quota")


@pytest.mark.parametrize(
    ("lowest", "between", "begun", "kind"),
    [
        (aiohttp.ClientConnectionError("lost"), httpx2.ConnectTimeout("lost"), False, ProviderUnavailable),  # mislabelled below the SDK
        (aiohttp.ServerDisconnectedError(), httpx2.ConnectTimeout("lost"), False, ProviderUnavailable),
        (aiohttp.ConnectionTimeoutError("slow"), httpx2.TimeoutException("slow"), False, ProviderTimeout),
        (None, httpx2.ConnectTimeout("slow"), False, ProviderTimeout),
        (None, httpx2.ReadError("lost"), False, ProviderUnavailable),
        (aiohttp.ClientPayloadError("cut"), httpx2.ReadError("cut"), True, StreamCut),
        (None, httpx2.RemoteProtocolError("cut"), True, StreamCut),
    ],
)
def test_the_failure_below_decides(lowest: Exception | None, between: Exception, begun: bool, kind: type[ProviderError]) -> None:
    between.__cause__ = lowest
    error = sdk.APITimeoutError(REQUEST)
    error.__cause__ = between
    assert type(openai.translated(error, "openai/gpt-4o", begun=begun)) is kind
    assert type(openai.translated(between, "openai/gpt-4o", begun=begun)) is kind


def test_a_defect_is_not_the_providers_fault() -> None:
    with pytest.raises(ZeroDivisionError):
        openai.translated(ZeroDivisionError("ours"), "openai/gpt-4o")


# --- connecting


async def test_without_a_key_there_is_no_openai() -> None:
    with pytest.raises(SettingsError, match=r"provider openai: api_key: not set.*OPENAI_API_KEY"):
        await openai.connect(ProviderSettings(name="openai", kind="openai"))


async def test_without_the_sdk_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SettingsError, match=r"pip install 'llm-sidecar\[openai\]'"):
        await openai.connect(ProviderSettings(name="openai", kind="openai", api_key="k"))


@pytest.mark.parametrize("base_url", [None, "", "localhost:8000", "ftp://host/v1", "http://", "http://user:secret@"])
async def test_a_base_url_that_is_none_is_refused(base_url: str | None) -> None:
    with pytest.raises(SettingsError, match="provider llama: base_url: ") as caught:
        await compatible.connect(ProviderSettings(name="llama", kind="compatible", base_url=base_url))
    assert "secret" not in str(caught.value)


def test_options_reach_the_body_for_embeddings() -> None:
    body = compatible.embedding(EmbedAsk(model="m", inputs=("a",), options={"encoding_format": "base64", "user": "u"}))
    assert body == {"model": "m", "input": ("a",), "encoding_format": "base64", "user": "u"}
