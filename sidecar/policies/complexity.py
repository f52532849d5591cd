"""How hard a question looks: a cheap, fixed rule over the request, for callers who do not say.

    +1  more than 2,000 bytes of text in all messages (about 500 tokens; Korean takes three bytes a letter and about as many tokens)
    +2  more than 16,000 bytes, in place of the +1
    +1  more than four messages of the user's: a long conversation
    +1  an image
    +1  tools that may be called, or results of tools to be read
    +1  an answer that must fit a strict schema
    +2  the last message asks for reasoning (why, analyse, prove, design, step by step, 왜, 분석, 증명, 설계, 단계별, ...)
    +1  it asks for that in three or more different words
    +2  it has code or SQL in it
    -1  it asks for something short and plain (translate, summarise, classify, 번역, 요약, 분류, ...) and for no reasoning

    0 or 1: low    2 or 3: medium    4 or more: high

The same request always gets the same answer, and nothing is called for it. Words are looked for in the first and the last 4,000
characters of the last message of the user's: what is asked stands at one end of a long text. The figures are this product's own choice,
no measurement: a node whose questions are known to be hard or easy says so in its row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from sidecar.request import Image, Message, Text, ToolResult

_END = 4_000  # characters
_REASONING = re.compile(
    r"\b(why|analy[sz]e|analysis|prove|proof|derive|deduce|reason(?:ing)?|step[ -]by[ -]step|compare|trade-?offs?|evaluate|design"
    r"|architecture|strategy|optimi[sz]e|debug|root cause|diagnose|refactor|algorithm|pros and cons)\b"
    r"|(왜(?!곡)|이유|분석|증명|유도|추론|단계별|비교|장단점|평가|설계|전략|최적화|디버그|디버깅|원인|진단|알고리즘|리팩터링|리팩토링)",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    r"\b(translate|summari[sz]e|summary|classify|label|extract|spell(?:ing)?|rephrase|shorten|in one (?:word|sentence|line))\b"
    r"|(번역|요약|분류|추출|맞춤법|한 ?단어로|한 ?문장으로|한 ?줄로)",
    re.IGNORECASE,
)
# What is between two words of SQL is limited, so that a hostile text cannot make the search long.
_CODE = re.compile(
    r"```|\bselect\s[^;]{1,200}\sfrom\s|\binsert\s+into\s|\bcreate\s+(?:table|view|index)\s|\bdelete\s+from\s|\bgroup\s+by\s"
    r"|\bdef \w+\(|\bfunction\s+\w*\(|\bclass \w+[({:]|#include\s*<|\bimport \w+(?:\.\w+)*;|=>\s*\{|\bTraceback \(most recent",
    re.IGNORECASE,
)


def estimate(messages: Sequence[Message], *, has_tools: bool, is_strict: bool) -> Literal["low", "medium", "high"]:
    """The table above, over the checked messages of a request, whether it offers tools, and whether its answer must fit a schema."""
    parts = [part for message in messages for part in message.parts]
    size = sum(len(part.text.encode()) for part in parts if isinstance(part, Text))
    asked = [message for message in messages if message.role == "user"]
    points = 2 if size > 16_000 else 1 if size > 2_000 else 0
    points += len(asked) > 4
    points += any(isinstance(part, Image) for part in parts)
    points += has_tools or any(isinstance(part, ToolResult) for part in parts)
    points += is_strict
    if asked:
        points += _of_words("\n".join(part.text for part in asked[-1].parts if isinstance(part, Text)))
    return "low" if points < 2 else "medium" if points < 4 else "high"


def _of_words(text: str) -> int:
    text = text if len(text) <= 2 * _END else f"{text[:_END]}\n{text[-_END:]}"
    reasons = {found.group().lower() for found in _REASONING.finditer(text)}
    points = 3 if len(reasons) > 2 else 2 if reasons else 0
    if not reasons and _PLAIN.search(text):
        points -= 1
    return points + (2 if _CODE.search(text) else 0)
