"""Which models a call wants: the policy's order, one rule at a time."""

from datetime import date
from typing import Any

import pytest

from sidecar import catalog
from sidecar.errors import UnknownModel
from sidecar.policies.models import Preference, Preferences, refusals
from sidecar.settings import load

TODAY = date(2026, 11, 21)
OPENAI = {"OPENAI_API_KEY": "o"}
CLAUDE = {"ANTHROPIC_API_KEY": "a"}
GOOGLE = {"GOOGLE_API_KEY": "g"}
ALL = OPENAI | CLAUDE | GOOGLE


def preferences(environ: dict[str, str]) -> Preferences:
    settings = load(None, environ)
    return Preferences(settings, catalog.load(settings, TODAY), settings.configured)


def wanted(environ: dict[str, str], node: str, requested: str = "", *, embed: bool = False, **who: Any) -> Preference:
    service, _, name = node.partition(".")
    return preferences(environ).of(service, name, requested, embed=embed, **who)


def models(found: Preference) -> list[str]:
    return [f"{choice.model.provider}/{choice.model.id}" for choice in found.choices]


PRODUCTION = {"SIDECAR_PROFILE__NAME": "production"}


@pytest.mark.parametrize(
    ("environ", "node", "requested", "expected"),
    [
        # the row, then its fallbacks, then the profile's
        (ALL, "oracle.hyde", "", ["openai/gpt-4o-mini", "google/gemini-2.5-flash", "openai/gpt-4o"]),
        (ALL | PRODUCTION, "oracle.hyde", "", ["openai/gpt-4o-mini", "google/gemini-2.5-flash", "anthropic/claude-sonnet-4-6"]),
        # MODEL_<SERVICE>_<NODE> beats the row, the request beats both
        (
            ALL | {"MODEL_ORACLE_HYDE": "gpt-4.1"},
            "oracle.hyde",
            "",
            ["openai/gpt-4.1", "openai/gpt-4o-mini", "google/gemini-2.5-flash", "openai/gpt-4o"],
        ),
        (
            ALL | {"MODEL_ORACLE_HYDE": "gpt-4.1"},
            "oracle.hyde",
            "claude-sonnet-5-5",
            ["anthropic/claude-sonnet-5-5", "openai/gpt-4.1", "openai/gpt-4o-mini", "google/gemini-2.5-flash", "openai/gpt-4o"],
        ),
        # the row beats the service's variables; an unknown node does not have one
        (ALL | {"ORACLE_LLM_MODEL": "gpt-4.1"}, "oracle.hyde", "", ["openai/gpt-4o-mini", "google/gemini-2.5-flash", "openai/gpt-4o"]),
        (ALL | {"ORACLE_LLM_MODEL": "gpt-4.1"}, "oracle.other", "", ["openai/gpt-4.1", "openai/gpt-4o"]),
        # profile: DEFAULT_LLM_*, FALLBACK_LLM_*, a preferred order
        (ALL | PRODUCTION, "rag.answer", "", ["openai/gpt-4o", "anthropic/claude-sonnet-4-6"]),
        (ALL | {"SIDECAR_PROFILE__NAME": "staging"}, "rag.answer", "", ["openai/gpt-4o"]),
        (ALL | {"OLLAMA_BASE_URL": "http://o"}, "rag.answer", "", ["ollama/llama3.2", "openai/gpt-4o"]),
        (ALL | {"OPENAI_MODEL": "gpt-4.1"}, "rag.answer", "", ["openai/gpt-4.1"]),
        (
            ALL | {"DEFAULT_LLM_PROVIDER": "claude", "FALLBACK_LLM_MODEL": "gpt-4o-mini"},
            "rag.answer",
            "",
            ["anthropic/claude-sonnet-4-6", "openai/gpt-4o-mini"],
        ),
        (
            ALL | {"SIDECAR_PROFILE__PREFERRED": "gemini,openai,claude"},
            "rag.answer",
            "",
            ["google/gemini-2.5-flash", "openai/gpt-4o", "anthropic/claude-sonnet-4-6"],
        ),
        # a node that forbids a fallback has one model, whatever else is there
        (ALL, "synapse.ner", "", ["openai/gpt-4o"]),
        (CLAUDE, "synapse.ner", "", []),
        (ALL | {"MODEL_SYNAPSE_NER": "gpt-4.1"}, "synapse.ner", "", ["openai/gpt-4.1"]),
        # what is not configured is left out; the last resort is any provider that is
        (CLAUDE, "oracle.sql_generation", "", ["anthropic/claude-sonnet-4-6"]),
        (GOOGLE, "rag.answer", "", ["google/gemini-2.5-flash"]),
        ({}, "oracle.hyde", "", ["echo/echo"]),
        ({}, "synapse.ner", "gpt-4o", ["echo/echo"]),
        (OPENAI, "rag.answer", "echo/echo", ["echo/echo", "openai/gpt-4o"]),
        # a service's own provider takes the place of the general one
        (OPENAI | {"ORACLE_LLM_API_KEY": "k"}, "oracle.sql_generation", "", ["oracle-openai/gpt-4o"]),
        (OPENAI | {"ORACLE_LLM_API_KEY": "k"}, "core.react_agent", "", ["openai/gpt-4o"]),
    ],
)
def test_order(environ: dict[str, str], node: str, requested: str, expected: list[str]) -> None:
    assert models(wanted(environ, node, requested)) == expected


