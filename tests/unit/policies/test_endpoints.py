"""Which endpoint goes first, and what is set aside: behind all others, until its time is over or it answers."""

import random
from collections import Counter

from sidecar.call import Candidate
from sidecar.catalog import Model, Prices
from sidecar.policies.endpoints import Endpoints, in_order

SECOND = 1_000_000_000


def candidate(provider="openai", name="gpt-4o", endpoint=""):
    model = Model(name, provider, name, 1000, 100, "estimate", frozenset(), Prices())
    return Candidate(model, None, "primary of x.y", 1, False, 1, 1, fallback=False, endpoint=endpoint)


def made():
    told = []
    return Endpoints(lambda key, until_ns, reason: told.append((key, until_ns, reason))), told


def closed(name):
    return False


def test_the_first_is_drawn_by_weight():
    draw = random.Random(7).random
    first = Counter(in_order([("a", 1), ("b", 3), ("c", 0.001), ("d", 0)], closed, draw)[0] for _ in range(4000))
    assert 850 < first["a"] < 1150
    assert 2850 < first["b"] < 3150
    assert first["d"] == 0


def test_all_are_there_and_the_rest_is_drawn_by_weight_too():
    draw = random.Random(7).random
    orders = [in_order([("a", 1), ("b", 1), ("c", 8), ("d", 0)], closed, draw) for _ in range(1000)]
    assert all(sorted(order) == ["a", "b", "c", "d"] and order[3] == "d" for order in orders)
    after_a = Counter(order[1] for order in orders if order[0] == "a")
    assert after_a["c"] > 4 * after_a["b"] > 0


def test_open_breakers_come_last_and_weight_0_before_them():
    def is_open(name):
        return name in ("a", "z")

    draw = random.Random(7).random
    for _ in range(50):
        assert in_order([("z", 0), ("a", 100), ("b", 0), ("c", 0.01)], is_open, draw) == ["c", "b", "a", "z"]


def test_nothing_set_aside_costs_nothing():
    endpoints, _ = made()
    candidates = [candidate()]
    assert endpoints.behind(candidates, 0) is candidates


def test_a_key_covers_its_models_and_a_target_only_itself():
    endpoints, told = made()
    endpoints.set_aside("openai#eu", 10 * SECOND, "PROVIDER_AUTH_FAILED")
    endpoints.set_aside("google/gemini", 20 * SECOND, "PROVIDER_QUOTA_EXHAUSTED")
    assert told == [("openai#eu", 10 * SECOND, "PROVIDER_AUTH_FAILED"), ("google/gemini", 20 * SECOND, "PROVIDER_QUOTA_EXHAUSTED")]
    assert endpoints.aside(candidate(name="gpt-4.1", endpoint="eu"), 4 * SECOND) == ("PROVIDER_AUTH_FAILED", 6 * SECOND)
    for well in (candidate(endpoint="us"), candidate(), candidate("google", "other"), candidate("google", "gemini", "eu")):
        assert endpoints.aside(well, 0) is None
    row = [candidate("google", "gemini"), candidate(endpoint="eu"), candidate(endpoint="us"), candidate("anthropic")]
    behind = endpoints.behind(row, 0)
    assert [c.target for c in behind] == ["openai#us/gpt-4o", "anthropic/gpt-4o", "google/gemini", "openai#eu/gpt-4o"]
    assert behind[0] is row[2]
    assert behind[3].reason == "primary of x.y; set aside for 10 s more: PROVIDER_AUTH_FAILED"
    assert [(row.key, row.left_ns) for row in endpoints.listing(15 * SECOND)] == [("google/gemini", 5 * SECOND)]


def test_its_time_ends_and_the_next_time_is_told_again():
    endpoints, told = made()
    endpoints.set_aside("openai", 10 * SECOND, "PROVIDER_AUTH_FAILED")
    endpoints.set_aside("openai", 5 * SECOND, "PROVIDER_AUTH_FAILED")  # still the same time, and no shorter for it
    assert endpoints.aside(candidate(), 10 * SECOND - 1) == ("PROVIDER_AUTH_FAILED", 1)
    assert len(told) == 1
    assert endpoints.aside(candidate(), 10 * SECOND) is None
    endpoints.set_aside("openai", 30 * SECOND, "PROVIDER_AUTH_FAILED")
    assert len(told) == 2


def test_who_answers_is_not_set_aside_any_more():
    endpoints, _ = made()
    for key in ("openai", "openai/gpt-4o", "openai/gpt-4.1"):
        endpoints.set_aside(key, SECOND, "PROVIDER_QUOTA_EXHAUSTED")
    endpoints.succeeded(candidate())
    assert [row.key for row in endpoints.listing(0)] == ["openai/gpt-4.1"]


def test_the_memory_is_bounded():
    endpoints, _ = made()
    for number in range(5000):
        endpoints.set_aside(f"vllm/{number}", SECOND, "PROVIDER_MODEL_UNKNOWN")
    assert len(endpoints.listing(0)) == 1000
    assert endpoints.aside(candidate("vllm", "4999"), 0) is not None
