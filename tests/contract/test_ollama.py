"""Ollama: the wire as golden cases, and the connected provider against a fake on a real socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.call import Chunk, EmbedAsk, GenerateAsk
from sidecar.errors import (
    ProviderContextExceeded,
    ProviderError,
    ProviderGarbled,
    ProviderModelUnknown,
    ProviderUnavailable,
    SettingsError,
    StreamCut,
)
from sidecar.providers import Provider
from sidecar.providers import ollama as ours
from sidecar.providers.tool_calls import WholeCalls
from sidecar.request import Message, Text
from sidecar.settings.routing import ProviderSettings
from tests.contract import golden
from tests.contract.fake import Emitted, FakeProvider, Script

HELLO = GenerateAsk(model="llama3.2", messages=(Message("user", (Text("Hello"),)),), stream=True, max_output_tokens=10)
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.mark.parametrize("case", golden.cases("ollama", "ask"))
def test_builds_the_body(case: dict[str, Any]) -> None:
    assert ours.request(golden.ask_of(case["ask"])) == case["body"]


@pytest.mark.parametrize("case", golden.cases("ollama", "embed"))
def test_builds_the_body_for_embeddings(case: dict[str, Any]) -> None:
    assert ours.embed_request(golden.embed_ask_of(case["embed"])) == case["body"]


@pytest.mark.parametrize("case", golden.cases("ollama", "reply"))
def test_reads_a_whole_answer(case: dict[str, Any]) -> None:
    assert golden.plain_of(ours.reply(golden.wire(case["reply"]))) == case["chunk"]


@pytest.mark.parametrize("case", golden.cases("ollama", "events"))
def test_reads_a_stream(case: dict[str, Any]) -> None:
    whole = WholeCalls()
    chunks = [whole(read) for event in case["events"] if (read := ours.chunk(golden.wire(event))) is not None]
    assert [golden.plain_of(chunk) for chunk in chunks] == case["chunks"]


@pytest.mark.parametrize("case", golden.cases("ollama", "vectors"))
def test_reads_embeddings(case: dict[str, Any]) -> None:
    assert golden.plain_of(ours.vectors(golden.wire(case["vectors"]))) == case["found"]


def said_in(event: bytes) -> Chunk:
    read = ours.chunk(event)
    assert read is not None
    return read


@pytest.mark.parametrize("case", golden.cases("ollama", "failures"))
def test_tells_failures_apart(case: dict[str, Any]) -> None:
    for status, headers, body, kind, said in case["failures"]:
        error = ours.failure(status, headers, golden.wire(body))
        expected = {"status": status, "retry_after_ms": None, **said}
        assert (type(error).__name__, {name: getattr(error, name) for name in expected}) == (kind, expected), body


@pytest.mark.parametrize(("raw", "finish"), [("stop", "stop"), ("length", "length"), ("load", None), ("unload", None), ("a_new_one", None)])
def test_translates_every_done_reason(raw: str, finish: str | None) -> None:
    read = said_in(golden.wire({"done": True, "done_reason": raw, "message": {}}))
    assert (read.finish, read.raw_finish) == (finish, raw)


def test_a_call_without_an_id_gets_one_of_its_own() -> None:
    line = {"created_at": "2026-01-01T00:00:00Z", "done": False, "message": {"tool_calls": [{"function": {"name": "now"}}] * 2}}
    whole, again = WholeCalls(), WholeCalls()
    calls = [*whole(said_in(golden.wire(line))).tool_calls, *whole(said_in(golden.wire(line))).tool_calls]
    assert len({call.id for call in calls}) == 4
    assert [call.index for call in calls] == [0, 1, 2, 3]
    assert again(said_in(golden.wire(line))).tool_calls == tuple(calls[:2])
    other = said_in(golden.wire({**line, "created_at": "2026-01-01T00:00:01Z"}))
    assert {call.id for call in other.tool_calls}.isdisjoint(call.id for call in calls)


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"[1]", b'{"done":true,"message":1}', b'{"done":false,"message":{"content":"x"}}'])
def test_garbage_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProviderGarbled):
        ours.reply(body)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"embeddings":null}', b'{"embeddings":[["x"]]}'])
def test_garbage_is_no_vector(body: bytes) -> None:
    with pytest.raises(ProviderGarbled):
        ours.vectors(body)


def test_arguments_that_are_no_utf8_are_garbage() -> None:
    with pytest.raises(ProviderGarbled, match="not UTF-8"):
        ours.reply(b'{"done":true,"message":{"tool_calls":[{"function":{"name":"n","arguments":{"a":"\xff"}}}]}}')


@pytest.mark.parametrize("body", golden.HOSTILE, ids=lambda body: repr(body[:8]))
def test_hostile_bytes_are_garbage(body: bytes) -> None:
    for read in (ours.reply, ours.chunk, ours.vectors):
        with pytest.raises(ProviderGarbled):
            read(body)
    assert isinstance(ours.failure(500, {}, body), ProviderUnavailable)


# --- connected


def lines(*said: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in said)


def line(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "llama3.2", "message": {"role": "assistant", "content": text}, "done": False, **more}


DONE = line("", done=True, done_reason="stop", prompt_eval_count=9, eval_count=3)


async def connected(fake: FakeProvider, **more: Any) -> Provider:
    return await ours.connect(
        ProviderSettings(**{"name": "ollama", "kind": "ollama", "base_url": fake.url, "connect_timeout_ms": 500, **more})
    )


async def test_a_whole_answer() -> None:
    async with FakeProvider(Script([lines(line("Hi", done=True, done_reason="stop"))])) as fake:
        provider = await connected(fake, api_key="cloud-key-0123", headers={"X-Team": "a"})
        emitted = Emitted()
        await provider.generate(golden.ask_of({"messages": [{"role": "user", "parts": [{"text": "Hello"}]}]}), emitted)
        await provider.close()
    [asked], [chunk] = fake.asked, emitted
    assert (asked.path, asked.headers["Authorization"], asked.headers["X-Team"]) == ("/api/chat", "Bearer cloud-key-0123", "a")
    assert (chunk.text, chunk.finish, chunk.last) == ("Hi", "stop", True)
    assert chunk.head is not None


async def test_a_stream_cut_inside_a_character_and_without_its_last_newline() -> None:
    whole = lines(line("안녕"), line("안녕"), DONE).rstrip()
    cut = whole.index("녕".encode()) + 1
    async with FakeProvider(Script([whole[:cut], whole[cut : cut + 1], whole[cut + 1 :]], headers=NDJSON)) as fake:
        provider = await connected(fake)
        emitted = Emitted()
        await provider.generate(HELLO, emitted)
        await provider.close()
    answer = emitted.answer()
    answer.prove("ollama", may_be_empty=False)
    assert answer.text == "안녕안녕"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (9, 3)


async def fails(script: Script) -> tuple[ProviderError, Emitted, FakeProvider]:
    async with FakeProvider(script) as fake:
        provider = await connected(fake)
        emitted = Emitted()
        with pytest.raises(ProviderError) as caught:
            await provider.generate(HELLO, emitted)
        await provider.close()
    return caught.value, emitted, fake


async def test_an_error_line_in_the_middle_comes_after_what_was_said() -> None:
    error, emitted, _ = await fails(Script([lines(line("안녕"), {"error": "the runner died"})], headers=NDJSON))
    assert (type(error), emitted.answer().text) == (ProviderUnavailable, "안녕")
    assert str(error) == "ollama/llama3.2: the runner died"


async def test_an_unknown_end_is_no_answer_but_is_accounted() -> None:
    error, emitted, _ = await fails(Script([lines(line("안녕"), {**DONE, "done_reason": "load"})], headers=NDJSON))
    answer = emitted.answer()
    assert (type(error), error.code) == (ProviderGarbled, "load")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 3


async def test_nothing_is_sent_twice() -> None:
    error, _, fake = await fails(Script([None]))
    assert (type(error), len(fake.asked)) == (ProviderUnavailable, 1)
    error, _, fake = await fails(Script([b'{"error":"busy"}'], status=503, headers={"retry-after": "0"}))
    assert (type(error), len(fake.asked)) == (ProviderUnavailable, 1)


async def test_refusals_have_their_class() -> None:
    error, _, _ = await fails(Script([b'{"error":"model \'llama3.2\' not found"}'], status=404))
    assert isinstance(error, ProviderModelUnknown)
    assert "ollama pull it first" in str(error)
    error, _, _ = await fails(Script([b'{"error":"the input length exceeds the context length"}'], status=400))
    assert isinstance(error, ProviderContextExceeded)
    error, _, _ = await fails(Script([b"404 page not found"], status=404))
    assert isinstance(error, ProviderModelUnknown)
    assert "is the base URL right?" in str(error)


async def test_a_connection_lost_in_the_middle_is_a_cut() -> None:
    error, emitted, fake = await fails(Script([lines(line("안녕")), None], headers=NDJSON))
    assert (type(error), emitted.answer().text, len(fake.asked)) == (StreamCut, "안녕", 1)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"embeddings": [[1, 2]]}, "1 vectors came for 2 inputs"),
        ({"embeddings": [[1, 2], [1]]}, "different lengths"),
        ({"embeddings": [[1, 2, 3], [1, 2, 3]]}, "2 dimensions were asked for, vectors of 3 came"),
        ({"embeddings": [[], []]}, "input 0 is empty"),
    ],
)
async def test_vectors_that_do_not_fit_are_garbage(reply: dict[str, Any], said: str) -> None:
    async with FakeProvider(Script([json.dumps(reply).encode()])) as fake:
        provider = await connected(fake)
        with pytest.raises(ProviderGarbled, match=said):
            await provider.embed(EmbedAsk(model="e", inputs=("a", "b"), dimensions=2))
        await provider.close()


async def test_vectors() -> None:
    async with FakeProvider(Script([b'{"embeddings":[[1,2],[3,4]],"prompt_eval_count":4}'])) as fake:
        provider = await connected(fake)
        found = await provider.embed(EmbedAsk(model="e", inputs=("a", "b")))
        await provider.close()
    assert [list(vector) for vector in found.vectors] == [[1, 2], [3, 4]]
    assert (found.usage.input_tokens, fake.asked[0].path) == (4, "/api/embed")


async def test_an_address_that_is_none_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="base_url"):
        await ours.connect(ProviderSettings(name="ollama", kind="ollama", base_url="localhost:11434"))
