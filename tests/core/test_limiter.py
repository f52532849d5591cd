"""The limiter against its model, case by case, and with bad arguments."""

from __future__ import annotations

import threading
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar._core import Exceeded, Limiter
from tests.core.model_limiter import ModelLimiter

UNITS: list[Literal["requests", "tokens"]] = ["requests", "tokens"]
LIMITS = st.one_of(st.none(), st.integers(0, 60))
MAYBE = st.one_of(st.none(), st.integers(0, 80))


class LimiterMachine(RuleBasedStateMachine):
    """The same operations on both; what remains must be the same to the last unit, and each wait to the nanosecond."""

    @initialize(requests=LIMITS, tokens=LIMITS, window_ns=st.sampled_from([1, 7, 1000, 60_000_000_000]))
    def make(self, requests: int | None, tokens: int | None, window_ns: int) -> None:
        self.limiter = Limiter(requests=requests, tokens=tokens, window_ns=window_ns)
        self.model = ModelLimiter(requests, tokens, window_ns)
        self.now_ns, self.window_ns = 10**6, window_ns

    @rule(percent=st.integers(-30, 120), by=st.integers(-5, 5))
    def let_time_pass(self, percent: int, by: int) -> None:
        self.now_ns = max(0, self.now_ns + self.window_ns * percent // 100 + by)

    @rule(tokens=st.integers(0, 70))
    def take(self, tokens: int) -> None:
        self.model.at(self.now_ns)
        exceeded = self.limiter.take(tokens, self.now_ns)
        short = self.model.short(tokens)
        if exceeded is None:
            assert not short
            self.model.take(tokens)
            return
        assert exceeded.unit in short
        bucket = self.model.buckets[exceeded.unit]
        assert (exceeded.limit, exceeded.remaining) == (bucket.limit, int(bucket.level))
        if exceeded.retry_after_ns is None:
            assert {"requests": 1, "tokens": tokens}[exceeded.unit] > bucket.limit
        else:
            assert self.model.fits(tokens, exceeded.retry_after_ns)
            assert not self.model.fits(tokens, exceeded.retry_after_ns - 1)

    @rule(tokens=st.integers(0, 30), requests=st.integers(0, 3))
    def give_back(self, tokens: int, requests: int) -> None:
        self.model.at(self.now_ns)
        self.model.give_back(tokens, requests)
        self.limiter.give_back(tokens, self.now_ns, requests)

    @rule(unit=st.sampled_from(UNITS), limit=MAYBE, remaining=MAYBE, reset_percent=st.one_of(st.none(), st.integers(0, 500)))
    def observe(self, unit: Literal["requests", "tokens"], limit: int | None, remaining: int | None, reset_percent: int | None) -> None:
        reset_after_ns = None if reset_percent is None else self.window_ns * reset_percent // 100
        self.model.at(self.now_ns)
        self.model.observe(unit, limit, remaining, reset_after_ns)
        self.limiter.observe(unit, self.now_ns, limit=limit, remaining=remaining, reset_after_ns=reset_after_ns)

    @invariant()
    def the_same_remains(self) -> None:
        self.model.at(self.now_ns)
        levels = (self.model.buckets.get(unit) for unit in UNITS)
        assert self.limiter.remaining(self.now_ns) == tuple(None if b is None else int(b.level) for b in levels)


LimiterMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestLimiterMachine = LimiterMachine.TestCase


def exceeded(limiter: Limiter, tokens: int, now_ns: int) -> tuple[str, int, int, int | None]:
    answer = limiter.take(tokens, now_ns)
    assert isinstance(answer, Exceeded)
    return (answer.unit, answer.limit, answer.remaining, answer.retry_after_ns)


def test_a_full_window_at_once_and_then_as_it_flows_in() -> None:
    limiter = Limiter(requests=3, tokens=None, window_ns=3000)
    assert [limiter.take(999, 10_000) for _ in range(3)] == [None, None, None]
    assert exceeded(limiter, 1, 10_000) == ("requests", 3, 0, 1000)
    assert exceeded(limiter, 1, 10_999) == ("requests", 3, 0, 1)
    assert limiter.take(1, 11_000) is None
    assert limiter.remaining(20_000) == (3, None)


def test_both_units_or_neither() -> None:
    limiter = Limiter(requests=10, tokens=100, window_ns=1000)
    assert limiter.take(90, 1) is None
    assert exceeded(limiter, 11, 1) == ("tokens", 100, 10, 10)
    assert limiter.remaining(1) == (9, 10)


def test_more_than_it_can_ever_hold_is_said_so() -> None:
    limiter = Limiter(requests=10, tokens=100, window_ns=1000)
    assert exceeded(limiter, 101, 1) == ("tokens", 100, 100, None)
    assert exceeded(Limiter(requests=0, tokens=None), 1, 1) == ("requests", 0, 0, None)


def test_what_was_not_used_is_given_back_and_never_more_than_the_limit() -> None:
    limiter = Limiter(requests=10, tokens=100, window_ns=1000)
    limiter.take(80, 1)
    limiter.give_back(50, 1)
    assert limiter.remaining(1) == (9, 70)
    limiter.give_back(1000, 1, requests=5)
    assert limiter.remaining(1) == (10, 100)


def test_a_clock_that_goes_back_brings_nothing_in() -> None:
    limiter = Limiter(requests=1, tokens=None, window_ns=1000)
    assert limiter.take(0, 5000) is None
    for now_ns in (4000, 0, 4500, 5000, 5999):
        assert limiter.take(0, now_ns) is not None
    assert limiter.take(0, 6000) is None


def test_a_provider_lowers_what_is_left_and_never_raises_it() -> None:
    limiter = Limiter(requests=10, tokens=1000, window_ns=1000)
    limiter.observe("tokens", 1, remaining=10)
    assert limiter.remaining(1) == (10, 10)
    limiter.observe("tokens", 1, remaining=900)
    assert limiter.remaining(1) == (10, 10)
    limiter.observe("requests", 1, limit=4)
    assert limiter.remaining(1) == (4, 10)
    limiter.observe("requests", 1, limit=50)
    assert limiter.remaining(2001) == (10, 1000)


def test_threads_together_take_the_limit_and_no_more() -> None:
    limiter, start, taken = Limiter(requests=500, tokens=None), threading.Barrier(8), list[int]()

    def take_many() -> None:
        start.wait()
        taken.append(sum(limiter.take(1, 1) is None for _ in range(200)))

    threads = [threading.Thread(target=take_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"requests": -1, "tokens": None}, "requests: found -1, expected 0 to 18446744073709551615"),
        ({"requests": None, "tokens": 2**64}, "tokens: found 18446744073709551616"),
        ({"requests": 1, "tokens": 1, "window_ns": 0}, "window_ns: found 0, expected 1 to"),
    ],
)
def test_a_limiter_out_of_range_says_what_was_expected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limiter(**arguments)


def test_misuse_is_an_exception() -> None:
    limiter = Limiter(requests=1, tokens=1)
    with pytest.raises(ValueError, match="tokens: found -1"):
        limiter.take(-1, 1)
    with pytest.raises(ValueError, match="requests: found -2"):
        limiter.give_back(1, 1, -2)
    with pytest.raises(ValueError, match='unit: found "money", expected "requests" or "tokens"'):
        limiter.observe("money", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="limit: found '5', expected an int"):
        limiter.observe("tokens", 1, limit="5")  # type: ignore[arg-type]
