"""What traffic, breakers and checks say of providers and nodes, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from sidecar.errors import ProviderRateLimited, ProviderUnavailable
from sidecar.policies.health import Health, NodeHealth, Verdict
from sidecar.policies.health_checks import check_all, problem_of
from sidecar.settings import load
from sidecar.settings.operation import Health as HealthSettings

SECOND = 1_000_000_000
WINDOW = 300 * SECOND


class Told(list):
    """Every change that was told: (level, message)."""

    def __call__(self, message, level, **facts):
        self.append((level, message))


class Bench:
    """Health with breakers that the test sets: (service, target) → state; a target in `held` is an operator's doing."""

    def __init__(self, **environ):
        self.breakers = {}
        self.held = set()
        self.told = Told()
        self.now_ns = 1_000 * SECOND
        self.health = Health(load(None, environ), self.rows, self.told)

    def rows(self, now_ns):
        return [SimpleNamespace(service=s, target=t, state=state, forced=t in self.held) for (s, t), state in self.breakers.items()]

    def call(self, *candidates, node="rag.answer", model="", outcomes=None):
        """One call: its candidates' targets, and the outcome of each attempt."""
        service, _, name = node.partition(".")
        found = tuple(SimpleNamespace(target=target) for target in candidates)
        attempts = [SimpleNamespace(candidate=SimpleNamespace(target=t), outcome=o) for t, o in (outcomes or {}).items()]
        request = SimpleNamespace(model=model)
        ended = SimpleNamespace(service=service, node_name=name, candidates=found, attempts=attempts, request=request)
        self.health.saw(ended, self.now_ns)

    def outcome(self, target, outcome):
        self.call(target, outcomes={target: outcome})

    def of(self, provider, endpoint=""):
        return self.health.of(provider, endpoint, self.now_ns)


@pytest.fixture
def bench():
    return Bench()


# --- providers --------------------------------------------------------------------------------------------------------------------


def test_nobody_asked_is_unknown(bench):
    assert bench.of("openai") == Verdict("unknown", "")
    assert bench.health.of_provider("openai", bench.now_ns) == Verdict("unknown", "")


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("ok", "up"),
        ("PROVIDER_REJECTED", "up"),  # it answered: the request was wrong
        ("PROVIDER_CONTEXT_EXCEEDED", "up"),
        ("SCHEMA_VIOLATED", "up"),
        ("PROVIDER_UNAVAILABLE", "down"),
        ("PROVIDER_TIMEOUT", "down"),
        ("PROVIDER_GARBLED", "down"),
        ("PROVIDER_AUTH_FAILED", "down"),
        ("PROVIDER_RATE_LIMITED", "down"),
        ("STREAM_CUT", "down"),
        ("INTERRUPTED", "unknown"),  # the caller went: nobody can be blamed
        ("HEDGED", "unknown"),
    ],
)
def test_what_one_outcome_says(bench, outcome, state):
    bench.outcome("openai/gpt-4o", outcome)
    assert bench.of("openai").state == state


def test_a_failure_after_a_success_is_degraded_until_the_next_success(bench):
    bench.outcome("openai/gpt-4o", "ok")
    bench.now_ns += SECOND
    bench.outcome("openai/gpt-4o", "PROVIDER_UNAVAILABLE")
    assert bench.of("openai") == Verdict("degraded", "traffic")
    bench.now_ns += SECOND
    bench.outcome("openai/gpt-4o", "ok")
    assert bench.of("openai") == Verdict("up", "traffic")


def test_one_model_that_fails_is_a_part(bench):
    bench.outcome("openai/gpt-4o", "PROVIDER_UNAVAILABLE")
    bench.outcome("openai/gpt-4o-mini", "ok")
    assert bench.of("openai").state == "degraded"
    assert bench.of("anthropic").state == "unknown"


def test_outcomes_grow_old(bench):
    bench.outcome("openai/gpt-4o", "PROVIDER_UNAVAILABLE")
    bench.now_ns += WINDOW + 1
    assert bench.of("openai") == Verdict("unknown", "")


