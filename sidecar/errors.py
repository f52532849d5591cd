"""Everything that can go wrong with a call, as one tree.

    SidecarError                    what a caller can meet; each class has one `reason` of the proto's ErrorReason
    ├── RequestError                the caller's own mistake: sending it again changes nothing
    │   ├── InvalidRequest          a field is missing, malformed or out of range
    │   ├── UnknownModel            no model of that name
    │   ├── UnsupportedFeature      no candidate can do what was asked (images, tools, strict schema, ...)
    │   ├── PromptTooLong           the prompt does not fit the context of any candidate
    │   ├── NotAllowed              the user's plan, or the caller's token, does not have what was asked for
    │   ├── Unauthenticated         the call came without a token that the sidecar knows
    │   ├── UnknownBreaker          no circuit breaker of that service and target is in use
    │   ├── UnknownCall             the usage log has no call of that id
    │   └── UnknownRun              no run of that name is open
    ├── Refused                     the sidecar said no before any provider was asked
    │   ├── BudgetExceeded          an account has not enough left
    │   ├── RateLimited             more requests or tokens per minute than settings allow
    │   ├── Overloaded              too many calls of this service are under way and waiting
    │   ├── NotReady                the process has started and does not answer yet
    │   ├── Draining                the process is about to stop
    │   ├── NotCached               the caller wants a cached answer only, and there is none
    │   ├── NoCandidate             no configured provider serves this node
    │   └── NoUsageLog              there is no folder to keep one in
    ├── ProviderError               a provider was asked and failed
    │   ├── ProviderRateLimited     429; `retry_after_ms` where the provider said it
    │   ├── ProviderQuotaExhausted  out of credit, spend cap, per-day quota: waiting a minute does not help
    │   ├── ProviderUnavailable     5xx, overloaded, connection refused or lost before an answer
    │   ├── ProviderTimeout         nothing came within the limit (connect, first token, silence, total)
    │   ├── ProviderAuthFailed      401, 403: the key is wrong, revoked or not allowed
    │   ├── ProviderRejected        the provider refused the request as invalid
    │   ├── ProviderModelUnknown    the provider has no such model (retired, misspelt, not allowed for this key)
    │   ├── ProviderContextExceeded the provider found the prompt too long
    │   ├── ProviderGarbled         an answer that is none: `{}`, broken JSON, no choices, wrong vector count
    │   │   ├── ProviderEmpty       a whole answer that says nothing
    │   │   └── ProviderWrongType   HTML, or another type of content than was asked for
    │   └── StreamCut               the answer stopped before its protocol's own end
    ├── SchemaViolated              a strict answer that does not fit its schema; never passed on
    ├── StoreFailed                 what must outlive the process could not be read or written
    ├── DeadlineExceeded            the caller's time is up
    ├── Cancelled                   the caller went away
    └── InternalError               a defect of the sidecar

`SettingsError` is not of this tree: it stops a start, not a call.
"""

from __future__ import annotations

from typing import ClassVar


