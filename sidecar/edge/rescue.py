"""Around every RPC: whatever goes wrong inside, the caller gets a status with a reason."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

import grpc

from sidecar.call import Call
from sidecar.edge.status import DETAILS_KEY, status_of
from sidecar.errors import InternalError, SidecarError
from sidecar.observe import Log
from sidecar.policies.degradation import Advice, Degradations

Context = grpc.aio.ServicerContext[Any, Any]


class Rescue:
    """Ends the RPC with the status of what its body raised. What is no SidecarError is a defect: it is logged with its place.

    The body sets `call` once it has one, so that the status can tell what came and what it cost. `degradations` say what callers can do
    instead; an RPC that no model answers has none. A caller who went away (CancelledError) needs no status.
    """

    __slots__ = ("_context", "_degradations", "_log", "call")

    def __init__(self, context: Context, log: Log, degradations: Degradations | None = None) -> None:
        self._context = context
        self._log = log
        self._degradations = degradations
        self.call: Call | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if not isinstance(error, SidecarError):
            error = defect(error, self.call, self._log)
        code, message, details = status_of(error, self.call, self._advice())
        await self._context.abort(code, message, ((DETAILS_KEY, details),))

    def _advice(self) -> Advice | None:
        """For the service and node of the call, as far as they are known."""
        if self._degradations is None:
            return None
        call = self.call
        if call is None:
            return self._degradations.of("", "")
        return self._degradations.of(call.service, call.node_name, call.metadata.get("accept-language", ""))


def defect(error: Exception, call: Call | None, log: Log) -> InternalError:
    """What the caller is told of an exception that is no SidecarError; the log has its place."""
    told = InternalError.of(error, call.id if call is not None else os.urandom(16).hex())
    log.defect(told.known_as, error)
    return told
