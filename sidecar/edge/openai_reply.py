"""Our answers, streams and failures in OpenAI's words."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from sidecar.answer import Answer
from sidecar.call import Call, Chunk, Finish, Start, Usage
from sidecar.edge.dialect import facts, headers, input_tokens, output_tokens, signed
from sidecar.edge.http import Door
from sidecar.edge.http_errors import Failure
from sidecar.edge.sse import Frames
from sidecar.policies.quotas import Standing

_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"

_FINISHES: dict[Finish, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "stop",  # the message says it: `refusal`
}

# Reasons that OpenAI has words of its own for: status (None: as everywhere), type, code.
_ERRORS: dict[str, tuple[int | None, str, str]] = {
    "UNAUTHENTICATED": (None, "invalid_request_error", "invalid_api_key"),
    "NOT_ALLOWED": (None, "invalid_request_error", "not_allowed"),
    "UNKNOWN_MODEL": (404, "invalid_request_error", "model_not_found"),
    "PROVIDER_MODEL_UNKNOWN": (404, "invalid_request_error", "model_not_found"),
    "PROMPT_TOO_LONG": (None, "invalid_request_error", "context_length_exceeded"),
    "PROVIDER_CONTEXT_EXCEEDED": (None, "invalid_request_error", "context_length_exceeded"),
    "BUDGET_EXCEEDED": (None, "insufficient_quota", "insufficient_quota"),
    "PROVIDER_QUOTA_EXHAUSTED": (None, "insufficient_quota", "insufficient_quota"),
    "RATE_LIMITED": (None, "requests", "rate_limit_exceeded"),
    "PROVIDER_RATE_LIMITED": (None, "requests", "rate_limit_exceeded"),
    "OVERLOADED": (None, "requests", "rate_limit_exceeded"),
}


def usage(used: Usage) -> dict[str, Any]:
    """OpenAI's prompt tokens include the cached ones, and its completion tokens the reasoning."""
    asked, said = input_tokens(used), output_tokens(used)
    return {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": {"cached_tokens": used.cached_input_tokens or 0, "cache_write_tokens": used.cache_write_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens or 0},
    }


def completion(call: Call, created: int) -> dict[str, Any]:
    """The body of a whole answer."""
    answer, served = call.answer, call.served
    assert answer is not None and served is not None and answer.finish is not None  # noqa: S101, PT018  (the pipeline has returned)
    return {
        "id": f"chatcmpl-{call.id}",
        "object": "chat.completion",
        "created": created,
        "model": served.model.id,
        "choices": [{"index": 0, "message": _message(answer), "logprobs": None, "finish_reason": _FINISHES[answer.finish]}],
        "usage": usage(call.usage),
        "sidecar": facts(call, time.monotonic()),
    }


def _message(answer: Answer) -> dict[str, Any]:
    declined = answer.finish == "refusal"
    calls = answer.tool_calls
    text = answer.text
    found: dict[str, Any] = {
        "role": "assistant",
        "content": None if declined or (calls and not text) else text,
        "refusal": text if declined else None,
    }
    if calls:
        found["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}, **signed(c.signature)} for c in calls
        ]
    if answer.reasoning:
        found["reasoning_content"] = answer.reasoning  # as the servers that show it do
    return found


def embedding_list(call: Call, encoding_format: str) -> dict[str, Any]:
    vectors, served = call.vectors, call.served
    assert vectors is not None and served is not None  # noqa: S101, PT018  (the pipeline has returned)
    tokens = input_tokens(call.usage)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if encoding_format == "base64" else list(vector)}
            for index, vector in enumerate(vectors.vectors)
        ],
        "model": served.model.id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "sidecar": facts(call, time.monotonic()),
    }


