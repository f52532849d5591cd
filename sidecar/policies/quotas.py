"""Requests and tokens per minute of each model, as settings give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sidecar._core import Limiter
from sidecar.catalog import Model

_UNITS: tuple[Literal["requests"], Literal["tokens"]] = ("requests", "tokens")


class Quotas:
    """Limiters of the models that have a quota in settings; the others are not limited here."""

    def __init__(self) -> None:
        self._limiters: dict[str, Limiter] = {}

    def of(self, model: Model) -> Limiter | None:
        if model.requests_per_minute is None and model.tokens_per_minute is None:
            return None
        key = f"{model.provider}/{model.name}"
        found = self._limiters.get(key)
        if found is None:
            found = self._limiters[key] = Limiter(requests=model.requests_per_minute, tokens=model.tokens_per_minute)
        return found


def observe(limiter: Limiter, stated: Mapping[str, str], now_ns: int) -> None:
    """Adopt what a provider's reply headers say is left, so that calls of other processes with the same key count too.

    OpenAI's names are `x-ratelimit-remaining-requests`, Anthropic's `anthropic-ratelimit-requests-remaining`.
    """
    for unit in _UNITS:
        limit = stated.get(f"x-ratelimit-limit-{unit}") or stated.get(f"anthropic-ratelimit-{unit}-limit")
        left = stated.get(f"x-ratelimit-remaining-{unit}") or stated.get(f"anthropic-ratelimit-{unit}-remaining")
        if (limit and limit.isdecimal()) or (left and left.isdecimal()):
            limiter.observe(unit, now_ns, limit=_number(limit), remaining=_number(left))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 16 else None
