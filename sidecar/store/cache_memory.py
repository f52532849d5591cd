"""A map bounded in bytes that keeps what is asked for most: W-TinyLFU.

Einziger, Friedman, Manes: "TinyLFU: A Highly Efficient Cache Admission Policy" (2017), and for entries of different sizes "Lightweight
Robust Size Aware Cache Management" (2022). What is new enters a small window; what falls out of it may stay only if it was asked for more
often, lately, than all that would have to go for it. So one scan of a thousand questions that never come again drives out nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, Generic, Protocol, TypeVar

_WINDOW: Final = 0.1  # of all bytes
_PROTECTED: Final = 0.8  # of the rest: for what was asked for again
_BYTES_PER_COUNTER: Final = 1_024  # about one counter in each of four rows for each entry
_MOST_COUNT: Final = 15
_HALF: Final = bytes(count // 2 for count in range(256))
_four: Callable[[bytes], tuple[int, int, int, int]] = Struct("<4I").unpack_from


class Sized(Protocol):
    """`size` in bytes, all told; `until_ns`: worth nothing afterwards."""

    @property
    def size(self) -> int: ...

    @property
    def until_ns(self) -> int: ...


V = TypeVar("V", bound=Sized)


class Frequencies:
    """How often each key was asked for lately, at most 15: a count-min sketch of four rows, halved now and then.

    Keys are digests, so that their own bytes serve as four hashes.
    """

    def __init__(self, counters: int) -> None:
        width = 1 << max(8, (counters - 1).bit_length())
        self._mask = width - 1
        self._rows = [bytearray(width) for _ in range(4)]
        self._added = 0
        self._period = 2 * width  # some five times as many as there are entries: of 10 times, answers that nobody wants any more stay

    def add(self, key: bytes) -> None:
        mask = self._mask
        for row, part in zip(self._rows, _four(key), strict=True):
            if row[part & mask] < _MOST_COUNT:
                row[part & mask] += 1
        self._added += 1
        if self._added >= self._period:
            self._added //= 2
            self._rows = [row.translate(_HALF) for row in self._rows]

    def of(self, key: bytes) -> int:
        mask = self._mask
        return min(row[part & mask] for row, part in zip(self._rows, _four(key), strict=True))


class Memory(Generic[V]):
    """`get` and `put` take a few microseconds. Not for several threads."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._most_window = int(most_bytes * _WINDOW)
        self._most_protected = int((most_bytes - self._most_window) * _PROTECTED)
        self._frequencies = Frequencies(most_bytes // _BYTES_PER_COUNTER)
        # Each from the least to the most recently used.
        self._window: OrderedDict[bytes, V] = OrderedDict()
        self._probation: OrderedDict[bytes, V] = OrderedDict()
        self._protected: OrderedDict[bytes, V] = OrderedDict()
        self._window_bytes = self._main_bytes = self._protected_bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)

    @property
    def used_bytes(self) -> int:
        return self._window_bytes + self._main_bytes

    def items(self) -> Iterator[tuple[bytes, V]]:
        for part in (self._window, self._probation, self._protected):
            yield from part.items()

    def get(self, key: bytes) -> V | None:
        """What is kept for the key, and one more that asked for it."""
        self._frequencies.add(key)
        if (found := self._protected.get(key)) is not None:
            self._protected.move_to_end(key)
        elif (found := self._window.get(key)) is not None:
            self._window.move_to_end(key)
        elif (found := self._probation.pop(key, None)) is not None:
            self._protected[key] = found
            self._protected_bytes += found.size
            while self._protected_bytes > self._most_protected:
                other, moved = self._protected.popitem(last=False)
                self._protected_bytes -= moved.size
                self._probation[other] = moved
        return found

    def peek(self, key: bytes) -> V | None:
        """The same, and nobody has asked."""
        return self._window.get(key) or self._probation.get(key) or self._protected.get(key)

    def put(self, key: bytes, value: V, now_ns: int) -> list[bytes]:
        """Keep it, if it is worth the room. Returns the keys that went for it; its own, if it does not stay."""
        self.remove(key)
        if value.size > self.most_bytes - self._most_window:
            return [key]
        self._window[key] = value
        self._window_bytes += value.size
        gone: list[bytes] = []
        while self._window_bytes > self._most_window:
            candidate, moved = self._window.popitem(last=False)
            self._window_bytes -= moved.size
            gone += self._admitted(candidate, moved, now_ns)
        self.evicted += len(gone)
        return gone

    def remove(self, key: bytes) -> V | None:
        if (found := self._window.pop(key, None)) is not None:
            self._window_bytes -= found.size
        elif (found := self._probation.pop(key, None)) is not None:
            self._main_bytes -= found.size
        elif (found := self._protected.pop(key, None)) is not None:
            self._protected_bytes -= found.size
            self._main_bytes -= found.size
        return found

    def _admitted(self, key: bytes, value: V, now_ns: int) -> list[bytes]:
        """Into the main part, if it was asked for more often than all together that must go for it. Returns who goes."""
        missing = self._main_bytes + value.size - (self.most_bytes - self._most_window)
        victims: list[bytes] = []
        if missing > 0:
            wanted = self._frequencies.of(key) if value.until_ns > now_ns else 0
            for part in (self._probation, self._protected):
                for other, kept in part.items():
                    if missing <= 0:
                        break
                    if kept.until_ns > now_ns:
                        wanted -= self._frequencies.of(other)
                        if wanted <= 0:
                            return [key]
                    victims.append(other)
                    missing -= kept.size
            for other in victims:
                self.remove(other)
        self._probation[key] = value
        self._main_bytes += value.size
        return victims