@pytest.mark.parametrize(
    ("environ", "node", "expected"),
    [
        (ALL, "oracle.embedding", ["openai/text-embedding-3-small", "google/gemini-embedding-001"]),
        (ALL, "rag.answer", ["openai/text-embedding-3-small", "google/gemini-embedding-001"]),
        (ALL | {"DEFAULT_EMBEDDING_PROVIDER": "gemini"}, "rag.answer", ["google/gemini-embedding-001"]),
        (ALL | {"ORACLE_EMBEDDING_PROVIDER": "google"}, "oracle.other", ["google/gemini-embedding-001", "openai/text-embedding-3-small"]),
        (ALL, "oracle.hyde", ["openai/text-embedding-3-small", "google/gemini-embedding-001"]),
        (OPENAI, "synapse.ner", ["openai/text-embedding-3-small"]),
        (CLAUDE, "rag.answer", []),
        ({}, "rag.answer", ["echo/echo"]),
    ],
)
def test_order_of_embeddings(environ: dict[str, str], node: str, expected: list[str]) -> None:
    found = wanted(environ, node, embed=True)
    assert models(found) == expected
    assert all("embed" in choice.model.capabilities for choice in found.choices)


def test_reasons_say_where_a_model_comes_from() -> None:
    found = wanted(ALL | PRODUCTION | {"MODEL_ORACLE_HYDE": "gpt-4.1"}, "oracle.hyde", "gpt-4o")
    assert [(choice.model.id, choice.reason, choice.fallback) for choice in found.choices] == [
        ("gpt-4o", "named by the request", False),
        ("gpt-4.1", "MODEL_ORACLE_HYDE is set for oracle.hyde", True),
        ("gpt-4o-mini", "primary of oracle.hyde", True),
        ("gemini-2.5-flash", "fallback of oracle.hyde", True),
        ("claude-sonnet-4-6", "fallback of profile production", True),
    ]


def test_an_unknown_node_is_said_to_be_one() -> None:
    assert (
        wanted(OPENAI | PRODUCTION, "rag.answer").choices[0].reason
        == "node rag.answer is not in the portfolio; default of profile production"
    )
    assert wanted(OPENAI | PRODUCTION, "").choices[0].reason == "no node named; default of profile production"


def test_what_is_skipped_says_why() -> None:
    found = wanted(OPENAI, "oracle.hyde", "claude-sonnet-4")
    assert [(skipped.model, skipped.reason) for skipped in found.skipped] == [
        ("claude-sonnet-4-6", "provider anthropic has no key"),
        ("gemini-2.5-flash", "provider google has no key"),
    ]
    assert found.notices == (
        "claude-sonnet-4 retired on 2026-06-15; claude-sonnet-4-6 is its successor",
        "claude-sonnet-4-6 was asked for and is not available: provider anthropic has no key",
    )
    assert found.choices[0].fallback


def test_a_provider_that_did_not_connect_is_not_said_to_lack_a_key() -> None:
    settings = load(None, ALL)
    found = Preferences(settings, catalog.load(settings, TODAY), frozenset({"openai"})).of("oracle", "sql_generation")
    assert [skipped.reason for skipped in found.skipped] == ["provider anthropic is not connected"]


