"""What operators have said: the later word holds, in whatever order it is heard, at every pod and after a restart."""

from __future__ import annotations

from itertools import permutations

import pytest

from sidecar.errors import StoreFailed
from sidecar.policies.words import Words

DAY_MS = 86_400_000


def made() -> tuple[Words, list[tuple[str, str]]]:
    words, applied = Words(), []
    words.apply["budget"] = lambda name, text: applied.append((name, text))
    return words, applied


async def test_a_word_is_applied_kept_and_shared():
    words, applied = made()
    kept, shared = {}, {}

    async def keep(changes):
        kept.update(changes)

    async def share(changes):
        shared.update(changes)

    words.keep, words.share = keep, share
    await words.say("budget", "a", "1", 5)
    assert applied == [("a", "1")]
    assert (kept, shared) == ({("budget", "a"): '[5,"1"]'}, {("budget", "a"): (5, "1")})


async def test_a_word_is_later_than_the_one_before_whatever_the_clock_says():
    words, _ = made()
    await words.say("budget", "a", "1", 5)
    await words.say("budget", "a", "2", 3)
    assert words.known == {("budget", "a"): (6, "2")}


async def test_in_whatever_order_words_are_heard_the_latest_holds():
    said = [{("budget", "a"): (1, "1")}, {("budget", "a"): (3, "")}, {("budget", "a"): (2, "2")}]
    for order in permutations(said):
        words, applied = made()
        for one in order:
            await words.heard(one)
        assert words.known == {("budget", "a"): (3, "")}
        assert applied[-1] == ("a", "")


async def test_what_is_known_is_no_news():
    words, applied = made()
    await words.say("budget", "a", "1", 5)
    assert await words.heard({("budget", "a"): (5, "1"), ("budget", "b"): (1, "x"), ("later_kind", "c"): (1, "y")}) == [
        ("budget", "b"), ("later_kind", "c"),
    ]  # fmt: skip
    assert applied == [("a", "1"), ("b", "x")]


@pytest.mark.parametrize("fails", ["keep", "share"])
async def test_what_cannot_be_kept_or_shared_is_not_in_force(fails):
    async def fail(_):
        raise StoreFailed("away")

    words, applied = made()
    setattr(words, fails, fail)
    with pytest.raises(StoreFailed):
        await words.say("budget", "a", "1", 5)
    assert (words.known, applied) == ({}, [])


def test_after_a_restart_limits_are_in_force_and_what_was_taken_back_is_known_for_forty_days():
    words, applied = made()
    kept = {
        ("budget", "old"): '[1,"1"]',
        ("budget", "gone"): f'[{60 * DAY_MS},""]',
        ("budget", "long gone"): f'[{50 * DAY_MS},""]',
        ("frozen", "evil"): '[1,"yes"]',
        ("top_up", "x"): f'[{60 * DAY_MS},"{{}}"]',
        ("top_up", "y"): f'[{50 * DAY_MS},"{{}}"]',
    }
    words.apply["top_up"] = lambda *_: pytest.fail("the ledger has it")  # a freeze is the same when it is made twice
    words.restore(kept, 99 * DAY_MS)
    assert applied == [("old", "1"), ("gone", "")]
    assert set(words.known) == {("budget", "old"), ("budget", "gone"), ("frozen", "evil"), ("top_up", "x")}


async def test_a_word_that_comes_back_from_other_pods_before_it_is_in_force_here_is_in_force_once():
    words, applied = made()

    async def share(said):
        await words.heard(said)

    words.share = share
    await words.say("budget", "a", "1", 5)
    assert applied == [("a", "1")]
