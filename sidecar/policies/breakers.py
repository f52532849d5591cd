"""One circuit breaker for each service and model, made when first needed."""

from __future__ import annotations

from collections import OrderedDict

from sidecar._core import Breaker
from sidecar.settings import Service, Settings

_MOST = 1_000  # callers choose the names of models at open servers; the memory must not grow with them


class Breakers:
    """Per service, because services differ in how soon they want to be warned off; per model of a provider, because models fail alone."""

    def __init__(self, settings: Settings) -> None:
        self._services = settings.services
        self._default = Service()
        self._breakers: OrderedDict[tuple[str, str], Breaker] = OrderedDict()  # the longest unused first

    def of(self, service: str, model: str) -> Breaker:
        """`model` is provider/name. A service that settings do not name shares one set of breakers with its like."""
        service = service if service in self._services else ""
        key = (service, model)
        found = self._breakers.get(key)
        if found is None:
            if len(self._breakers) >= _MOST:
                self._forget_one()
            rule = self._services.get(service, self._default)
            found = self._breakers[key] = Breaker(failures=rule.breaker_failures, open_ns=rule.breaker_open_ms * 1_000_000)
        else:
            self._breakers.move_to_end(key)
        return found

    def _forget_one(self) -> None:
        """The longest unused one that is closed; an open one, which still protects somebody, only where all are open."""
        # At time 0 no pause is over, so that an open one is open even if its trial is due.
        closed = (key for key, breaker in self._breakers.items() if breaker.state(0) == "closed")
        del self._breakers[next(closed, next(iter(self._breakers)))]

    def states(self, now_ns: int) -> list[tuple[str, str, str]]:
        """(service, model, state) of each breaker in use, for metrics."""
        return [(service, model, breaker.state(now_ns)) for (service, model), breaker in self._breakers.items()]
