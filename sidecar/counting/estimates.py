"""Estimates for families whose tokenizer is not public, or too large to carry: one of OpenAI's counts, times what the family's is of it.

Which count comes nearest, and the factors, are fitted so that the estimate is on the cautious side (figures in the package's docstring).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil

from msgspec import Struct
from msgspec.json import encode
from msgspec.structs import replace

from sidecar.counting import images
from sidecar.counting.encodings import Count, Encoding
from sidecar.request import Image, Message, ResponseFormat, Text, Tool, ToolCall, ToolResult

_DIGITS = b"0123456789"
_CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# First bytes of UTF-8 sequences, which are never other bytes' second: the script of a character in one pass over the bytes.
_GREEK_AND_ON = bytes(range(0xCE, 0xF5))
_INDIC_AND_THAI = b"\xe0"
_GEORGIAN_ETHIOPIC_KHMER = b"\xe1"


class Family(Struct, frozen=True):
    """How a family's count of a text and of a request follows from OpenAI's of the text.

    `factor` is for Latin script, `factor_other` for the rest; the extras are tokens per character of that kind. `per_byte` is the
    least, for runs of one character, which OpenAI's vocabularies hold whole. An estimate is taken to be at most `surplus` times the truth.
    The other figures are tokens of the request's frame.
    """

    encoding: Encoding
    factor: float
    factor_other: float
    image: Callable[[Image, str], int]
    surplus: float = 1.5
    digit: float = 0.0
    capital: float = 0.0
    underscore: float = 0.0
    indic: float = 0.0
    georgian: float = 0.0
    per_byte: float = 0.0
    request: int = 0
    message: int = 0
    tools: int = 0
    tool: int = 0
    call: int = 0
    result: int = 0
    schema: int | None = 0  # None: the provider does not count it


def text_count(family: Family, base: Count) -> Count:
    """The family's count of a text, rounded up, never below `base`, which counts in the family's encoding."""
    extras = [(family.digit, _DIGITS), (family.capital, _CAPITALS), (family.underscore, b"_")]
    scripts = [(family.indic, _INDIC_AND_THAI), (family.georgian, _GEORGIAN_ETHIOPIC_KHMER)]
    extras, scripts = [e for e in extras if e[0]], [e for e in scripts if e[0]]

    def count(text: str) -> int:
        data = text.encode("utf-8", "surrogatepass")
        factor = family.factor
        extra = 0.0
        for tokens, kind in extras:
            extra += tokens * (len(data) - len(data.translate(None, kind)))
        if len(data) != len(text):
            for tokens, kind in scripts:
                extra += tokens * (len(data) - len(data.translate(None, kind)))
            if family.factor_other != factor:
                other = len(data) - len(data.translate(None, _GREEK_AND_ON))
                factor += (family.factor_other - factor) * other / len(text)
        return max(ceil(base(text) * factor + extra), ceil(len(data) * family.per_byte))

    return count


def prompt(
    family: Family, count: Count, model: str, messages: Sequence[Message], tools: Sequence[Tool], wanted: ResponseFormat | None
) -> int:
    """Tokens of the whole request. Tools and schemas are counted as the JSON they are sent as."""
    tokens = family.request
    for message in messages:
        tokens += family.message
        for part in message.parts:
            if isinstance(part, Text):
                tokens += count(part.text)
            elif isinstance(part, ToolCall):
                tokens += family.call + count(part.name) + count(part.arguments)
            elif isinstance(part, ToolResult):
                tokens += family.result + count(part.name) + count(part.content)
            else:
                tokens += family.image(part, model)
    if tools:
        tokens += family.tools
        for tool in tools:
            tokens += family.tool + count(tool.name) + count(tool.description) + count(encode(tool.parameters).decode())
    if wanted is not None and wanted.schema is not None and family.schema is not None:
        tokens += family.schema + count(encode(wanted.schema).decode())
    return tokens


# Claude 3 to 4.4. The preface that tools bring is Anthropic's table ("Pricing", tool use), the larger of its two figures.
_CLAUDE = Family(
    encoding="cl100k_base",
    factor=1.2,
    factor_other=1.2,
    capital=0.4,
    underscore=0.3,
    per_byte=0.065,
    image=lambda image, _: images.claude(image, longest=1568, most=1640),
    request=3,
    message=4,
    tools=346,
    tool=27,
    call=25,
    result=25,
    schema=135,
)
_CLAUDE_4_5 = replace(_CLAUDE, tools=589)
# From 4.7 on, a vocabulary dearer for Latin script and most of all for capitals, and larger images.
_CLAUDE_4_7 = replace(
    _CLAUDE,
    factor=1.5,
    capital=1.0,
    image=lambda image, _: images.claude(image, longest=2576, most=4784),
    request=6,
    message=6,
    tools=804,
)
_CLAUDE_4_8 = replace(_CLAUDE_4_7, tools=474)
_GEMINI = Family(
    encoding="o200k_base",
    factor=1.2,
    factor_other=1.2,
    digit=0.34,  # every digit is a token; OpenAI's hold three
    indic=0.2,
    georgian=0.35,
    per_byte=0.065,
    image=images.gemini,
    request=1,
    tools=10,
    tool=10,
    call=10,
    result=10,
    schema=None,
)
# Llama 3: the merges of cl100k_base and 28,000 more, so that it is never above it. Templates from 3.1 on begin with a date.
_LLAMA = Family(
    encoding="cl100k_base",
    factor=1.0,
    factor_other=1.0,
    surplus=2.5,
    image=lambda image, _: images.open_model(image),
    request=20,
    message=5,
    tools=80,
    tool=30,
    call=10,
    result=5,
)
_DEAREST = replace(
    _CLAUDE_4_7,
    factor_other=1.3,
    surplus=3.5,  # Llama's, times the dearest factor
    digit=0.34,
    image=lambda image, _: max(images.open_model(image), images.claude(image, 2576, 4784), images.gemini(image, "gemini-2")),
    request=20,
    tools=350,
)

# claude-3-5-haiku-latest, claude-sonnet-4-20250514, anthropic/claude-opus-4.7: the version, not the date
_CLAUDE_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")


@lru_cache(maxsize=256)
def family(tokenizer: str, model: str) -> Family:
    """The figures for a model. What is not known counts as the dearest of its kind."""
    if tokenizer == "claude":
        return _claude(model)
    return {"gemini": _GEMINI, "llama": _LLAMA}.get(tokenizer, _DEAREST)


def _claude(model: str) -> Family:
    found = _CLAUDE_VERSION.search(model)
    if found is None:
        return _CLAUDE_4_7
    version = int(found[1]), int(found[2] or 0)
    if version < (4, 7):
        return _CLAUDE if version < (4, 5) else _CLAUDE_4_5
    return _CLAUDE_4_7 if version == (4, 7) else _CLAUDE_4_8
