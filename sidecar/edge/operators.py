"""OpsService for operators only, where settings name their token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc

from sidecar.edge.keys import Keys
from sidecar.edge.rescue import Context
from sidecar.edge.status import DETAILS_KEY, status_of
from sidecar.errors import SidecarError


class OperatorsOnly(grpc.aio.ServerInterceptor):
    """Refuses RPCs of one service to everybody else. In front of all of its methods, so that a new one is not forgotten."""

    def __init__(self, keys: Keys, service: str) -> None:
        self._keys = keys
        self._prefix = f"/{service}/"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        details = cast(Any, handler_call_details)  # as it is; its type names neither field
        if details.method.startswith(self._prefix):
            sent = dict(details.invocation_metadata or ()).get("authorization", "")
            try:
                self._keys.require_operator(sent if isinstance(sent, str) else "")
            except SidecarError as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def _refusal(error: SidecarError) -> grpc.RpcMethodHandler[Any, Any]:
    code, message, packed = status_of(error, None)

    async def refuse(_: object, context: Context) -> None:
        await context.abort(code, message, ((DETAILS_KEY, packed),))

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(refuse)
    return handler
