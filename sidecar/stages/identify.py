"""Who asks: service, node, tenant, user, run, agent, trace."""

from __future__ import annotations

from sidecar.call import Call
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest
from sidecar.request import NOBODY, Caller
from sidecar.trace_context import trace_id

_LONGEST = 256  # bytes of one name
_MOST_TAGS = 16
_FIELDS = ("service", "node", "tenant", "user", "plan", "run", "agent")


def identify(engine: Engine, call: Call) -> None:
    """Find out on whose behalf the call is made, and of which model; the message wins over metadata, metadata over defaults.

    Writes service, node_name, node, tenant, user, plan, run, agent, trace_id. Raises InvalidRequest for names that are too long,
    hold control characters, or contradict each other.
    """
    caller = call.request.caller
    checked_name(call.request.model, "model")
    if caller is not NOBODY:
        _checked(caller)
    metadata = call.metadata
    said = {name: getattr(caller, name) for name in _FIELDS}
    if metadata:
        for name in _FIELDS:
            said[name] = said[name] or checked_name(metadata.get("x-sidecar-" + name, ""), f"metadata x-sidecar-{name}")
    service, node = said["service"], said["node"]
    if "." in node:
        prefix, _, rest = node.partition(".")
        if service and service != prefix:
            raise InvalidRequest(
                f"caller.node is {node!r}, which belongs to service {prefix!r}, but caller.service is {service!r}; leave one out",
                field="caller.node",
            )
        service, node = prefix, rest
    call.service = service or "default"
    call.node_name = node
    call.tenant = said["tenant"] or "default"
    call.user, call.plan, call.run, call.agent = said["user"], said["plan"], said["run"], said["agent"]
    if caller.run_plan is not None and not call.run:
        raise InvalidRequest("caller.run_plan is set and caller.run is not; expected the run that the plan is of", field="caller.run")
    call.trace_id = trace_id(metadata)
    if node:
        call.node = engine.catalog.nodes.get(f"{call.service}.{node}")
        if call.node is None:
            call.notices.append(f"node {call.service}.{node} is not in the portfolio: the profile's default model answers")


def _checked(caller: Caller) -> None:
    for name in _FIELDS:
        checked_name(getattr(caller, name), f"caller.{name}")
    if caller.step < 0:
        raise InvalidRequest(f"caller.step is {caller.step}; it counts from 1, and 0 means not told", field="caller.step")
    if len(caller.tags) > _MOST_TAGS:
        raise InvalidRequest(f"caller.tags has {len(caller.tags)} entries; at most {_MOST_TAGS} are allowed", field="caller.tags")
    for key, value in caller.tags.items():
        checked_name(key, "caller.tags")
        checked_name(value, "caller.tags")


def checked_name(value: str, field: str) -> str:
    """The name itself. Raises InvalidRequest if it is too long or holds control characters."""
    if value and (not value.isprintable() or len(value) > _LONGEST or len(value.encode()) > _LONGEST):
        raise InvalidRequest(
            f"{field} is {value[:40]!r}{'…' if len(value) > 40 else ''} ({len(value.encode())} bytes); "
            f"expected at most {_LONGEST} bytes of printable characters",
            field=field,
        )
    return value
