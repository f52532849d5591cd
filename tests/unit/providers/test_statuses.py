"""What a status means where nobody says more: the same for every provider."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.errors import ProviderError
from sidecar.providers import anthropic, compatible, google, ollama, openai
from sidecar.providers.statuses import by_status

MEANINGS = {
    "ProviderGarbled": (300, 301, 302, 303, 304, 307, 308),
    "ProviderRejected": (400, 405, 406, 412, 415, 422, 431, 451, 501),
    "ProviderModelUnknown": (404, 410),
    "ProviderAuthFailed": (401, 403),
    "ProviderQuotaExhausted": (402,),
    "ProviderTimeout": (408, 504, 524),
    "ProviderContextExceeded": (413,),
    "ProviderRateLimited": (429,),
    "ProviderUnavailable": (409, 425, 499, 500, 502, 503, 520, 529, 599),
}
CASES = [(status, name) for name, statuses in MEANINGS.items() for status in statuses]


@pytest.mark.parametrize(("status", "name"), CASES)
@pytest.mark.parametrize("module", [openai, compatible, anthropic, google, ollama], ids=lambda module: module.__name__)
def test_a_body_of_nobody_we_know(module: object, status: int, name: str) -> None:
    failure: Callable[..., ProviderError] = module.failure  # type: ignore[attr-defined]
    for body in (b"", b"<html>Bad luck</html>", b"{}", b"[]", b"\xff"):
        error = failure(status, {}, body, whose="x/m")
        assert (type(error).__name__, error.status) == (name, status), body


def test_a_success_that_is_no_answer_is_of_another_type() -> None:
    assert by_status(200).__name__ == "ProviderWrongType"