def _packed(vector: Sequence[float]) -> str:
    """Little-endian 32-bit floats, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class Chunks:
    """The pieces of one answer as chat.completion.chunk events. `call` is set at once.

    The finish reason is sent when the answer is proven whole, never before: a stream that broke ends with an error and without [DONE].
    """

    call: Call

    def __init__(self, door: Door, frames: Frames, created: int, *, with_usage: bool) -> None:
        self._door = door
        self._frames = frames
        self._created = created
        self._with_usage = with_usage
        self._model = ""
        self._named: set[int] = set()  # tool calls whose first piece was sent

    async def send(self, pieces: Start | Sequence[Chunk]) -> None:
        if isinstance(pieces, Start):
            self._model = pieces.candidate.model.id
            self._frames.headers.update(reply_headers(self._door, self.call, is_over=False))
            await self._frames.put(self._chunk({"role": "assistant", "content": ""}))
            return
        frames = [self._chunk(delta) for delta in self._deltas(pieces)]
        if frames:
            await self._frames.put(*frames)
        if pieces and pieces[-1].finish is None:
            await self._door.pace.rest()

    def whole(self) -> Iterable[bytes]:
        call = self.call
        assert call.answer is not None and call.answer.finish is not None  # noqa: S101, PT018  (the pipeline has returned)
        # A refusal is known by its end only: its text went out as content, and is told again as what it is.
        delta = {"refusal": call.answer.text} if call.answer.finish == "refusal" else {}
        extra = {"sidecar": facts(call, time.monotonic())}
        finish = _FINISHES[call.answer.finish]
        if self._with_usage:
            yield self._chunk(delta, finish)
            yield self._frame({"choices": [], "usage": usage(call.usage), **extra})
        else:
            yield self._chunk(delta, finish, extra)
        yield DONE

    def broken(self, failure: Failure) -> Iterable[bytes]:
        """An error, and no [DONE]."""
        yield b"data: " + _encode({"error": error_object(failure)}) + b"\n\n"

    def _deltas(self, chunks: Sequence[Chunk]) -> Iterable[dict[str, Any]]:
        """Neighbouring pieces of one kind are joined."""
        kind, joined = "", ""
        for chunk in chunks:
            for name, text in (("reasoning_content", chunk.reasoning), ("content", chunk.text)):
                if text and name != kind:
                    if joined:
                        yield {kind: joined}
                    kind, joined = name, ""
                joined += text
            if chunk.tool_calls:
                if joined:
                    yield {kind: joined}
                kind, joined = "", ""
                yield {"tool_calls": [self._tool_call(d.index, d.id, d.name, d.arguments, d.signature) for d in chunk.tool_calls]}
        if joined:
            yield {kind: joined}

    def _tool_call(self, index: int, id: str, name: str, arguments: str, signature: str) -> dict[str, Any]:
        assert self.call.answer is not None  # noqa: S101  (it has taken these pieces in)
        place = self.call.answer.tool_index(index)
        found: dict[str, Any] = {"index": place, "function": {"arguments": arguments}, **signed(signature)}
        if index not in self._named:
            self._named.add(index)
            found |= {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        return found

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, extra: dict[str, Any] | None = None) -> bytes:
        body: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
        if self._with_usage:
            body["usage"] = None
        return self._frame(body | (extra or {}))

    def _frame(self, body: dict[str, Any]) -> bytes:
        head = {"id": f"chatcmpl-{self.call.id}", "object": "chat.completion.chunk", "created": self._created, "model": self._model}
        return b"data: " + _encode(head | body) + b"\n\n"


# --- failures -------------------------------------------------------------------------------------------------------------------


def failed(failure: Failure, _: web.Request) -> web.Response:
    """A failure before the first piece."""
    body = failure.body
    status = _ERRORS.get(body["reason"], (None, "", ""))[0] or failure.status
    found = failure.headers | _limits(failure.limits)
    if "id" in body:
        found["x-request-id"] = body["id"]
    if "retry_after_ms" in body:
        found["retry-after-ms"] = str(body["retry_after_ms"])
    account = body.get("facts", {})
    if account.get("unit") == "tokens":
        found["x-ratelimit-limit-tokens"] = account["limit"]
        found["x-ratelimit-remaining-tokens"] = str(max(0, int(account["limit"]) - int(account["used"])))
    return web.Response(body=_encode({"error": error_object(failure)}), status=status, headers=found, content_type="application/json")


def error_object(failure: Failure) -> dict[str, Any]:
    """What OpenAI's SDKs read, and under `sidecar` the failure as gRPC tells it: reason, facts, what came and what it cost."""
    body = failure.body
    reason = body["reason"]
    usual = "invalid_request_error" if failure.status < 500 else "server_error"
    _, kind, code = _ERRORS.get(reason, (None, usual, reason.lower()))
    return {"message": body["message"], "type": kind, "param": body.get("field"), "code": code, "sidecar": body}


def reply_headers(door: Door, call: Call, *, is_over: bool) -> dict[str, str]:
    """Who answered, for how much, and how the limits stand that are known, as OpenAI has it: resets are Go durations."""
    return {"x-request-id": call.id, **headers(call, is_over=is_over), **_limits(door.limits(call))}


def _limits(limits: Iterable[Standing]) -> dict[str, str]:
    found = {}
    for one in limits:
        if one.unit in ("requests", "tokens"):
            found[f"x-ratelimit-limit-{one.unit}"] = str(one.limit)
            found[f"x-ratelimit-remaining-{one.unit}"] = str(one.remaining)
            found[f"x-ratelimit-reset-{one.unit}"] = f"{one.reset_after_ns // 1_000_000}ms"
    return found
