"""The four wire formats, as the providers really speak them: whole replies, streamed frames, errors, embeddings.

Each wire is a class of pure functions. `whole` is the JSON of a unary reply; `frames` are a stream's writes, each marked `piece`, `other`,
`finish` or `end`, so that the server can cut or delay at the right place.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from tests.fakes.script import Fail, Say, Tokens, Vectors, vector_of

Frame = tuple[Literal["piece", "other", "finish", "end"], bytes]

_encode = msgspec.json.encode


def _sse(value: Any, event: str = "", newline: bytes = b"\n") -> bytes:
    head = f"event: {event}".encode() + newline if event else b""
    return head + b"data: " + (value if isinstance(value, bytes) else _encode(value)) + newline + newline


def _cuts(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)] or [""]


class OpenAI:
    """Chat completions and embeddings; `compatible` servers speak it too."""

    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    finishes: ClassVar[dict[str, str]] = {"refusal": "stop"}
    error_event: ClassVar[bytes] = _sse(
        {"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}}
    )
    ping: ClassVar[bytes] = b": keep-alive\n\n"
    unknown_event: ClassVar[bytes] = b": keep-alive\n\n" + _sse({"object": "chat.completion.note", "choices": [], "note": {"x": 1}}, "note")

    @staticmethod
    def usage(tokens: Tokens) -> dict[str, Any]:
        whole_input = tokens.input + tokens.cached + tokens.cache_write
        output = tokens.output + tokens.reasoning
        return {
            "prompt_tokens": whole_input,
            "completion_tokens": output,
            "total_tokens": whole_input + output,
            "prompt_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "audio_tokens": 0},
        }

    @classmethod
    def whole(cls, say: Say, model: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": say.text or None, "refusal": None, "annotations": []}
        if say.finish == "refusal":
            message |= {"content": None, "refusal": say.text}
        if say.reasoning:
            message["reasoning_content"] = "".join(say.reasoning)
        if say.tools:
            message["tool_calls"] = [
                {"id": t.id, "type": "function", "function": {"name": t.name, "arguments": t.arguments}} for t in say.tools
            ]
        choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None}
        if say.cut != "no_finish":
            choice["finish_reason"] = say.raw_finish or cls.finishes.get(say.finish, say.finish)
        reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1764499721, "model": model, "choices": [choice]}
        return reply | ({"usage": cls.usage(say.tokens)} if say.tokens is not None else {})

    @classmethod
    def frames(cls, say: Say, model: str, body: dict[str, Any]) -> Iterator[Frame]:
        options = body.get("stream_options") or {}
        wants_usage = bool(options.get("include_usage"))
        padding = {} if options.get("include_obfuscation") is False else {"obfuscation": "T3FmnOmia"}

        def chunk(delta: dict[str, Any] | None, finish: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
            choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
            frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1764499721, "model": model, "choices": choices}
            return _sse(frame | ({"usage": usage} if wants_usage else {}) | padding)

        yield "other", chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in say.reasoning:
            yield "other", chunk({"reasoning_content": piece})
        for piece in say.pieces:
            yield "piece", chunk({"refusal" if say.finish == "refusal" else "content": piece})
        for index, tool in enumerate(say.tools):
            yield (
                "other",
                chunk(
                    {"tool_calls": [{"index": index, "id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": ""}}]}
                ),
            )
            for part in _cuts(tool.arguments, tool.piece):
                yield "other", chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
        yield "finish", chunk({}, say.raw_finish or cls.finishes.get(say.finish, say.finish))
        if wants_usage and say.tokens is not None:
            yield "other", chunk(None, usage=cls.usage(say.tokens))
        yield "end", _sse(b"[DONE]")

    @classmethod
    def error_frame(cls, fail: Fail) -> bytes:
        return _sse(cls.failure(fail))

    @staticmethod
    def failure(fail: Fail) -> dict[str, Any]:
        usual = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded", 503: "server_is_overloaded"}
        code = fail.code or usual.get(fail.status)
        kind = {429: "requests"}.get(fail.status, "invalid_request_error" if fail.status < 500 else "server_error")
        return {"error": {"message": fail.message, "type": code if code == "insufficient_quota" else kind, "param": None, "code": code}}

    @staticmethod
    def embedded(vectors: Sequence[tuple[int, list[float]]], body: dict[str, Any], tokens: int) -> dict[str, Any]:
        as_base64 = body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() if as_base64 else v,
            }
            for i, v in vectors
        ]
        return {"object": "list", "data": data, "model": body.get("model"), "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}

    @staticmethod
    def texts(body: dict[str, Any]) -> list[str]:
        given = body["input"]
        return [given] if isinstance(given, str) else given


class Anthropic:
    """The Messages API. Data lines carry padding after the JSON, as the real ones do."""

    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    finishes: ClassVar[dict[str, str]] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
    }
    error_event: ClassVar[bytes] = _sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error")
    ping: ClassVar[bytes] = _sse({"type": "ping"}, "ping")
    unknown_event: ClassVar[bytes] = _sse({"type": "weather_report", "sky": "blue"}, "weather_report")

    @staticmethod
    def usage(tokens: Tokens) -> dict[str, Any]:
        return {
            "input_tokens": tokens.input,
            "cache_creation_input_tokens": tokens.cache_write,
            "cache_read_input_tokens": tokens.cached,
            "output_tokens": tokens.output + tokens.reasoning,
            "output_tokens_details": {"thinking_tokens": tokens.reasoning},
            "service_tier": "standard",
        }

    @classmethod
    def whole(cls, say: Say, model: str) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if say.reasoning:
            content.append({"type": "thinking", "thinking": "".join(say.reasoning), "signature": "c2ln"})
        if say.text:
            content.append({"type": "text", "text": say.text})
        content += [{"type": "tool_use", "id": t.id, "name": t.name, "input": msgspec.Raw(t.arguments.encode())} for t in say.tools]
        reply = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content, "stop_sequence": None}
        reply["stop_reason"] = None if say.cut == "no_finish" else say.raw_finish or cls.finishes.get(say.finish, say.finish)
        return reply | {"usage": cls.usage(say.tokens or Tokens())}

    @classmethod
    def frames(cls, say: Say, model: str, body: dict[str, Any]) -> Iterator[Frame]:
        usage = cls.usage(say.tokens or Tokens())

        def event(name: str, **fields: Any) -> bytes:
            return _sse(_encode({"type": name, **fields}) + b"     ", name)

        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None}
        first = {k: v for k, v in usage.items() if k != "output_tokens_details"} | {"output_tokens": 1}
        yield "other", event("message_start", message=message | {"stop_sequence": None, "usage": first})
        index = 0
        if say.reasoning:
            yield "other", event("content_block_start", index=index, content_block={"type": "thinking", "thinking": "", "signature": ""})
            yield "other", event("ping")
            for piece in say.reasoning:
                yield "other", event("content_block_delta", index=index, delta={"type": "thinking_delta", "thinking": piece})
            yield "other", event("content_block_delta", index=index, delta={"type": "signature_delta", "signature": "c2ln"})
            yield "other", event("content_block_stop", index=index)
            index += 1
        if say.pieces:
            yield "other", event("content_block_start", index=index, content_block={"type": "text", "text": ""})
            for piece in say.pieces:
                yield "piece", event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
            yield "other", event("content_block_stop", index=index)
            index += 1
        for tool in say.tools:
            block = {"type": "tool_use", "id": tool.id, "name": tool.name, "input": {}}
            yield "other", event("content_block_start", index=index, content_block=block)
            for part in ["", *_cuts(tool.arguments, tool.piece)]:
                yield "other", event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": part})
            yield "other", event("content_block_stop", index=index)
            index += 1
        delta = {"stop_reason": say.raw_finish or cls.finishes.get(say.finish, say.finish), "stop_sequence": None}
        last = {"output_tokens": usage["output_tokens"], "output_tokens_details": usage["output_tokens_details"]}
        yield "finish", event("message_delta", delta=delta, usage=last)
        yield "end", event("message_stop")

    @classmethod
    def error_frame(cls, fail: Fail) -> bytes:
        return _sse(cls.failure(fail), "error")

    @staticmethod
    def failure(fail: Fail) -> dict[str, Any]:
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            402: "billing_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            504: "timeout_error",
            529: "overloaded_error",
        }
        usual = "api_error" if fail.status >= 500 else "invalid_request_error" if fail.status == 422 else "error"
        error = {"type": fail.code or kinds.get(fail.status, usual), "message": fail.message}
        return {"type": "error", "error": error, "request_id": "req_fake"}


class Google:
    """Gemini: usage in every chunk, CRLF between events, no closing event."""

    stream_type: ClassVar[str] = "text/event-stream"
    finishes: ClassVar[dict[str, str]] = {
        "stop": "STOP",
        "length": "MAX_TOKENS",
        "tool_calls": "STOP",
        "content_filter": "SAFETY",
        "refusal": "PROHIBITED_CONTENT",
    }
    error_event: ClassVar[bytes] = _sse(
        {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}, newline=b"\r\n"
    )
    ping: ClassVar[bytes] = b": ping\r\n\r\n"
    unknown_event: ClassVar[bytes] = _sse({"weatherReport": {"sky": "blue"}}, newline=b"\r\n")

    @staticmethod
    def usage(tokens: Tokens) -> dict[str, Any]:
        whole_input = tokens.input + tokens.cached + tokens.cache_write
        usage = {"promptTokenCount": whole_input, "candidatesTokenCount": tokens.output}
        usage["totalTokenCount"] = whole_input + tokens.output + tokens.reasoning
        if tokens.cached:
            usage["cachedContentTokenCount"] = tokens.cached
        if tokens.reasoning:
            usage["thoughtsTokenCount"] = tokens.reasoning
        return usage

    @classmethod
    def _reply(cls, say: Say, model: str, parts: list[dict[str, Any]], finish: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if finish and say.cut != "no_finish":
            candidate["finishReason"] = say.raw_finish or cls.finishes.get(say.finish, say.finish)
        reply: dict[str, Any] = {"candidates": [candidate], "modelVersion": model, "responseId": "resp_1"}
        if say.tokens is not None:
            reply["usageMetadata"] = cls.usage(say.tokens)
        return reply

    @staticmethod
    def _tools(say: Say) -> list[dict[str, Any]]:
        return [{"functionCall": {"name": t.name, "args": msgspec.Raw(t.arguments.encode())}} for t in say.tools]

    @classmethod
    def whole(cls, say: Say, model: str) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if say.reasoning:
            parts.append({"text": "".join(say.reasoning), "thought": True})
        if say.text:
            parts.append({"text": say.text})
        return cls._reply(say, model, parts + cls._tools(say), finish=True)

    @classmethod
    def frames(cls, say: Say, model: str, body: dict[str, Any]) -> Iterator[Frame]:
        def event(parts: list[dict[str, Any]], finish: bool = False) -> bytes:
            return _sse(cls._reply(say, model, parts, finish), newline=b"\r\n")

        for piece in say.reasoning:
            yield "other", event([{"text": piece, "thought": True}])
        for piece in say.pieces:
            yield "piece", event([{"text": piece}])
        if say.tools:
            yield "other", event(cls._tools(say))
        yield "end", event([{"text": ""}], finish=True)

    @classmethod
    def error_frame(cls, fail: Fail) -> bytes:
        return _sse(cls.failure(fail), newline=b"\r\n")

    @staticmethod
    def failure(fail: Fail) -> dict[str, Any]:
        words = {
            400: "INVALID_ARGUMENT",
            401: "UNAUTHENTICATED",
            403: "PERMISSION_DENIED",
            404: "NOT_FOUND",
            429: "RESOURCE_EXHAUSTED",
            503: "UNAVAILABLE",
            504: "DEADLINE_EXCEEDED",
        }
        status = fail.code or words.get(fail.status, "INTERNAL" if fail.status >= 500 else "")
        error: dict[str, Any] = {"code": fail.status, "message": fail.message, "status": status}
        wait = dict(fail.headers).get("Retry-After")
        if wait:  # Gemini says it in the body
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait}s"}]
        return {"error": error}

    @staticmethod
    def embedded(vectors: Sequence[tuple[int, list[float]]], body: dict[str, Any], tokens: int) -> dict[str, Any]:
        return {"embeddings": [{"values": v} for _, v in vectors]}

    @staticmethod
    def texts(body: dict[str, Any]) -> list[str]:
        return ["".join(p.get("text", "") for p in r["content"]["parts"]) for r in body["requests"]]


class Ollama:
    """/api/chat: one JSON object a line; the last one is done."""

    stream_type: ClassVar[str] = "application/x-ndjson"
    finishes: ClassVar[dict[str, str]] = {"tool_calls": "stop", "refusal": "stop", "content_filter": "stop"}
    error_event: ClassVar[bytes] = b'{"error":"an error was encountered while running the model"}\n'
    ping: ClassVar[bytes] = b"\n"
    unknown_event: ClassVar[bytes] = b'{"model":"x","created_at":"2026-01-01T00:00:00Z","weather":"blue","done":false}\n'

    @staticmethod
    def _line(model: str, message: dict[str, Any], **rest: Any) -> dict[str, Any]:
        return {"model": model, "created_at": "2026-01-01T00:00:00.000000Z", "message": {"role": "assistant", **message}, **rest}

    @classmethod
    def _last(cls, say: Say) -> dict[str, Any]:
        last: dict[str, Any] = {"done": True, "total_duration": 10_386_172_208, "load_duration": 8_078_850_750}
        if say.cut != "no_finish":
            last["done_reason"] = say.raw_finish or cls.finishes.get(say.finish, say.finish)
        if say.tokens is not None:
            tokens = say.tokens
            last |= {"prompt_eval_count": tokens.input + tokens.cached, "eval_count": tokens.output + tokens.reasoning, "eval_duration": 1}
        return last

    @staticmethod
    def _tools(say: Say) -> list[dict[str, Any]]:
        return [{"function": {"name": t.name, "arguments": msgspec.Raw(t.arguments.encode())}} for t in say.tools]

    @classmethod
    def whole(cls, say: Say, model: str) -> dict[str, Any]:
        message: dict[str, Any] = {"content": say.text}
        if say.reasoning:
            message["thinking"] = "".join(say.reasoning)
        if say.tools:
            message["tool_calls"] = cls._tools(say)
        return cls._line(model, message, **cls._last(say))

    @classmethod
    def frames(cls, say: Say, model: str, body: dict[str, Any]) -> Iterator[Frame]:
        def line(message: dict[str, Any], **rest: Any) -> bytes:
            return _encode(cls._line(model, message, **rest)) + b"\n"

        for piece in say.reasoning:
            yield "other", line({"content": "", "thinking": piece}, done=False)
        for piece in say.pieces:
            yield "piece", line({"content": piece}, done=False)
        if say.tools:
            yield "other", line({"content": "", "tool_calls": cls._tools(say)}, done=False)
        yield "end", line({"content": ""}, **cls._last(say))

    @classmethod
    def error_frame(cls, fail: Fail) -> bytes:
        return _encode(cls.failure(fail)) + b"\n"

    @staticmethod
    def failure(fail: Fail) -> dict[str, Any]:
        return {"error": fail.message}

    @staticmethod
    def embedded(vectors: Sequence[tuple[int, list[float]]], body: dict[str, Any], tokens: int) -> dict[str, Any]:
        return {"model": body.get("model"), "embeddings": [v for _, v in vectors], "total_duration": 1, "prompt_eval_count": tokens}

    @staticmethod
    def texts(body: dict[str, Any]) -> list[str]:
        given = body["input"]
        return [given] if isinstance(given, str) else given


Wire = type[OpenAI] | type[Anthropic] | type[Google] | type[Ollama]


def vectors_for(texts: Sequence[str], size: int, how: Vectors) -> list[tuple[int, list[float]]]:
    """(index, vector) of each text, in the order they are sent."""
    texts = [*texts, *(f"extra {i}" for i in range(how.extra))]
    found = [(0 if how.twice else i, vector_of(text, size)) for i, text in enumerate(texts)]
    found = found[: len(found) - how.missing]
    last = found[-1][1]
    if how.nan:
        last[0] = math.nan
    del last[0 if how.empty else len(last) - how.ragged :]
    return found[::-1] if how.backwards else found
