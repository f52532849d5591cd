"""The shipped data against the written policy, and what retires when."""

from datetime import date

import pytest

from sidecar import catalog
from sidecar.call import Usage
from sidecar.catalog import Catalog, Prices
from sidecar.errors import UnknownModel
from sidecar.providers import echo
from sidecar.settings import Settings, load

TODAY = date(2026, 11, 21)

# service.node, primary, fallback, temperature, most output tokens, accuracy, structured
POLICY = """
core.process_definition gpt-4o claude-sonnet-4 0.0 4096 high -
core.react_agent gpt-4o claude-sonnet-4 0.0 4096 high -
core.feedback_learning gpt-4o claude-sonnet-4 0.0 4096 high -
core.document_structuring gpt-4o none 0.0 4096 high -
core.bpmn_extraction gpt-4o claude-sonnet-4 0.0 4096 high -
core.mcp_tool gpt-4o claude-sonnet-4 0.0 4096 high -
core.saga_compensation gpt-4o claude-sonnet-4 0.0 4096 high -
core.data_classification gpt-4o gpt-4o-mini 0.0 4096 medium -
oracle.sql_generation gpt-4o claude-sonnet-4 0.1 4096 highest -
oracle.hyde gpt-4o-mini gemini-2.0-flash 0.3 1024 low -
oracle.intent gpt-4o-mini gemini-2.0-flash 0.1 512 medium -
oracle.quality_gate gpt-4o claude-sonnet-4 0.3 1024 high -
oracle.summary gpt-4o-mini gemini-2.0-flash 0.3 1024 low -
oracle.value_mapping gpt-4o claude-sonnet-4 0.1 2048 high -
oracle.embedding text-embedding-3-small embedding-001 None None high -
vision.nl_to_pivot gpt-4o none 0.0 4096 high json_object
vision.causal_explanation gpt-4o claude-sonnet-4 0.0 4096 medium -
synapse.ner gpt-4o none 0.0 4096 highest strict_schema
synapse.relation gpt-4o none 0.0 4096 highest strict_schema
weaver.metadata gpt-4o gpt-4o-mini 0.1 4096 medium -
weaver.fk_inference gpt-4o gpt-4o-mini 0.1 4096 low -
"""


def shipped(today: date = TODAY, **environ: str) -> Catalog:
    return catalog.load(load(None, environ), today)


def test_the_portfolio_is_the_policys() -> None:
    found = []
    for key, node in shipped().nodes.items():
        row = (
            node.primary,
            *(node.fallbacks or ("none",)),
            node.temperature,
            node.max_output_tokens,
            node.accuracy,
            node.structured or "-",
        )
        found.append(" ".join(map(str, (key, *row))))
    assert found == POLICY.split("\n")[1:-1]
    assert all(node.fallback_allowed == bool(node.fallbacks) for node in shipped().nodes.values())


def test_strict_nodes_and_their_model_agree() -> None:
    known = shipped()
    for node in known.nodes.values():
        if node.structured == "strict_schema":
            assert "strict_schema" in known.model(node.primary).capabilities


def test_every_listed_price_has_its_day_and_every_model_its_limits() -> None:
    for model in shipped().models.values():
        assert model.as_of is not None, model.id
        assert model.prices.is_known
        assert model.context_tokens > model.max_output_tokens >= 0
        assert (model.max_output_tokens > 0) == ("generate" in model.capabilities)
        assert "embed" not in model.capabilities or model.dimensions


def test_a_chain_of_successors_ends_at_a_model_that_lives() -> None:
    far = shipped(today=date(2028, 1, 1))
    assert {name: model.id for name, model in far.successors.items()} == {
        "gpt-4o": "gpt-5.4",
        "gpt-4o-mini": "gpt-5.4-mini",
        "gpt-4.1": "gpt-5.4",
        "claude-sonnet-4": "claude-sonnet-4-6",
        "gemini-2.0-flash": "gemini-3.5-flash-lite",
        "gemini-2.5-flash": "gemini-3.5-flash-lite",
    }


@pytest.mark.parametrize(("today", "answers"), [(date(2026, 5, 31), "gemini-2.0-flash"), (date(2026, 6, 1), "gemini-2.5-flash")])
def test_a_model_has_retired_on_its_day(today: date, answers: str) -> None:
    assert shipped(today=today).model("gemini-2.0-flash").id == answers


