"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

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

R = TypeVar("R")


class Client:
    """A connection to the sidecar; any number of threads may use one.

    `target` is as gRPC writes it, also `unix:/run/sidecar.sock`. `caller` asks where a request does not say who does, field by field.
    `token` is one of the sidecar's own, where it needs one. `credentials` are for TLS. `timeout_s` covers a call with all its tries;
    `retries` are tries after the first.
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
            self._channel = grpc.insecure_channel(target, OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, OPTIONS)
        self._stub = LLMServiceStub(self._channel)
        self._caller = caller
        self._metadata = credentials_of(token)
        self._timeout_s = timeout_s
        self._retries = retries

    def generate(self, request: GenerateRequest | str, *, timeout_s: float | None = None) -> GenerateResponse:
        """A whole answer. Raises CallFailed."""
        return self._ask(self._stub.Generate, generate_request(request, self._caller), timeout_s)

    def embed(self, request: EmbedRequest | Sequence[str], *, timeout_s: float | None = None) -> EmbedResponse:
        """A vector for each text. Raises CallFailed."""
        return self._ask(self._stub.Embed, embed_request(request, self._caller), timeout_s)

    def count_tokens(self, request: GenerateRequest | EmbedRequest | str, *, timeout_s: float | None = None) -> CountTokensResponse:
        """How large a request is; nothing is spent. Raises CallFailed."""
        return self._ask(self._stub.CountTokens, count_request(request, self._caller), timeout_s)

    def stream(self, request: GenerateRequest | str, *, timeout_s: float | None = None) -> Iterator[StreamEvent]:
        """An answer as it is written: `start`, deltas, `end`. To stop reading (`close()`, or `break`) ends the call.

        Raises CallFailed; after the first event nothing is tried again.
        """
        asked = generate_request(request, self._caller)
        tries = Tries(self._timeout_s if timeout_s is None else timeout_s, self._retries, time.monotonic)
        while True:
            call = self._stub.Stream(asked, timeout=tries.left_s(), metadata=self._metadata)
            kind: str | None = None
            try:
                for event in call:
                    kind = event.WhichOneof("event")
                    yield event
            except grpc.RpcError as error:
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
            time.sleep(pause)

    def _ask(self, method: Callable[..., R], request: Any, timeout_s: float | None) -> R:
        tries = Tries(self._timeout_s if timeout_s is None else timeout_s, self._retries, time.monotonic)
        while True:
            try:
                return method(request, timeout=tries.left_s(), metadata=self._metadata)
            except grpc.RpcError as error:
                failed = failure(error)
                pause = tries.pause_s(failed)
                if pause is None:
                    raise failed from error
            time.sleep(pause)

    def close(self) -> None:
        """Ends what is under way."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
