"""Two answers that say the same, and pairs that nearly do."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sidecar.answer import Answer
from sidecar.call import Chunk, ToolDelta
from sidecar.policies.same_answer import same_answer


def answer(text="", finish="stop", calls=()):
    found = Answer()
    deltas = tuple(ToolDelta(number, f"id{number}", name, arguments) for number, (name, arguments) in enumerate(calls))
    found.add(Chunk(text=text, finish=finish, tool_calls=deltas, last=True))
    return found


PAIRS = Path(__file__).parents[3] / "tools" / "verifier" / "pairs"
ANSWERS = Path(__file__).parent / "answer_pairs.jsonl"
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
        (LONG, LONG.replace("choose the tab", "then choose tab").replace("saved.", "saved!")),
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


def test_no_labelled_pair_that_asks_something_else_is_the_same():
    """The verifier's own traps, as if they were answers: one word that matters, or reworded."""
    traps = 0
    for file in sorted(PAIRS.glob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            seed = msgspec.json.decode(line)
            for trap in seed["traps"]:
                traps += 1
                assert same_answer(answer(seed["text"]), answer(trap["text"])) != "", (seed["text"], trap["text"])
    assert traps > 3_000


@pytest.mark.parametrize(("how", "found"), [("exact", (1, 0)), ("auto", (2, 0))])
def test_of_hand_written_pairs_none_that_differs_is_the_same(how, found):
    """How many of 40 that say the same, and of 40 that do not, half of each in Korean, are taken for the same: what the docstring says."""
    pairs = [msgspec.json.decode(line) for line in ANSWERS.read_text("utf-8").splitlines()]
    assert [sum(pair["same"] is same for pair in pairs) for same in (True, False)] == [40, 40]
    taken = [pair["same"] for pair in pairs if not same_answer(answer(pair["one"]), answer(pair["other"]), how)]
    assert (taken.count(True), taken.count(False)) == found


def test_tool_calls_and_ends_count_too():
    calls = [("find", '{"a": 1, "b": 2}')]
    assert same_answer(answer(calls=calls), answer(calls=[("find", '{"b":2,"a":1}')])) == ""
    assert same_answer(answer(calls=calls), answer(calls=[("find", '{"a": 1, "b": 3}')])) == "tool calls"
    assert same_answer(answer(calls=calls), answer(calls=[("drop", '{"a": 1, "b": 2}')])) == "tool calls"
    assert same_answer(answer(calls=calls), answer()) == "tool calls"
    assert same_answer(answer("a", finish="refusal"), answer("a")) == "finish"