def test_no_service_gets_at_another_services_key() -> None:
    found = wanted(OPENAI | {"ORACLE_LLM_API_KEY": "k"}, "core.react_agent", "oracle-openai/gpt-4o")
    assert models(found) == ["openai/gpt-4o"]
    assert found.skipped[0].reason == "provider oracle-openai is for service oracle only"


def test_the_echo_says_why_it_answers() -> None:
    (notice,) = wanted({}, "").notices
    assert notice == "no provider is configured, so the built-in echo answers; set a key, for example OPENAI_API_KEY"


def test_a_requested_model_that_cannot_do_it_is_left_to_be_refused() -> None:
    assert models(wanted(OPENAI, "", "text-embedding-3-small"))[0] == "openai/text-embedding-3-small"


def test_an_unknown_model_is_the_callers_mistake() -> None:
    with pytest.raises(UnknownModel, match='no model is called "gpt-4oo"'):
        wanted(OPENAI, "oracle.hyde", "gpt-4oo")


def test_the_memory_is_bounded_and_does_not_mix_questions() -> None:
    known = preferences(ALL)
    first = known.of("oracle", "hyde")
    assert known.of("oracle", "hyde") is first
    assert known.of("oracle", "hyde", embed=True) is not first
    assert models(known.of("oracle", "hyde", plan="free")) == ["openai/gpt-4o-mini", "google/gemini-2.5-flash"]
    assert models(known.of("oracle", "hyde", plan="premium", preferred="gpt-4o"))[0] == "openai/gpt-4o"
    assert models(known.of("oracle", "hyde", complexity="high"))[0] == "anthropic/claude-sonnet-4-6"
    for number in range(5000):
        known.of("x", str(number), preferred=f"nobody's {number}")
    assert len(known._known) <= 4096
    assert known.of("oracle", "hyde") == first


def test_production_without_fallbacks_is_refused_by_node() -> None:
    settings = load(None, OPENAI | PRODUCTION)
    found = refusals(settings, catalog.load(settings, TODAY), settings.configured)
    assert (
        found[0] == "node core.process_definition has a primary (gpt-4o) and no fallback (claude-sonnet-4-6: provider anthropic has no key)"
    )
    named = {line.split()[1] for line in found}
    assert "core.document_structuring" not in named  # its row forbids a fallback
    assert "core.data_classification" not in named  # its fallback is OpenAI's too
    assert len(found) == 15


@pytest.mark.parametrize("environ", [{}, OPENAI, CLAUDE])
def test_only_production_insists(environ: dict[str, str]) -> None:
    for profile in ("local", "staging"):
        settings = load(None, environ | {"SIDECAR_PROFILE__NAME": profile})
        assert refusals(settings, catalog.load(settings, TODAY), settings.configured) == []


def test_production_with_all_keys_may_start_and_without_any_may_not() -> None:
    settings = load(None, ALL | PRODUCTION)
    assert refusals(settings, catalog.load(settings, TODAY), settings.configured) == []
    settings = load(None, PRODUCTION)
    found = refusals(settings, catalog.load(settings, TODAY), settings.configured)
    assert len(found) == 22
    assert all("has no model that can be called" in line for line in found)


FREE, PREMIUM = {"plan": "free"}, {"plan": "premium"}
GOLD = {"SIDECAR_PLANS__GOLD__MODELS": "gpt-4.1,claude-sonnet-4"}


