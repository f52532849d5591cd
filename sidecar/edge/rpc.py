"""The gRPC door: LLMService in front of the pipeline."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import grpc

from sidecar.call import Call, Chunk, EmbedRequest, GenerateRequest, Operation, Send, Start
from sidecar.edge.calls import Calls
from sidecar.edge.pace import Pace
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.wire import (
    count_response,
    delta_events,
    embed_request,
    embed_response,
    generate_request,
    generate_response,
    start_event,
)
from sidecar.engine import Engine
from sidecar.errors import Cancelled, InvalidRequest
from sidecar.pipeline import plan, run
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc

_CALLER = ("service", "node", "tenant", "user", "plan", "run", "agent")
_METADATA = frozenset({"accept-language", "traceparent", *(f"x-sidecar-{name}" for name in _CALLER)})
_MARGIN = 0.05  # share of the caller's time kept back, at most 50 ms, so that our status arrives before its deadline does


class LLMService(llm_pb2_grpc.LLMServiceServicer):
    """Translates; `Calls` knows which calls are in flight and whether new ones are welcome."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self._engine = engine
        self._calls = calls
        self._pace = Pace()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            rescue.call = call = make_call(self._engine, "generate", generate_request(request), context, None)
            await self._run(call)
            return generate_response(call, time.monotonic(), with_text=True)

    async def Stream(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        call: Call | None = None
        pace = self._pace

        async def write(event: pb.StreamEvent) -> None:
            try:
                await context.write(event)
            except grpc.aio.BaseError as error:  # whoever is cancelled while a write waits meets this first
                raise Cancelled("the caller went away") from error

        async def send(pieces: Start | Sequence[Chunk]) -> None:
            assert call is not None  # noqa: S101
            if isinstance(pieces, Start):
                await write(start_event(call, pieces))
                return
            for event in delta_events(call, pieces):
                await write(event)
            if pieces and pieces[-1].finish is None:
                await pace.rest()

        pace.begin()
        try:
            async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
                rescue.call = call = make_call(self._engine, "stream", generate_request(request), context, send)
                await self._run(call)
                await write(pb.StreamEvent(end=generate_response(call, time.monotonic(), with_text=False)))
        finally:
            pace.end()
            call = None  # it holds `send`, which holds it: only the garbage collector would free the two

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            rescue.call = call = make_call(self._engine, "embed", embed_request(request), context, None)
            await self._run(call)
            return embed_response(call, time.monotonic())

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            rescue.call = call = make_call(self._engine, "count_tokens", either_request(request), context, None)
            self._calls.begin(call)
            try:
                plan(self._engine, call)
            finally:
                self._calls.end(call)
            return count_response(call)

    async def _run(self, call: Call) -> None:
        self._calls.begin(call)
        try:
            await run(self._engine, call)
        finally:
            self._calls.end(call)


def either_request(message: pb.CountTokensRequest | Any) -> GenerateRequest | EmbedRequest:
    """The `request` oneof of CountTokens and Explain. Raises InvalidRequest if it is empty."""
    match message.WhichOneof("request"):
        case "generate":
            return generate_request(message.generate)
        case "embed":
            return embed_request(message.embed)
    raise InvalidRequest("request is empty; set generate or embed", field="request")


def make_call(engine: Engine, operation: Operation, request: GenerateRequest | EmbedRequest, context: Context, send: Send | None) -> Call:
    now = time.monotonic()
    left = context.time_remaining()
    total = engine.settings.timeouts.total_ms / 1000 if left is None else max(0.0, left - min(0.05, left * _MARGIN))
    return Call(
        id=os.urandom(16).hex(),
        operation=operation,
        request=request,
        metadata=_metadata(context),
        arrived=now,
        deadline=now + total,
        send=send,
    )


def _metadata(context: Context) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if key in _METADATA:
            # gRPC turns bytes that are no UTF-8 into other letters without a word: only ASCII is sure to be what was sent.
            if isinstance(value, bytes) or not value.isascii():
                if key == "accept-language":  # no call fails for the language in which its failure would be told
                    continue
                raise InvalidRequest(
                    f"metadata {key} holds bytes that are not ASCII, all that metadata can carry; put the name into the message's caller",
                    field=key,
                )
            found[key] = value
    return found
