"""Around every change by an operator: who, what, before and after, written down before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType

import msgspec

from sidecar.edge.rescue import Context
from sidecar.engine import Engine
from sidecar.errors import SidecarError


class Audited:
    """`async with Audited(engine, context, "SetBudget", account, before, after)`: nothing is changed that cannot be written down.

    Who: `operator` where operators have a token, and the address that the call came from; `x-sidecar-user` is the name that the caller
    gives. A change that failed all the same is written down as failed. Raises StoreFailed on entering.
    """

    __slots__ = ("_engine", "_entry")

    def __init__(
        self, engine: Engine, context: Context, action: str, subject: str, before: Mapping[str, object], after: Mapping[str, object]
    ) -> None:
        self._engine = engine
        said = dict(context.invocation_metadata() or ()).get("x-sidecar-user", "")
        self._entry: dict[str, object] = {
            "time": datetime.fromtimestamp(engine.wall_ns() / 1e9, UTC).isoformat(timespec="milliseconds"),
            "who": "operator" if engine.settings.auth.ops_sha256 else "anybody",
            "peer": context.peer(),
            "user": said[:256] if isinstance(said, str) else "",
            "action": action,
            "subject": subject,
            "before": before,
            "after": after,
        }

    async def __aenter__(self) -> None:
        await self._engine.audit.write(self._entry)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        entry, meter = self._entry, self._engine.meter
        if error is not None:
            why = error.message if isinstance(error, SidecarError) else type(error).__name__
            await self._engine.audit.write(entry | {"failed": why})
            return
        facts = {name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in entry.items()}
        del facts["time"]
        meter.event("audit", f"{entry['action']} {entry['subject']} by {entry['who']} at {entry['peer']}", "info", **facts)
