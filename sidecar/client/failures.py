"""A failed call as an exception with a type, read from gRPC's status and its details."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from sidecar.v1.errors_pb2 import Degradation, Partial

M = TypeVar("M", bound=Message)
_DETAILS_KEY = "grpc-status-details-bin"


class CallFailed(Exception):
    """Why a call has failed.

    `reason` is a name of the contract's ErrorReason without prefix; "": the sidecar was not reached. `retry_after` is in seconds, None:
    nobody knows, or waiting does not help. `field` names what is wrong in the request, "": nothing. `partial` holds what was produced and
    spent, None: nothing was. `degradation` says what the caller can do instead, None: the request has to change. `facts` are further facts
    by name, the call's `id` among them; `may_retry`: the same request may succeed later.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: Iterable[Message] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        found = {type(detail): detail for detail in details}
        info, bad, wait = _one(found, ErrorInfo), _one(found, BadRequest), _one(found, RetryInfo)
        self.facts: Mapping[str, str] = dict(info.metadata) if info is not None else {}
        self.reason = info.reason if info is not None else ""
        self.field = bad.field_violations[0].field if bad is not None and bad.field_violations else ""
        self.retry_after = wait.retry_delay.ToMilliseconds() / 1000 if wait is not None else None
        self.partial = _one(found, Partial)
        self.degradation = _one(found, Degradation)

    @property
    def may_retry(self) -> bool:
        """A sidecar that could not be reached says nothing, and may be there in a moment."""
        return self.facts.get("retryable", "true" if self.code is grpc.StatusCode.UNAVAILABLE else "false") == "true"

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


class Rejected(CallFailed):
    """The request is wrong."""


class Denied(CallFailed):
    """The caller may not."""


class NotFound(CallFailed):
    """There is none of what was asked for."""


class Misconfigured(CallFailed):
    """Only an operator can mend it."""


class Exhausted(CallFailed):
    """A budget, a limit or a quota is used up."""


class Unavailable(CallFailed):
    """Nobody answered."""


class Broken(CallFailed):
    """An answer began and broke."""


class OutOfTime(CallFailed):
    """The call's time is up."""


class Cancelled(CallFailed):
    """The caller went away."""


class Defect(CallFailed):
    """Nobody foresaw it."""


_TYPES: dict[grpc.StatusCode, type[CallFailed]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Rejected,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Misconfigured,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: Broken,
    grpc.StatusCode.DEADLINE_EXCEEDED: OutOfTime,
    grpc.StatusCode.CANCELLED: Cancelled,
}


def failure(error: Any) -> CallFailed:
    """The exception for what gRPC raised: a grpc.RpcError of a call, or a grpc.aio.AioRpcError."""
    code = error.code()
    packed = dict(error.trailing_metadata() or ()).get(_DETAILS_KEY, b"")
    details: list[Message] = []
    for detail in Status.FromString(packed).details if isinstance(packed, bytes) else ():
        for kind in (ErrorInfo, BadRequest, RetryInfo, Degradation, Partial):
            if detail.Is(kind.DESCRIPTOR):
                details.append(kind.FromString(detail.value))
    return _TYPES.get(code, Defect)(code, error.details() or "", details)


def _one(found: Mapping[type[Message], Message], kind: type[M]) -> M | None:
    detail = found.get(kind)
    return detail if isinstance(detail, kind) else None
