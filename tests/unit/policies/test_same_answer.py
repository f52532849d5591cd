"""Two answers that say the same, and pairs that nearly do."""

from __future__ import annotations

import pytest

from sidecar.answer import Answer
from sidecar.call import Chunk, ToolDelta
from sidecar.policies.same_answer import same_answer


def answer(text="", finish="stop", calls=()):
    found = Answer()
    deltas = tuple(ToolDelta(number, f"id{number}", name, arguments) for number, (name, arguments) in enumerate(calls))
    found.add(Chunk(text=text, finish=finish, tool_calls=deltas, last=True))
    return found


LONG = (
    "You can change your billing address in the account settings. Open the page of your profile, choose the tab for billing, and write the "
    "new address into the form. The change holds from the next invoice on, and we will send you a message when it has been saved."
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Your order ships in 3 days.", "your order  ships in 3 days!"),
        ("환불은 영업일 5일 걸립니다.", "환불은 영업일 5일 걸립니다"),
        ('{"a": 1, "b": [1, 2], "c": "x y"}', '{"b":[1,2.0],"c":"x  y","a":1}'),
        ('{"a": 1}', '```json\n{"a":1}\n```'),
        (LONG, LONG.replace("choose the tab", "then choose the tab").replace("and we will", "and we shall")),
        ("👍", "👍 "),
        ("", ""),
    ],
)
def test_same(one, other):
    assert same_answer(answer(one), answer(other)) == ""
    assert same_answer(answer(other), answer(one)) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("billing", "refund"),
        ("Yes, you can.", "No, you cannot."),
        ("Yes", ""),
        ("네", "아니요"),
        ("Your order ships in 3 days.", "Your order ships in 5 days."),
        ("Transfer 5 from A to B", "Transfer 5 from B to A"),
        ("if a < b", "if a > b"),
        ("it is -5 degrees", "it is 5 degrees"),
        ("환불은 영업일 5일 걸립니다.", "환불은 영업일 7일 걸립니다."),
        ("서울 지점은 오늘 엽니다 그리고 부산 지점은 내일 엽니다", "부산 지점은 오늘 엽니다 그리고 서울 지점은 내일 엽니다"),
        (LONG, LONG.replace("You can change", "You cannot change")),
        (LONG, LONG.replace("next invoice", "Next Invoice of Acme")),
        (LONG, LONG[:140]),
        (LONG * 40, (LONG * 40).replace("tab", "page")),
        (f"select name, {LONG} from users", f"select email, {LONG} from users"),
        (f"{LONG}\n```\nx = a\n```", f"{LONG}\n```\nx = b\n```"),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": [1, 2]}', '{"a": [2, 1]}'),
        ('{"a": 1}', "a is 1"),
        ("👍", "👎"),
        ("a \ud800 b c d e f g h i j k l", "a \ud800 b c d e f g h i j k m"),
    ],
)
def test_not_the_same(one, other):
    assert same_answer(answer(one), answer(other)) != ""
    assert same_answer(answer(other), answer(one)) != ""


def test_code_is_compared_but_for_white_space():
    assert same_answer(answer("SELECT  a\n FROM b"), answer("SELECT a FROM b"), "exact") == ""
    assert same_answer(answer("SELECT a FROM b"), answer("select a FROM b"), "exact") == "text"
    assert same_answer(answer("SELECT a FROM b"), answer("SELECT a FROM b;"), "exact") == "text"


def test_share_of_words_is_settable():
    other = LONG.replace("billing address", "postal location").replace("write", "type")
    assert same_answer(answer(LONG), answer(other)) == ""
    assert same_answer(answer(LONG), answer(other), least_overlap=0.99) == "words"


def test_tool_calls_and_ends_count_too():
    calls = [("find", '{"a": 1, "b": 2}')]
    assert same_answer(answer(calls=calls), answer(calls=[("find", '{"b":2,"a":1}')])) == ""
    assert same_answer(answer(calls=calls), answer(calls=[("find", '{"a": 1, "b": 3}')])) == "tool calls"
    assert same_answer(answer(calls=calls), answer(calls=[("drop", '{"a": 1, "b": 2}')])) == "tool calls"
    assert same_answer(answer(calls=calls), answer()) == "tool calls"
    assert same_answer(answer("a", finish="refusal"), answer("a")) == "finish"
