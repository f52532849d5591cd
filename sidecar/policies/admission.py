"""What a call must pass before anybody is asked for it: the sidecar's own load, its tenant's limits, a place among its service's calls."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Literal

from sidecar.billing import tokens
from sidecar.call import Call
from sidecar.errors import Refused
from sidecar.policies.places import Places
from sidecar.policies.shedding import Shedding, Tell
from sidecar.policies.tenant_limits import Tenant, TenantLimits
from sidecar.settings import Settings

Reason = Literal["shed", "tenant_limit", "queue"]


class Admission:
    """`count` is told the service and the reason of each refusal, `tell` when shedding begins and ends; `clock_ns` is monotonic."""

    def __init__(self, settings: Settings, clock_ns: Callable[[], int], count: Callable[[str, Reason], None], tell: Tell) -> None:
        self.clock_ns = clock_ns
        self.count = count
        self.places = {name: Places(name, row.concurrency, row.queue) for name, row in settings.services.items() if row.concurrency}
        self.shedding = Shedding(settings.admission, tell)
        self.tenants = TenantLimits(settings.limits, clock_ns)

    def place(self, call: Call) -> Place:
        """What a call holds while it asks providers: `async with admission.place(call)`. Raises Overloaded or RateLimited on entering."""
        return Place(self, call)

    def waiting(self) -> list[tuple[str, int]]:
        """(service, calls that wait for a place) of each service with a limit, for metrics."""
        return [(service, places.waiting) for service, places in self.places.items()]

    async def watch(self) -> None:
        """Measure the event loop's lag until cancelled; without it nothing is shed."""
        await self.shedding.watch(self.clock_ns)


class Place:
    """One call's place. The tenant's limits come before the service's queue, so that a tenant that must wait keeps nobody else waiting."""

    __slots__ = ("_admission", "_asked_tokens", "_began_ns", "_call", "_places", "_tenant")

    def __init__(self, admission: Admission, call: Call) -> None:
        self._admission = admission
        self._call = call
        self._places = admission.places.get(call.service)
        self._tenant: Tenant | None = None
        self._asked_tokens = 0
        self._began_ns = 0

    async def __aenter__(self) -> None:
        admission, call = self._admission, self._call
        priority = call.request.caller.priority
        reason: Reason = "shed"
        try:
            admission.shedding.require_calm(priority)
            if admission.tenants.is_limited:
                reason = "tenant_limit"
                self._asked_tokens = max((c.input_tokens + c.max_output_tokens for c in call.candidates), default=0)
                self._tenant = await admission.tenants.take(call.tenant, self._asked_tokens, int(call.deadline * 1e9))
            if self._places is not None:
                reason = "queue"
                await self._places.take(call.tenant, priority)
                self._began_ns = admission.clock_ns()
        except BaseException as error:
            if self._tenant is not None:
                admission.tenants.give_back(self._tenant, self._asked_tokens, requests=1)
            if isinstance(error, Refused):
                admission.count(call.service, reason)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        admission = self._admission
        if self._places is not None:
            self._places.leave((admission.clock_ns() - self._began_ns) / 1e6)
        if self._tenant is not None:
            used = sum(tokens(tried.usage) for tried in self._call.attempts)
            if used <= self._asked_tokens:
                admission.tenants.give_back(self._tenant, self._asked_tokens - used)
            else:
                admission.tenants.charge(self._tenant, used - self._asked_tokens)
