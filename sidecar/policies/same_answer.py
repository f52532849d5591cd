"""Do two answers say the same? Without a model, so "yes" needs proof, and whatever is in doubt is "no".

A wrong "no" costs cache hits. A wrong "yes" would prove a cache that gives wrong answers. So an answer that a model words anew each time is
another one here, and a node whose answers are like that does not prove itself, unless a model judges what is worded anew (`WORDING`;
`policies/model_judge.py`), or its operator lets a share of common words be enough (`words`): of the 2,742 English pairs in
tools/verifier/pairs that differ in what they mean that takes 1 % for the same, and 3 % where they stand in a longer text, `auto` none. The
verifier may refuse, but its score is not asked: where it is blind in two questions it would be blind in their answers too, and the audits
with it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final, Literal

import msgspec

from sidecar._core import compare
from sidecar.answer import Answer
from sidecar.json_text import UNREADABLE

Comparison = Literal["auto", "exact", "words"]

WORDING: Final = ("words", "numbers or signs", "length")  # why texts differ that may still mean the same: a model may say so
FORM: Final = 2  # of these rules: what was proven under others starts anew
_LONGEST: Final = 8_000  # characters, some 2 ms; longer texts are the same only if they are equal
_FEW: Final = 8  # content words: in an answer with fewer each word counts
_WORDS: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCES: Final = re.compile(r"(?<=[.!?\u3002])\s+|\n+")
# A number, a code, an address, or a sign that means something.
_SIGN: Final = re.compile(r"[\d_@#<>=+*/^|~&%$\u20ac\u00a3\u00a5\u20a9\u2212\u2264\u2265\u2260`\"]|(?<!\w)-")
_CAPITAL: Final = re.compile("[A-Z]")
# Of code every word counts; an answer that only looks like it is compared too strictly.
_CODE: Final = re.compile(r"```|^\s*(?:select|with|insert|update|delete|create|alter|merge|drop|match)\b", re.IGNORECASE)
_AROUND: Final = ".,:;!?()[]{}*'\u2018\u2019\u201c\u201d"
_NEGATIONS: Final = re.compile(
    r"\b(?:no|not|never|none|nothing|neither|nor|without|cannot|unable|false|\w+n['\u2019]t)\b",
    re.IGNORECASE,
)
# Words that change nothing wherever they stand.
_FILL: Final = frozenset(("a", "an", "the", "please", "just", "also", "then", "so"))
# Words that say little of what a text is about.
_EMPTY: Final = _FILL | frozenset(
    re.findall(
        r"\w+",
        "and or of to in on at by for from with as is are was were be been am it its this that these those there here you your we our i me "
        "my they their he she his her will would can could may might shall should do does did have has had if when which who what how into "
        "up out about very",
    )
)


def same_answer(fresh: Answer, stored: Answer, how: Comparison = "auto", least_overlap: float = 0.8) -> str:
    """Why two whole answers are not the same, in a word or two without anything of them; "" if they are.

    `exact` compares texts but for white space, for SQL and other code, and so do the others what looks like code. JSON counts by its
    values. `auto` compares word by word; case, punctuation that means nothing and words like "the" do not count. `words`, in English: the
    same numbers, names, codes and signs in the same order, as many negations, nothing that the verifier refuses in what differs, and this
    share of the content words in common.
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
    if how == "words":
        return _prose(ours, theirs, least_overlap)
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


def _prose(ours: str, theirs: str, least_overlap: float) -> str:
    differs = _word_by_word(ours, theirs)
    if differs in ("", "length"):
        return differs
    # In other scripts names have no capitals, and each word may be one.
    if not ours.isascii() or not theirs.isascii():
        return "words"
    if _hard(ours) != _hard(theirs):
        return "numbers or names"
    if len(_NEGATIONS.findall(ours)) != len(_NEGATIONS.findall(theirs)):
        return "negation"
    if problem := _verified(ours, theirs):
        return problem
    mine, yours = _content(ours), _content(theirs)
    if min(len(mine), len(yours)) < _FEW or 2 * len(mine & yours) < least_overlap * (len(mine) + len(yours)):
        return "words"
    return ""


def _signs(text: str) -> list[str]:
    """Numbers, codes, and signs that mean something."""
    return [word.strip(_AROUND).casefold() for word in text.split() if _SIGN.search(word)]


def _hard(text: str) -> list[str]:
    """These, and words with a capital."""
    found = (word.strip(_AROUND).replace(",", "").casefold() for word in text.split() if _SIGN.search(word) or _CAPITAL.search(word))
    return [word for word in found if word not in _EMPTY or len(word) == 1]


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_AROUND).casefold()


def _verified(ours: str, theirs: str) -> str:
    """What the verifier has against the sentences that are on one side only; it looks at a few hundred bytes at most."""
    one, other = _SENTENCES.split(ours), _SENTENCES.split(theirs)
    alone = " ".join(sentence for sentence in one if sentence not in other)
    others = " ".join(sentence for sentence in other if sentence not in one)
    if not alone or not others:
        return ""
    return compare(alone, others).veto


def _content(text: str) -> set[str]:
    return {word for word in _WORDS.findall(text.casefold()) if word not in _EMPTY}


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
