"""What the words of an error message mean, where neither a code nor a type says it. One list for all providers.

Gateways pass on the words of the provider behind them in a format that is another's, so the words do not belong to a wire. Sources:
error bodies in the documentation and in issues of OpenAI, Azure, Anthropic, Google, Groq, OpenRouter, LiteLLM, vLLM, Together, Mistral,
text-generation-inference, llama.cpp, Ollama.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.errors import (
    ProviderAuthFailed,
    ProviderContextExceeded,
    ProviderError,
    ProviderModelUnknown,
    ProviderQuotaExhausted,
    ProviderRejected,
)

_MOST_READ: Final = 4_000  # characters of a message: whoever writes it must not choose how long it is looked at


class ContentFiltered(ProviderRejected):
    """The provider's filter stopped the prompt or the answer, told as an error. It is an answer: whoever generates, emits it as one."""


def _any(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE)


_FILTERED: Final = _any(
    r"content management policy",  # Azure
    r"blocked by content filtering policy",  # Anthropic
    r"content[_ ]?policy[_ ]?violation",
    r"(?:prompt|input|message) was flagged",
    r"responsibleaipolicyviolation",
)
_SPENT: Final = _any(
    r"insufficient[ _](?:quota|credits?|balance|funds)",
    r"credit balance is too low",
    r"(?:prepaid|prepayment) credits",
    r"out of credits",
    r"requires more credits",
    r"key limit exceeded",
    r"spend(?:ing)? (?:limit|cap)",
    r"specified api usage limits",
    r"budget ?(?:has been )?exceeded",
    r"exceeded ?budget",
    r"(?:over|crossed) budget",
    r"billing (?:hard )?limit",
)
# A day's allowance, or one that was never given. No wait of seconds brings it back, whatever the answer says of waiting.
_PER_DAY: Final = _any(r"per[ _-]day\b", r"\((?:RPD|TPD)\)", r"\b(?:daily|weekly|monthly) (?:\w+ )?(?:limit|quota)", r"\blimit: 0\b")
_TOO_LONG: Final = _any(
    r"context[ _]?(?:size|window|length|limit)",
    r"maximum (?:model|input) length",
    r"maximum number of (?:input )?tokens",
    r"prompt is too long",
    r"input (?:context )?is too long",
    r"too many tokens",
    r"must have less than \d+ tokens",
    r"`inputs` tokens \+ `max_new_tokens`",
    r"request too large",  # for its tokens per minute: the same request never fits
    r"extra usage is required for long context",
)
_NO_MODEL: Final = _any(
    r"\bmodel\b.{0,100}?\b(?:does(?: not|n't) exist|not exist|not found|is not available|no longer (?:available|supported))",
    r"\bmodel\b.{0,100}?\b(?:has been|is|was) (?:decommissioned|deprecated|retired|shut down|discontinued|removed)",
    r"\b(?:invalid|unknown|no such) model\b",
    r"not a valid model",
    r"no endpoints found for",  # OpenRouter
    r"unable to access model",  # Together
)
_NO_ACCESS: Final = _any(r"organization has been disabled", r"user location is not supported", r"enable billing")

_WAIT: Final = re.compile(
    r"(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?\s?(?:milliseconds?|ms|seconds?|s|minutes?|m|hours?|h|days?|d)\s?)+)",
    re.IGNORECASE,
)
_FIGURE: Final = re.compile(r"(\d+(?:\.\d+)?)\s?(milli|ms|s|m|h|d)", re.IGNORECASE)
_UNIT_MS: Final = {"milli": 1, "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def by_words(status: int, message: str) -> type[ProviderError] | None:
    """The class that `message` means under this HTTP status; None: its words say no more than the status does.

    A server's own failure stays one, whatever it talks about, but for a prompt that it found too long.
    """
    message = message[:_MOST_READ]
    if _TOO_LONG.search(message) and status not in (401, 403):
        return ProviderContextExceeded
    if status >= 500 or status in (401, 408, 409, 425):
        return None
    if _FILTERED.search(message):
        return ContentFiltered
    if _SPENT.search(message) or ((status == 429 or status < 400) and _PER_DAY.search(message)):
        return ProviderQuotaExhausted
    if status == 429:
        return None
    if _NO_ACCESS.search(message):
        return ProviderAuthFailed
    if _NO_MODEL.search(message):
        return ProviderModelUnknown
    return None


def wait_in_words_ms(message: str) -> int | None:
    """How long a message asks to wait ("try again in 7m12.5s", "retry after 20 seconds"), for answers that say it nowhere else."""
    found = _WAIT.search(message[:_MOST_READ])
    if found is None:
        return None
    return round(sum(float(figure) * _UNIT_MS[unit.lower()] for figure, unit in _FIGURE.findall(found[1])))