def test_retired_names_in_use_are_told_with_who_names_them() -> None:
    (hyde,) = (notice for notice in shipped().notices if notice.startswith("gemini-2.0-flash"))
    assert hyde == (
        "gemini-2.0-flash retired on 2026-06-01; gemini-2.5-flash answers in its place for oracle.hyde, oracle.intent, oracle.summary "
        "(catalog.pin keeps the old name)"
    )


def test_a_pinned_name_stays() -> None:
    known = shipped(SIDECAR_CATALOG__PIN="gemini-2.0-flash")
    assert known.model("gemini-2.0-flash").id == "gemini-2.0-flash"
    assert known.model("claude-sonnet-4").id == "claude-sonnet-4-6"
    assert any("gemini-2.0-flash retired on 2026-06-01 and is called all the same" in notice for notice in known.notices)


@pytest.mark.parametrize(
    ("ref", "id"),
    [
        ("gpt-4o", "gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("openai/", "gpt-4o"),
        ("claude/", "claude-sonnet-4-6"),
        ("anthropic/claude-sonnet-4", "claude-sonnet-4-6"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-6"),
        ("embedding-001", "gemini-embedding-001"),
        ("gemini/embedding-001", "gemini-embedding-001"),
        ("ollama/", "llama3.2"),
        ("echo/echo", "echo"),
        ("vllm/meta-llama/Llama-3-8B", "vllm/meta-llama/Llama-3-8B"),
        ("vllm/", "vllm/own"),
        ("ollama/phi4:latest", "ollama/phi4:latest"),
    ],
)
def test_names_of_models(ref: str, id: str) -> None:
    known = shipped(SIDECAR_PROVIDERS__VLLM__BASE_URL="http://vllm/v1", SIDECAR_PROVIDERS__VLLM__MODEL="own")
    assert known.model(ref).id == id


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("gpt-4oo", 'no model is called "gpt-4oo"; did you mean "gpt-4o"?'),
        ("zzz", 'no model is called "zzz"; a model of your own server is asked for as <provider>/<model>'),
        ("", 'no model is called ""; a model of your own server is asked for as <provider>/<model>'),
        ("opnai/gpt-4o", 'no provider is called "opnai" (in "opnai/gpt-4o"); did you mean "openai"?'),
        (
            "openai/gpt-4oo",
            'provider "openai" has no model "gpt-4oo" in the catalogue; did you mean "gpt-4o"? (new ones go under [models] in settings)',
        ),
        ("/x", 'no provider is called "" (in "/x"); known: anthropic, echo, google, ollama, openai'),
    ],
)
def test_names_that_mean_nothing(ref: str, message: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        shipped().model(ref)
    assert str(caught.value) == message
    assert caught.value.field == "model"


def test_an_unlisted_model_has_stated_defaults_and_no_price() -> None:
    model = shipped().model("ollama/phi4")
    assert (model.context_tokens, model.max_output_tokens, model.tokenizer, model.is_listed) == (128_000, 16_384, "estimate", False)
    assert not model.prices.is_known
    assert {"generate", "embed", "tools"} <= model.capabilities
    assert not {"strict_schema", "strict_tools"} & model.capabilities


def test_settings_price_a_model_of_an_own_server() -> None:
    known = shipped(
        SIDECAR_PROVIDERS__VLLM__BASE_URL="http://vllm/v1",
        SIDECAR_MODELS__QWEN__PROVIDER="vllm",
        SIDECAR_MODELS__QWEN__NAME="Qwen/Qwen3-8B",
        SIDECAR_MODELS__QWEN__INPUT="0.10",
        SIDECAR_MODELS__QWEN__OUTPUT="0.30",
    )
    for ref in ("qwen", "vllm/qwen", "vllm/Qwen/Qwen3-8B", "Qwen/Qwen3-8B"):
        model = known.model(ref)
        assert (model.name, model.provider, model.prices.output, model.is_listed) == ("Qwen/Qwen3-8B", "vllm", 300_000, True)


def test_a_services_own_provider_serves_the_catalogues_models() -> None:
    known = shipped(ORACLE_LLM_API_KEY="k")
    model = known.model("oracle-openai/gpt-4o-mini")
    assert (model.id, model.provider) == ("gpt-4o-mini", "oracle-openai")


def test_a_new_node_and_a_changed_one() -> None:
    known = shipped(SIDECAR_NODES__RAG__ANSWER__PRIMARY="gpt-4o-mini", SIDECAR_NODES__ORACLE__HYDE__TEMPERATURE="0.9")
    answer, hyde = known.node("rag", "answer"), known.node("oracle", "hyde")
    assert (answer.primary, answer.fallback_allowed, answer.temperature, answer.is_listed) == ("gpt-4o-mini", True, None, True)
    assert (hyde.temperature, hyde.primary, hyde.max_output_tokens) == (0.9, "gpt-4o-mini", 1024)
    assert not known.node("rag", "other").is_listed


@pytest.mark.parametrize(
    ("profile", "models", "embeddings"),
    [
        ("local", ("ollama/", "openai/"), ("openai/", "google/")),
        ("staging", ("openai/",), ("openai/",)),
        ("production", ("openai/", "anthropic/"), ("openai/", "google/")),
    ],
)
def test_profiles(profile: str, models: tuple[str, ...], embeddings: tuple[str, ...]) -> None:
    found = shipped(SIDECAR_PROFILE__NAME=profile).profile
    assert (found.models, found.embeddings) == (models, embeddings)


def test_a_preferred_order_takes_the_place_of_the_profiles_chain() -> None:
    assert shipped(SIDECAR_PROFILE__PREFERRED="gemini,openai,claude").profile.models == ("gemini/", "openai/", "claude/")
    both = shipped(SIDECAR_PROFILE__PREFERRED="gemini,openai", DEFAULT_LLM_MODEL="gpt-4o-mini")
    assert both.profile.models == ("gpt-4o-mini", "gemini/", "openai/")


def test_cost_is_exact_and_rounded_up_once() -> None:
    sonnet = shipped().model("claude-sonnet-4-6").prices
    usage = Usage(1000, 2000, 500, 200, 300, 50)
    # 1000 x 3.00 + 2000 x 0.30 + 300 x 3.75 + 200 x 6.00 + 350 x 15.00 USD per million
    assert sonnet.cost(usage) == 3_000_000 + 600_000 + 1_125_000 + 1_200_000 + 5_250_000
    assert Prices(input=1).cost(Usage(input_tokens=1)) == 1
    assert Prices(input=1, output=1).cost(Usage(input_tokens=600, output_tokens=400)) == 1
    assert Prices(input=1, output=1).cost(Usage(input_tokens=600, output_tokens=401)) == 2
    assert Prices().cost(Usage()) == 0


def test_the_most_it_can_cost_is_never_below_the_cost_without_cache_writes() -> None:
    for model in shipped().models.values():
        for usage in (Usage(10, 5, 0, 0, 7, 3), Usage(15, 0, 0, 0, 10, 0), Usage(0, 15, 0, 0, 0, 10)):
            assert model.prices.most(15, 10) >= model.prices.cost(usage)


def test_echo_costs_nothing_and_says_so() -> None:
    prices = shipped().model("echo/").prices
    assert prices.is_known
    assert prices.cost(Usage(1000, 0, 0, 0, 1000, 0)) == 0


def test_echos_row_is_what_the_provider_can_do() -> None:
    assert shipped().model("echo").capabilities == echo.FEATURES


def test_circles_of_successors_end() -> None:
    environ = {"SIDECAR_MODELS__GPT_5_4__SUCCESSOR": "gpt-4o", "SIDECAR_MODELS__GPT_5_4__RETIRES_ON": "2026-01-01"}
    known = catalog.load(load(None, environ), date(2028, 1, 1))
    assert known.model("gpt-4o").id in ("gpt-4o", "gpt-5.4")


def test_providers_know_their_names() -> None:
    assert [name for name, provider in load(None, {"OLLAMA_BASE_URL": "http://o"}).providers.items() if provider.name != name] == []


def test_settings_made_without_a_file_are_whole() -> None:
    assert catalog.load(Settings(), TODAY).nodes == shipped().nodes
    assert Settings().services == load(None, {}).services
