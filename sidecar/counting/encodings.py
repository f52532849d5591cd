"""The two vocabularies of the extension, each opened once per process, when first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

from sidecar._core import TokenCounter

Encoding = Literal["o200k_base", "cl100k_base"]
Count = Callable[[str], int]


class TooMany(Exception):
    """The texts hold more tokens than their limit; nobody knows how many."""


@lru_cache(maxsize=2)
def _opened(encoding: Encoding) -> TokenCounter:
    """Opening the tables takes milliseconds, so it waits for the first text."""
    return TokenCounter(encoding)


@lru_cache(maxsize=2)
def counter(encoding: Encoding) -> Count:
    """Count the tokens of a text."""
    return _opened(encoding).count


def decoded(encoding: Encoding, texts: Sequence[Sequence[int]]) -> list[bytes]:
    """Texts of their tokens; they may begin or end within a character. Raises ValueError and OverflowError for a number that is none."""
    return _opened(encoding).decode(texts)


def bounded(encoding: Encoding, limit: int) -> Count:
    """Count texts of up to `limit` tokens together, then raise TooMany: the longest text costs no more time than one that fits."""
    count_at_most = _opened(encoding).count_at_most
    left = limit

    def count(text: str) -> int:
        nonlocal left
        tokens = count_at_most(text, left)
        if tokens is None:
            raise TooMany
        left -= tokens
        return tokens

    return count


def once(count: Count) -> Count:
    """The same count, which remembers: within one request an example or a tool result often comes several times.

    To live for one request only, so that no text outlives its call.
    """
    seen: dict[str, int] = {}

    def remembered(text: str) -> int:
        tokens = seen.get(text)
        if tokens is None:
            tokens = seen[text] = count(text)
        return tokens

    return remembered
