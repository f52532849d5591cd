"""What is remembered: bounded in what entries really take, given while it is fresh, kept while it may still be of use, and forgotten."""

import random
import tracemalloc

import pytest

from sidecar.settings.caching import CacheSettings
from sidecar.store.answers import Answers
from sidecar.store.cache_entry import Entry, Named, Unreadable, Vault, packed, unpacked
from sidecar.store.cache_invalidation import Invalidation
from tests.unit.store.cache_parts import MINUTE_NS, FakeWall, an_entry, digest

FOREVER = 1 << 62


def answers(most_bytes=300_000, wall=None):
    return Answers(CacheSettings(max_bytes=most_bytes), wall or FakeWall())


TEXTS = {
    "empty": lambda n: {"text": ""},
    "short": lambda n: {"text": f"{n}."},
    "long": lambda n: {"text": "".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz ", k=5_000))},
    "wide_letters": lambda n: {"text": f"{n}가" * 300},
    "tool_calls": lambda n: {"tool_calls": tuple((f"id{n}{i}", f"tool{n}", f'{{"a": {n}}}', "") for i in range(5))},
    "long_names": lambda n: {"named": Named(f"tenant{n}" * 30, f"user{n}" * 40, "core", "react_agent", "openai/gpt-4o", "", "")},
}


@pytest.mark.parametrize("kind", TEXTS)
def test_memory_stays_within_the_bound_whatever_is_remembered(kind):
    store = answers()
    taken = 0
    tracemalloc.start()
    try:
        for number in range(600):
            store.keep(an_entry(number, **TEXTS[kind](number)), number)
            if number == 300:
                assert store.find(digest(300), 300, FOREVER) is not None  # the newest, in the window
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.used_bytes <= 300_000
    assert taken < 300_000
    assert len(store) < 600


def test_what_is_wanted_stays_though_a_thousand_others_pass_by():
    store = answers()
    for number in range(5):
        store.keep(an_entry(number), 0)
    for number in range(1_000, 3_000):
        if number % 10 == 0:
            for wanted in range(5):
                assert store.find(digest(wanted), 1, FOREVER) is not None, number
        store.keep(an_entry(number), 1)
    assert store.evicted > 1_000


class Elsewhere:
    """What another place has in the end."""

    name = "elsewhere"

    def __init__(self):
        self.kept = set()

    def put(self, entry, data):
        self.kept.add(entry.digest)

    def gone(self, digests):
        self.kept.difference_update(digests)


def test_the_file_keeps_what_memory_keeps_and_no_more():
    store = answers()
    store.elsewhere.append(place := Elsewhere())
    for number in range(1_000):
        store.keep(an_entry(number), number)
        store.find(digest(number % 7), number, FOREVER)
    store.keep(an_entry(5_000, text="".join(random.Random(1).choices("abcdefghijklmnop", k=800_000))), 1_000)
    assert place.kept == {found for found, _ in store.entries(1_000)}
    place.kept.clear()
    store.invalidate(Invalidation(generation=5))
    store.keep(an_entry(1, generation=4), 1_001)  # a call that began before
    assert not place.kept


def test_one_that_is_larger_than_all_room_is_not_kept_and_drives_nobody_out():
    store = answers(most_bytes=65_536)
    store.keep(an_entry(1), 0)
    store.keep(an_entry(2, text="".join(random.Random(1).choices("abcdefghijklmnop", k=200_000))), 0)
    assert store.find(digest(2), 0, FOREVER) is None
    assert store.find(digest(1), 0, FOREVER) is not None


def test_given_while_fresh_and_old_after_that_until_it_is_gone():
    store = answers()
    store.keep(an_entry(1, life_ms=60_000, keep_ms=180_000), 0)
    assert store.find(digest(1), MINUTE_NS - 1, FOREVER).age_ns == MINUTE_NS - 1
    assert store.find(digest(1), MINUTE_NS, FOREVER) is None
    assert store.find(digest(1), MINUTE_NS // 2, MINUTE_NS // 4) is None  # older than the caller wants it
    assert store.old(digest(1), 2 * MINUTE_NS).age_ns == 2 * MINUTE_NS
    assert store.old(digest(1), 3 * MINUTE_NS) is None


def test_a_wall_clock_that_jumps_makes_nothing_older_or_younger():
    wall = FakeWall()
    store = answers(wall=wall)
    store.keep(an_entry(1, life_ms=60_000), 0)
    for jump in (-(10**18), 10**18):
        wall.now_ns += jump
        assert store.find(digest(1), 30 * 10**9, FOREVER).age_ns == 30 * 10**9
        assert store.find(digest(1), 61 * 10**9, FOREVER) is None


def test_from_elsewhere_an_entry_keeps_its_age_and_one_of_the_future_is_not_believed():
    wall = FakeWall()
    store = answers(wall=wall)
    now_ms = wall() // 1_000_000
    assert store.take_in(an_entry(1, kept_ms=now_ms - 20_000, life_ms=60_000), 10**12).age_ns == 20 * 10**9
    assert store.find(digest(1), 10**12 + 39 * 10**9, FOREVER) is not None
    assert store.find(digest(1), 10**12 + 41 * 10**9, FOREVER) is None
    assert store.take_in(an_entry(2, kept_ms=now_ms + 30_000), 0).age_ns == 0  # another pod's clock is a little ahead
    for kept_ms in (now_ms + 3_600_000, now_ms - 3_600_001, 0, -1, 2**62):
        assert store.take_in(an_entry(3, kept_ms=kept_ms, life_ms=3_600_000), 0) is None, kept_ms
    assert store.take_in(an_entry(4, kept_ms=now_ms, life_ms=-5), 0) is None


OTHER = Named("acme", "kim", "oracle", "summary", "openai/gpt-4o", "greeting", "2")


@pytest.mark.parametrize(
    ("what", "is_hit"),
    [
        ({}, True),
        ({"tenant": "acme"}, True),
        ({"tenant": "acm"}, False),
        ({"tenant": "acme", "user": "kim"}, True),
        ({"tenant": "acme", "user": "lee"}, False),
        ({"service": "oracle"}, True),
        ({"node": "oracle.summary"}, True),
        ({"node": "summary"}, False),
        ({"model": "gpt-4o"}, True),
        ({"model": "openai/gpt-4o"}, True),
        ({"model": "gpt-4"}, False),
        ({"prompt_name": "greeting", "prompt_version": "2"}, True),
        ({"prompt_name": "greeting", "prompt_version": "3"}, False),
        ({"before_ms": FakeWall.BEGIN_MS + 1}, True),
        ({"before_ms": FakeWall.BEGIN_MS}, False),
        ({"entry": "call-1"}, True),
        ({"entry": "call-2"}, False),
    ],
)
def test_invalidated_is_gone_at_once_and_comes_back_from_nowhere(what, is_hit):
    store = answers()
    entry = an_entry(1, named=OTHER)
    store.keep(entry, 0)
    assert store.invalidate(Invalidation(generation=7, **what)) == is_hit
    assert (store.find(digest(1), 1, FOREVER) is None) == is_hit
    assert (store.take_in(entry, 1) is None) == is_hit  # as another store still has it
    store.keep(entry, 2)  # by a call that began before
    assert (store.find(digest(1), 3, FOREVER) is None) == is_hit
    store.keep(an_entry(1, named=OTHER, generation=7), 4)  # by one that began afterwards
    assert store.find(digest(1), 5, FOREVER) is not None


def test_the_same_invalidation_told_twice_counts_once_and_an_older_one_still_holds():
    store = answers()
    assert store.invalidate(Invalidation(generation=9, tenant="nobody")) == 0
    store.keep(an_entry(1, generation=6), 0)
    assert store.invalidate(Invalidation(generation=7)) == 1  # it was told late
    assert store.invalidate(Invalidation(generation=7)) == 0
    assert store.invalidations.generation == 9


def test_of_too_many_invalidations_the_oldest_takes_all_with_it_that_is_older():
    store = answers()
    store.keep(an_entry(1, generation=1), 0)
    store.keep(an_entry(2, generation=3_000), 0)
    for generation in range(2, 1_500):
        store.invalidate(Invalidation(generation=generation, tenant="nobody"))
    assert store.find(digest(1), 1, FOREVER) is None
    assert store.find(digest(2), 1, FOREVER) is not None


def test_packed_and_unpacked_is_the_same_answer():
    for entry in (an_entry(1), an_entry(2, text="long " * 5_000, reasoning="r", question="q")):
        assert unpacked(packed(entry)) == entry
    assert len(packed(an_entry(2, text="long " * 5_000))) < 1_000
    calls = (("id", "name", '{"a": 1}', "sig"), ("id2", "name", "{}", ""))
    whole = an_entry(3, text="a", reasoning="r", tool_calls=calls, finish="tool_calls", request_id="req").answer()
    assert (whole.text, whole.reasoning, whole.finish, whole.last, whole.head.request_id) == ("a", "r", "tool_calls", True, "req")
    assert [(c.id, c.name, c.arguments, c.signature) for c in whole.tool_calls] == list(calls)


GARBAGE = [b"", b"x", b"p", b"z", b"p\xff\xff", b"z" + b"\0" * 50, b"p" + b"\x91" * 50_000, packed(an_entry(1, text="long " * 500))[:-7]]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_entry(data):
    with pytest.raises(Unreadable):
        unpacked(data)


def test_a_bomb_is_not_unpacked():
    import zlib

    with pytest.raises(Unreadable, match="too large"):
        unpacked(b"z" + zlib.compress(b"\0" * 70_000_000))


def test_sealed_opens_with_its_key_under_its_name_only():
    vault, other = Vault(bytes(32)), Vault(b"\1" * 32)
    name = vault.name(digest(1))
    sealed = vault.seal(name, packed(an_entry(1, text="secret words")))
    assert vault.entry(name, sealed) == an_entry(1, text="secret words")
    assert b"secret" not in sealed
    assert vault.seal(name, b"x") != vault.seal(name, b"x")
    assert digest(1) not in (name, sealed)
    with pytest.raises(Unreadable, match="sealed with another key"):
        other.entry(name, sealed)
    with pytest.raises(Unreadable, match="sealed with another key"):
        vault.entry(vault.name(digest(2)), sealed)  # copied to the name of another question
    with pytest.raises(Unreadable, match="another version"):
        vault.entry(name, b"\2" + sealed[1:])
    for damaged in (b"", b"\1", sealed[:20], sealed[:-1], sealed + b"x", sealed[:30] + b"\0\0" + sealed[32:]):
        with pytest.raises(Unreadable):
            vault.entry(name, damaged)


def test_entry_of_a_later_pod_with_more_fields_is_read():
    from msgspec import msgpack

    more = b"p" + msgpack.encode([*msgpack.decode(msgpack.encode(an_entry(1))), "a field of tomorrow"])
    assert unpacked(more) == an_entry(1)
    assert Entry.__struct_fields__[-1] == "question"
