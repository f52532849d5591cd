"""How hard a question looks: each line of the table, alone and in sum."""

import pytest

from sidecar.policies.complexity import estimate
from sidecar.request import Image, Message, Text, ToolResult


def asked(*texts, **facts):
    turns = [Message("user", (Text(text),)) for text in texts]
    return estimate(turns, **{"has_tools": False, "is_strict": False, **facts})


HARD = "Analyse why the two designs differ, compare their trade-offs and prove which of them is right."  # 3: several words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", "low"),
        ("안녕하세요", "low"),
        ("What is the capital of Korea?", "low"),
        ("Translate to Korean: good morning", "low"),
        ("Why is the sky blue?", "medium"),
        ("하늘은 왜 파란가요?", "medium"),
        ("그림이 왜곡되었다", "low"),
        ("Think step by step.", "medium"),
        ("이 데이터를 분석해 주세요", "medium"),
        ("select name from users where id = 1", "medium"),
        ("select the best of these", "low"),
        ("```\nx = 1\n```", "medium"),
        ("Why does this fail? def f(x): return x", "high"),
        ("왜 느린가요? SELECT * FROM t GROUP BY a", "high"),
        (HARD, "medium"),
        (HARD + " def f(x)", "high"),
        ("x" * 2_001, "low"),
        ("Why? " + "x" * 2_001, "medium"),
        ("Why? " + "x" * 16_001, "high"),
        ("가" * 667, "low"),  # three bytes each: over 2,000
        ("요약해 주세요. " + "가" * 700, "low"),
        ("summarise: " + "x" * 20_000, "low"),  # 2 for its length, less 1
        ("Summarise why they failed: " + "x" * 20_000, "high"),
    ],
)
def test_words_and_length(text, expected):
    assert asked(text) == expected


@pytest.mark.parametrize("fact", ["has_tools", "is_strict"])
def test_tools_and_strict_schemas_count(fact):
    assert asked("hello", **{fact: True}) == "low"
    assert asked("hello", has_tools=True, is_strict=True) == "medium"
    assert asked(HARD, **{fact: True}) == "high"


def test_images_tool_results_and_many_turns_count():
    image = Message("user", (Text("hello"), Image(url="http://x/y.png")))
    result = Message("tool", (ToolResult("1", "f", "2"),))
    assert estimate([image], has_tools=False, is_strict=False) == "low"
    assert estimate([image, result, image], has_tools=False, is_strict=False) == "medium"
    assert estimate([image, result, image], has_tools=True, is_strict=False) == "medium"  # tools are one point, offered or used
    assert asked(*["hello"] * 5, is_strict=True) == "medium"
    assert asked(*["hello"] * 4, is_strict=True) == "low"


def test_only_the_last_message_is_searched_at_both_its_ends():
    assert asked(HARD + " def f(x)", "hello") == "low"
    assert asked("hello", HARD + " def f(x)") == "high"
    assert asked("x " * 3_000 + "why") == asked("why " + "x " * 3_000) == "medium"
    assert estimate([Message("system", (Text(HARD),)), Message("user", (Text("hi"),))], has_tools=False, is_strict=False) == "low"
    assert estimate([Message("assistant", (Text(HARD),))], has_tools=False, is_strict=False) == "low"


@pytest.mark.parametrize("text", ["select " * 600_000, "function" + " " * 4_000_000, "import a" + ".a" * 2_000_000, "select\n" * 600_000])
def test_a_hostile_text_is_searched_at_its_ends_only(text):
    assert asked(text) == "medium"  # for its length; a search of it all would not end