@pytest.mark.parametrize(
    ("environ", "node", "requested", "who", "expected"),
    [
        # request, then the user's preference, then MODEL_, then complexity, then the row
        (
            ALL | {"MODEL_ORACLE_HYDE": "gpt-4.1"},
            "oracle.hyde",
            "gpt-5.4",
            {**PREMIUM, "preferred": "gpt-4o", "complexity": "high"},
            ["gpt-5.4", "gpt-4o", "gpt-4.1", "claude-sonnet-4-6", "gpt-4o-mini", "gemini-2.5-flash"],
        ),
        (ALL, "oracle.hyde", "", {"complexity": "low"}, ["gpt-4o-mini", "gemini-2.5-flash", "gpt-4o"]),
        (ALL, "oracle.hyde", "", {"complexity": "medium"}, ["gpt-4o", "gpt-4o-mini", "gemini-2.5-flash"]),
        (
            ALL | {"SIDECAR_TIERS__STRONG": "gpt-4.1"},
            "core.mcp_tool",
            "",
            {"complexity": "high"},
            ["gpt-4.1", "gpt-4o", "claude-sonnet-4-6"],
        ),
        # a wish takes the place of nothing: a node without a row has its service's and profile's models after it
        (ALL | PRODUCTION, "rag.answer", "", {"complexity": "low"}, ["gpt-4o-mini", "gpt-4o", "claude-sonnet-4-6"]),
        (ALL | {"RAG_LLM_MODEL": "gpt-4.1"}, "rag.answer", "", {"complexity": "low"}, ["gpt-4o-mini", "gpt-4.1", "gpt-4o"]),
        # what the plan does not have among its preferred, or a call without a plan, is not the user's to choose
        (ALL, "oracle.hyde", "", {**PREMIUM, "preferred": "gpt-4.1"}, ["gpt-4o-mini", "gemini-2.5-flash", "gpt-4o"]),
        (ALL, "oracle.hyde", "", {"plan": "paid", "preferred": "claude-sonnet-4"}, ["gpt-4o-mini", "gemini-2.5-flash", "gpt-4o"]),
        (ALL, "oracle.hyde", "", {"preferred": "claude-sonnet-4"}, ["gpt-4o-mini", "gemini-2.5-flash", "gpt-4o"]),
        (ALL, "oracle.hyde", "", {**PREMIUM, "preferred": "gone-with-the-settings"}, ["gpt-4o-mini", "gemini-2.5-flash", "gpt-4o"]),
        (ALL, "oracle.hyde", "", {**PREMIUM, "preferred": "openai/gpt-4o"}, ["gpt-4o", "gpt-4o-mini", "gemini-2.5-flash"]),
        # a plan's models alone may answer, whoever asks for another one; where none is left its own stand in
        (ALL, "oracle.hyde", "", FREE, ["gpt-4o-mini", "gemini-2.5-flash"]),
        (ALL, "core.mcp_tool", "", FREE, ["gpt-4o-mini", "gemini-2.5-flash"]),
        (ALL, "core.mcp_tool", "gpt-4o", FREE, ["gpt-4o-mini", "gemini-2.5-flash"]),
        (ALL, "core.mcp_tool", "gemini-2.5-flash", FREE, ["gemini-2.5-flash"]),
        (ALL, "rag.answer", "", {**FREE, "complexity": "high"}, ["gpt-4o-mini", "gemini-2.5-flash"]),
        (ALL | {"MODEL_RAG_ANSWER": "gpt-4o"}, "rag.answer", "", FREE, ["gpt-4o-mini", "gemini-2.5-flash"]),
        (GOOGLE, "rag.answer", "", FREE, ["gemini-2.5-flash"]),
        (CLAUDE, "rag.answer", "", FREE, []),
        (ALL | GOLD, "core.mcp_tool", "", {"plan": "gold"}, ["claude-sonnet-4-6"]),  # retired names mean their successors
        (ALL | GOLD, "oracle.hyde", "", {"plan": "gold"}, ["gpt-4.1", "claude-sonnet-4-6"]),
        (ALL, "oracle.hyde", "", {"plan": "unheard-of"}, ["gpt-4o-mini", "gemini-2.5-flash", "gpt-4o"]),
        # nobody configured: the echo, whatever the plan
        ({}, "core.mcp_tool", "", FREE, ["echo"]),
        # the same model at a service's own provider is the same model
        (OPENAI | {"ORACLE_LLM_API_KEY": "k"}, "oracle.hyde", "", FREE, ["gpt-4o-mini"]),
        # a node without a fallback has one model: the first that is allowed, and wishes before it
        (ALL, "synapse.ner", "", FREE, ["gpt-4o-mini"]),
        (ALL, "vision.nl_to_pivot", "", {"complexity": "low"}, ["gpt-4o-mini", "gpt-4o"]),
        (ALL, "vision.nl_to_pivot", "gpt-4.1", {"complexity": "low"}, ["gpt-4.1"]),
        (ALL, "synapse.ner", "", {**PREMIUM, "preferred": "gemini-2.5-flash"}, ["gpt-4o"]),
    ],
)
def test_order_with_plan_preference_and_complexity(
    environ: dict[str, str], node: str, requested: str, who: dict[str, Any], expected: list[str]
) -> None:
    assert [choice.model.id for choice in wanted(environ, node, requested, **who).choices] == expected


