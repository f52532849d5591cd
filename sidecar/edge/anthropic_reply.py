"""Our answers, streams and failures in Anthropic's words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from sidecar.call import Call, Chunk, Finish, Start, ToolDelta, Usage
from sidecar.edge.dialect import facts, headers, output_tokens, signed
from sidecar.edge.http import Door
from sidecar.edge.http_errors import Failure
from sidecar.edge.sse import Frames
from sidecar.json_text import UNREADABLE
from sidecar.policies.quotas import Standing

_encode = msgspec.json.Encoder().encode

_STOPS: dict[Finish, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",  # it has no other word for an answer that a filter ended
    "refusal": "refusal",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Reasons that Anthropic has a status of its own for.
_STATUSES = {"UNKNOWN_MODEL": 404, "PROVIDER_MODEL_UNKNOWN": 404, "OVERLOADED": 529, "DRAINING": 529, "NOT_READY": 529}


def usage(used: Usage) -> dict[str, Any]:
    """Anthropic's input tokens leave out those that were read from its cache or written to it; its output has the reasoning in it."""
    writes, writes_1h = used.cache_write_tokens or 0, used.cache_write_1h_tokens or 0
    return {
        "input_tokens": used.input_tokens or 0,
        "cache_creation_input_tokens": writes,
        "cache_read_input_tokens": used.cached_input_tokens or 0,
        "cache_creation": {"ephemeral_5m_input_tokens": max(0, writes - writes_1h), "ephemeral_1h_input_tokens": writes_1h},
        "output_tokens": output_tokens(used),
        "output_tokens_details": {"thinking_tokens": used.reasoning_tokens or 0},
    }


def _stop(call: Call) -> dict[str, Any]:
    """Which of the caller's texts ended an answer is not told by every provider, so none is named."""
    assert call.answer is not None and call.answer.finish is not None  # noqa: S101, PT018  (the pipeline has returned)
    return {"stop_reason": _STOPS[call.answer.finish], "stop_sequence": None}


def message(call: Call, *, shows_thinking: bool) -> dict[str, Any]:
    """The body of a whole answer."""
    answer, served = call.answer, call.served
    assert answer is not None and served is not None  # noqa: S101, PT018  (the pipeline has returned)
    content: list[dict[str, Any]] = []
    if shows_thinking and answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if answer.text:
        content.append({"type": "text", "text": answer.text, "citations": None})
    for called in answer.tool_calls:
        block = {"type": "tool_use", "id": called.id, "name": called.name, "input": _input(called.arguments), **signed(called.signature)}
        content.append(block)
    return {
        "id": f"msg_{call.id}",
        "type": "message",
        "role": "assistant",
        "model": served.model.id,
        "content": content,
        **_stop(call),
        "usage": usage(call.usage),
        "sidecar": _facts(call, shows_thinking=shows_thinking),
    }


def _facts(call: Call, *, shows_thinking: bool) -> dict[str, Any]:
    found = facts(call, time.monotonic())
    if call.answer is not None and call.answer.reasoning and not shows_thinking:
        found["reasoning"] = call.answer.reasoning  # who did not ask for thinking does not expect a block of it
    return found


def _input(arguments: str) -> Any:
    """An object, unless the answer's limit cut it: then its text, under a name that no tool has."""
    try:
        return msgspec.json.decode(arguments)
    except UNREADABLE:
        return {"": arguments}


