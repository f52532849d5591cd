"""The breaker against its model, from many threads, case by case, and with bad arguments."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar._core import Breaker, Refusal
from tests.core.model_breaker import ModelBreaker


def given(breaker: Breaker, now_ns: int) -> int:
    permit = breaker.permit(now_ns)
    assert isinstance(permit, int)
    return permit


def refused(breaker: Breaker, now_ns: int) -> int | None:
    refusal = breaker.permit(now_ns)
    assert isinstance(refusal, Refusal)
    return refusal.retry_at_ns


def opened(trials: int = 1) -> Breaker:
    """Open from 3 to 103."""
    breaker = Breaker(failures=3, open_ns=100, trials=trials)
    for now_ns in (1, 2, 3):
        breaker.failure(given(breaker, now_ns), now_ns)
    return breaker


class BreakerMachine(RuleBasedStateMachine):
    """The same operations on both; every answer and the state must be the same."""

    @initialize(
        failures=st.integers(1, 5) | st.just(50),
        trials=st.integers(1, 3),
        rate_percent=st.integers(0, 100) | st.just(0),
        least_calls=st.integers(1, 8),
    )
    def make(self, failures: int, trials: int, rate_percent: int, least_calls: int) -> None:
        self.breaker = Breaker(
            failures=failures, open_ns=100, trials=trials, rate_percent=rate_percent, window_ns=295, least_calls=least_calls
        )
        self.model = ModelBreaker(failures, 100, trials, rate_percent, 295, least_calls)
        self.now_ns = 1000

    @rule(by=st.integers(-150, 150) | st.sampled_from([4_999_999_999, 5_000_000_000, 12_000_000_000]))
    def let_time_pass(self, by: int) -> None:
        self.now_ns = max(0, self.now_ns + by)

    @rule()
    def permit(self) -> None:
        answer = self.breaker.permit(self.now_ns)
        plain = ("refused", answer.retry_at_ns) if isinstance(answer, Refusal) else answer
        assert plain == self.model.permit(self.now_ns)

    @rule(outcomes=st.text("..xx-h", min_size=1, max_size=8), by=st.integers(0, 60))
    def calls(self, outcomes: str, by: int) -> None:
        """One after the other: `.` success, `x` failure, `-` not counted, `h` a hint."""
        for outcome in outcomes:
            self.now_ns += by
            if outcome == "h":
                self.hint()
            else:
                self.permit()
                self.both(0, {".": "success", "x": "failure", "-": "ignore"}[outcome])
            self.state_and_generation_are_the_same()

    @rule()
    def come_back(self) -> None:
        """All trials succeed: else the ramp is seldom reached."""
        self.now_ns = self.model.retry_at_ns(self.now_ns) or self.now_ns
        for _ in range(self.model.trials):
            self.permit()
            self.both(0, "success")

    @rule()
    def hint(self) -> None:
        self.breaker.hint(self.now_ns)
        self.model.hint(self.now_ns)

    @rule(by=st.integers(-150, 150))
    def shorten(self, by: int) -> None:
        self.breaker.shorten(max(0, self.now_ns + by))
        self.model.shorten(max(0, self.now_ns + by))

    @rule(back=st.integers(-1, 6), outcome=st.sampled_from(["success", "success", "failure", "failure", "ignore"]))
    def report(self, back: int, outcome: str) -> None:
        self.both(back, outcome)

    @rule(back=st.integers(-1, 6), open_for_ns=st.integers(0, 300))
    def fail_with_retry_after(self, back: int, open_for_ns: int) -> None:
        self.both(back, "failure", open_for_ns)

    def both(self, back: int, outcome: str, *open_for_ns: int) -> None:
        number = max(0, len(self.model.permits) - back)
        try:
            self.model.report(number, outcome, self.now_ns, *open_for_ns)
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error)):
                getattr(self.breaker, outcome)(number, self.now_ns, *open_for_ns)
        else:
            getattr(self.breaker, outcome)(number, self.now_ns, *open_for_ns)

    @rule(state=st.sampled_from(["open", "closed", None, None]))
    def force(self, state: Any) -> None:
        self.breaker.force(state)
        self.model.force(state)

    @rule(really=st.integers(0, 4))
    def reset(self, really: int) -> None:
        if not really:
            self.breaker.reset()
            self.model.reset()

    @invariant()
    def state_and_generation_are_the_same(self) -> None:
        for moment_ns in (self.now_ns, max(0, self.now_ns - 70), self.now_ns + 70):
            assert self.breaker.state(moment_ns) == self.model.state(moment_ns)
            assert self.breaker.retry_at_ns(moment_ns) == self.model.retry_at_ns(moment_ns)
        model = self.model
        assert (self.breaker.generation, self.breaker.why, self.breaker.forced) == (model.period, model.why, model.forced is not None)


BreakerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase


def test_failures_in_a_row_open_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(failures=3, open_ns=100)
    for now_ns in (1, 2):
        breaker.failure(given(breaker, now_ns), now_ns)
    breaker.success(given(breaker, 3), 3)
    for now_ns in (4, 5):
        breaker.failure(given(breaker, now_ns), now_ns)
    assert breaker.state(5) == "closed"
    breaker.failure(given(breaker, 6), 6)
    assert breaker.state(6) == "open"
    assert refused(breaker, 7) == 106


def test_what_does_not_count_neither_opens_nor_clears() -> None:
    breaker = Breaker(failures=2, open_ns=100)
    breaker.failure(given(breaker, 1), 1)
    for now_ns in range(2, 9):
        breaker.ignore(given(breaker, now_ns), now_ns)
    breaker.failure(given(breaker, 9), 9)
    assert breaker.state(9) == "open"


def test_a_failed_trial_opens_again_for_the_whole_time() -> None:
    breaker = opened()
    assert breaker.state(102) == "open"
    assert breaker.state(103) == "half_open"
    trial = given(breaker, 103)
    assert refused(breaker, 104) is None
    breaker.failure(trial, 150)
    assert refused(breaker, 151) == 250


def test_all_trials_must_succeed() -> None:
    breaker = opened(trials=2)
    first, second = given(breaker, 103), given(breaker, 103)
    breaker.success(first, 110)
    assert refused(breaker, 111) is None
    assert breaker.state(111) == "half_open"
    breaker.success(second, 112)
    assert breaker.state(112) == "closed"


def test_an_abandoned_trial_goes_to_somebody_else_and_only_once() -> None:
    breaker = opened()
    abandoned = given(breaker, 103)
    breaker.ignore(abandoned, 104)
    trial = given(breaker, 105)
    breaker.ignore(abandoned, 106)
    assert refused(breaker, 107) is None
    breaker.success(abandoned, 108)
    assert breaker.state(108) == "half_open"
    breaker.success(trial, 109)
    assert breaker.state(109) == "closed"


def test_outcomes_from_before_it_opened_are_ignored() -> None:
    breaker = Breaker(failures=1, open_ns=100)
    slow, slower, failing = (given(breaker, 1) for _ in range(3))
    breaker.failure(failing, 2)
    breaker.success(slow, 3)
    assert breaker.state(3) == "open"
    trial = given(breaker, 102)
    breaker.failure(slower, 103)
    assert breaker.state(103) == "half_open"
    breaker.success(trial, 104)
    assert breaker.state(104) == "closed"


def test_retry_after_opens_at_once_and_for_that_long() -> None:
    breaker = Breaker(failures=5, open_ns=100)
    breaker.failure(given(breaker, 1), 10, open_for_ns=7000)
    assert refused(breaker, 20) == 7010
    assert breaker.state(7010) == "half_open"


def back(trials: int = 1) -> Breaker:
    """Opened, tried and closed again at 200."""
    breaker = Breaker(failures=3, open_ns=100, trials=trials)
    breaker.failure(given(breaker, 1), 1)
    breaker.failure(given(breaker, 1), 1)
    breaker.failure(given(breaker, 1), 1)
    for trial in [given(breaker, 200) for _ in range(trials)]:
        breaker.success(trial, 200)
    assert (breaker.state(200), breaker.why) == ("closed", "trials_succeeded")
    return breaker


def let_through(breaker: Breaker, callers: int, now_ns: int) -> list[int]:
    return [answer for answer in (breaker.permit(now_ns) for _ in range(callers)) if isinstance(answer, int)]


def test_a_thousand_callers_do_not_fall_upon_a_provider_that_has_just_come_back() -> None:
    breaker, rounds = back(), []
    for _ in range(6):
        out = let_through(breaker, 1000, 210)
        rounds.append(len(out))
        for permit in out:
            breaker.success(permit, 210)
    assert rounds == [2, 4, 8, 16, 32, 1000]


def test_a_place_on_the_ramp_is_free_again_after_any_outcome_and_only_once() -> None:
    breaker = back()
    ignored, failed = let_through(breaker, 1000, 210)
    assert refused(breaker, 210) is None
    breaker.ignore(ignored, 211)
    breaker.ignore(ignored, 211)
    assert len(let_through(breaker, 1000, 212)) == 1
    breaker.failure(failed, 213)
    assert len(let_through(breaker, 1000, 214)) == 1
    assert breaker.state(214) == "closed"


def test_the_ramp_widens_in_time_even_if_nothing_comes_back() -> None:
    breaker, step = back(), 5_000_000_000
    times = [200, 199 + step, 200 + step, 201 + step, 200 + 2 * step, 200 + 4 * step, 200 + 5 * step]
    assert [len(let_through(breaker, 1000, now_ns)) for now_ns in times] == [2, 0, 2, 0, 4, 24, 1000]
    assert len(let_through(back(), 1000, 3600 * step)) == 1000


def test_with_many_trials_there_is_no_ramp() -> None:
    assert len(let_through(back(trials=31), 1000, 210)) == 62
    assert len(let_through(back(trials=32), 1000, 210)) == 1000


def test_failures_on_the_ramp_open_it_as_any_others() -> None:
    breaker = back()
    for now_ns in (210, 211, 212):
        breaker.failure(given(breaker, now_ns), now_ns)
    assert (breaker.state(212), breaker.why, refused(breaker, 213)) == ("open", "failures", 312)


def rated(failures: int = 1_000) -> Breaker:
    """Opens where more than half of at least 10 calls in 1,000 ns failed."""
    return Breaker(failures=failures, open_ns=100, rate_percent=50, window_ns=1000, least_calls=10)


def play(breaker: Breaker, outcomes: str, now_ns: int) -> None:
    """`x` is a failure, `.` a success, `-` does not count."""
    for outcome in outcomes:
        report = {"x": breaker.failure, ".": breaker.success, "-": breaker.ignore}[outcome]
        report(given(breaker, now_ns), now_ns)


def test_more_than_half_of_the_calls_failing_opens_it_but_not_half_and_not_few() -> None:
    breaker = rated()
    play(breaker, "x.x.x.x.x", 1)
    assert breaker.state(1) == "closed"  # five of nine: too few calls to tell
    play(breaker, ".", 1)
    play(breaker, "-----", 1)
    assert breaker.state(1) == "closed"  # five of ten are no more than half
    play(breaker, "x", 1)
    assert (breaker.state(1), breaker.why, breaker.retry_at_ns(1)) == ("open", "rate", 101)


def test_old_calls_are_forgotten_by_tenths_of_the_window() -> None:
    breaker = rated()
    play(breaker, "xx.x.x.", 10)  # in the tenth from 0 to 100
    play(breaker, "..", 999)
    play(breaker, "xx", 1000)  # the first tenth is over: two of four
    assert breaker.state(1000) == "closed"
    breaker = rated()
    play(breaker, "xx.x.x.", 10)
    play(breaker, "..", 999)
    play(breaker, "x", 999)  # five of ten
    assert breaker.state(999) == "closed"
    play(breaker, "x", 999)
    assert breaker.state(999) == "open"


def test_a_success_never_opens_it_whatever_the_rate() -> None:
    breaker = rated()
    play(breaker, "xxxxxxxxx.", 1)
    assert breaker.state(1) == "closed"
    play(breaker, "x", 1)
    assert breaker.why == "rate"


def test_the_window_begins_anew_when_it_closes() -> None:
    breaker = rated()
    play(breaker, ".....xxxxxx", 1)
    assert breaker.state(1) == "open"
    play(breaker, ".", 101)
    assert breaker.state(101) == "closed"
    play(breaker, "x" * 9, 101)
    assert breaker.state(101) == "closed"
    play(breaker, "x", 101)
    assert breaker.state(101) == "open"


def test_after_a_hint_one_failure_is_enough_and_a_success_clears_it() -> None:
    breaker = Breaker(failures=3, open_ns=100)
    breaker.hint(1)
    assert (breaker.state(1), breaker.generation) == ("closed", 1)
    play(breaker, "-.xx", 2)
    assert breaker.state(2) == "closed"
    play(breaker, ".", 2)
    breaker.hint(3)
    play(breaker, "x", 4)
    assert (breaker.state(4), breaker.why) == ("open", "hint")


@pytest.mark.parametrize("held", ["open", "closed"])
def test_a_hint_says_nothing_to_a_breaker_that_is_open_tried_or_held(held: Any) -> None:
    breaker = opened()
    breaker.hint(50)
    assert breaker.retry_at_ns(50) == 103
    trial = given(breaker, 103)
    breaker.hint(104)
    breaker.success(trial, 105)
    play(breaker, "xx", 106)
    assert breaker.state(106) == "closed"
    breaker.force(held)
    breaker.hint(107)
    breaker.force(None)
    play(breaker, "xx", 108)
    assert breaker.state(108) == "closed"


def test_what_is_left_of_its_time_can_be_read() -> None:
    breaker = opened()
    assert [breaker.retry_at_ns(now_ns) for now_ns in (0, 102, 103)] == [103, 103, None]
    breaker.force("open")
    assert breaker.retry_at_ns(50) is None
    breaker.force(None)
    assert breaker.retry_at_ns(50) is None


def test_an_operator_forces_it_open_and_closed() -> None:
    breaker = Breaker(failures=1, open_ns=100)
    breaker.force("open")
    assert (breaker.state(1), refused(breaker, 10**18), breaker.forced) == ("open", None, True)
    breaker.force("closed")
    for now_ns in range(1, 20):
        breaker.failure(given(breaker, now_ns), now_ns, open_for_ns=1000)
    assert breaker.state(20) == "closed"
    late = given(breaker, 20)
    breaker.force(None)
    breaker.failure(late, 21)
    assert (breaker.state(21), breaker.forced) == ("closed", False)
    breaker.failure(given(breaker, 22), 22)
    assert breaker.state(22) == "open"
    breaker.reset()
    assert breaker.state(23) == "closed"


def test_a_clock_that_goes_back_does_not_open_it_for_longer_or_less() -> None:
    breaker = opened()
    assert refused(breaker, 50) == 103
    assert refused(breaker, 0) == 103
    given(breaker, 103)
    assert breaker.state(0) == "half_open"


@pytest.mark.parametrize("trials", [1, 3])
def test_of_twenty_callers_at_once_only_the_trials_get_through(trials: int) -> None:
    for _ in range(20):
        breaker, start = opened(trials), threading.Barrier(20)
        answers: list[int | Refusal] = []

        def ask(breaker: Breaker = breaker, start: threading.Barrier = start, answers: list[int | Refusal] = answers) -> None:
            start.wait()
            answers.append(breaker.permit(200))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 20
        assert sum(isinstance(answer, int) for answer in answers) == trials


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failures": 0, "open_ns": 1}, "failures: found 0, expected 1 to 4294967295"),
        ({"failures": 3, "open_ns": 0}, "open_ns: found 0, expected 1 to"),
        ({"failures": 3, "open_ns": 1, "trials": 0}, "trials: found 0, expected 1 to"),
        ({"failures": -1, "open_ns": 1}, "failures: found -1"),
        ({"failures": 3, "open_ns": 1, "rate_percent": 101}, "rate_percent: found 101, expected 0 to 100"),
        ({"failures": 3, "open_ns": 1, "window_ns": 0}, "window_ns: found 0, expected 1 to"),
        ({"failures": 3, "open_ns": 1, "least_calls": 0}, "least_calls: found 0, expected 1 to 4294967295"),
    ],
)
def test_a_breaker_out_of_range_says_what_was_expected(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Breaker(**arguments)


def test_misuse_is_an_exception() -> None:
    breaker = Breaker(failures=1, open_ns=1)
    with pytest.raises(ValueError, match="permit 1 was never given: permits given so far are below 1"):
        breaker.success(1, 1)
    with pytest.raises(ValueError, match='state: found "half_open", expected "open", "closed" or None'):
        breaker.force("half_open")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="now_ns: found -1"):
        breaker.permit(-1)
    with pytest.raises(TypeError, match=r"now_ns: found 1\.5, expected an int"):
        breaker.permit(1.5)  # type: ignore[arg-type]
