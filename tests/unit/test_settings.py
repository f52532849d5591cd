"""Settings: what is understood, what wins, and every mistake of tests/config in its own words."""

import os
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import catalog
from sidecar.errors import SettingsError
from sidecar.settings import Settings, load
from sidecar.settings.reading import decimal, nearest

TODAY = date(2026, 11, 21)
MISTAKES = sorted((Path(__file__).parent.parent / "config").glob("*.toml"))


def from_text(tmp_path: Path, text: str, **environ: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return load(file, environ)


@pytest.mark.parametrize("file", MISTAKES, ids=lambda file: file.stem)
def test_each_mistake_is_told_in_one_line(file: Path) -> None:
    lines = file.read_text().splitlines()
    environ = dict(line.removeprefix("# env: ").split("=", 1) for line in lines if line.startswith("# env: "))
    (expected,) = (line.removeprefix("# says: ") for line in lines if line.startswith("# says: "))
    with pytest.raises(SettingsError) as caught:
        catalog.load(load(file, environ), TODAY)
    assert str(caught.value).replace(str(file), "FILE") == expected


def test_the_mistakes_are_there() -> None:
    assert len(MISTAKES) > 70


def test_nothing_set_gives_the_documented_defaults() -> None:
    settings = load(None, {})
    assert settings.server.listen == "127.0.0.1:50051"
    assert settings.profile.name == "local"
    assert settings.configured == frozenset()
    assert settings.limits.tenant_day_nano_usd == 30 * 10**9
    assert settings.limits.tenant_day_tokens == 1_000_000
    assert (settings.services["synapse"].concurrency, settings.services["oracle"].concurrency) == (3, 5)
    assert settings.services["oracle"].cache_acceptance == 0.90
    assert settings.notices == ()


def test_a_table_replaces_a_policy_figure_key_by_key(tmp_path: Path) -> None:
    oracle = from_text(tmp_path, "[services.oracle]\nconcurrency = 7\n").services["oracle"]
    assert (oracle.concurrency, oracle.cache_acceptance) == (7, 0.90)


def test_the_environment_wins_over_the_file_and_sidecar_names_over_others(tmp_path: Path) -> None:
    text = '[server]\ngrace_ms = 1000\nreflection = true\n[providers.openai]\napi_key = "file"\n'
    settings = from_text(
        tmp_path,
        text,
        SIDECAR_SERVER__GRACE_MS="2000",
        SIDECAR_SERVER__REFLECTION="false",
        OPENAI_API_KEY="plain",
        SIDECAR_PROVIDERS__OPENAI__API_KEY="own",
    )
    assert (settings.server.grace_ms, settings.server.reflection) == (2000, False)
    assert settings.providers["openai"].api_key == "own"
    assert settings.notices == ("OPENAI_API_KEY is passed over because SIDECAR_PROVIDERS__OPENAI__API_KEY is set too",)


def test_every_key_can_be_a_variable(tmp_path: Path) -> None:
    settings = load(
        None,
        {
            "SIDECAR_PROFILE__FALLBACKS": "claude-sonnet-4, gpt-4o-mini",
            "SIDECAR_PROVIDERS__MY_VLLM__BASE_URL": "http://vllm:8000/v1",
            "SIDECAR_PROVIDERS__MY_VLLM__HEADERS": "X-Team=a,X-Cost=b=c",
            "SIDECAR_NODES__RAG__ANSWER__TEMPERATURE": "0.5",
            "SIDECAR_MODELS__GPT_4O__INPUT": "5.00",
            "SIDECAR_LIMITS__TENANT_DAY_USD": "0.000000001",
            "SIDECAR_MODELS__GPT_4O__RETIRES_ON": "2030-01-01",
        },
    )
    assert settings.profile.fallbacks == ("claude-sonnet-4", "gpt-4o-mini")
    assert settings.providers["my_vllm"].kind == "compatible"
    assert settings.providers["my_vllm"].headers == {"X-Team": "a", "X-Cost": "b=c"}
    assert settings.nodes["rag"]["answer"].temperature == 0.5
    assert settings.limits.tenant_day_nano_usd == 1
    model = catalog.load(settings, TODAY).model("gpt-4o")
    assert (model.prices.input, model.prices.output, model.retires_on) == (5_000_000, 10_000_000, date(2030, 1, 1))


def test_a_variable_finds_the_files_own_spelling(tmp_path: Path) -> None:
    text = '[providers.my-vllm]\nbase_url = "http://a/v1"\n'
    settings = from_text(tmp_path, text, SIDECAR_PROVIDERS__MY_VLLM__BASE_URL="http://b/v1")
    assert settings.providers["my-vllm"].base_url == "http://b/v1"
    assert "my_vllm" not in settings.providers


def test_all_names_of_the_policy_are_understood() -> None:
    settings = load(
        None,
        {
            "DEFAULT_LLM_PROVIDER": "openai",
            "DEFAULT_LLM_MODEL": "gpt-4o-mini",
            "FALLBACK_LLM_PROVIDER": "claude",
            "FALLBACK_LLM_MODEL": "claude-sonnet-4",
            "DEFAULT_EMBEDDING_PROVIDER": "gemini",
            "OPENAI_API_KEY": "o",
            "OPENAI_MODEL": "gpt-4.1",
            "CLAUDE_API_KEY": "c",
            "GEMINI_API_KEY": "g",
            "OLLAMA_BASE_URL": "http://ollama:11434",
            "ORACLE_LLM_PROVIDER": "openai",
            "ORACLE_LLM_MODEL": "gpt-4o",
            "ORACLE_LLM_API_KEY": "oracle-key",
            "ORACLE_LLM_BASE_URL": "http://oracle/v1",
            "ORACLE_EMBEDDING_PROVIDER": "google",
            "ORACLE_EMBEDDING_MODEL": "embedding-001",
            "ORACLE_CONF_THRESHOLD": "0.85",
            "WEAVER_LLM_MODEL": "gpt-4o-mini",
            "MODEL_RAG_ANSWER": "gpt-4o",
            "LANGCHAIN_TRACING_V2": "true",
            "LANGCHAIN_API_KEY": "l",
            "LANGCHAIN_PROJECT": "axiom-core",
            "OTEL_SERVICE_NAME": "sidecar",
        },
    )
    assert settings.profile.primary == "openai/gpt-4o-mini"
    assert settings.profile.fallbacks == ("anthropic/claude-sonnet-4",)
    assert settings.profile.embedding == "google/"
    assert settings.configured == {"openai", "anthropic", "google", "ollama", "oracle-openai"}
    assert settings.providers["openai"].model == "gpt-4.1"
    own = settings.providers["oracle-openai"]
    assert (own.kind, own.service, own.api_key, own.base_url) == ("openai", "oracle", "oracle-key", "http://oracle/v1")
    oracle = settings.services["oracle"]
    assert (oracle.llm, oracle.embedding, oracle.cache_acceptance) == ("oracle-openai/gpt-4o", "google/embedding-001", 0.85)
    assert settings.services["weaver"].llm == "gpt-4o-mini"
    assert settings.node_models == {"rag.answer": "gpt-4o"}
    tracing = settings.tracing
    assert (tracing.langchain, tracing.langchain_api_key, tracing.langchain_project) == (True, "l", "axiom-core")
    assert tracing.otel == {"OTEL_SERVICE_NAME": "sidecar"}
    catalog.load(settings, TODAY)


def test_a_services_own_address_is_never_sent_the_general_key() -> None:
    environ = {"OPENAI_API_KEY": "general", "ORACLE_LLM_PROVIDER": "openai", "ORACLE_LLM_BASE_URL": "http://elsewhere/v1"}
    assert load(None, environ).providers["oracle-openai"].api_key is None


def test_a_services_own_key_keeps_the_general_address(tmp_path: Path) -> None:
    text = '[providers.openai]\nbase_url = "http://proxy/v1"\nconnect_timeout_ms = 100\n'
    own = from_text(tmp_path, text, ORACLE_LLM_API_KEY="k").providers["oracle-openai"]
    assert (own.api_key, own.base_url, own.connect_timeout_ms) == ("k", "http://proxy/v1", 100)


def test_naming_ollama_is_enough_to_use_it() -> None:
    assert load(None, {"DEFAULT_LLM_PROVIDER": "ollama"}).configured == {"ollama"}


def test_empty_variables_count_as_not_set_and_ends_are_trimmed() -> None:
    settings = load(None, {"OPENAI_API_KEY": "", "DEFAULT_LLM_PROVIDER": " ", "GOOGLE_API_KEY": " g\n"})
    assert settings.configured == {"google"}
    assert settings.providers["google"].api_key == "g"


def test_names_that_kubernetes_adds_are_passed_over() -> None:
    environ = {
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_PORT": "tcp://10.0.0.1:50051",
        "SIDECAR_PORT_50051_TCP_ADDR": "10.0.0.1",
        "MODEL_RAG_SERVICE_HOST": "10.0.0.2",
        "MODEL_RAG_PORT": "tcp://10.0.0.2:80",
        "MODEL_RAG_SERVICE_PORT_HTTP": "80",
    }
    settings = load(None, environ)
    assert settings.node_models == {}


def test_a_service_of_several_words_is_known_by_its_table(tmp_path: Path) -> None:
    text = '[nodes.process_mining.explain_it]\nprimary = "gpt-4o"\n'
    settings = from_text(tmp_path, text, MODEL_PROCESS_MINING_EXPLAIN_IT="gpt-4o-mini", MODEL_RAG_LONG_ANSWER="gpt-4o")
    assert settings.node_models == {"process_mining.explain_it": "gpt-4o-mini", "rag.long_answer": "gpt-4o"}


def test_no_secret_is_shown(tmp_path: Path) -> None:
    text = '[providers.mine]\nbase_url = "http://a/v1"\napi_key = "hush-1"\nheaders = { Authorization = "hush-2" }\n'
    settings = from_text(tmp_path, text, OPENAI_API_KEY="hush-3", LANGCHAIN_API_KEY="hush-4", OTEL_EXPORTER_OTLP_HEADERS="key=hush-5")
    assert "hush" not in repr(settings)


def test_an_endpoint_has_what_its_provider_has_where_it_says_nothing(tmp_path: Path) -> None:
    text = """
[providers.openai]
api_key = "hush-0"
headers = { X-Team = "a", X-Region = "none" }
connect_timeout_ms = 700
[providers.openai.endpoints.eu]
base_url = "http://eu/v1"
headers = { X-Region = "hush-2" }
"""
    openai = from_text(tmp_path, text, SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__KEY2__API_KEY="hush-1").providers["openai"]
    eu, key2 = openai.at("eu"), openai.at("key2")
    assert (eu.name, eu.kind, eu.api_key, eu.base_url, eu.connect_timeout_ms) == ("openai#eu", "openai", "hush-0", "http://eu/v1", 700)
    assert eu.headers == {"X-Team": "a", "X-Region": "hush-2"}
    assert (key2.name, key2.api_key, key2.base_url, key2.headers) == ("openai#key2", "hush-1", None, openai.headers)
    assert "hush" not in repr((openai, openai.endpoints, eu))


def test_a_provider_is_configured_when_its_endpoints_are() -> None:
    keyed = load(None, {"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__EU__API_KEY": "k"})
    assert keyed.configured == frozenset({"openai"})
    assert keyed.providers["openai"].has_key
    without = load(None, {"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__EU__WEIGHT": "2"})
    assert without.configured == frozenset()
    assert not without.providers["openai"].has_key
    servers = load(None, {"SIDECAR_PROVIDERS__VLLM__ENDPOINTS__ONE__BASE_URL": "http://one/v1"})
    assert servers.configured == frozenset({"vllm"})


@pytest.mark.parametrize("content", [b"\xff", "folder"])
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes | str) -> None:
    file = tmp_path / "settings.toml"
    if isinstance(content, bytes):
        file.write_bytes(content)
        expected = f"{file}: is not UTF-8 text: byte 0 is 0xff"
    else:
        file.mkdir()
        expected = f"{file}: cannot be read: {os.strerror(21)}"
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    assert str(caught.value) == expected


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", {})