class SidecarError(Exception):
    """A call's failure as the caller will see it.

    `reason` is the name in the proto's `ErrorReason` (without prefix); `message` never holds a key or a prompt;
    `retry_after_ms` is the shortest wait that can help, or None when nobody knows or waiting does not help.
    """

    reason: ClassVar[str]
    retryable: ClassVar[bool] = False  # may the same request, sent again later by the caller, succeed?

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class RequestError(SidecarError):
    """The caller's own mistake. `field` is the proto path of what is wrong, for example `messages[2].role`."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidRequest(RequestError):
    reason = "INVALID_REQUEST"


class UnknownModel(RequestError):
    reason = "UNKNOWN_MODEL"


class UnsupportedFeature(RequestError):
    reason = "UNSUPPORTED_FEATURE"


class PromptTooLong(RequestError):
    reason = "PROMPT_TOO_LONG"


class NotAllowed(RequestError):
    reason = "NOT_ALLOWED"


class Unauthenticated(RequestError):
    reason = "UNAUTHENTICATED"


class UnknownBreaker(RequestError):
    reason = "UNKNOWN_BREAKER"


class UnknownCall(RequestError):
    reason = "UNKNOWN_CALL"


class UnknownRun(RequestError):
    reason = "UNKNOWN_RUN"


class Refused(SidecarError):
    """The sidecar refused before any provider was asked; nothing was spent."""


class BudgetExceeded(Refused):
    """An account is used up. Amounts are in `unit`: `nano_usd` or `tokens`; `resets_at_ns` is Unix time or None."""

    reason = "BUDGET_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        account: str,
        unit: str,
        limit: int,
        used: int,
        asked: int,
        resets_at_ns: int | None,
        retry_after_ms: int | None,
    ) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.account = account
        self.unit = unit
        self.limit = limit
        self.used = used
        self.asked = asked
        self.resets_at_ns = resets_at_ns


class RateLimited(Refused):
    reason = "RATE_LIMITED"
    retryable = True


class Overloaded(Refused):
    reason = "OVERLOADED"
    retryable = True


class NotReady(Refused):
    reason = "NOT_READY"
    retryable = True


class Draining(Refused):
    reason = "DRAINING"
    retryable = True


class NoCandidate(Refused):
    reason = "NO_CANDIDATE"


class NoUsageLog(Refused):
    reason = "NO_USAGE_LOG"


class NotCached(Refused):
    reason = "NOT_CACHED"


class ProviderError(SidecarError):
    """A provider was asked and failed. `status` is its HTTP status (0: none was received), `code` its own error code."""

    retryable = True

    def __init__(self, message: str, *, status: int = 0, code: str = "", retry_after_ms: int | None = None, request_id: str = "") -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.status = status
        self.code = code
        self.request_id = request_id


class ProviderRateLimited(ProviderError):
    reason = "PROVIDER_RATE_LIMITED"


class ProviderQuotaExhausted(ProviderError):
    reason = "PROVIDER_QUOTA_EXHAUSTED"
    retryable = False


class ProviderUnavailable(ProviderError):
    reason = "PROVIDER_UNAVAILABLE"


class ProviderTimeout(ProviderError):
    """`first_token`: of a stream nothing had come yet, not even its first token. `hurried`: the caller's time was short, not the
    provider slow.
    """

    reason = "PROVIDER_TIMEOUT"
    first_token = False
    hurried = False


class ProviderAuthFailed(ProviderError):
    reason = "PROVIDER_AUTH_FAILED"
    retryable = False


class ProviderRejected(ProviderError):
    reason = "PROVIDER_REJECTED"
    retryable = False


class ProviderModelUnknown(ProviderError):
    reason = "PROVIDER_MODEL_UNKNOWN"
    retryable = False


class ProviderContextExceeded(ProviderError):
    reason = "PROVIDER_CONTEXT_EXCEEDED"
    retryable = False


class ProviderGarbled(ProviderError):
    reason = "PROVIDER_GARBLED"


class ProviderEmpty(ProviderGarbled):
    reason = "PROVIDER_EMPTY"


class ProviderWrongType(ProviderGarbled):
    reason = "PROVIDER_WRONG_TYPE"


class StreamCut(ProviderError):
    reason = "STREAM_CUT"


class SchemaViolated(SidecarError):
    reason = "SCHEMA_VIOLATED"
    retryable = True


class StoreFailed(SidecarError):
    reason = "STORE_FAILED"
    retryable = True


class DeadlineExceeded(SidecarError):
    reason = "DEADLINE_EXCEEDED"
    retryable = True


class Cancelled(SidecarError):
    reason = "CANCELLED"


class InternalError(SidecarError):
    """`known_as` is the id under which the log has it; "": the call's own."""

    reason = "INTERNAL"
    known_as = ""

    @classmethod
    def of(cls, defect: BaseException, known_as: str) -> InternalError:
        """What a caller is told of a defect: how to report it, nothing of what it says."""
        error = cls(f"a defect of the sidecar ({type(defect).__name__}); please report it with the id {known_as}")
        error.known_as = known_as
        return error


class SettingsError(Exception):
    """A mistake in settings, told in one line: file or variable, key, what was found, what is expected, the nearest known name.

    `where` is the file or the variable, `key` the path of the key in a file (empty for a variable), `problem` the rest. Never holds a
    secret.
    """

    def __init__(self, where: str, key: str, problem: str) -> None:
        super().__init__(": ".join(part for part in (where, key, problem) if part))
        self.where = where
        self.key = key
        self.problem = problem
