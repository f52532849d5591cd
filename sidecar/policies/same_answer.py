"""Do two answers say the same? Without a model, so "yes" needs proof, and whatever is in doubt is "no".

A wrong "no" costs cache hits. A wrong "yes" would prove a cache that gives wrong answers. So an answer that a model words anew is another
one here: of the pairs in tests/unit/policies/answer_pairs.jsonl none of 40 that differ is taken for the same, and 2 of 40 that say the same
in other words. That is enough for labels, values and code; where answers are sentences a model must judge what is worded anew (`WORDING`;
`policies/model_judge.py`). Enough words in common are nothing in between: at their best, with numbers, names, negations and the verifier of
questions to refuse, they find 9 of 20 English rewordings and 1 of 20 Korean ones, take "you may" for "you must", and open nothing: for that
hardly one right answer in fifty may be missed.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final, Literal

import msgspec

from sidecar.answer import Answer
from sidecar.json_text import UNREADABLE

Comparison = Literal["auto", "exact"]

WORDING: Final = ("words", "numbers or signs", "length")  # why texts differ that may still mean the same: a model may say so
FORM: Final = 3  # of these rules: what was proven under others starts anew
_LONGEST: Final = 8_000  # characters, some 2 ms; longer texts are the same only if they are equal
_WORDS: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
# A number, a code, an address, or a sign that means something.
_SIGN: Final = re.compile(r"[\d_@#<>=+*/^|~&%$\u20ac\u00a3\u00a5\u20a9\u2212\u2264\u2265\u2260`\"]|(?<!\w)-")
# Of code every word counts; an answer that only looks like it is compared too strictly.
_CODE: Final = re.compile(r"```|^\s*(?:select|with|insert|update|delete|create|alter|merge|drop|match)\b", re.IGNORECASE)
_AROUND: Final = ".,:;!?()[]{}*'\u2018\u2019\u201c\u201d"
# Words that change nothing wherever they stand.
_FILL: Final = frozenset(("a", "an", "the", "please", "just", "also", "then", "so"))


def same_answer(fresh: Answer, stored: Answer, how: Comparison = "auto") -> str:
    """Why two whole answers are not the same, in a word or two without anything of them; "" if they are.

    `exact` compares texts but for white space, for SQL and other code, and so does `auto` what looks like code. Else JSON counts by its
    values and prose word by word; case, punctuation that means nothing and words like "the" do not count.
    """
    if fresh.finish != stored.finish:
        return "finish"
    calls = [_called(fresh), _called(stored)]
    if calls[0] != calls[1]:
        return "tool calls"
    ours, theirs = fresh.text, stored.text
    if ours.split() == theirs.split():
        return ""
    if how == "exact":
        return "text"
    one, other = _json(ours), _json(theirs)
    if one is not _NO_JSON or other is not _NO_JSON:
        return "" if one is not _NO_JSON and other is not _NO_JSON and _canonical(one) == _canonical(other) else "json"
    if _CODE.search(ours) or _CODE.search(theirs):
        return "code"
    return _word_by_word(ours, theirs)


def _word_by_word(ours: str, theirs: str) -> str:
    ours, theirs = (unicodedata.normalize("NFC", text) for text in (ours, theirs))
    if _bare(ours) == _bare(theirs):
        return ""
    if max(len(ours), len(theirs)) > _LONGEST:
        return "length"
    if _signs(ours) != _signs(theirs):
        return "numbers or signs"
    one, other = ([word for word in _WORDS.findall(text.casefold()) if word not in _FILL] for text in (ours, theirs))
    return "" if one and one == other else "words"


def _signs(text: str) -> list[str]:
    """Numbers, codes, and signs that mean something."""
    return [word.strip(_AROUND).casefold() for word in text.split() if _SIGN.search(word)]


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_AROUND).casefold()


def _called(answer: Answer) -> list[tuple[str, Any]]:
    return [(call.name, _canonical(_json(call.arguments)) if call.arguments else "") for call in answer.tool_calls]


class _NoJson:
    pass


_NO_JSON: Final = _NoJson()


def _json(text: str) -> Any:
    """An object or a list, also within a fence of Markdown; anything else is prose."""
    bare = text.strip()
    if bare.startswith("```") and bare.endswith("```"):
        bare = bare[3:-3].removeprefix("json").strip()
    if bare[:1] not in ("{", "["):
        return _NO_JSON
    try:
        return msgspec.json.decode(bare)
    except UNREADABLE:
        return _NO_JSON


def _canonical(value: Any) -> Any:
    """Values that compare as JSON means them: 1 is 1.0 and not true; text but for its Unicode form and the white space in it."""
    if isinstance(value, dict):
        return "object", sorted((key, _canonical(item)) for key, item in value.items())
    if isinstance(value, list):
        return "list", [_canonical(item) for item in value]
    if isinstance(value, str):
        return "text", " ".join(unicodedata.normalize("NFC", value).split())
    if isinstance(value, bool) or value is None:
        return "word", str(value)
    return ("number", value) if isinstance(value, int | float) else ("none", repr(value))
