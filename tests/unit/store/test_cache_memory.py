"""The map that answers are kept in, against a plain dict: what it says it holds it holds, and never more than fits."""

import hashlib
import random

import pytest
from msgspec import Struct

from sidecar.store.cache_memory import Frequencies, Memory


class Value(Struct, frozen=True):
    name: int
    size: int
    until_ns: int = 1 << 62


def key(number):
    return hashlib.sha256(b"%d" % number).digest()


@pytest.mark.parametrize("seed", range(20))
def test_it_holds_what_it_says_and_never_more_than_fits(seed):
    dice = random.Random(seed)
    memory, kept = Memory(20_000), {}
    for now in range(3_000):
        number = int(dice.paretovariate(0.5)) % 200
        act = dice.random()
        if act < 0.5:
            found = memory.get(key(number))
            assert found == kept.get(key(number))
        elif act < 0.95:
            value = Value(number, dice.choice((10, 200, 900, 3_000, 25_000)), dice.choice((now - 1, now + 500, 1 << 62)))
            kept[key(number)] = value
            for gone in memory.put(key(number), value, now):
                del kept[gone]
        else:
            assert memory.remove(key(number)) == kept.pop(key(number), None)
        assert memory.used_bytes == sum(value.size for value in kept.values()) <= 20_000
    assert dict(memory.items()) == kept
    assert len(memory) == len(kept)


def test_what_is_over_makes_room_for_what_is_not():
    memory = Memory(20_000)
    for number in range(100):
        for _ in range(5):
            memory.get(key(number))
        memory.put(key(number), Value(number, 200, until_ns=10), 0)
    for number in range(1_000, 1_100):
        memory.put(key(number), Value(number, 200), 20)
    assert sum(value.until_ns == 10 for _, value in memory.items()) < 10


def test_frequencies_fade():
    seen = Frequencies(256)
    for _ in range(15):
        seen.add(key(1))
    assert seen.of(key(1)) == 15
    for number in range(2_000):
        seen.add(key(number + 10))
    assert seen.of(key(1)) < 8


def test_one_scan_drives_out_nothing_that_is_asked_for():
    memory = Memory(50_000)
    for _ in range(4):
        for number in range(50):
            if memory.get(key(number)) is None:
                memory.put(key(number), Value(number, 500), 0)
    for number in range(1_000, 1_400):
        if memory.get(key(number)) is None:
            memory.put(key(number), Value(number, 500), 0)
    assert sum(memory.peek(key(number)) is not None for number in range(50)) >= 45
