"""Real exchanges, played back to the connected providers over a socket, and what they make of them held against a plain reading.

The recordings lie outside the project: LLM_RECORDINGS names their folder, in which `exchanges.jsonl` holds one HTTP exchange a line
(`id provider path kind status headers body`). The reading here shares nothing with the providers' own, so that one checks the other.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from struct import unpack
from typing import Any, NamedTuple

import pytest

from sidecar.answer import Answer
from sidecar.call import EmbedAsk, GenerateAsk, Usage
from sidecar.errors import ProviderError
from sidecar.providers import Provider, anthropic, google, ollama, openai
from sidecar.request import Message, Text
from sidecar.settings.routing import ProviderSettings
from tests.contract.fake import Emitted, FakeProvider, Script

FOLDER = os.environ.get("LLM_RECORDINGS", "")
MODULES = {"openai": openai, "anthropic": anthropic, "google": google, "ollama": ollama}
SPOKEN = ("/v1/chat/completions", "/v1/embeddings", "/v1/messages", ":generateContent", ":streamGenerateContent", "/api/chat")

TYPES = {"json": "application/json", "sse": "text/event-stream", "ndjson": "application/x-ndjson"}

# Of the recorded failures, by the provider's own word where it has one.
FAILURES = {
    "invalid_image_url": "ProviderRejected",
    "unsupported_value": "ProviderRejected",
    "model_not_found": "ProviderModelUnknown",
    "NOT_FOUND": "ProviderModelUnknown",
}


class Said(NamedTuple):
    """What an exchange says. Tokens: input, read from a cache, written to one, visible output, reasoning."""

    text: str
    calls: list[tuple[str, Any]]
    finish: str
    tokens: tuple[int, int, int, int, int]


def exchanges(provider: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in Path(FOLDER, "exchanges.jsonl").read_text("utf-8").split("\n") if line]
    return [row for row in rows if row["provider"] == provider]


@pytest.mark.skipif(not FOLDER, reason="LLM_RECORDINGS does not name a folder of recorded exchanges, so none was played back")
@pytest.mark.parametrize("name", MODULES)
async def test_recorded_exchanges(name: str, subtests: pytest.Subtests, capsys: pytest.CaptureFixture[str]) -> None:
    left_out: list[str] = []
    rows = exchanges(name)
    async with FakeProvider(Script()) as fake:
        settings = ProviderSettings(name=name, kind=name, api_key="none", base_url=fake.url)  # type: ignore[arg-type]
        provider = await MODULES[name].connect(settings)
        for row in rows:
            if not row["path"].partition("?")[0].endswith(SPOKEN):
                left_out.append(row["path"])
                continue
            with subtests.test(f"{row['id']} {row['path']} {row['kind']} {row['status']}"):
                fake.scripts[:] = [script_of(row)]
                await played_back(provider, row)
        await provider.close()
    with capsys.disabled():
        print(f"\n{name}: {len(rows) - len(left_out)} exchanges played back, {len(left_out)} left out: {', '.join(sorted(set(left_out)))}")
    assert len(rows) > len(left_out)


def script_of(row: dict[str, Any]) -> Script:
    body = row["body"].encode()
    thirds = [body[: len(body) // 3], body[len(body) // 3 : len(body) // 2 + 1], body[len(body) // 2 + 1 :]]
    # The fake writes its own headers of transfer; its default type is spelt so.
    left = {"content-encoding", "content-length", "content-type", "transfer-encoding", "connection", "date", "server"}
    headers = {key: value for key, value in row["headers"].items() if key.lower() not in left}
    headers["Content-Type"] = row["headers"].get("content-type") or TYPES[row["kind"]]
    return Script([piece for piece in thirds if piece], status=row["status"], headers=headers)


async def played_back(provider: Provider, row: dict[str, Any]) -> None:
    if row["path"].endswith("/embeddings"):
        return await embedded(provider, row)
    ask = GenerateAsk(model="m", messages=(Message("user", (Text("x"),)),), stream=row["kind"] != "json", max_output_tokens=1)
    emitted = Emitted()
    if row["status"] >= 400:
        error = json.loads(row["body"])["error"]
        with pytest.raises(ProviderError) as caught:
            await provider.generate(ask, emitted)
        assert (type(caught.value).__name__, caught.value.status) == (FAILURES[error.get("status") or error["code"]], row["status"])
        return None
    await provider.generate(ask, emitted)
    answer = emitted.answer()
    answer.prove(provider.name, may_be_empty=True)
    assert told_by(answer) == READINGS[row["provider"], row["kind"]](row["body"])
    return None


async def embedded(provider: Provider, row: dict[str, Any]) -> None:
    said = json.loads(row["body"])
    found = await provider.embed(EmbedAsk(model="m", inputs=tuple(f"{at}" for at in range(len(said["data"])))))
    assert found.usage.input_tokens == said["usage"]["prompt_tokens"]
    for item, vector in zip(said["data"], found.vectors, strict=True):
        plain = item["embedding"]
        if isinstance(plain, str):
            data = b64decode(plain)
            plain = unpack(f"<{len(data) // 4}f", data)
        assert list(vector) == pytest.approx(list(plain), rel=1e-6)


def told_by(answer: Answer) -> Said:
    usage = answer.usage or Usage()
    figures = (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens, usage.output_tokens, usage.reasoning_tokens)
    calls = [(call.name, json.loads(call.arguments)) for call in answer.tool_calls]
    return Said(answer.text, calls, str(answer.finish), tuple(figure or 0 for figure in figures))  # type: ignore[arg-type]


# --- the plain readings


def events(body: str) -> list[Any]:
    data = [line[5:].strip() for line in body.replace("\r", "").split("\n") if line.startswith("data:")]
    return [json.loads(text) for text in data if text != "[DONE]"]


def openai_whole(body: str) -> Said:
    answer = json.loads(body)
    [choice] = answer["choices"]
    message = choice["message"]
    calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls") or ()]
    refusal = message.get("refusal") or ""
    return Said(
        (message["content"] or "") + refusal, calls, openai_finish(choice["finish_reason"], refusal, calls), openai_tokens(answer["usage"])
    )


def openai_stream(body: str) -> Said:
    text, refusal, finish, usage = "", "", "", None
    calls: dict[int, list[str]] = {}
    for event in events(body):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            delta = choice["delta"]
            text += delta.get("content") or ""
            refusal += delta.get("refusal") or ""
            finish = choice["finish_reason"] or finish
            for piece in delta.get("tool_calls") or ():
                call = calls.setdefault(piece["index"], ["", ""])
                call[0] += piece["function"].get("name") or ""
                call[1] += piece["function"].get("arguments") or ""
    whole = [(called, json.loads(arguments)) for called, arguments in calls.values()]
    return Said(text + refusal, whole, openai_finish(finish, refusal, whole), openai_tokens(usage))


def openai_finish(raw: str, refusal: str, calls: list[Any]) -> str:
    return "refusal" if refusal else "tool_calls" if calls else raw


def openai_tokens(usage: dict[str, Any] | None) -> tuple[int, int, int, int, int]:
    if usage is None:
        return (0, 0, 0, 0, 0)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return (usage["prompt_tokens"] - cached, cached, 0, usage["completion_tokens"] - reasoning, reasoning)


ANTHROPIC_FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal": "refusal"}


def anthropic_whole(body: str) -> Said:
    message = json.loads(body)
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    calls = [(block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"]
    return Said(text, calls, ANTHROPIC_FINISH[message["stop_reason"]], anthropic_tokens(message["usage"]))


def anthropic_stream(body: str) -> Said:
    text, finish = "", ""
    usage: dict[str, Any] = {}
    calls: dict[int, list[str]] = {}
    for event in events(body):
        if event["type"] == "message_start":
            usage |= event["message"]["usage"]
        elif event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            calls[event["index"]] = [event["content_block"]["name"], ""]
        elif event["type"] == "content_block_delta":
            text += event["delta"].get("text", "")
            if event["index"] in calls:
                calls[event["index"]][1] += event["delta"]["partial_json"]
        elif event["type"] == "message_delta":
            finish = ANTHROPIC_FINISH[event["delta"]["stop_reason"]]
            usage |= event["usage"]
    return Said(text, [(name, json.loads(given or "{}")) for name, given in calls.values()], finish, anthropic_tokens(usage))


def anthropic_tokens(usage: dict[str, Any]) -> tuple[int, int, int, int, int]:
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return (usage["input_tokens"], cached, written, usage["output_tokens"] - thought, thought)


GOOGLE_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "PROHIBITED_CONTENT": "content_filter"}


def google_all(answers: list[Any]) -> Said:
    finish = ""
    parts: list[dict[str, Any]] = []
    usage: dict[str, int] = {}
    for answer in answers:
        for candidate in answer.get("candidates") or ():
            parts += (candidate.get("content") or {}).get("parts") or []
            finish = candidate.get("finishReason") or finish
        usage = answer.get("usageMetadata") or usage
    text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
    calls = [(part["functionCall"]["name"], part["functionCall"].get("args") or {}) for part in parts if "functionCall" in part]
    cached = usage.get("cachedContentTokenCount", 0)
    fresh = usage.get("promptTokenCount", 0) - cached + usage.get("toolUsePromptTokenCount", 0)
    tokens = (fresh, cached, 0, usage.get("candidatesTokenCount", 0), usage.get("thoughtsTokenCount", 0))
    return Said(text, calls, "tool_calls" if calls and finish == "STOP" else GOOGLE_FINISH[finish], tokens)


def ollama_all(lines: list[Any]) -> Said:
    text = "".join(line["message"].get("content", "") for line in lines)
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for line in lines for call in line["message"].get("tool_calls") or ()
    ]
    last = lines[-1]
    finish = "tool_calls" if calls and last["done_reason"] == "stop" else last["done_reason"]
    return Said(text, calls, finish, (last.get("prompt_eval_count", 0), 0, 0, last["eval_count"], 0))


READINGS: dict[tuple[str, str], Callable[[str], Said]] = {
    ("openai", "json"): openai_whole,
    ("openai", "sse"): openai_stream,
    ("anthropic", "json"): anthropic_whole,
    ("anthropic", "sse"): anthropic_stream,
    ("google", "json"): lambda body: google_all([json.loads(body)]),
    ("google", "sse"): lambda body: google_all(events(body)),
    ("ollama", "json"): lambda body: ollama_all([json.loads(body)]),
    ("ollama", "ndjson"): lambda body: ollama_all([json.loads(line) for line in body.split("\n") if line.strip()]),
}
