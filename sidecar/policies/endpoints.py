"""Which keys and models are set aside for a while, so that others are asked first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from sidecar.call import Candidate

_MOST = 1_000  # callers choose the names of models at open servers; the memory must not grow with them


class Endpoints:
    """A key (`provider` or `provider#endpoint`) or a target (`provider/model`, `provider#endpoint/model`) is set aside until a time."""

    def __init__(self, on_set_aside: Callable[[str, int, str], None]) -> None:
        """`on_set_aside` is told the key, until when (the clock's ns) and why, once for each time it begins."""
        self._aside: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._told = on_set_aside

    def set_aside(self, key: str, until_ns: int, reason: str) -> None:
        if key not in self._aside:
            if len(self._aside) >= _MOST:
                self._aside.popitem(last=False)
            self._told(key, until_ns, reason)
        self._aside[key] = (until_ns, reason)

    def aside(self, candidate: Candidate, now_ns: int) -> tuple[str, int] | None:
        """Why this candidate is set aside and for how many ns still; None if it is not."""
        if not self._aside:
            return None
        target = candidate.target
        for key in (target.partition("/")[0], target):
            found = self._aside.get(key)
            if found is None:
                continue
            until_ns, reason = found
            if until_ns > now_ns:
                return reason, until_ns - now_ns
            del self._aside[key]
        return None