def test_an_open_breaker_says_down_also_when_nobody_was_asked_lately(bench):
    bench.breakers["core", "openai/gpt-4o"] = "open"
    assert bench.of("openai") == Verdict("down", "traffic")
    bench.breakers["core", "openai/gpt-4o"] = "half_open"  # its trial has not been made
    assert bench.of("openai").state == "down"
    bench.outcome("openai/gpt-4o-mini", "ok")
    assert bench.of("openai").state == "degraded"
    bench.breakers["core", "openai/gpt-4o"] = "closed"
    assert bench.of("openai").state == "up"


def test_what_an_operator_holds_open_says_nothing_about_the_provider(bench):
    bench.breakers["core", "openai/gpt-4o"] = "open"
    bench.held.add("openai/gpt-4o")
    assert bench.of("openai").state == "unknown"


def test_endpoints_stand_alone_and_make_up_the_provider():
    environ = {f"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__{name}__API_KEY": "k" for name in ("EU", "US")}
    bench = Bench(**environ)
    bench.outcome("openai#eu/gpt-4o", "ok")
    assert (bench.of("openai", "eu").state, bench.of("openai", "us").state) == ("up", "unknown")
    assert bench.health.of_provider("openai", bench.now_ns).state == "up"
    bench.outcome("openai#us/gpt-4o", "PROVIDER_AUTH_FAILED")
    assert bench.of("openai", "us").state == "down"
    assert bench.health.of_provider("openai", bench.now_ns).state == "degraded"


def test_thousands_of_invented_models_are_bounded(bench):
    for number in range(5_000):
        bench.call(f"vllm/{number}", node=f"rag.{number}", outcomes={f"vllm/{number}": "ok"})
    assert len(bench.health._outcomes) == len(bench.health._nodes) == 1_000


# --- checks -----------------------------------------------------------------------------------------------------------------------


def test_a_check_tells_where_there_is_no_traffic(bench):
    bench.health.checked("openai", "", bench.now_ns)
    assert bench.of("openai") == Verdict("up", "check")
    bench.health.checked("openai", "PROVIDER_UNAVAILABLE: gone", bench.now_ns)
    assert bench.of("openai") == Verdict("down", "check")


def test_a_good_check_does_not_excuse_failed_calls_and_a_bad_one_is_news(bench):
    bench.outcome("openai/gpt-4o", "PROVIDER_UNAVAILABLE")
    bench.health.checked("openai", "", bench.now_ns + 1)
    assert bench.of("openai") == Verdict("down", "traffic")
    bench.outcome("openai/gpt-4o", "ok")
    assert bench.of("openai") == Verdict("up", "traffic")
    bench.health.checked("openai", "PROVIDER_UNAVAILABLE: gone", bench.now_ns + 2)
    assert bench.of("openai") == Verdict("down", "check")


def test_checks_are_told_only_when_they_change(bench):
    for problem in ("", "", "gone", "gone", "gone", "", ""):
        bench.health.checked("openai", problem, bench.now_ns)
    assert bench.told == [("warning", "the check of openai failed: gone"), ("info", "the check of openai went well again")]


class Provider:
    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.asked = 0

    async def check(self):
        self.asked += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome == "stall":
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (None, ""),
        (ProviderRateLimited("slow down"), ""),
        (ProviderUnavailable("gone"), "PROVIDER_UNAVAILABLE: gone"),
        (KeyError("secret"), "the check itself failed: KeyError"),
        ("stall", "no list of models came within 20 ms"),
    ],
)
async def test_what_a_check_finds(outcome, problem):
    assert await problem_of(Provider(outcome), 20) == problem


async def test_checks_repeat_and_outlive_their_failures(bench):
    openai, vllm = Provider(ProviderUnavailable("gone"), None), Provider("stall")
    rule = HealthSettings(check_interval_ms=1, check_timeout_ms=5)
    checking = asyncio.create_task(check_all(bench.health, rule, {"openai": openai, "vllm": vllm}, lambda: bench.now_ns, lambda: 0.5))
    async with asyncio.timeout(10):
        while openai.asked < 5 or vllm.asked < 3:  # noqa: ASYNC110  (the test's own clock does not tick)
            await asyncio.sleep(0.001)
    checking.cancel()
    assert (bench.of("openai").state, bench.of("vllm").state) == ("up", "down")


async def test_without_an_interval_nothing_is_checked(bench):
    provider = Provider(None)
    await check_all(bench.health, HealthSettings(), {"openai": provider}, lambda: 0, lambda: 0.0)
    assert provider.asked == 0


