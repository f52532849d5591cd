"""Requests and tokens per minute of each tenant, as settings give them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from sidecar._core import Limiter
from sidecar.errors import RateLimited
from sidecar.policies.quotas import Standing, Unit
from sidecar.settings.operation import Limits

_MOST_TENANTS = 10_000  # callers choose their names; the memory must not grow with them
_UNITS: tuple[Unit, Unit] = ("requests", "tokens")
_MINUTE_NS = 60_000_000_000
_SHORTEST_S = 0.001  # the event loop's timers count in milliseconds


class Tenant:
    """What one tenant has left, and its calls that wait for more, first come, first served."""

    __slots__ = ("limiter", "line", "timer", "tokens_waiting")

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self.limiter = Limiter(requests=requests, tokens=tokens)
        self.line: OrderedDict[asyncio.Future[None], int] = OrderedDict()  # the tokens that each wants
        self.tokens_waiting = 0
        self.timer: asyncio.TimerHandle | None = None


class TenantLimits:
    """One limiter per tenant. A call waits where that leaves it half of its time, and is refused where it does not.

    A tenant is forgotten only when all that it may use is there again, so that it gains nothing by it. While none can be forgotten,
    further tenants share one limiter.
    """

    def __init__(self, settings: Limits, clock_ns: Callable[[], int], most_tenants: int = _MOST_TENANTS) -> None:
        self._limits = (settings.tenant_requests_per_minute, settings.tenant_tokens_per_minute)
        self._clock_ns = clock_ns
        self._most_tenants = most_tenants
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()  # the longest unused first
        self._others = Tenant(*self._limits)
        self.is_limited = self._limits != (None, None)

    async def take(self, name: str, tokens: int, deadline_ns: int) -> Tenant:
        """Take one request and its tokens, now or when they have come in. Returns whom to give back what is not used.

        Raises RateLimited, with the wait that helps, where that is more than half of the time until `deadline_ns` (of the monotonic
        clock); without one where the call wants more than a whole minute's tokens.
        """
        now_ns = self._clock_ns()
        tenant = self._of(name, now_ns)
        if not tenant.line and tenant.limiter.take(tokens, now_ns) is None:
            return tenant
        wait_ns = self._wait_ns(name, tenant, tokens, now_ns)
        if wait_ns > (deadline_ns - now_ns) / 2:
            raise RateLimited(
                f"tenant {name} has used up its {self._worded()}, and {len(tenant.line)} of its calls wait; try again after a while",
                retry_after_ms=wait_ns // 1_000_000 + 1,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tenant.line[turn] = tokens
        tenant.tokens_waiting += tokens
        self._serve(tenant)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                tenant.limiter.give_back(tokens, self._clock_ns(), 1)  # the turn came and the caller went, in the same moment
            else:
                self._out(tenant, turn)
            self._serve(tenant)
            raise
        return tenant

    def give_back(self, tenant: Tenant, tokens: int, requests: int = 0) -> None:
        """What was taken and not used; who waits may have it."""
        tenant.limiter.give_back(tokens, self._clock_ns(), requests)
        self._serve(tenant)

    def charge(self, tenant: Tenant, tokens: int) -> None:
        """What was used beyond what was taken, by tries that had to be repeated: as far as the tenant has some left."""
        now_ns = self._clock_ns()
        left = tenant.limiter.remaining(now_ns)[1]
        if left is not None:
            tenant.limiter.observe("tokens", now_ns, remaining=max(0, left - tokens))

    def standings(self, name: str) -> tuple[int, list[Standing]]:
        """How many of the tenant's calls wait, and how its limits stand."""
        now_ns, tenant = self._clock_ns(), self._tenants.get(name)
        left = self._limits if tenant is None else tenant.limiter.remaining(now_ns)
        found = []
        for unit, limit, has in zip(_UNITS, self._limits, left, strict=True):
            if limit is not None and has is not None:
                found.append(Standing(name, unit, limit, has, -(-(limit - has) * _MINUTE_NS // limit)))
        return 0 if tenant is None else len(tenant.line), found

    def _serve(self, tenant: Tenant) -> None:
        """Let through who can be, and look again when the next one can."""
        if tenant.timer is not None:
            tenant.timer.cancel()
            tenant.timer = None
        now_ns = self._clock_ns()
        while tenant.line:
            turn, tokens = next(iter(tenant.line.items()))
            if not turn.done():  # who has just gone is still in line
                exceeded = tenant.limiter.take(tokens, now_ns)
                if exceeded is not None:
                    wait_s = (exceeded.retry_after_ns or 0) / 1e9
                    tenant.timer = asyncio.get_running_loop().call_later(max(wait_s, _SHORTEST_S), self._serve, tenant)
                    return
                turn.set_result(None)
            self._out(tenant, turn)

    def _out(self, tenant: Tenant, turn: asyncio.Future[None]) -> None:
        tenant.tokens_waiting -= tenant.line.pop(turn, 0)

    def _wait_ns(self, name: str, tenant: Tenant, tokens: int, now_ns: int) -> int:
        """How long until all that wait, and then this call, have what they want, as it flows in."""
        longest_ns = 0
        wanted = (len(tenant.line) + 1, tenant.tokens_waiting + tokens)
        for limit, left, want, own in zip(self._limits, tenant.limiter.remaining(now_ns), wanted, (1, tokens), strict=True):
            if limit is None or left is None:
                continue
            if own > limit:
                raise RateLimited(
                    f"the call may take {own} tokens, more than tenant {name} has in a whole minute: {limit} "
                    "(limits.tenant_tokens_per_minute); ask for a shorter answer (max_output_tokens)"
                )
            longest_ns = max(longest_ns, -(-(want - left) * _MINUTE_NS // limit))
        return longest_ns

    def _worded(self) -> str:
        names = ("requests", "tokens")
        return " or ".join(
            f"{limit} {name} a minute (limits.tenant_{name}_per_minute)" for name, limit in zip(names, self._limits, strict=True) if limit
        )

    def _of(self, name: str, now_ns: int) -> Tenant:
        found = self._tenants.get(name)
        if found is not None:
            self._tenants.move_to_end(name)
            return found
        if len(self._tenants) >= self._most_tenants:
            oldest, unused = next(iter(self._tenants.items()))
            if unused.line or unused.limiter.remaining(now_ns) != self._limits:
                return self._others
            del self._tenants[oldest]
        found = self._tenants[name] = Tenant(*self._limits)
        return found