@given(st.integers(0, 10**9 - 1), st.integers(0, 10**6 - 1))
def test_decimal_text_becomes_the_exact_number(whole: int, micro: int) -> None:
    assert decimal(f"{whole}.{micro:06d}", 6) == whole * 10**6 + micro


@pytest.mark.parametrize("text", ["", "1,5", "1.", ".5", "1e3", "+1", "-1", " 1", "1.0000001", "٣", "1_000", "9999999999"])
def test_what_is_no_plain_decimal_is_refused(text: str) -> None:
    assert decimal(text, 6) is None


@given(
    st.dictionaries(
        st.sampled_from(["SIDECAR_SERVER__LISTEN", "OPENAI_MODEL", "MODEL_A_B", "ORACLE_LLM_PROVIDER", "OLLAMA_BASE_URL"]), st.text()
    )
)
def test_whatever_the_environment_says_there_is_no_other_error(environ: dict[str, str]) -> None:
    with suppress(SettingsError):
        catalog.load(load(None, environ), TODAY)


def test_every_provider_kind_has_a_default_in_its_own_words() -> None:
    from sidecar.settings.kinds import Kind
    from sidecar.settings.variables import KINDS

    assert get_args(Kind) == KINDS


def test_a_model_variable_without_a_node_is_told() -> None:
    settings = load(None, {"MODEL_ORACLE": "gpt-4o"})
    assert settings.node_models == {}
    assert settings.notices == (
        "MODEL_ORACLE names no node and is passed over; expected MODEL_<SERVICE>_<NODE>, or ORACLE_LLM_MODEL for a whole service",
    )


