"""Whole answers, remembered: in memory always, in a file and in a Redis that pods share where settings say so."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import astuple

from sidecar.settings.caching import CacheSettings
from sidecar.store.cache_entry import Entry, Named, packed, unpacked
from sidecar.store.cache_invalidation import Invalidation, Invalidations
from sidecar.store.cache_memory import Memory

# What an entry takes beside its packed bytes and its names: itself, its key, whole numbers, its place in a map. Measured with
# tracemalloc: 450.
_ENTRY_BYTES: Final = 500
_QUESTION_BYTES: Final = 1_000  # and where similar questions may be answered too, what their index keeps of one: up to some 700
_SKEW_MS: Final = 60_000  # how far ahead another pod's clock may be


class Kept(Struct, frozen=True):
    """An entry in memory. Times of this process's own clock; `until_ns`: no longer kept."""

    data: bytes
    named: Named
    call_id: str
    kept_ms: int
    kept_ns: int
    fresh_ns: int  # given again until then
    until_ns: int
    generation: int
    size: int


class Found(Struct, frozen=True):
    entry: Entry
    age_ns: int


class Elsewhere(Protocol):
    """Another place that remembers too. `put` and `gone` do not wait."""

    name: str

    def put(self, entry: Entry, data: bytes) -> None: ...

    def gone(self, digests: list[bytes]) -> None:
        """There was no room for these here."""

    async def erase(self, ones: Sequence[Invalidation]) -> int:
        """Forget what any of them hits. Returns how many there were. Raises StoreFailed."""


class Shared(Elsewhere, Protocol):
    """The place that pods share."""

    async def fetch(self, digest: bytes) -> Entry | None:
        """What is kept there, if it says so in time."""

    def want(self, partition: bytes) -> None:
        """Bring what other pods have kept in this partition, for the next call."""

    async def say(self, one: Invalidation) -> Invalidation | None:
        """Tell all pods; returns it with its number, None: it will be told later."""

    def say_later(self, one: Invalidation) -> None:
        """Tell all pods, without waiting for it."""


