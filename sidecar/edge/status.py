"""Errors into gRPC statuses with their details: the one place where a failure gets its form."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from sidecar.call import Call
from sidecar.edge.wire import attempts_message, set_cost, tool_call_messages, usage_message
from sidecar.errors import (
    BudgetExceeded,
    Cancelled,
    InternalError,
    NoCandidate,
    NotCached,
    ProviderContextExceeded,
    ProviderError,
    ProviderRejected,
    RequestError,
    SchemaViolated,
    SidecarError,
)
from sidecar.policies.degradation import Advice
from sidecar.v1 import errors_pb2

DOMAIN = "llm-sidecar"
DETAILS_KEY = "grpc-status-details-bin"

# Peers refuse trailers above 8 KiB and then report that instead of our error. They count each name and value and 32 bytes more (RFC 9113,
# 6.5.2), grpc-message percent-encoded (up to 3 bytes for 1), the details in base64 (4 for 3): 3 * 512 + 4/3 * 4,608 + 300 for the rest.
_MOST_STATUS = 4_608  # bytes of the serialised google.rpc.Status
_MOST_MESSAGE = 512  # bytes
_MOST_NAME = 200  # bytes of each value that a caller or a provider may have made long: models, accounts, fields, codes
_MOST_TRIES = 1_024  # bytes of Partial.attempts
_MOST_TEXT = 2_048  # bytes of Partial.text
_FRAME = 64  # bytes around a detail: its type's address, tags and lengths

CODES: dict[str, StatusCode] = {
    "INVALID_REQUEST": StatusCode.INVALID_ARGUMENT,
    "UNKNOWN_MODEL": StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_FEATURE": StatusCode.INVALID_ARGUMENT,
    "PROMPT_TOO_LONG": StatusCode.INVALID_ARGUMENT,
    "NOT_ALLOWED": StatusCode.PERMISSION_DENIED,
    "UNAUTHENTICATED": StatusCode.UNAUTHENTICATED,
    "UNKNOWN_BREAKER": StatusCode.NOT_FOUND,
    "UNKNOWN_CALL": StatusCode.NOT_FOUND,
    "UNKNOWN_RUN": StatusCode.NOT_FOUND,
    "NO_USAGE_LOG": StatusCode.FAILED_PRECONDITION,
    "BUDGET_EXCEEDED": StatusCode.RESOURCE_EXHAUSTED,
    "RATE_LIMITED": StatusCode.RESOURCE_EXHAUSTED,
    "OVERLOADED": StatusCode.RESOURCE_EXHAUSTED,
    "NOT_READY": StatusCode.UNAVAILABLE,
    "DRAINING": StatusCode.UNAVAILABLE,
    "NO_CANDIDATE": StatusCode.FAILED_PRECONDITION,
    "NOT_CACHED": StatusCode.NOT_FOUND,
    "PROVIDER_RATE_LIMITED": StatusCode.RESOURCE_EXHAUSTED,
    "PROVIDER_QUOTA_EXHAUSTED": StatusCode.RESOURCE_EXHAUSTED,
    "PROVIDER_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "PROVIDER_TIMEOUT": StatusCode.UNAVAILABLE,
    "PROVIDER_AUTH_FAILED": StatusCode.FAILED_PRECONDITION,
    "PROVIDER_REJECTED": StatusCode.INVALID_ARGUMENT,
    "PROVIDER_MODEL_UNKNOWN": StatusCode.NOT_FOUND,
    "PROVIDER_CONTEXT_EXCEEDED": StatusCode.INVALID_ARGUMENT,
    "PROVIDER_GARBLED": StatusCode.UNAVAILABLE,
    "PROVIDER_EMPTY": StatusCode.UNAVAILABLE,
    "PROVIDER_WRONG_TYPE": StatusCode.UNAVAILABLE,
    "STREAM_CUT": StatusCode.DATA_LOSS,
    "SCHEMA_VIOLATED": StatusCode.DATA_LOSS,
    "STORE_FAILED": StatusCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": StatusCode.DEADLINE_EXCEEDED,
    "CANCELLED": StatusCode.CANCELLED,
    "INTERNAL": StatusCode.INTERNAL,
}

# The request's own fault, or nobody's: another request, or none, is what helps.
_OWN_FAULT = (RequestError, ProviderRejected, ProviderContextExceeded, Cancelled, NotCached)
# Nobody answers, and asking again at once changes nothing: people go on by hand.
_MANUAL = (BudgetExceeded, NoCandidate, ProviderError, SchemaViolated)


def status_of(error: SidecarError, call: Call | None, advice: Advice | None = None) -> tuple[StatusCode, str, bytes]:
    """Code, message and serialised google.rpc.Status of a failed call; None: the failure came before any call.

    `advice` goes with every failure that is not the request's own fault.

    A stream that broke after its first piece, whatever broke it, is DATA_LOSS unless the caller's own time was up or the sidecar is
    stopping: a client that retries UNAVAILABLE by itself must not take it for a call that never began.
    """
    code = CODES[error.reason]
    if call is not None and call.sent and isinstance(error, ProviderError):
        code = StatusCode.DATA_LOSS
    message = _cut(error.message, _MOST_MESSAGE)
    facts = {"retryable": "true" if error.retryable else "false"}
    if isinstance(error, InternalError) and error.known_as:
        facts["id"] = error.known_as
    if call is not None:
        facts["id"] = call.id
        if call.served is not None:
            facts["provider"], facts["model"] = call.served.model.provider, call.served.model.id
    details: list[Message] = []
    if isinstance(error, RequestError) and error.field:
        field = _cut(error.field, _MOST_NAME)
        details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message)]))
    if isinstance(error, ProviderError):
        facts |= {name: value for name, value in (("provider_code", error.code), ("provider_request_id", error.request_id)) if value}
        if error.status:
            facts["provider_status"] = str(error.status)
    if isinstance(error, BudgetExceeded):
        facts |= {
            "account": error.account,
            "unit": error.unit,
            "limit": str(error.limit),
            "used": str(error.used),
            "asked": str(error.asked),
        }
        subject = _cut(error.account, _MOST_NAME)
        details.append(QuotaFailure(violations=[QuotaFailure.Violation(subject=subject, description=message)]))
    if error.retry_after_ms is not None:
        wait = Duration()
        wait.FromMilliseconds(error.retry_after_ms)
        details.append(RetryInfo(retry_delay=wait))
    if isinstance(error, _OWN_FAULT):
        advice = None
    elif isinstance(error, _MANUAL):
        facts["mode"] = "manual"
    if advice is not None:
        details.append(_degradation(advice))
    facts = {name: _cut(value, _MOST_NAME) for name, value in facts.items()}
    details.insert(0, ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))
    status = Status(code=code.value[0], message=message, details=[_any(detail) for detail in details])
    if call is not None and call.attempts:
        status.details.append(_any(_partial(call, _MOST_STATUS - status.ByteSize() - _FRAME)))
    return code, message, status.SerializeToString()


def _degradation(advice: Advice) -> errors_pb2.Degradation:
    return errors_pb2.Degradation(
        action=_cut(advice.action, _MOST_NAME),
        message=_cut(advice.message, _MOST_MESSAGE),
        language=advice.language,
        http_status=advice.http_status,
        most_retries=advice.most_retries,
        code=_cut(advice.code, _MOST_NAME),
    )


def _partial(call: Call, room: int) -> errors_pb2.Partial:
    """What came and what it cost, in at most `room` bytes: the price first, then tries, text and tool calls as far as they fit."""
    answer, served = call.answer, call.served
    partial = errors_pb2.Partial(
        id=call.id,
        usage=usage_message(call),
        model=_cut(served.model.id, _MOST_NAME) if served else "",
        provider=_cut(served.model.provider, _MOST_NAME) if served else "",
    )
    set_cost(partial.cost, call.nano_usd, served.model if served else None)
    tries = attempts_message(call)
    most_tries = min(_MOST_TRIES, room - partial.ByteSize() - _FRAME)
    while sum(tried.ByteSize() + 4 for tried in tries) > most_tries:
        del tries[0]
    partial.attempts.extend(tries)
    if answer is None:
        return partial
    partial.text = _cut(answer.text, min(_MOST_TEXT, room - partial.ByteSize() - _FRAME))
    for called in tool_call_messages(answer):
        left = room - partial.ByteSize() - _FRAME
        if called.ByteSize() > left:
            called.signature = ""  # worth nothing unless whole
            head = called.ByteSize() - len(called.arguments.encode())
            if head + _MOST_NAME <= left:
                called.arguments = _cut(called.arguments, left - head)
                partial.tool_calls.append(called)
            break
        partial.tool_calls.append(called)
    return partial


def _cut(text: str, most_bytes: int) -> str:
    """The text if it has room, else its beginning in whole characters and `…`. What is no Unicode, half an emoji, becomes `?`."""
    data = text.encode(errors="replace")
    if len(data) > most_bytes:
        data = data[: most_bytes - 3].decode(errors="ignore").encode() + "…".encode()
    return data.decode()


def _any(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
