"""How long each model mostly takes to begin answering: what hedging waits for before it asks a second one."""

from __future__ import annotations

from collections import OrderedDict, deque

_KEPT = 100  # samples of each target
_LEAST = 20  # below this a p95 says nothing
_MOST_TARGETS = 1_000  # callers choose the names of models at open servers; the memory must not grow with them


class Latencies:
    """The last 100 first pieces of each target (unary answers and streams apart), in seconds since the question."""

    def __init__(self) -> None:
        self._samples: OrderedDict[tuple[str, bool], deque[float]] = OrderedDict()

    def add(self, target: str, seconds: float, *, streaming: bool) -> None:
        key = (target, streaming)
        samples = self._samples.get(key)
        if samples is None:
            if len(self._samples) >= _MOST_TARGETS:
                self._samples.popitem(last=False)
            samples = self._samples[key] = deque(maxlen=_KEPT)
        samples.append(seconds)

    def p95(self, target: str, *, streaming: bool) -> float | None:
        """What 95 of 100 first pieces came within; None while fewer than 20 are known."""
        samples = self._samples.get((target, streaming))
        if samples is None or len(samples) < _LEAST:
            return None
        return sorted(samples)[-(-len(samples) * 95 // 100) - 1]
