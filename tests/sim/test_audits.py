"""The bound of the cache's error, looked at after every call, over simulated namespaces. All of it: `python -m tests.sim.audits`."""

from __future__ import annotations

from tests.sim.audits import CONFIDENCE, TARGET, fixed, live, most_failures, steady, turning

NAMESPACES, HITS = 200, 2000


def test_no_more_namespaces_than_stated_are_ever_wrongly_open():
    for rate in (TARGET, 1.1 * TARGET):
        seen = [live(seed, HITS, steady(rate)) for seed in range(NAMESPACES)]
        assert 0 < sum(one.was_wrongly_open for one in seen) <= (1 - CONFIDENCE) * NAMESPACES
        assert sum(one.was_bound_too_low for one in seen) <= (1 - CONFIDENCE) * NAMESPACES


def test_a_bound_for_a_fixed_number_of_audits_breaks_the_same_promise():
    most = most_failures(HITS, TARGET, CONFIDENCE)
    assert sum(fixed(seed, HITS, TARGET, most) for seed in range(NAMESPACES)) > 3 * (1 - CONFIDENCE) * NAMESPACES


def test_good_namespaces_open_and_serve():
    seen = [live(seed, HITS, steady(0.0025)) for seed in range(50)]
    assert sum(one.opened_at is not None for one in seen) == 50
    assert sum(one.served for one in seen) > 0.7 * 50 * HITS


def test_one_that_turns_bad_closes_by_itself():
    seen = [live(seed, HITS, turning(0.0, 0.2, HITS // 2)) for seed in range(50)]
    assert all(one.closed for one in seen)
    assert sum(one.wrong for one in seen) / 50 < 40  # a fifth of a thousand would be 200
