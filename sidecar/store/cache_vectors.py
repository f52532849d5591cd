"""Vectors of texts, remembered one by one, so that a batch asks only for those that are not known."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from sidecar.settings.caching import CacheSettings
from sidecar.store.cache_entry import Named
from sidecar.store.cache_invalidation import Invalidation, Invalidations
from sidecar.store.cache_memory import Memory

_ENTRY_BYTES: Final = 600  # beside its numbers


class _Kept(Struct, frozen=True):
    numbers: bytes  # float32: what the contract carries
    named: Named
    kept_ns: int
    until_ns: int
    generation: int
    size: int


class KnownVectors:
    """In memory, bounded in bytes; not for several threads. `now_ns` is monotonic."""

    def __init__(self, settings: CacheSettings, invalidations: Invalidations) -> None:
        self._memory: Memory[_Kept] = Memory(settings.embeddings_max_bytes)
        self._invalidations = invalidations

    def __len__(self) -> int:
        return len(self._memory)

    @property
    def used_bytes(self) -> int:
        return self._memory.used_bytes

    def find(self, keys: Sequence[bytes], now_ns: int, most_age_ns: int) -> list[list[float] | None]:
        """The vector of each key, None where it is not known or older than this."""
        return [self._find(key, now_ns, most_age_ns) for key in keys]

    def _find(self, key: bytes, now_ns: int, most_age_ns: int) -> list[float] | None:
        kept = self._memory.get(key)
        if kept is None or now_ns >= kept.until_ns or now_ns - kept.kept_ns > most_age_ns:
            return None
        if self._invalidations.hit(kept.generation, kept.named, 0, ""):
            return None
        return array("f", kept.numbers).tolist()

    def keep(self, key: bytes, vector: Sequence[float], named: Named, life_ms: int, generation: int, now_ns: int) -> None:
        numbers = array("f", vector).tobytes()
        size = _ENTRY_BYTES + len(numbers)
        self._memory.put(key, _Kept(numbers, named, now_ns, now_ns + life_ms * 1_000_000, generation, size), now_ns)

    def invalidate(self, one: Invalidation) -> int:
        """Forget what it hits. Returns how many there were."""
        hit = [key for key, kept in self._memory.items() if one.hits(kept.named, 0, "")]
        for key in hit:
            self._memory.remove(key)
        return len(hit)