@pytest.mark.parametrize(("name", "near"), [("nope", ""), ("opnai", "openai"), ("gpt4o", "gpt-4o"), ("vlm", "vllm"), ("xyz", "")])
def test_the_nearest_name_is_near(name: str, near: str) -> None:
    assert nearest(name, ["openai", "anthropic", "google", "gpt-4o", "vllm"]) == (f'; did you mean "{near}"?' if near else "")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ORACLE_CONF_THRESHOLD": "0.9"}, []),
        ({"LANGCHAIN_TRACING_V2": "true", "LANGCHAIN_PROJECT": "p", "OTEL_SERVICE_NAME": "s"}, ["LANGCHAIN_TRACING_V2"]),
        ({"OTEL_SERVICE_NAME": "s"}, ["OTEL_SERVICE_NAME"]),
        ({}, []),
    ],
)
def test_settings_that_do_nothing_yet_are_told_when_set(environ: dict[str, str], told: list[str]) -> None:
    notices = load(None, environ).notices
    assert [notice.split()[0] for notice in notices] == told
    assert all("does nothing yet" in notice for notice in notices)


def test_a_file_is_told_too_what_does_nothing_yet(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[services.rag]\ncache_acceptance = 0.9\n[tracing]\nlangchain = true\n")
    assert [notice.split(" does nothing yet")[0] for notice in load(file, {}).notices] == [
        f"{file}: tracing",
    ]


def test_secrets_of_alerts_come_from_variables_too_and_are_never_shown(tmp_path: Path) -> None:
    secrets = {
        "SIDECAR_ALERTS__CHAT_URL": "https://hooks.example.com/T0/B0/hunter2",
        "SIDECAR_ALERTS__WEBHOOK_URL": "https://example.com/alerts?sig=hunter2",
        "SIDECAR_ALERTS__WEBHOOK_KEY": "whsec_aHVudGVyMmh1bnRlcjI=",
        "SIDECAR_ALERTS__MAIL__PASSWORD": "hunter2",
        "SIDECAR_ALERTS__MAIL__RECIPIENTS": "ops@example.com, boss@example.com",
    }
    text = '[alerts.mail]\nserver = "smtp.example.com:587"\nuser = "sidecar"\nsender = "sidecar@example.com"\n'
    settings = from_text(tmp_path, text, **secrets)
    assert settings.alerts.chat_url == secrets["SIDECAR_ALERTS__CHAT_URL"]
    assert settings.alerts.mail.recipients == ("ops@example.com", "boss@example.com")
    assert "hunter2" not in repr(settings.alerts)
    assert "aHVudGVyMmh1bnRlcjI" not in repr(settings.alerts)
    assert settings.notices == ()


def test_alerts_that_go_unencrypted_are_told_of(tmp_path: Path) -> None:
    local = 'webhook_url = "http://127.0.0.1:9/"\nwebhook_key = "0123456789abcdef"\n'
    text = f'[alerts]\nchat_url = "http://chat.example.com/hooks/hunter2"\n{local}'
    (notice,) = from_text(tmp_path, text).notices
    assert "alerts.chat_url: alerts go over the network unencrypted" in notice
    assert "hunter2" not in notice
