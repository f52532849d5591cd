"""What callers are told to do when nobody answers: the policy's rows, what settings lay over them, and the language."""

from __future__ import annotations

import pytest

from sidecar.policies.degradation import Degradations
from sidecar.settings import SERVICES, load


def degradations(tmp_path, text="", **environ):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return Degradations(load(file, environ))


@pytest.mark.parametrize(
    ("service", "action", "most_retries", "code", "words"),
    [
        ("core", "restore_todo", 0, "", ("TODO", "notified", "알림")),
        ("oracle", "sql_direct_input", 0, "LLM_UNAVAILABLE", ("SQL", "direct input", "직접 입력")),
        ("vision", "manual_pivot_builder", 0, "", ("manual pivot builder", "수동 피벗 빌더")),
        ("synapse", "requeue", 1, "", ("queue", "대기열")),
        ("weaver", "skip", 0, "", ("next batch", "다음 배치")),
        ("canvas", "retry_button", 2, "", ("twice", "empty template", "plain table", "최대 2회", "빈 템플릿", "기본 표")),
        ("rag", "retry_later", 1, "", ("try again", "다시 시도")),
        ("", "retry_later", 1, "", ("without it", "AI 없이")),
    ],
)
def test_policy(tmp_path, service, action, most_retries, code, words):
    found = degradations(tmp_path)
    english, korean = found.of(service, "any"), found.of(service, "any", "ko")
    for advice in (english, korean):
        assert (advice.action, advice.most_retries, advice.code, advice.http_status) == (action, most_retries, code, 503)
    assert (english.language, korean.language) == ("en", "ko")
    assert english.message.isascii()
    for word in words:
        assert word in (english if word.isascii() else korean).message
    assert len(korean.message.encode()) <= 512  # what a status has room for


def test_every_service_of_the_policy_has_a_row(tmp_path):
    found = degradations(tmp_path)
    assert all(found.of(service, "").action != "retry_later" for service in SERVICES)


OVER = """
[services.oracle.degradation]
http_status = 502
message_en = "Ask the help desk."

[nodes.oracle.summary.degradation]
action = "show_rows"
most_retries = 4

[services.rag.degradation]
action = "show_documents"

[nodes.shop.answer.degradation]
code = "NO_AI"

[nodes.oracle.hyde]
temperature = 0.5
"""


def test_settings_win_key_by_key_and_a_node_over_its_service(tmp_path):
    found = degradations(tmp_path, OVER)
    service = found.of("oracle", "intent")
    assert (service.action, service.http_status, service.message) == ("sql_direct_input", 502, "Ask the help desk.")
    assert service.code == "LLM_UNAVAILABLE"
    assert "직접 입력" in found.of("oracle", "intent", "ko").message
    node = found.of("oracle", "summary")
    assert (node.action, node.most_retries, node.http_status, node.message) == ("show_rows", 4, 502, "Ask the help desk.")
    assert found.of("oracle", "hyde") == service  # a row that says nothing of it
    rag, default = found.of("rag", "answer"), found.of("other", "answer")
    assert (rag.action, rag.message) == ("show_documents", default.message)
    shop = found.of("shop", "answer")
    assert (shop.code, shop.action) == ("NO_AI", "retry_later")
    assert found.of("shop", "other") == default


def test_every_key_can_be_a_variable(tmp_path):
    found = degradations(
        tmp_path, SIDECAR_SERVICES__CANVAS__DEGRADATION__MOST_RETRIES="3", SIDECAR_NODES__RAG__ANSWER__DEGRADATION__CODE="X"
    )
    assert found.of("canvas", "").most_retries == 3
    assert found.of("canvas", "").action == "retry_button"
    assert found.of("rag", "answer").code == "X"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("ko", "ko"),
        ("KO-kr", "ko"),
        ("ko-Hang-KR", "ko"),
        ("en-US,en;q=0.9", "en"),
        ("en;q=0.4, ko;q=0.5", "ko"),
        ("ko;q=0.5,en;q=0.5", "ko"),
        ("fr, de;q=0.9, ko ; q=0.1", "ko"),
        ("ko;q=0, en;q=0.001", "en"),
    ],
)
@pytest.mark.parametrize("usual", ["en", "ko"])
def test_language_that_the_caller_reads(tmp_path, accepted, language, usual):
    found = degradations(tmp_path, f'[server]\nlanguage = "{usual}"\n')
    assert found.of("core", "", accepted).language == language


@pytest.mark.parametrize(
    "accepted", ["", "*", "fr", "ko;q=0", "ko;q=much", "kok", "english", "ko_KR", ",,;", "ko;q=0.5;x=1", "\x00" * 9_000]
)
@pytest.mark.parametrize("usual", ["en", "ko"])
def test_language_of_settings_where_the_caller_names_none_of_ours(tmp_path, accepted, usual):
    found = degradations(tmp_path, f'[server]\nlanguage = "{usual}"\n')
    assert found.of("core", "", accepted).language == usual
