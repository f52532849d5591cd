"""Reads what the sidecar said: a failure with its details, a stream with its order proven, an account."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NamedTuple

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from sidecar.v1 import errors_pb2, llm_pb2, ops_pb2
from tests.fakes.running import Sidecar


class Failure(NamedTuple):
    code: grpc.StatusCode
    message: str
    reason: str
    facts: dict[str, str]
    field: str
    retry_after_s: float | None
    partial: errors_pb2.Partial | None
    streamed: Streamed | None = None
    degradation: errors_pb2.Degradation | None = None


class Streamed(NamedTuple):
    text: str
    reasoning: str
    tools: list[llm_pb2.ToolCall]
    start: llm_pb2.StreamStart | None
    end: llm_pb2.GenerateResponse | None
    kinds: list[str]
    restarts: list[str]  # why the answer began again; text and tools are those since the last time


def failure(error: grpc.aio.AioRpcError, streamed: Streamed | None = None) -> Failure:
    metadata = dict(error.trailing_metadata() or ())
    status = Status.FromString(metadata.get("grpc-status-details-bin", b""))
    found: dict[type, Any] = {}
    for detail in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo, QuotaFailure, errors_pb2.Degradation, errors_pb2.Partial):
            if detail.Is(kind.DESCRIPTOR):
                found[kind] = kind.FromString(detail.value)
    info = found.get(ErrorInfo, ErrorInfo())
    bad, wait = found.get(BadRequest), found.get(RetryInfo)
    if status.details:
        assert status.code == error.code().value[0]
        assert info.domain == "llm-sidecar"
        assert f"ERROR_REASON_{info.reason}" in errors_pb2.ErrorReason.keys()  # noqa: SIM118  (a wrapper, not a dict)
    return Failure(
        error.code(),
        error.details() or "",
        info.reason,
        dict(info.metadata),
        bad.field_violations[0].field if bad else "",
        wait.retry_delay.ToMilliseconds() / 1000 if wait else None,
        found.get(errors_pb2.Partial),
        streamed,
        found.get(errors_pb2.Degradation),
    )


async def failed(call: Awaitable[Any]) -> Failure:
    """The failure of a call that has to fail."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return failure(error)
    raise AssertionError(f"it answered: {reply}")


async def streamed(stream: Any) -> Streamed:
    """A whole stream, proven to be in order. Raises AioRpcError as the stream does."""
    result, error = await read_stream(stream)
    if error is not None:
        raise error
    assert result.kinds[0] == "start"
    assert result.kinds[-1] == "end"
    assert result.end is not None
    assert (result.end.text, result.end.reasoning) == ("", "")
    return result


async def stream_failed(stream: Any) -> Failure:
    """The failure of a stream that has to fail, with what came before."""
    result, error = await read_stream(stream)
    assert error is not None, f"it ended well: {result}"
    assert "end" not in result.kinds
    return failure(error, result)


async def read_stream(stream: Any) -> tuple[Streamed, grpc.aio.AioRpcError | None]:
    """A stream to its end, good or bad, in the order it must have."""
    text: list[str] = []
    reasoning: list[str] = []
    kinds: list[str] = []
    restarts: list[str] = []
    tools: dict[int, llm_pb2.ToolCall] = {}
    start = end = error = None
    try:
        async for event in stream:
            kind = event.WhichOneof("event")
            assert kind is not None
            assert (kind == "start") == (not kinds), f"{kind} at place {len(kinds)}"
            assert end is None, f"{kind} after end"
            kinds.append(kind)
            match kind:
                case "start":
                    start = event.start
                case "end":
                    end = event.end
                case "text_delta":
                    text.append(event.text_delta)
                case "reasoning_delta":
                    reasoning.append(event.reasoning_delta)
                case "restart":
                    restarts.append(event.restart.reason)
                    start = event.restart.start
                    text, reasoning, tools = [], [], {}
                case "tool_call_delta":
                    delta = event.tool_call_delta
                    call = tools.setdefault(delta.index, llm_pb2.ToolCall())
                    call.id, call.name = call.id + delta.id, call.name + delta.name
                    call.arguments += delta.arguments
    except grpc.aio.AioRpcError as raised:
        error = raised
    ordered = [tools[index] for index in sorted(tools)]
    return Streamed("".join(text), "".join(reasoning), ordered, start, end, kinds, restarts), error


async def account(sidecar: Sidecar, tenant: str) -> ops_pb2.AccountView:
    """What the tenant's day account says now."""
    ask = llm_pb2.GenerateRequest(prompt="?", model="compatible-default", caller=llm_pb2.Caller(tenant=tenant))
    explained = await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=ask))
    return next(a for a in explained.accounts if a.name.startswith(f"tenant:{tenant}:"))


def tokens(usage: llm_pb2.Usage) -> tuple[int, int, int, int, int]:
    """input, cached, cache write, output, reasoning."""
    return usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens, usage.output_tokens, usage.reasoning_tokens


def nano_usd(usage: llm_pb2.Usage) -> int:
    """The price of these tokens at the test models' prices."""
    per_token = (1_000, 250, 1_250, 4_000, 5_000)  # nano-USD: 1.00 USD per million tokens is 1,000 nano-USD per token
    return sum(count * price for count, price in zip(tokens(usage), per_token, strict=True))


async def settled_once(sidecar: Sidecar, model: str, status: str, tenant: str) -> int:
    """One call of this model ended, with this status, and nothing is held any more. Returns what it cost in nano-USD."""
    await sidecar.until_idle()
    metric = await sidecar.metrics()
    assert metric("llm_request_total", model=model) == 1
    assert metric("llm_request_total", model=model, status=status) == 1
    paid = await account(sidecar, tenant)
    assert (paid.pending_nano_usd, paid.pending_tokens) == (0, 0)
    assert metric("llm_cost_nano_usd_total", model=model) == paid.used_nano_usd
    assert metric("llm_token_usage_total", model=model) == paid.used_tokens
    return paid.used_nano_usd
