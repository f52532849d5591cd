"""Shared budgets in simulation: the bound holds in every seed, and each rule can be broken."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from msgspec.structs import replace

from sidecar._core import Rule
from sidecar.policies import leases
from sidecar.policies.lease_entries import Entry
from sidecar.settings.budgets import WithoutRedis
from sidecar.shares import Answer, Ask, Both
from tests.leases import world
from tests.leases.__main__ import one
from tests.leases.meeting import Place


def test_a_thousand_seeds():
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        outcomes = list(pool.map(one, range(1000), chunksize=50))
    assert [(o.seed, o.breaks[0]) for o in outcomes if o.breaks] == []
    assert sum(o.admitted for o in outcomes) > 10_000
    assert sum(o.refused for o in outcomes) > 10_000  # the limits were reached
    assert not any(o.beyond > 0 for o in outcomes if o.seed % 10 in (1, 3, 7))  # nobody was away while Redis learned: the limit itself


# --- what the rules catch -------------------------------------------------------------------------------------------------------


class Trusting(Place):
    """It leases at once, though it may have forgotten what it has leased."""

    def __init__(self, run: str, lease_ms: int, learn_ms: int) -> None:
        super().__init__(run, lease_ms, 0)


class Disorderly(Place):
    """It takes words in whatever order they come."""

    def _answer(self, pod: bytes, ask: Ask, now_ms: int, learning: bool) -> Answer:
        entries = self.accounts.get((ask.account, ask.end_ns), {})
        if pod in entries:
            entries[pod] = b"0 " + entries[pod].partition(b" ")[2]
        return super()._answer(pod, ask, now_ms, learning)


class Hasty(Place):
    """It gives to others what a pod had leased that is silent for long, but for what that has said that it holds."""

    def aside(self, numbers: tuple[int, ...], now_ms: int) -> Both:
        return super().aside(numbers, now_ms) if numbers[1] + self.lease_ms > now_ms else (numbers[4], numbers[7])


def caught(most: int = 150, **changes: Any) -> bool:
    return any(world.play(seed, **changes).breaks for seed in range(most))


@pytest.mark.parametrize(("place", "gentle"), [(Trusting, True), (Disorderly, False), (Hasty, False)])
def test_a_meeting_place_that_does_it_wrong_is_caught(place, gentle):
    assert caught(place=place, gentle=gentle)


def test_a_pod_that_gives_back_what_it_goes_on_using_is_caught(monkeypatch):
    honest = leases.Leases._ask

    def telling_first(self: leases.Leases, entry: Entry, wall_ns: int) -> Ask:
        ask = honest(self, entry, wall_ns)
        return replace(ask, have=ask.held)

    monkeypatch.setattr(leases.Leases, "_ask", telling_first)
    assert caught()


# --- one pod by itself ----------------------------------------------------------------------------------------------------------

END_NS = 10**18
DAY = Rule(limit_nano_usd=1000, window=(0, END_NS))


def alone(without: WithoutRedis = "lease", pods: int = 4) -> leases.Leases:
    return leases.Leases(lambda name, now_ns: None, lambda name: None, lambda name: without, pods, 10**9)


def test_accounts_without_a_window_are_the_pods_own_and_others_begin_with_nothing():
    run, loud = Rule(limit_nano_usd=5), Rule(limit_nano_usd=5, mode="warn", window=(0, END_NS))
    given = (("run", run), ("loud", loud), ("day", DAY))
    (_, first), (_, second), (_, third) = alone().leased(given)
    assert (first, second) == (run, loud)
    assert (third.lease_nano_usd, third.lease_tokens, third.limit_nano_usd) == (0, None, 1000)


@pytest.mark.parametrize(("without", "lease"), [("lease", 0), ("refuse", 0), ("share", 250)])
def test_a_pod_that_never_heard_of_redis(without, lease):
    pod = alone(without)
    assert pod.leased((("day", DAY),))[0][1].lease_nano_usd == lease
    assert not pod.wants_more((("day", DAY),), (1, 0), 0)  # nobody to ask


def test_the_same_rule_is_handed_out_again_until_something_changes():
    pod = alone()
    assert pod.leased((("day", DAY),))[0] is pod.leased((("day", DAY),))[0]
    tomorrow = Rule(limit_nano_usd=1000, window=(END_NS, 2 * END_NS))
    assert pod.leased((("day", tomorrow),))[0][1].window == (END_NS, 2 * END_NS)


# --- a pod that is gone ---------------------------------------------------------------------------------------------------------


def test_what_a_pod_that_is_gone_may_have_spent_stays_set_aside_until_it_is_back():
    place, new_life, year_ms = Place("one", 10_000, 0), alone(), 365 * 86_400_000

    def said(sequence: int, held: int, have: int, want: int) -> Ask:
        return Ask("day", END_NS, sequence, 0, 1, (1_000, -1), (0, 0), (held, 0), (have, 0), (want, 0), (want, 0), (want, 0))

    (gone,) = place.exchange(b"gone", "e", [said(1, 100, 100, 700)], 0).answers
    assert gone.lease == (700, 0)
    for now_ms in (9_999, 10_000, year_ms):
        (answer,) = place.exchange(b"other", "e", [said(1 + now_ms, 0, 0, 900)], now_ms).answers
        assert (answer.lease, answer.taken) == ((0, 0), (700, 0))
    back = place.exchange(b"gone", "e", [], year_ms)  # a new life, whose journal has nothing of it: it hears that others need it
    assert back.short == (("day", END_NS),)
    new_life.count_from(1)
    new_life.heard([], back, 0, 0)
    place.exchange(b"gone", "e", new_life.due(0, 0), year_ms)
    (answer,) = place.exchange(b"other", "e", [said(2 + year_ms, 0, 0, 900)], year_ms).answers
    assert answer.lease == (900, 0)
