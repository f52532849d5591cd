"""The memory of breakers: bounded, and what protects somebody stays longest."""

from sidecar.policies.breakers import Breakers
from sidecar.settings import load

SECOND = 1_000_000_000


def test_an_open_breaker_outlives_thousands_of_invented_names() -> None:
    breakers = Breakers(load(None, {}))
    broken = breakers.of("core", "vllm/broken")
    for _ in range(3):
        permit = broken.permit(SECOND)
        assert isinstance(permit, int)
        broken.failure(permit, SECOND)
    assert broken.state(60 * SECOND) == "half_open"  # its trial is due, and it still is the one that is remembered
    for number in range(5_000):
        breakers.of("core", f"vllm/{number}")
    assert breakers.of("core", "vllm/broken") is broken
    assert len(breakers.states(60 * SECOND)) == 1_000


def test_the_longest_unused_closed_one_goes_first() -> None:
    breakers = Breakers(load(None, {}))
    ours, theirs = breakers.of("core", "openai/gpt-4o"), breakers.of("core", "vllm/once")
    for number in range(999):
        breakers.of("core", f"vllm/{number}")
        assert breakers.of("core", "openai/gpt-4o") is ours
    assert breakers.of("core", "vllm/once") is not theirs


def test_all_open_is_bounded_too() -> None:
    breakers = Breakers(load(None, {}))
    for number in range(1_200):
        breakers.of("core", f"vllm/{number}").force("open")
    assert len(breakers.states(SECOND)) == 1_000