class Answers:
    """Not for several threads. `clock_ns` is monotonic and tells ages, so that a clock that is put right makes nothing older or younger;
    `wall_ns` is for entries that come from elsewhere.
    """

    def __init__(self, settings: CacheSettings, wall_ns: Callable[[], int]) -> None:
        self._memory: Memory[Kept] = Memory(settings.max_bytes)
        self._wall_ns = wall_ns
        self.invalidations = Invalidations()
        self.elsewhere: list[Elsewhere] = []
        self.shared: Shared | None = None  # one of `elsewhere`
        self.on_kept: list[Callable[[Entry], None]] = []  # are told of entries that are here now
        self.on_gone: list[Callable[[list[bytes]], None]] = []  # and of digests that no longer are

    def __len__(self) -> int:
        return len(self._memory)

    @property
    def used_bytes(self) -> int:
        return self._memory.used_bytes

    @property
    def evicted(self) -> int:
        return self._memory.evicted

    def find(self, digest: bytes, now_ns: int, most_age_ns: int) -> Found | None:
        """A fresh answer that is not older than this."""
        kept = self.fresh(digest, now_ns, most_age_ns)
        return None if kept is None else Found(unpacked(kept.data), max(0, now_ns - kept.kept_ns))

    def fresh(self, digest: bytes, now_ns: int, most_age_ns: int) -> Kept | None:
        """The same, still packed."""
        kept = self._memory.get(digest)
        if kept is None or now_ns >= kept.fresh_ns or now_ns - kept.kept_ns > most_age_ns or self._is_gone(digest, kept):
            return None
        return kept

    def peek(self, digest: bytes) -> Kept | None:
        """What is kept for this, whatever its age; nobody has asked for it."""
        return self._memory.peek(digest)

    def old(self, digest: bytes, now_ns: int) -> Found | None:
        """An answer of any age that is still kept."""
        kept = self._memory.peek(digest)
        if kept is None or now_ns >= kept.until_ns or self._is_gone(digest, kept):
            return None
        return Found(unpacked(kept.data), max(0, now_ns - kept.kept_ns))

    def _is_gone(self, digest: bytes, kept: Kept) -> bool:
        is_gone = self.invalidations.hit(kept.generation, kept.named, kept.kept_ms, kept.call_id)
        if is_gone:
            self._drop(digest)
        return is_gone

    def keep(self, entry: Entry, now_ns: int) -> None:
        """Remember an answer that has just been made. Raises UnicodeEncodeError for text that is none."""
        data = packed(entry)
        if self.is_gone(entry):
            return
        for place in self.elsewhere:  # first, since what there is no room for here shall go from the file too
            place.put(entry, data)
        self._put(entry, data, 0, now_ns)

    def take_in(self, entry: Entry, now_ns: int) -> Found | None:
        """Remember one that was kept elsewhere; None: it is too old, from the future, or gone."""
        age_ms = self._wall_ns() // 1_000_000 - entry.kept_ms
        if not -_SKEW_MS <= age_ms < entry.keep_ms or not 0 < entry.life_ms <= entry.keep_ms:
            return None
        if self.is_gone(entry):
            return None
        age_ns = max(0, age_ms) * 1_000_000
        self.invalidations.generation = max(self.invalidations.generation, entry.generation)  # numbers go on from where they were
        self._put(entry, packed(entry), age_ns, now_ns)
        return Found(entry, age_ns)

    async def fetch(self, digest: bytes, now_ns: int, most_age_ns: int) -> Found | None:
        """A fresh answer from the place that pods share. A short wait."""
        if self.shared is None:
            return None
        entry = await self.shared.fetch(digest)
        found = self.take_in(entry, now_ns) if entry is not None else None
        if found is None or found.age_ns >= found.entry.life_ms * 1_000_000 or found.age_ns > most_age_ns:
            return None
        return found

    def drop(self, entry: Entry) -> None:
        """Forget this one, here and in the file, unless there is a newer answer in its place."""
        kept = self._memory.peek(entry.digest)
        if kept is not None and kept.call_id == entry.call_id:
            self._drop(entry.digest)

    def _drop(self, digest: bytes) -> None:
        if self._memory.remove(digest) is not None:
            self._tell_gone([digest])

    def drop_everywhere(self, entry: Entry) -> None:
        """Forget this one here, and have the other pods told."""
        self.drop(entry)
        if self.shared is not None:
            self.shared.say_later(Invalidation(generation=0, entry=entry.call_id))

    def is_gone(self, entry: Entry) -> bool:
        """Has it been invalidated?"""
        return self.invalidations.hit(entry.generation, entry.named, entry.kept_ms, entry.call_id)

    def _put(self, entry: Entry, data: bytes, age_ns: int, now_ns: int) -> None:
        kept_ns = now_ns - age_ns
        size = _ENTRY_BYTES + len(data) + sum(map(sys.getsizeof, astuple(entry.named))) + (_QUESTION_BYTES if entry.question else 0)
        kept = Kept(
            data,
            entry.named,
            entry.call_id,
            entry.kept_ms,
            kept_ns,
            kept_ns + entry.life_ms * 1_000_000,
            kept_ns + entry.keep_ms * 1_000_000,
            entry.generation,
            size,
        )
        gone = self._memory.put(entry.digest, kept, now_ns)
        for tell in self.on_kept:
            tell(entry)
        if gone:
            self._tell_gone(gone)

    def _tell_gone(self, digests: list[bytes]) -> None:
        for place in self.elsewhere:
            place.gone(digests)
        for tell in self.on_gone:
            tell(digests)

    def invalidate(self, one: Invalidation) -> int:
        """Give nothing any more that it hits, wherever it is kept, and forget it here. Returns how many were here."""
        if not self.invalidations.add(one):
            return 0
        hit = [digest for digest, kept in self._memory.items() if one.hits(kept.named, kept.kept_ms, kept.call_id)]
        for digest in hit:
            self._memory.remove(digest)
        for tell in self.on_gone:
            tell(hit)
        return len(hit)

    def entries(self, now_ns: int) -> Iterator[tuple[bytes, Kept]]:
        """All that are still kept."""
        return ((digest, kept) for digest, kept in self._memory.items() if now_ns < kept.until_ns)
