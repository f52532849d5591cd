"""What both clients share: whose calls they are, and when one may be tried again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import grpc

from sidecar.client.failures import CallFailed, OutOfTime, Unavailable
from sidecar.v1.llm_pb2 import Caller, CountTokensRequest, EmbedRequest, GenerateRequest

OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # answers may be larger than gRPC's 4 MiB: thousands of vectors
    ("grpc.max_send_message_length", -1),
    # gRPC knocks again after a second at first, then ever more rarely: another try before that would not reach a sidecar that is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
_FIRST_PAUSE_S = 0.2  # where the sidecar does not say how long to wait; doubled each time, a random share of it


class Tries:
    """The time of one call, and its next try. `clock` is in seconds."""

    def __init__(self, timeout_s: float, retries: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + timeout_s
        self._retries = retries
        self._made = 0

    def left_s(self) -> float:
        """For the next try. Raises OutOfTime."""
        left = self._end - self._clock()
        if left <= 0:
            raise OutOfTime(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's time was up before the sidecar could be asked again")
        return left

    def pause_s(self, error: CallFailed) -> float | None:
        """How long to wait before another try; None: there is none.

        Only UNAVAILABLE is tried again, as often as was asked for, and as often as the sidecar allows where it says so: it has tried its
        providers itself by then.
        """
        self._made += 1
        most = self._retries
        if error.degradation is not None:
            most = min(most, error.degradation.most_retries)
        if not isinstance(error, Unavailable) or not error.may_retry or self._made > most:
            return None
        pause = error.retry_after
        if pause is None:
            pause = _FIRST_PAUSE_S * 2 ** (self._made - 1) * (0.5 + random.random() / 2)  # noqa: S311  (no secret)
        return pause if pause < self._end - self._clock() else None


def credentials_of(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def generate_request(request: GenerateRequest | str, caller: Caller | None) -> GenerateRequest:
    """A request of one's own, with the client's caller where it does not say who asks."""
    if isinstance(request, str):
        return GenerateRequest(prompt=request, caller=caller)
    if caller is None:
        return request
    own = GenerateRequest(caller=caller)
    own.MergeFrom(request)
    return own


def embed_request(request: EmbedRequest | Sequence[str], caller: Caller | None) -> EmbedRequest:
    if not isinstance(request, EmbedRequest):
        return EmbedRequest(inputs=[request] if isinstance(request, str) else request, caller=caller)
    if caller is None:
        return request
    own = EmbedRequest(caller=caller)
    own.MergeFrom(request)
    return own


def count_request(request: GenerateRequest | EmbedRequest | str, caller: Caller | None) -> CountTokensRequest:
    if isinstance(request, EmbedRequest):
        return CountTokensRequest(embed=embed_request(request, caller))
    return CountTokensRequest(generate=generate_request(request, caller))
