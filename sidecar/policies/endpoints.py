"""Which of a provider's endpoints goes first, and which keys and models are set aside for a while, so that others are asked before."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from sidecar.call import Candidate

_MOST = 1_000  # callers choose the names of models at open servers; the memory must not grow with them
_NS = 1_000_000_000


class Aside(Struct, frozen=True):
    """A key or a target that is set aside, as operators see it. `reason` is an error's, for example PROVIDER_AUTH_FAILED."""

    key: str
    reason: str
    left_ns: int


class Endpoints:
    """A key (`provider` or `provider#endpoint`) or a target (`provider/model`, `provider#endpoint/model`) is set aside until a time.

    Nothing is ever dropped for it: what is set aside goes behind all others, and where there are no others it is asked.
    """

    def __init__(self, on_set_aside: Callable[[str, int, str], None]) -> None:
        """`on_set_aside` is told the key, until when (the clock's ns) and why, once for each time it begins."""
        self._aside: OrderedDict[str, tuple[int, str]] = OrderedDict()  # the one first set aside the longest ago first
        self._told = on_set_aside

    def set_aside(self, key: str, until_ns: int, reason: str) -> None:
        """Until then at least: a provider that said when is not contradicted by a later failure that does not say."""
        before = self._aside.get(key)
        if before is None:
            if len(self._aside) >= _MOST:
                self._aside.popitem(last=False)
            self._told(key, until_ns, reason)
        else:
            until_ns = max(until_ns, before[0])
        self._aside[key] = (until_ns, reason)

    def succeeded(self, candidate: Candidate) -> None:
        """It answered all the same: its key works and its quota is not used up."""
        if self._aside:
            for key in _keys(candidate):
                self._aside.pop(key, None)

    def aside(self, candidate: Candidate, now_ns: int) -> tuple[str, int] | None:
        """Why this candidate is set aside and for how many ns still; None if it is not."""
        if not self._aside:
            return None
        for key in _keys(candidate):
            found = self._aside.get(key)
            if found is None:
                continue
            until_ns, reason = found
            if until_ns > now_ns:
                return reason, until_ns - now_ns
            del self._aside[key]
        return None

    def behind(self, candidates: list[Candidate], now_ns: int) -> list[Candidate]:
        """The candidates with those that are set aside behind all others, and why in their reasons; otherwise the order stays."""
        if not self._aside:
            return candidates
        first: list[Candidate] = []
        last: list[Candidate] = []
        for candidate in candidates:
            found = self.aside(candidate, now_ns)
            if found is None:
                first.append(candidate)
            else:
                why, left_ns = found
                last.append(replace(candidate, reason=f"{candidate.reason}; set aside for {-(-left_ns // _NS)} s more: {why}"))
        return first + last

    def listing(self, now_ns: int) -> list[Aside]:
        """What is set aside now, by key."""
        return [Aside(key, why, until_ns - now_ns) for key, (until_ns, why) in sorted(self._aside.items()) if until_ns > now_ns]


def _keys(candidate: Candidate) -> tuple[str, str]:
    target = candidate.target
    return target.partition("/")[0], target


def in_order(endpoints: Sequence[tuple[str, float]], is_open: Callable[[str], bool], random: Callable[[], float]) -> list[str]:
    """The names of endpoints with weights: the first by lot, then the next by lot of the rest, and so on.

    Those whose breaker is open come after all others, and within both groups those of weight 0 after those with one. Each draws an
    exponential time with its weight as the rate, and the earliest goes first: that is drawing by weight without putting back
    (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006). `random` gives numbers from 0 up to, not including, 1.
    """
    lots = [(is_open(name), weight == 0, -math.log(1 - random()) / (weight or 1), name) for name, weight in endpoints]
    return [name for *_, name in sorted(lots)]