class MessageEvents:
    """The pieces of one answer as events, in Anthropic's order. `call` is set at once.

    Its content blocks come one after the other, and a tool call is a block. Where a provider mixes the pieces of several calls, those of
    the later ones wait until the first one's arguments are whole. The stop reason is sent when the answer is proven whole.
    """

    call: Call

    def __init__(self, door: Door, frames: Frames, *, shows_thinking: bool) -> None:
        self._door = door
        self._frames = frames
        self._shows_thinking = shows_thinking
        self._blocks = 0  # that were begun
        self._open = ""  # the kind of the open block, of a tool call with its index; "": none is open
        self._arguments: list[str] = []  # of the open tool call
        self._waiting: list[tuple[str, str | ToolDelta]] = []

    async def send(self, pieces: Start | Sequence[Chunk]) -> None:
        if isinstance(pieces, Start):
            self._frames.headers.update(reply_headers(self._door, self.call, is_over=False))
            await self._frames.put(self._begin(pieces), _event("ping", {}))
            return
        frames: list[bytes] = []
        for kind, piece in _joined(pieces, shows_thinking=self._shows_thinking):
            self._take(kind, piece, frames)
        if frames:
            await self._frames.put(b"".join(frames))
        if pieces and pieces[-1].finish is None:
            await self._door.pace.rest()

    def whole(self) -> Iterable[bytes]:
        frames: list[bytes] = []
        self._flush(frames)
        self._close(frames)
        delta = {"delta": _stop(self.call), "usage": usage(self.call.usage)}
        frames.append(_event("message_delta", delta | {"sidecar": _facts(self.call, shows_thinking=self._shows_thinking)}))
        frames.append(_event("message_stop", {}))
        return frames

    def broken(self, failure: Failure) -> Iterable[bytes]:
        """An error, and no message_stop."""
        return [_event("error", error_object(failure))]

    def _begin(self, start: Start) -> bytes:
        """The exact usage is known at the end, and told there; until then the prompt as it was counted."""
        model, told = start.candidate.model, {}
        answered = self.call.answer.usage if self.call.answer is not None else None
        told = usage(answered if answered is not None and answered.input_tokens is not None else Usage(start.candidate.input_tokens))
        head = {"id": f"msg_{self.call.id}", "type": "message", "role": "assistant", "model": model.id, "content": []}
        return _event("message_start", {"message": head | {"stop_reason": None, "stop_sequence": None, "usage": told}})

    def _take(self, kind: str, piece: str | ToolDelta, frames: list[bytes]) -> None:
        if self._waiting and kind == self._open:  # a piece of the call that the others wait for
            self._write(kind, piece, frames)
            if _is_whole(self._arguments):
                waiting, self._waiting = self._waiting, []
                for one in waiting:
                    self._take(*one, frames)
        elif self._waiting or (self._open.startswith("tool") and kind != self._open and not _is_whole(self._arguments)):
            self._waiting.append((kind, piece))
        else:
            self._write(kind, piece, frames)

    def _flush(self, frames: list[bytes]) -> None:
        """What still waits, call by call."""
        waiting, self._waiting = self._waiting, []
        for kind in dict.fromkeys(kind for kind, _ in waiting):
            for _, piece in (one for one in waiting if one[0] == kind):
                self._write(kind, piece, frames)

    def _write(self, kind: str, piece: str | ToolDelta, frames: list[bytes]) -> None:
        if kind != self._open:
            self._close(frames)
            self._open = kind
            self._blocks += 1
            self._arguments = []
            frames.append(_event("content_block_start", {"index": self._blocks - 1, "content_block": _empty(kind, piece)}))
        if isinstance(piece, ToolDelta):
            self._arguments.append(piece.arguments)
            delta = {"type": "input_json_delta", "partial_json": piece.arguments}
        elif kind == "thinking":
            delta = {"type": "thinking_delta", "thinking": piece}
        else:
            delta = {"type": "text_delta", "text": piece}
        frames.append(_event("content_block_delta", {"index": self._blocks - 1, "delta": delta}))

    def _close(self, frames: list[bytes]) -> None:
        if self._open:
            frames.append(_event("content_block_stop", {"index": self._blocks - 1}))
            self._open = ""


def _joined(chunks: Sequence[Chunk], *, shows_thinking: bool) -> Iterable[tuple[str, str | ToolDelta]]:
    """Kind and piece; neighbouring texts of one kind are joined."""
    kind, joined = "", ""
    for chunk in chunks:
        for name, text in (("thinking", chunk.reasoning if shows_thinking else ""), ("text", chunk.text)):
            if text and name != kind:
                if joined:
                    yield kind, joined
                kind, joined = name, ""
            joined += text
        for delta in chunk.tool_calls:
            if joined:
                yield kind, joined
            kind, joined = "", ""
            yield f"tool {delta.index}", delta
    if joined:
        yield kind, joined


def _empty(kind: str, piece: str | ToolDelta) -> dict[str, Any]:
    if isinstance(piece, ToolDelta):
        return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}, **signed(piece.signature)}
    if kind == "thinking":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": "", "citations": None}


def _is_whole(arguments: Sequence[str]) -> bool:
    """JSON that is whole cannot go on."""
    try:
        msgspec.json.decode("".join(arguments))
    except UNREADABLE:
        return False
    return True


def _event(kind: str, body: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **body}) + b"\n\n"


# --- failures -------------------------------------------------------------------------------------------------------------------


def failed(failure: Failure, _: web.Request, *, wall_ns: Callable[[], int]) -> web.Response:
    """A failure before the first piece."""
    body = failure.body
    status = _STATUSES.get(body["reason"], failure.status)
    found = failure.headers | _limits(failure.limits, wall_ns())
    if "id" in body:
        found["request-id"] = body["id"]
    if "retry_after_ms" in body:
        found["retry-after-ms"] = str(body["retry_after_ms"])
    return web.Response(
        body=_encode({"type": "error", **error_object(failure)}), status=status, headers=found, content_type="application/json"
    )


def error_object(failure: Failure) -> dict[str, Any]:
    """What Anthropic's SDKs read, and under `sidecar` the failure as gRPC tells it: reason, facts, what came and what it cost."""
    body = failure.body
    status = _STATUSES.get(body["reason"], failure.status)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"error": {"type": kind, "message": body["message"], "sidecar": body}, "request_id": body.get("id")}


def reply_headers(door: Door, call: Call, *, is_over: bool) -> dict[str, str]:
    """Who answered, for how much, and how the limits stand that are known, as Anthropic has it: resets are times."""
    return {"request-id": call.id, **headers(call, is_over=is_over), **_limits(door.limits(call), door.engine.wall_ns())}


def _limits(limits: Iterable[Standing], wall_ns: int) -> dict[str, str]:
    found = {}
    now = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    for one in limits:
        reset = now + timedelta(microseconds=one.reset_after_ns / 1000)
        found[f"anthropic-ratelimit-{one.unit}-limit"] = str(one.limit)
        found[f"anthropic-ratelimit-{one.unit}-remaining"] = str(one.remaining)
        found[f"anthropic-ratelimit-{one.unit}-reset"] = reset.isoformat(timespec="seconds").replace("+00:00", "Z")
    return found
