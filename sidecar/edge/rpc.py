"""The gRPC door: LLMService in front of the pipeline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from sidecar.call import Call, Chunk, Operation, Send, Start
from sidecar.edge.arrivals import METADATA, arrive, note
from sidecar.edge.calls import Calls
from sidecar.edge.keys import Keys
from sidecar.edge.pace import Pace
from sidecar.edge.rescue import Context, Rescue
from sidecar.edge.wire import (
    count_response,
    delta_events,
    embed_request,
    embed_response,
    generate_request,
    generate_response,
    repeated_response,
    start_event,
    to_repeat,
)
from sidecar.engine import Engine
from sidecar.errors import Cancelled, InvalidRequest
from sidecar.pipeline import plan, run
from sidecar.policies.cache_repeats import Asked
from sidecar.request import EmbedRequest, GenerateRequest
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc


class LLMService(llm_pb2_grpc.LLMServiceServicer):
    """Translates; `Calls` knows which calls are in flight and whether new ones are welcome."""

    def __init__(self, engine: Engine, calls: Calls, keys: Keys | None = None) -> None:
        self._engine = engine
        self._calls = calls
        self._keys = keys
        self._pace = Pace()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            asked, call = self._generate("generate", request, context, None)
            rescue.call = call
            await self._run(call)
            if call.repeat is not None and call.repeat.reply is not None:
                return repeated_response(call, time.monotonic(), call.repeat.reply)
            response = generate_response(call, time.monotonic(), with_text=True)
            if call.repeat is not None:
                call.repeat.reply = to_repeat(response)
            else:
                self._engine.repeats.note(asked, request.ByteSize(), call, self._engine.answers)
            return response

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
                asked, call = self._generate("stream", request, context, send)
                rescue.call = call
                await self._run(call)
                if call.repeat is None:
                    self._engine.repeats.note(asked, request.ByteSize(), call, self._engine.answers)
                await write(pb.StreamEvent(end=generate_response(call, time.monotonic(), with_text=False)))
        finally:
            pace.end()
            call = None  # it holds `send`, which holds it: only the garbage collector would free the two

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            rescue.call = call = make_call(self._engine, "embed", embed_request(request), context, self._keys, None)
            await self._run(call)
            return embed_response(call, time.monotonic())

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:  # noqa: N802
        async with Rescue(context, self._engine.meter.log, self._engine.degradations) as rescue:
            rescue.call = call = make_call(self._engine, "count_tokens", either_request(request), context, self._keys, None)
            self._calls.begin(call)
            try:
                plan(self._engine, call)
            finally:
                self._calls.end(call)
            return count_response(call)

    def _generate(self, operation: Operation, message: pb.GenerateRequest, context: Context, send: Send | None) -> tuple[Asked, Call]:
        """The call, and what it is known again by: of one that was answered from memory before nothing has to be read anew."""
        metadata, authorization = _metadata(context)
        asked = (message.SerializeToString(deterministic=True), *_said(metadata))
        repeat = self._engine.repeats.find(asked)
        request = generate_request(message) if repeat is None else repeat.call.request
        call = _arrived(self._engine, operation, request, context, (metadata, authorization), self._keys, send)
        if repeat is not None and (self._keys is None or not self._keys.is_needed or _said(call.metadata) == _said(repeat.call.metadata)):
            call.repeat = repeat  # and where a token says who calls, it says the same
        return asked, call

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


def make_call(
    engine: Engine, operation: Operation, request: GenerateRequest | EmbedRequest, context: Context, keys: Keys | None, send: Send | None
) -> Call:
    """`keys`: the call needs one of these. Raises InvalidRequest, Unauthenticated and NotAllowed."""
    return _arrived(engine, operation, request, context, _metadata(context), keys, send)


def _arrived(
    engine: Engine,
    operation: Operation,
    request: GenerateRequest | EmbedRequest,
    context: Context,
    told: tuple[dict[str, str], str],
    keys: Keys | None,
    send: Send | None,
) -> Call:
    metadata, authorization = told
    if keys is not None and keys.is_needed:
        keys.admit(authorization, request.caller, metadata)
    return arrive(engine, operation, request, metadata, context.time_remaining(), send)


def _said(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """Everything but the trace, which is another one with each call."""
    return [item for item in metadata.items() if item[0] != "traceparent"]


def _metadata(context: Context) -> tuple[dict[str, str], str]:
    found: dict[str, str] = {}
    authorization = ""
    for key, value in context.invocation_metadata() or ():
        if key in METADATA:
            note(found, key, value)
        elif key == "authorization" and isinstance(value, str):
            authorization = value
    return found, authorization