# --- nodes ------------------------------------------------------------------------------------------------------------------------


def test_a_node_is_exhausted_only_when_all_its_candidates_are_open(bench):
    bench.call("openai/gpt-4o", "anthropic/claude")
    bench.breakers["", "openai/gpt-4o"] = "open"
    assert bench.health.nodes(bench.now_ns) == [NodeHealth("rag.answer", 1, 2)]
    assert bench.health.exhausted(bench.now_ns) == []
    bench.breakers["", "anthropic/claude"] = "open"
    assert bench.health.nodes(bench.now_ns) == [NodeHealth("rag.answer", 0, 2)]
    assert bench.health.exhausted(bench.now_ns) == ["rag.answer"]
    bench.breakers["", "openai/gpt-4o"] = "half_open"  # a trial may be made: the node must be called for that
    assert bench.health.exhausted(bench.now_ns) == []


def test_breakers_of_another_service_do_not_count(bench):
    bench.call("openai/gpt-4o", node="core.react_agent")
    bench.call("openai/gpt-4o", node="oracle.summary")
    bench.breakers["oracle", "openai/gpt-4o"] = "open"
    assert bench.health.exhausted(bench.now_ns) == ["oracle.summary"]


def test_what_an_operator_holds_open_is_closed_to_nodes_all_the_same(bench):
    bench.call("openai/gpt-4o")
    bench.breakers["", "openai/gpt-4o"] = "open"
    bench.held.add("openai/gpt-4o")
    assert bench.health.exhausted(bench.now_ns) == ["rag.answer"]


def test_a_node_that_is_not_called_any_more_is_not_in_use(bench):
    bench.call("openai/gpt-4o")
    bench.breakers["", "openai/gpt-4o"] = "open"
    bench.now_ns += WINDOW + 1
    assert bench.health.nodes(bench.now_ns) == []
    assert bench.health.exhausted(bench.now_ns) == []
    assert bench.health.knows_node("rag.answer")


def test_a_model_that_the_caller_named_says_nothing_about_the_node(bench):
    bench.breakers["", "vllm/mine"] = "open"
    bench.call("vllm/mine", model="vllm/mine")
    assert bench.health.nodes(bench.now_ns) == []


def test_a_call_that_needs_more_does_not_narrow_its_node_down(bench):
    bench.call("openai/gpt-4o", "vllm/text")
    bench.call("openai/gpt-4o")  # this one had an image
    bench.breakers["", "openai/gpt-4o"] = "open"
    assert bench.health.exhausted(bench.now_ns) == []
    bench.now_ns += WINDOW + 1  # by now all of them have
    bench.call("openai/gpt-4o")
    assert bench.health.exhausted(bench.now_ns) == ["rag.answer"]


def test_calls_without_a_node_count_for_their_service(bench):
    bench.call("openai/gpt-4o", node="default")
    assert bench.health.nodes(bench.now_ns) == [NodeHealth("default", 1, 1)]


def test_a_change_is_told_once_each_way(bench):
    bench.call("openai/gpt-4o")
    bench.breakers["", "openai/gpt-4o"] = "open"
    assert [bench.health.look(bench.now_ns) for _ in range(3)] == [True] * 3
    bench.breakers["", "openai/gpt-4o"] = "half_open"
    assert [bench.health.look(bench.now_ns) for _ in range(3)] == [False] * 3
    assert bench.told == [
        ("error", "nobody is left to answer rag.answer: the breakers of all its candidates are open"),
        ("info", "rag.answer has somebody to answer it again, or is not called any more"),
    ]


async def test_the_watch_wakes_for_a_breaker_and_looks_again_while_it_is_open(bench):
    watching = asyncio.create_task(bench.health.watch(lambda: bench.now_ns))
    bench.call("openai/gpt-4o")
    bench.breakers["", "openai/gpt-4o"] = "open"
    bench.health.wake()
    async with asyncio.timeout(5):
        await bench.health.change(5)
        assert len(bench.told) == 1
        bench.breakers["", "openai/gpt-4o"] = "half_open"  # time alone did it: nobody wakes the watch
        while len(bench.told) < 2:
            await bench.health.change(5)
    watching.cancel()


async def test_waiting_for_a_change_ends_by_itself(bench):
    async with asyncio.timeout(5):
        await bench.health.change(0.001)
