"""Errors into gRPC statuses with their details: the one place where a failure gets its form."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from sidecar.call import Call
from sidecar.edge.wire import attempts_message, cost_message, tool_call_messages, usage_message
from sidecar.errors import BudgetExceeded, ProviderError, RequestError, SidecarError
from sidecar.v1 import errors_pb2

DOMAIN = "llm-sidecar"
DETAILS_KEY = "grpc-status-details-bin"
_LONGEST_PARTIAL = 2 * 1024  # characters of text in trailers; HTTP/2 peers commonly refuse trailers above 8 KiB

CODES: dict[str, StatusCode] = {
    "INVALID_REQUEST": StatusCode.INVALID_ARGUMENT,
    "UNKNOWN_MODEL": StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_FEATURE": StatusCode.INVALID_ARGUMENT,
    "PROMPT_TOO_LONG": StatusCode.INVALID_ARGUMENT,
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
    "STREAM_CUT": StatusCode.DATA_LOSS,
    "SCHEMA_VIOLATED": StatusCode.DATA_LOSS,
    "DEADLINE_EXCEEDED": StatusCode.DEADLINE_EXCEEDED,
    "CANCELLED": StatusCode.CANCELLED,
    "INTERNAL": StatusCode.INTERNAL,
}


def status_of(error: SidecarError, call: Call | None) -> tuple[StatusCode, str, bytes]:
    """Code, message and serialised google.rpc.Status of a failed call.

    A stream that broke after its first piece, whatever broke it, is DATA_LOSS unless the caller's own time was up or the sidecar is
    stopping: a client that retries UNAVAILABLE by itself must not take it for a call that never began.
    """
    code = CODES[error.reason]
    if call is not None and call.sent and isinstance(error, ProviderError):
        code = StatusCode.DATA_LOSS
    facts = {"retryable": "true" if error.retryable else "false"}
    if call is not None:
        facts["id"] = call.id
        if call.served is not None:
            facts["provider"], facts["model"] = call.served.model.provider, call.served.model.id
    details: list[Message] = []
    if isinstance(error, RequestError) and error.field:
        details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=error.field, description=error.message)]))
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
        facts["mode"] = "manual"
        details.append(QuotaFailure(violations=[QuotaFailure.Violation(subject=error.account, description=error.message)]))
    if error.retry_after_ms is not None:
        wait = Duration()
        wait.FromMilliseconds(error.retry_after_ms)
        details.append(RetryInfo(retry_delay=wait))
    if call is not None and call.attempts:
        details.append(_partial(call))
    details.insert(0, ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))
    status = Status(code=code.value[0], message=error.message, details=[_any(detail) for detail in details])
    return code, error.message, status.SerializeToString()


def _partial(call: Call) -> errors_pb2.Partial:
    answer, served = call.answer, call.served
    text = answer.text if answer is not None else ""
    return errors_pb2.Partial(
        id=call.id,
        text=text if len(text) <= _LONGEST_PARTIAL else text[:_LONGEST_PARTIAL] + "…",
        tool_calls=tool_call_messages(answer) if answer is not None else (),
        usage=usage_message(call),
        cost=cost_message(call),
        attempts=attempts_message(call),
        model=served.model.id if served else "",
        provider=served.model.provider if served else "",
    )


def _any(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
