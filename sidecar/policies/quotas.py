"""Requests and tokens per minute of each model, as settings give them."""

from __future__ import annotations

from sidecar._core import Limiter
from sidecar.catalog import Model


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
