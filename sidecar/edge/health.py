"""gRPC health (grpc.health.v1): is the sidecar of use, a provider, a node; and what GetStatus shows of the same.

    ""  sidecar.v1.LLMService  sidecar.v1.OpsService    SERVING while it takes calls and every node in use has a candidate left
    provider:NAME                                       NOT_SERVING while that provider is down, or cannot be called at all
    node:SERVICE.NODE                                   NOT_SERVING while the breakers of all its candidates are open

List tells of all of them. While starting and draining all are NOT_SERVING. What is asked for is worked out when somebody asks, so that it
is never old.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from sidecar.edge.calls import Calls
from sidecar.edge.rescue import Context
from sidecar.edge.wire import duration
from sidecar.engine import Engine
from sidecar.v1 import ops_pb2

_LOOK_AGAIN_S = 5.0  # a watcher looks by itself too: what is known of a provider grows old without any event


class HealthService(health_pb2_grpc.HealthServicer):
    """What `Health` knows, in the protocol's words."""

    def __init__(self, engine: Engine, calls: Calls, services: tuple[str, ...]) -> None:
        """`services` are the names that stand for the sidecar as a whole."""
        self._engine = engine
        self._calls = calls
        self._services = services

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:  # noqa: N802
        is_serving = self._is_serving(request.service)
        if is_serving is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"nothing here is called {request.service!r}")
        return pb.HealthCheckResponse(status=_status(is_serving))

    async def List(self, request: object, context: Context) -> Any:  # noqa: N802
        engine = self._engine
        nodes = {*engine.catalog.nodes, *(node.name for node in engine.health.nodes(engine.clock_ns()))}
        providers = {*engine.settings.providers, *engine.connected}
        names = [*self._services, *(f"provider:{name}" for name in sorted(providers)), *(f"node:{name}" for name in sorted(nodes))]
        listed = {name: pb.HealthCheckResponse(status=_status(self._is_serving(name))) for name in names}
        return cast(Any, pb).HealthListResponse(statuses=listed)  # the module's types are older than it

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> AsyncIterator[pb.HealthCheckResponse]:  # noqa: N802
        last = None
        while True:
            status = _status(self._is_serving(request.service))
            if status != last:
                last = status
                yield pb.HealthCheckResponse(status=status)
            else:
                await self._engine.health.change(_LOOK_AGAIN_S)

    def _is_serving(self, name: str) -> bool | None:
        """None: nothing is called so."""
        is_serving = self._knows(name)
        # Draining wins over all: calls that would be refused must not be sent here.
        return is_serving and self._calls.ready and not self._calls.draining

    def _knows(self, name: str) -> bool | None:
        engine = self._engine
        now_ns = engine.clock_ns()
        if name in self._services:
            return not engine.health.exhausted(now_ns)
        kind, _, rest = name.partition(":")
        if kind == "provider" and (rest in engine.settings.providers or rest in engine.connected):
            return rest in engine.connected and engine.health.of_provider(rest, now_ns).state != "down"
        if kind == "node" and (rest in engine.catalog.nodes or engine.health.knows_node(rest)):
            return rest not in engine.health.exhausted(now_ns)
        return None


def _status(is_serving: bool | None) -> int:
    answer = pb.HealthCheckResponse
    return answer.SERVICE_UNKNOWN if is_serving is None else answer.SERVING if is_serving else answer.NOT_SERVING


_STATES = {
    "unknown": ops_pb2.HEALTH_UNSPECIFIED,
    "up": ops_pb2.HEALTH_UP,
    "degraded": ops_pb2.HEALTH_DEGRADED,
    "down": ops_pb2.HEALTH_DOWN,
}


def set_health(status: ops_pb2.ProviderStatus, engine: Engine) -> None:
    """Fill in how the provider and each of its endpoints fares."""
    now_ns = engine.clock_ns()
    found = engine.health.of_provider(status.name, now_ns)
    status.health, status.health_source = _STATES[found.state], found.source
    settings = engine.settings.providers.get(status.name)
    if settings is None or not settings.endpoints:
        return
    aside = {one.key: one for one in engine.endpoints.listing(now_ns)}
    for name, endpoint in settings.endpoints.items():
        shown = status.endpoints.add(name=name, weight=endpoint.weight)
        shown.health = _STATES[engine.health.of(status.name, name, now_ns).state]
        if (one := aside.get(f"{status.name}#{name}")) is not None:
            shown.set_aside = one.reason
            shown.set_aside_left.CopyFrom(duration(one.left_ns / 1e9))


def node_statuses(engine: Engine) -> list[ops_pb2.NodeStatus]:
    """The nodes in use."""
    return [
        ops_pb2.NodeStatus(name=node.name, candidates_left=node.left, candidates=node.candidates)
        for node in engine.health.nodes(engine.clock_ns())
    ]
