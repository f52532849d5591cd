"""The similarity index as a small plain model: a list in order of use, searched from end to end in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class ModelEntry:
    """One vector."""

    key: int
    partition: str
    vector: list[float]


def cosine(a: list[float], b: list[float]) -> float:
    """Of two vectors that are not zero."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


class ModelIndex:
    """Least recently used first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: list[ModelEntry] = []

    def add(self, partition: str, key: int, vector: list[float]) -> int | None:
        """Adds or replaces; returns the key that had to go."""
        self.remove(key)
        evicted = self.entries.pop(0).key if len(self.entries) == self.capacity else None
        self.entries.append(ModelEntry(key, partition, vector))
        return evicted

    def similarities(self, partition: str, vector: list[float]) -> dict[int, float]:
        """The cosine of every entry of a partition."""
        return {entry.key: cosine(vector, entry.vector) for entry in self.entries if entry.partition == partition}

    def use(self, keys: list[int]) -> None:
        """The first key is the most recently used one afterwards."""
        for key in reversed(keys):
            entry = next(entry for entry in self.entries if entry.key == key)
            self.entries.remove(entry)
            self.entries.append(entry)

    def remove(self, key: int) -> bool:
        """Whether it was there."""
        return self._keep([entry for entry in self.entries if entry.key != key]) > 0

    def clear(self, partition: str) -> int:
        """How many there were."""
        return self._keep([entry for entry in self.entries if entry.partition != partition])

    def _keep(self, kept: list[ModelEntry]) -> int:
        gone, self.entries = len(self.entries) - len(kept), kept
        return gone
