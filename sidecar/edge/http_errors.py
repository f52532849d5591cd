"""Errors into HTTP: status.py says what there is to say, here it becomes a status, headers and JSON."""

from __future__ import annotations

from math import ceil
from typing import Any, ClassVar

from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from msgspec import Struct

from sidecar.call import Call
from sidecar.edge.status import status_of
from sidecar.errors import InvalidRequest, SidecarError
from sidecar.policies.degradation import Advice
from sidecar.policies.quotas import Standing
from sidecar.v1.errors_pb2 import Degradation, Partial

SERVER = "llm-sidecar"  # what the `Server` header says: nobody needs to know by which versions of what

# Of google.rpc.Code's own mapping, but for two: what only an operator can mend is not the request's fault, and an answer that broke came
# from a server behind this one.
_STATUSES: dict[StatusCode, int] = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.INTERNAL: 500,
    StatusCode.DATA_LOSS: 502,
    StatusCode.FAILED_PRECONDITION: 503,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}


class BadHttp(InvalidRequest):
    """A request that is wrong as HTTP, before anybody reads what it asks; `http_status` says how."""

    http_status: ClassVar[int] = 400


class NoSuchPath(BadHttp):
    http_status = 404


class WrongMethod(BadHttp):
    http_status = 405


class TooSlow(BadHttp):
    """The body did not come in time."""

    http_status = 408


class StreamGone(BadHttp):
    """The stream that a client wants to resume is over, or its events are no longer kept."""

    http_status = 410


class TooLarge(BadHttp):
    http_status = 413


class WrongType(BadHttp):
    http_status = 415


class Failure(Struct, frozen=True):
    """A failure as HTTP tells it; `body` is JSON of plain values.

    `body` has code (a gRPC status name), reason, message and retryable always; field, id, retry_after_ms, facts, degradation and partial
    (usage, cost, attempts, text) where there are any. Other APIs' shapes can be made from it, and with `limits`: how those stand that the
    call has met.
    """

    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    limits: tuple[Standing, ...] = ()


def failure_of(error: SidecarError, call: Call | None, advice: Advice | None = None) -> Failure:
    """The same facts as gRPC's status carries, made from it."""
    code, message, packed = status_of(error, call, advice)
    body: dict[str, Any] = {"code": code.name, "reason": error.reason, "message": message, "retryable": error.retryable}
    headers = {} if error.retryable else {"x-should-retry": "false"}  # what the SDKs of OpenAI and Anthropic go by
    for detail in Status.FromString(packed).details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            facts = dict(ErrorInfo.FromString(detail.value).metadata)
            facts.pop("retryable", None)
            if "id" in facts:
                body["id"] = headers["x-sidecar-id"] = facts.pop("id")
            if facts:
                body["facts"] = facts
        elif detail.Is(BadRequest.DESCRIPTOR):
            body["field"] = BadRequest.FromString(detail.value).field_violations[0].field
        elif detail.Is(RetryInfo.DESCRIPTOR):
            wait_ms = RetryInfo.FromString(detail.value).retry_delay.ToMilliseconds()
            body["retry_after_ms"] = wait_ms
            headers["retry-after"] = str(ceil(wait_ms / 1000))
        elif detail.Is(Degradation.DESCRIPTOR):
            body["degradation"] = plain(Degradation.FromString(detail.value))
        elif detail.Is(Partial.DESCRIPTOR):
            body["partial"] = plain(Partial.FromString(detail.value))
    status = error.http_status if isinstance(error, BadHttp) else _STATUSES[code]
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Failure(status, headers, body)


def plain(message: Any) -> dict[str, Any]:
    """A message in proto3's JSON mapping, under the contract's own names: 64-bit integers are text, what is not set is left out."""
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found
