"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from sidecar.client.failures import Broken, failure
from sidecar.client.tries import OPTIONS, Tries, count_request, credentials_of, embed_request, generate_request
from sidecar.v1.llm_pb2 import (
    Caller,
    CountTokensResponse,
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    GenerateResponse,
    StreamEvent,
)
from sidecar.v1.llm_pb2_grpc import LLMServiceStub

if TYPE_CHECKING:
    from sidecar.v1.llm_pb2_grpc import LLMServiceAsyncStub

R = TypeVar("R")


class AsyncClient:
    """A connection to the sidecar, for the event loop that it is first used in; its arguments are Client's.

    It may be made before there is a loop, where a program sets up what it needs.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        caller: Caller | None = None,
        token: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 60.0,
        retries: int = 2,
    ) -> None:
        if credentials is None:
            self._open = partial(grpc.aio.insecure_channel, target, OPTIONS)
        else:
            self._open = partial(grpc.aio.secure_channel, target, credentials, OPTIONS)
        self._channel: grpc.aio.Channel | None = None
        self._caller = caller
        self._metadata = credentials_of(token)
        self._timeout_s = timeout_s
        self._retries = retries

    async def generate(self, request: GenerateRequest | str, *, timeout_s: float | None = None) -> GenerateResponse:
        """A whole answer. Raises CallFailed."""
        return await self._ask(self._service().Generate, generate_request(request, self._caller), timeout_s)

    async def embed(self, request: EmbedRequest | Sequence[str], *, timeout_s: float | None = None) -> EmbedResponse:
        """A vector for each text. Raises CallFailed."""
        return await self._ask(self._service().Embed, embed_request(request, self._caller), timeout_s)

    async def count_tokens(self, request: GenerateRequest | EmbedRequest | str, *, timeout_s: float | None = None) -> CountTokensResponse:
        """How large a request is; nothing is spent. Raises CallFailed."""
        return await self._ask(self._service().CountTokens, count_request(request, self._caller), timeout_s)

    async def stream(self, request: GenerateRequest | str, *, timeout_s: float | None = None) -> AsyncIterator[StreamEvent]:
        """An answer as it is written: `start`, deltas, `end`. `aclose()`, and cancelling who reads, ends the call.

        Raises CallFailed; after the first event nothing is tried again.
        """
        asked = generate_request(request, self._caller)
        tries = Tries(self._timeout_s if timeout_s is None else timeout_s, self._retries, asyncio.get_running_loop().time)
        while True:
            call = self._service().Stream(asked, timeout=tries.left_s(), metadata=self._metadata)
            kind: str | None = None
            try:
                async for event in call:
                    kind = event.WhichOneof("event")
                    yield event
            except grpc.aio.AioRpcError as error:
                failed = failure(error)
                pause = tries.pause_s(failed) if kind is None else None
                if pause is None:
                    raise failed from error
            else:
                if kind != "end":
                    raise Broken(grpc.StatusCode.DATA_LOSS, "the stream ended without its last event")
                return
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    async def _ask(self, method: Callable[..., Awaitable[R]], request: Any, timeout_s: float | None) -> R:
        tries = Tries(self._timeout_s if timeout_s is None else timeout_s, self._retries, asyncio.get_running_loop().time)
        while True:
            try:
                return await method(request, timeout=tries.left_s(), metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                failed = failure(error)
                pause = tries.pause_s(failed)
                if pause is None:
                    raise failed from error
            await asyncio.sleep(pause)

    def _service(self) -> LLMServiceAsyncStub:
        if self._channel is None:
            self._channel = self._open()
            self._stub: LLMServiceAsyncStub = LLMServiceStub(self._channel)
        return self._stub

    async def close(self) -> None:
        """Ends what is under way."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
