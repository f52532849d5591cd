"""Breakers made from settings: what each service's opens on, who is told of changes, and that the memory is bounded."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

from sidecar._core import Refusal
from sidecar.assembly import make_engine
from sidecar.catalog import load as load_catalog
from sidecar.observe import Log
from sidecar.policies.breakers import Breakers, Change, TargetBreaker
from sidecar.settings import load

SECOND = 1_000_000_000
GPT = "openai/gpt-4o"


def made(tmp_path: Path, toml: str = "") -> tuple[Breakers, list[Change]]:
    """Breakers of settings with this text, and what they told."""
    (tmp_path / "settings.toml").write_text(toml)
    breakers, told = Breakers(load(tmp_path / "settings.toml", {})), []
    breakers.on_change.append(told.append)
    return breakers, told


def play(breaker: TargetBreaker, outcomes: str, now_ns: int = SECOND, **how: Any) -> None:
    """`x` is a failure, `.` a success, `-` does not count."""
    for outcome in outcomes:
        permit = breaker.permit(now_ns)
        assert isinstance(permit, int)
        if outcome == "x":
            breaker.failure(permit, now_ns, **how)
        else:
            (breaker.success if outcome == "." else breaker.ignore)(permit, now_ns)


def steps(told: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.before, change.after, change.why) for change in told]


# --- settings -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("service", "failures"), [("core", 3), ("oracle", 3), ("vision", 5)])
def test_the_policys_figures(tmp_path, service, failures):
    breakers, _ = made(tmp_path)
    breaker = breakers.of(service, GPT)
    play(breaker, "x" * (failures - 1))
    assert breaker.state(SECOND) == "closed"
    play(breaker, "x")
    assert (breaker.state(31 * SECOND - 1), breaker.state(31 * SECOND)) == ("open", "half_open")


def test_every_figure_is_a_setting(tmp_path):
    rows = "breaker_failures = 2\nbreaker_open_ms = 500\nbreaker_trials = 2\n"
    rates = "breaker_failures = 100\nbreaker_rate_percent = 25\nbreaker_window_ms = 1000\nbreaker_least_calls = 4\n"
    breakers, told = made(tmp_path, f"[services.rag]\n{rows}[services.web]\n{rates}")
    rag, web = breakers.of("rag", GPT), breakers.of("web", GPT)
    play(rag, "xx")
    assert rag.retry_at_ns(SECOND) == SECOND + 500_000_000
    out = [rag.permit(2 * SECOND) for _ in range(20)]
    assert sum(isinstance(permit, int) for permit in out) == 2
    play(web, ".x.x")
    assert (web.state(SECOND), told[-1].why) == ("open", "rate")
    again = breakers.of("web", "openai/gpt-4o-mini")
    play(again, ".x..")
    play(again, "x", 3 * SECOND)  # the window of a second has passed: one call is too few
    assert again.state(3 * SECOND) == "closed"


def test_weavers_is_off_and_still_an_operators(tmp_path):
    breakers, told = made(tmp_path)
    weaver = breakers.of("weaver", GPT)
    play(weaver, "x" * 100, open_for_ns=60 * SECOND)
    assert (weaver.state(SECOND), told) == ("closed", [])
    weaver.force("open")
    assert isinstance(weaver.permit(SECOND), Refusal)
    weaver.force(None)
    play(weaver, "x" * 100)
    assert weaver.state(SECOND) == "closed"


def test_each_target_of_each_service_fails_alone(tmp_path):
    breakers, _ = made(tmp_path)
    play(breakers.of("oracle", "openai#eu/gpt-4o"), "xxx")
    others = [("oracle", "openai#us/gpt-4o"), ("oracle", "openai#eu/gpt-4o-mini"), ("vision", "openai#eu/gpt-4o"), ("", "openai#eu/gpt-4o")]
    assert [breakers.of(*other).state(SECOND) for other in others] == ["closed"] * 4
    assert breakers.of("unnamed", GPT) is breakers.of("also-unnamed", GPT)


# --- changes --------------------------------------------------------------------------------------------------------------------


def test_every_change_is_told_once_by_whoever_made_it(tmp_path):
    breakers, told = made(tmp_path)
    breaker = breakers.of("core", GPT)
    late = breaker.permit(SECOND)
    assert isinstance(late, int)
    play(breaker, "xx.xx-x")
    breaker.failure(late, 2 * SECOND)
    assert isinstance(breaker.permit(2 * SECOND), Refusal)
    play(breaker, "x", 31 * SECOND)
    play(breaker, "-.....", 61 * SECOND)
    expected = [
        ("closed", "open", "failures"),
        ("open", "half_open", "time_over"),
        ("half_open", "open", "trial_failed"),
        ("open", "half_open", "time_over"),
        ("half_open", "closed", "trials_succeeded"),
    ]
    assert steps(told) == expected
    assert [change.open_ns for change in told] == [30 * SECOND, None, 30 * SECOND, None, None]
    assert {(change.service, change.target) for change in told} == {("core", GPT)}


def test_opening_for_as_long_as_asked_is_told_even_if_that_is_no_time(tmp_path):
    breakers, told = made(tmp_path)
    breaker = breakers.of("synapse", GPT)
    play(breaker, "x", open_for_ns=7 * SECOND)
    play(breaker, "x", 8 * SECOND, open_for_ns=0)
    play(breaker, ".", 8 * SECOND)
    assert [change.after for change in told] == ["open", "half_open", "open", "half_open", "closed"]
    assert [change.open_ns for change in told] == [7 * SECOND, None, None, None, None]
    assert told[0].message == "the breaker of openai/gpt-4o for service synapse is open: the provider asked to be left alone"


def test_operators_hold_and_let_go(tmp_path):
    breakers, told = made(tmp_path)
    assert breakers.find("rag", GPT) is None
    breaker = breakers.of("rag", GPT)
    assert breakers.find("rag", GPT) is None  # it is listed without a service's name, and goes by that
    assert breakers.find("", GPT) is breaker
    for state in ("open", "open", "closed", None, None):
        breaker.force(state)
    assert steps(told) == [("closed", "open", "held"), ("open", "closed", "held"), *[("closed", "closed", "let_go")] * 2]
    play(breakers.of("rag", GPT), "xxx")
    breaker.force(None)
    assert steps(told)[-2:] == [("closed", "open", "failures"), ("open", "closed", "let_go")]


def test_the_listing_says_what_is_left(tmp_path):
    breakers, _ = made(tmp_path)
    play(breakers.of("vision", GPT), "xxxxx")
    breakers.of("oracle", GPT).force("closed")
    breakers.of("rag", "openai/gpt-4o-mini")
    rows = [(f.service, f.target, f.state, f.forced, f.open_left_ns, f.changes) for f in breakers.listing(11 * SECOND)]
    assert rows == [
        ("", "openai/gpt-4o-mini", "closed", False, None, 0),
        ("oracle", GPT, "closed", True, None, 1),
        ("vision", GPT, "open", False, 20 * SECOND, 1),
    ]
    assert [f.state for f in breakers.listing(31 * SECOND)] == ["closed", "closed", "half_open"]
    assert breakers.find("vision", GPT) is breakers.of("vision", GPT)
    assert breakers.find("core", GPT) is None


def test_a_hint_reaches_every_services_breaker_of_that_target_and_no_other(tmp_path):
    breakers, told = made(tmp_path)
    ours = [breakers.of(service, GPT) for service in ("core", "oracle", "vision", "weaver")]
    other = breakers.of("rag", "openai/gpt-4o-mini")
    breakers.hint(GPT, SECOND)
    assert told == []
    for breaker in (*ours, other):
        play(breaker, "x")
    assert [breaker.state(SECOND) for breaker in (*ours, other)] == ["open", "open", "open", "closed", "closed"]
    assert {change.why for change in told} == {"hint"}


def test_operators_read_of_changes_in_events_and_metrics():
    settings = load(None, {"OPENAI_API_KEY": "k"})
    engine = make_engine(settings, load_catalog(settings, date(2026, 11, 21)), Log("error"))
    play(engine.breakers.of("oracle", "openai#eu/gpt-4o"), "xxx")
    play(engine.breakers.of("oracle", "openai/invented"), "xxx")
    (invented, event) = engine.meter.events.latest(10, "breaker")
    assert event.facts == {"service": "oracle", "target": "openai#eu/gpt-4o", "from": "closed", "to": "open", "why": "failures"}
    assert event.message == "the breaker of openai#eu/gpt-4o for service oracle is open: it failed too often in a row"
    assert invented.facts["target"] == "openai/invented"
    text = generate_latest(engine.meter.metrics.registry).decode()
    where = 'model="gpt-4o",provider="openai#eu",service="oracle"'
    assert f"llm_circuit_breaker_state{{{where}}} " in text
    assert f'llm_circuit_breaker_changes_total{{{where},to="open"}} 1.0' in text
    assert 'llm_circuit_breaker_changes_total{model="other",provider="openai",service="oracle",to="open"} 1.0' in text
    assert "invented" not in text


# --- memory ---------------------------------------------------------------------------------------------------------------------


def test_an_open_breaker_outlives_thousands_of_invented_names(tmp_path):
    breakers, _ = made(tmp_path)
    broken = breakers.of("core", "vllm/broken")
    play(broken, "xxx")
    assert broken.state(60 * SECOND) == "half_open"  # its trial is due, and it still is the one that is remembered
    for number in range(5_000):
        breakers.of("core", f"vllm/{number}")
    assert breakers.of("core", "vllm/broken") is broken
    assert len(breakers.states(60 * SECOND)) == 1_000


def test_the_longest_unused_closed_one_goes_first(tmp_path):
    breakers, _ = made(tmp_path)
    ours, theirs = breakers.of("core", GPT), breakers.of("core", "vllm/once")
    for number in range(999):
        breakers.of("core", f"vllm/{number}")
        assert breakers.of("core", GPT) is ours
    assert breakers.of("core", "vllm/once") is not theirs


@pytest.mark.parametrize("held", ["open", "closed"])
def test_what_an_operator_holds_is_not_forgotten(tmp_path, held):
    breakers, _ = made(tmp_path)
    ours = breakers.of("core", GPT)
    ours.force(held)
    for number in range(1_200):
        play(breakers.of("core", f"vllm/{number}"), "xxx")
    assert breakers.of("core", GPT) is ours
    assert len(breakers.states(SECOND)) == 1_000


def test_all_held_is_bounded_too(tmp_path):
    breakers, _ = made(tmp_path)
    for number in range(1_200):
        breakers.of("core", f"vllm/{number}").force("open")
    assert len(breakers.states(SECOND)) == 1_000


def test_a_hint_is_kept_for_breakers_that_are_not_in_use_yet() -> None:
    breakers = Breakers(load(None, {}))
    breakers.hint("vllm/broken", SECOND, 30 * SECOND)
    early, late, other = breakers.of("core", "vllm/broken"), breakers.of("oracle", "vllm/broken"), breakers.of("core", "vllm/well")
    for breaker, at_ns, state in ((early, 2 * SECOND, "open"), (late, 32 * SECOND, "closed"), (other, 2 * SECOND, "closed")):
        permit = breaker.permit(at_ns)
        assert isinstance(permit, int)
        breaker.failure(permit, at_ns)
        assert breaker.state(at_ns) == state


def test_hints_of_thousands_of_targets_are_bounded_and_run_out() -> None:
    breakers = Breakers(load(None, {}))
    for number in range(1_200):
        breakers.hint(f"vllm/{number}", SECOND, SECOND)
    assert len(breakers._hints) == 1_000
    breakers.hint("vllm/late", 3 * SECOND, SECOND)
    assert list(breakers._hints) == ["vllm/late"]
