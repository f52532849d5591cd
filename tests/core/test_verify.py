"""The verifier's vetoes by the table that Rust reads too, and the index of prompts case by case."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidecar._core import Candidate, PromptIndex, compare


def rows(name: str) -> list[list[str]]:
    lines = (Path(__file__).parent / "tables" / name).read_text("utf-8").splitlines()
    return [line.split(" | ") for line in lines if line and not line.startswith("#")]


CASES = rows("verify.txt")


@pytest.mark.parametrize(("expected", "asked", "stored"), CASES)
def test_each_line_of_the_table(expected: str, asked: str, stored: str) -> None:
    for verdict in (compare(asked, stored), compare(stored, asked)):
        assert (verdict.veto or "same") == expected, verdict
        assert (verdict.score == 0) == bool(verdict.veto)


def test_prompts_of_other_subjects() -> None:
    wrong = [row for row in rows("verify_subjects.txt") if (compare(row[1], row[2]).score >= 0.95) != (row[0] == "same")]
    assert wrong == []


def test_a_verdict_explains_itself() -> None:
    refused = compare("Send $500 to Kim", "Send $5,000 to Kim")
    assert (refused.score, refused.veto) == (0.0, "money")
    assert "500" in " ".join(refused.deciding)
    near = compare("How do I cancel my order?", "What is the way to call off the order?")
    assert near.veto == ""
    assert near.features["matched_least"] == 1.0
    assert math.isnan(near.features["cosine"])
    assert compare("a", "b", 0.25).features["cosine"] == 0.25
    assert list(near.features) == list(refused.features)
    assert compare("Hello, World!", "hello,  world").score == 1.0
    assert compare("", "").score == 1.0
    assert compare("계좌 잔액 보여줘", "계좌잔액보여줘").score > 0.99


@pytest.mark.parametrize("text", ["", " ", "?", "👍", "\ud800", "\u200b", "x" * 1_000_000, "\0", "안", "5", "'", "No.", "٣"])
def test_whatever_is_asked_has_an_answer(text: str) -> None:
    index = PromptIndex(3)
    index.add("p", 1, text)
    assert compare(text, text).score == 1.0
    assert compare(text, "How do I cancel my order?").score < 0.5
    assert [(found.key, found.score) for found in index.candidates("p", text)] == [(1, 1.0)]


def test_look_alikes_of_another_script_are_not_the_same() -> None:
    assert compare("pay the bill", "p\u0430y the bill").score == 0


def keys(found: list[Candidate]) -> list[int]:
    return [entry.key for entry in found]


def test_the_index_ranks_by_score_and_keeps_partitions_apart() -> None:
    index = PromptIndex(capacity=10)
    for key, text in enumerate(["How do I cancel my order?", "Why was my order cancelled?", "What is your phone number?"]):
        assert index.add("shop", key, text) is None
    index.add("other", 9, "How do I cancel my order?")
    found = index.candidates("shop", "how do i cancel my order")
    assert keys(found)[0] == 0
    assert found[0].score == found[0].similarity == 1.0
    assert {entry.key: entry.veto for entry in found}[1] != ""
    assert keys(index.candidates("shop", "how do i cancel my order", most=1)) == [0]
    assert index.candidates("nobody", "hello") == []
    assert keys(index.candidates("other", "how do i cancel my order")) == [9]


def test_entries_go_and_make_room() -> None:
    index = PromptIndex(2)
    assert [index.add("p", key, f"question {key}") for key in (1, 2, 3)] == [None, None, 1]
    assert (index.remove(2), index.remove(2), len(index), index.capacity) == (True, False, 1, 2)
    assert index.add("q", 3, "question 3 anew") is None
    assert (index.clear("p"), index.clear("q"), len(index)) == (0, 1, 0)


def test_the_nearest_is_found_among_ten_thousand() -> None:
    index = PromptIndex(20_000)
    things = ["invoice", "refund", "parcel", "ticket", "contract", "salary", "passport", "printer", "dashboard", "password"]
    acts = ["cancel", "print", "find", "extend", "change", "download", "explain", "check", "send", "close"]
    for number in range(10_000):
        index.add("p", number, f"How do I {acts[number % 10]} the {things[number // 10 % 10]} of customer {number}?")
    for number in range(0, 10_000, 997):
        asked = f"What's the way to {acts[number % 10]} customer {number}'s {things[number // 10 % 10]}?"
        assert number in keys(index.candidates("p", asked)), asked
        assert (
            keys(index.candidates("p", f"how do i {acts[number % 10]} the {things[number // 10 % 10]} of customer {number}"))[0] == number
        )


def test_threads_share_an_index() -> None:
    index = PromptIndex(500)

    def work(thread: int) -> int:
        for number in range(200):
            index.add("p", thread * 1000 + number, f"question {number} of thread {thread}")
            index.candidates("p", f"question {number}", most=4)
            index.remove(thread * 1000 + number // 2)
        return thread

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    assert 0 < len(index) <= 500


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PromptIndex(0), ValueError, "capacity: found 0, expected 1 to"),
        (lambda: PromptIndex(1).candidates("p", "x", 0), ValueError, "most: found 0, expected 1 to 1024"),
        (lambda: PromptIndex(1).add("p", -1, "x"), ValueError, "key: found -1, expected 0 to"),
        (lambda: compare("a", "b", 1.5), ValueError, "cosine: found 1.5, expected -1 to 1"),
        (lambda: compare("a", "b", math.nan), ValueError, "cosine: found NaN, expected -1 to 1"),
    ],
)
def test_misuse_is_an_exception(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
