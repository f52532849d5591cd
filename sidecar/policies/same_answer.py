"""Do two answers say the same? Without a model, so "yes" needs proof, and whatever is in doubt is "no".

A wrong "no" costs a cache hit. A wrong "yes" would prove a cache that gives wrong answers. So two texts that say the same in quite other
words are not the same here, nor is an answer that a model words anew each time.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final, Literal

import msgspec

from sidecar._core import compare
from sidecar.answer import Answer
from sidecar.json_text import UNREADABLE

Comparison = Literal["auto", "exact"]

FORM: Final = 1  # of these rules: what was proven under others starts anew
_LONGEST: Final = 4_000  # characters; longer texts are the same only if they are equal
_FEW: Final = 8  # content words: in an answer with fewer each word counts
_LAX: Final = frozenset(("", "words", "modifier"))  # what the verifier says of questions and does not hold for answers
_WORDS: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCES: Final = re.compile(r"(?<=[.!?\u3002])\s+|\n+")
# A number, a code, an address, a sign that means something, or a name: a word with a capital.
_HARD: Final = re.compile(r"[\d_@#<>=+*/^|~&%$\u20ac\u00a3\u00a5\u20a9\u2212\u2264\u2265\u2260`\"]|(?<!\w)-|[A-Z]")
# Of code every word counts; an answer that only looks like it is compared too strictly.
_CODE: Final = re.compile(r"```|^\s*(?:select|with|insert|update|delete|create|alter|merge|drop|match)\b", re.IGNORECASE)
_AROUND: Final = ".,:;!?()[]{}*'\u2018\u2019\u201c\u201d"
_NEGATIONS: Final = re.compile(
    r"\b(?:no|not|never|none|nothing|neither|nor|without|cannot|unable|false|\w+n['\u2019]t)\b|안\s|못|않|없|아니|불가|금지",
    re.IGNORECASE,
)
# Words that carry no content of their own.
_EMPTY: Final = frozenset(
    re.findall(
        r"\w+",
        "a an the and or of to in on at by for from with as is are was were be been am it its this that these those there here you your we "
        "our i me my they their he she his her will would can could may might shall should do does did have has had so then also just "
        "please if when which who what how into up out about very",
    )
)


def same_answer(fresh: Answer, stored: Answer, how: Comparison = "auto", least_overlap: float = 0.8) -> str:
    """Why two whole answers are not the same, in a word or two without anything of them; "" if they are.

    `exact` compares texts but for white space; so does `auto` what looks like SQL or other code. JSON counts by its values. Prose must have
    the same numbers, names, codes and signs in the same order, as many negations, nothing that the verifier refuses in what differs, and at
    least this share of its content words in common. Short answers, and text that is not plain English, must have all words, in their order.
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
    return _prose(ours, theirs, least_overlap)


def _prose(ours: str, theirs: str, least_overlap: float) -> str:
    ours, theirs = (unicodedata.normalize("NFC", text) for text in (ours, theirs))
    if _bare(ours) == _bare(theirs):
        return ""
    if max(len(ours), len(theirs)) > _LONGEST:
        return "length"
    if _hard(ours) != _hard(theirs):
        return "numbers or names"
    one, other = _WORDS.findall(ours.casefold()), _WORDS.findall(theirs.casefold())
    if one == other and one:
        return ""
    if len(_NEGATIONS.findall(ours)) != len(_NEGATIONS.findall(theirs)):
        return "negation"
    if problem := _verified(ours, theirs):
        return problem
    mine, yours = _content(one), _content(other)
    if not mine or not yours:
        return "words"
    # Scripts without capitals do not show their names, so that there each word may be one.
    if min(len(mine), len(yours)) < _FEW or not ours.isascii() or not theirs.isascii():
        return "words"
    overlap = 2 * len(mine & yours) / (len(mine) + len(yours))
    return "" if overlap >= least_overlap else "words"


def _hard(text: str) -> list[str]:
    """What must be the same on both sides and in the same order."""
    found = (word.strip(_AROUND).replace(",", "").casefold() for word in text.split() if _HARD.search(word))
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
    try:
        veto = compare(alone, others).veto
    except UnicodeEncodeError:  # halves of characters
        return "text"
    return "" if veto in _LAX else veto


def _content(words: list[str]) -> set[str]:
    return {word[:-1] if len(word) > 3 and word.endswith("s") and word.isascii() else word for word in words if word not in _EMPTY}


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
