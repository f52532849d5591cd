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

    @initialize(failures=st.integers(1, 4), trials=st.integers(1, 3))
    def make(self, failures: int, trials: int) -> None:
        self.breaker = Breaker(failures=failures, open_ns=100, trials=trials)
        self.model = ModelBreaker(failures, 100, trials)
        self.now_ns = 1000

    @rule(by=st.integers(-150, 150))
    def let_time_pass(self, by: int) -> None:
        self.now_ns = max(0, self.now_ns + by)

    @rule()
    def permit(self) -> None:
        answer = self.breaker.permit(self.now_ns)
        plain = ("refused", answer.retry_at_ns) if isinstance(answer, Refusal) else answer
        assert plain == self.model.permit(self.now_ns)

    @rule(back=st.integers(-1, 6), outcome=st.sampled_from(["success", "failure", "failure", "ignore"]))
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
        assert (self.breaker.generation, self.breaker.forced) == (self.model.period, self.model.forced is not None)


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