def test_reasons_tell_plan_preference_and_complexity() -> None:
    found = wanted(ALL, "oracle.hyde", "gpt-4.1", plan="premium", preferred="claude-sonnet-4", complexity="medium")
    assert [(choice.reason, choice.fallback, choice.wish) for choice in found.choices][1:4] == [
        ("the user prefers it", True, "user"),
        ("the standard model, for questions of medium complexity", True, "complexity"),
        ("primary of oracle.hyde", True, ""),
    ]
    found = wanted(ALL, "core.mcp_tool", "gpt-4.1", plan="free", preferred="gpt-4o", complexity="high")
    assert [(skipped.model, skipped.reason) for skipped in found.skipped][:4] == [
        ("gpt-4.1", "plan free does not allow it"),
        ("gpt-4o", "the user prefers it, and plan free does not allow it"),
        ("claude-sonnet-4-6", "plan free does not allow it"),
        ("gpt-4o", "plan free does not allow it"),
    ]
    assert found.notices == ("gpt-4.1 was asked for and is not available: plan free does not allow it",)
    assert [(choice.reason, choice.fallback) for choice in found.choices] == [("plan free allows it", True)] * 2
    assert [choice.fallback for choice in wanted(ALL, "core.mcp_tool", plan="free").choices] == [False, True]
    found = wanted(ALL, "synapse.ner", plan="premium", preferred="gemini-2.5-flash")
    assert [skipped.reason for skipped in found.skipped] == ["the user prefers it; it does not guarantee the strict schemas of synapse.ner"]


def test_a_plan_without_an_embedding_model_does_not_limit_embeddings() -> None:
    assert models(wanted(ALL, "rag.answer", embed=True, plan="free"))[0] == "openai/text-embedding-3-small"
    limited = ALL | {"SIDECAR_PLANS__FREE__MODELS": "gpt-4o-mini,gemini-embedding-001"}
    assert models(wanted(limited, "rag.answer", embed=True, plan="free")) == ["google/gemini-embedding-001"]


def test_a_plan_of_the_settings_goes_key_by_key_over_the_shipped_one() -> None:
    plans = load(None, {"SIDECAR_PLANS__FREE__PREFERRED": "gpt-4o-mini", "SIDECAR_PLANS__PREMIUM__MODELS": "gpt-4o,gpt-4.1"}).plans
    assert (plans["free"].models, plans["free"].preferred) == (("gpt-4o-mini", "gemini-2.5-flash"), ("gpt-4o-mini",))
    assert plans["premium"].preferred == ("gpt-4o",)  # the others are outside of its models now
    assert (plans["paid"].models, plans["paid"].preferred) == ((), ())


ENDPOINTS = {"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__EU__API_KEY": "k1", "SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__US__API_KEY": "k2"}


def test_endpoints_are_no_further_choices_and_no_fallback() -> None:
    found = wanted(ENDPOINTS | {"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__US__WEIGHT": "2.5"}, "oracle.hyde")
    assert models(found) == ["openai/gpt-4o-mini", "openai/gpt-4o"]
    assert found.choices[0].endpoints == (("eu", 1.0), ("us", 2.5))
    assert wanted(OPENAI, "oracle.hyde").choices[0].endpoints == ()
    settings = load(None, ENDPOINTS | PRODUCTION)
    refused = refusals(settings, catalog.load(settings, TODAY), settings.configured)
    assert refused == refusals(load(None, OPENAI | PRODUCTION), catalog.load(load(None, OPENAI | PRODUCTION), TODAY), frozenset({"openai"}))
    assert refused


def test_a_service_with_a_key_of_its_own_does_not_call_with_the_endpoints_keys() -> None:
    found = wanted(ENDPOINTS | {"ORACLE_LLM_API_KEY": "k"}, "oracle.sql_generation")
    assert models(found) == ["oracle-openai/gpt-4o"]
    assert found.choices[0].endpoints == ()
