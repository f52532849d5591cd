"""The bound itself: against sums worked out by hand, and what opens, closes and forgets a namespace."""

from __future__ import annotations

from fractions import Fraction
from math import isclose

import pytest

from sidecar.policies.cache_audits import Audits, Counts, Evidence, Namespace, upper_bound

NAME = Namespace("oracle.intent", "free", "openai/gpt-4o-mini", "", "", "1")
OTHER = Namespace("oracle.intent", "paid", "openai/gpt-4o-mini", "", "", "1")
FIRST = 169  # audits without a failure that prove 2 % at 95 %


def make(**given):
    told = []
    return Audits(**{"share": 0.03, "target": 0.02, "confidence": 0.95, "tell": told.append} | given), told


def opened(audits, name=NAME, more=0):
    for _ in range(FIRST + more):
        audits.record(name, same=True)
    assert audits.decide(name, 0.99) == "serve"


@pytest.mark.parametrize(("audits", "failures"), [(0, 0), (1, 0), (1, 1), (7, 2), (40, 3), (40, 40)])
def test_evidence_is_the_mixture_of_likelihood_ratios_exactly(audits, failures):
    rate = Fraction(1, 50)
    exact = sum(
        weight * r**failures * ((1 - r * rate) / (1 - rate)) ** (audits - failures)
        for r, weight in zip(map(Fraction, ("0", "0.1", "0.25", "0.5")), map(Fraction, ("0.4", "0.2", "0.2", "0.2")), strict=True)
    )
    assert isclose(Evidence(0.02)(audits, failures), exact, rel_tol=1e-12)


@pytest.mark.parametrize("chance", [0.02, 0.03, 0.5, 1.0])
def test_evidence_never_grows_on_the_mean_where_the_rate_is_that_or_more(chance):
    against = Evidence(0.02)
    for audits in range(0, 60, 7):
        for failures in range(0, audits + 1, 3):
            now = against(audits, failures)
            later = chance * against(audits + 1, failures + 1) + (1 - chance) * against(audits + 1, failures)
            assert later <= now * (1 + 1e-12)
            if chance == 0.02:
                assert isclose(later, now, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("audits", "failures", "bound"), [(0, 0, 1), (5, 5, 1), (169, 0, 0.01993), (1000, 5, 0.01443), (100_000, 10, 0.00023)]
)
def test_bound_by_counts(audits, failures, bound):
    assert upper_bound(Counts(audits, failures), 0.95) == pytest.approx(bound, abs=1e-5)


def test_a_huge_record_is_no_overflow():
    assert upper_bound(Counts(10**9, 0), 0.95) < 1e-6
    assert upper_bound(Counts(10**9, 10**9), 0.95) == 1


def test_a_namespace_opens_when_it_is_proven_and_serves_all_but_the_audited_share():
    audits, told = make()
    for number in range(FIRST):
        assert audits.decide(NAME, 0.99) == "audit", number
        audits.record(NAME, same=True)
    assert [audits.decide(NAME, chance) for chance in (0.0, 0.029, 0.03, 0.99)] == ["audit", "audit", "serve", "serve"]
    assert audits.bound(NAME) <= 0.02 < audits.bound(OTHER) == 1
    assert audits.decide(OTHER, 0.99) == "audit"
    assert [(one.is_open, one.audits, one.failures) for one in told] == [(True, FIRST, 0)]


def test_one_failure_closes_what_was_just_proven_and_more_good_ones_open_it_again():
    audits, told = make()
    opened(audits)
    audits.record(NAME, same=False)
    assert audits.decide(NAME, 0.99) == "audit"
    assert audits.bound(NAME) > 0.02
    more = 0
    while audits.decide(NAME, 0.99) == "audit":
        audits.record(NAME, same=True)
        more += 1
    assert more == 166
    assert [one.is_open for one in told] == [True, False, True]


def test_failures_in_a_row_close_a_namespace_with_a_long_good_record():
    audits, told = make()
    opened(audits, more=20_000)
    for _ in range(3):
        assert audits.decide(NAME, 0.99) == "serve"
        audits.record(NAME, same=False)
    assert audits.decide(NAME, 0.99) == "audit"
    assert audits.bound(NAME) < 0.001  # the average since it began is still good
    assert not audits.is_hopeless(NAME)
    assert told[-1].is_alarmed
    assert not told[-1].is_open
    healed = 0
    while audits.decide(NAME, 0.99) == "audit":
        audits.record(NAME, same=True)
        healed += 1
    assert 40 < healed < 100


def test_what_many_audits_have_not_opened_is_hopeless_until_it_opens():
    audits, _ = make()
    seen = []
    for number in range(12_000):
        audits.record(NAME, same=bool(number % 20) or number > 2_100)
        seen.append(audits.is_hopeless(NAME))
    assert seen.index(True) == 1_999
    assert seen[2_500]
    assert not seen[-1]
    assert audits.decide(NAME, 0.99) == "serve"
    assert not audits.is_hopeless(OTHER)


def test_a_complaint_is_a_failed_audit():
    audits, _ = make()
    opened(audits)
    audits.served(NAME)
    audits.complain(NAME)
    assert audits.decide(NAME, 0.99) == "audit"
    (standing,) = audits.standings()
    assert (standing.audits, standing.failures, standing.complaints, standing.served) == (FIRST + 1, 1, 1, 1)


def test_pods_add_up_their_counts_and_nobody_forgets():
    one, _ = make()
    two, told = make()
    for _ in range(100):
        one.record(NAME, same=True)
        two.record(NAME, same=True)
    assert two.decide(NAME, 0.99) == "audit"
    two.learn(NAME, one.own(NAME))
    assert two.decide(NAME, 0.99) == "serve"
    assert [standing.audits for standing in told] == [200]
    two.learn(NAME, Counts(20, 0))  # whoever shares them has lost some
    assert two.standings()[0].audits == 200
    two.learn(NAME, Counts(104, 3))
    assert two.decide(NAME, 0.99) == "audit"
    assert two.own(NAME) == Counts(100, 0)


def test_what_is_kept_brings_a_namespace_back_as_it_was():
    changed = []
    audits, _ = make(changed=changed.append)
    opened(audits, more=20_000)
    audits.learn(NAME, Counts(50, 1))
    for _ in range(3):
        audits.record(NAME, same=False)
    assert changed[-1] == NAME
    later, told = make()
    later.restore([audits.kept(NAME)])
    assert later.standings()[0] == audits.standings()[0]
    assert later.decide(NAME, 0.99) == "audit"
    assert told == []
    assert audits.kept(OTHER) is None


def test_memory_is_bounded_and_who_was_forgotten_starts_anew():
    audits, _ = make(most=2)
    opened(audits)
    audits.record(OTHER, same=True)
    audits.record(Namespace("a.b", "", "", "", "", ""), same=True)
    assert len(audits) == 2
    assert audits.decide(NAME, 0.99) == "audit"
    assert audits.bound(NAME) == 1
