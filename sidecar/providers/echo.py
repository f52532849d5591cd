"""The built-in provider: repeats the last user message. No key, no network, no cost; for demonstrations and first steps."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sidecar.call import Chunk, EmbedAsk, Emit, Feature, GenerateAsk, Head, Usage, Vectors
from sidecar.counting import count_embed, count_text
from sidecar.errors import (
    InvalidRequest,
    ProviderAuthFailed,
    ProviderError,
    ProviderGarbled,
    ProviderQuotaExhausted,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from sidecar.request import Text, ToolResult
from sidecar.settings.routing import ProviderSettings

FEATURES: frozenset[Feature] = frozenset({"generate", "embed", "system", "stop", "seed", "sampling", "dimensions"})

_TOKENIZER = "o200k_base"
_DIMENSIONS = 64
_PIECES = re.compile(r"\s*\S+\s*$|\s*\S+")
_FAILURES: Mapping[str, ProviderError] = {
    "rate_limit": ProviderRateLimited("echo was told to fail with rate_limit", status=429, retry_after_ms=1000),
    "unavailable": ProviderUnavailable("echo was told to fail with unavailable", status=503),
    "auth": ProviderAuthFailed("echo was told to fail with auth", status=401),
    "quota": ProviderQuotaExhausted("echo was told to fail with quota", status=429),
    "rejected": ProviderRejected("echo was told to fail with rejected", status=400),
    "garbled": ProviderGarbled("echo was told to fail with garbled"),
}


async def connect(settings: ProviderSettings) -> Echo:
    return Echo(settings.name or "echo")


class Echo:
    """Deterministic: the same question has the same answer, the same text the same vector."""

    features = FEATURES

    def __init__(self, name: str) -> None:
        self.name = name

    async def generate(self, ask: GenerateAsk, emit: Emit) -> None:
        """Repeats the last user text word by word, up to the output limit or a stop sequence.

        Options: `delay_ms` before the first piece, `piece_delay_ms` before each, `fail` (see `_FAILURES`, and `stall`, `cut`).
        """
        options = _Options(ask.options)
        await options.begin()
        text, finish = _answer(ask)
        usage = Usage(_prompt_tokens(ask), 0, 0, 0, count_text(_TOKENIZER, text), 0)
        pieces = _PIECES.findall(text) if ask.stream else [text]
        for index, piece in enumerate(pieces):
            if options.piece_delay_s:
                await asyncio.sleep(options.piece_delay_s)
            if options.fail == "cut" and index >= len(pieces) // 2:
                return
            await emit((Chunk(text=piece, model=ask.model, head=Head(request_id="echo") if index == 0 else None),))
        if options.fail != "cut":
            await emit((Chunk(finish=finish, raw_finish=finish, usage=usage, last=True),))

    async def embed(self, ask: EmbedAsk) -> Vectors:
        """Unit vectors made from hashes of the words and word pairs of each text: texts that share words are near."""
        await _Options(ask.options).begin()
        usage = Usage(count_embed(_TOKENIZER, ask.inputs).tokens)
        return Vectors([_vector(text, ask.dimensions or _DIMENSIONS) for text in ask.inputs], usage, ask.model, Head(request_id="echo"))

    async def check(self) -> None:
        """It is always there."""

    async def close(self) -> None:
        """Nothing is open."""


class _Options:
    """What `provider_options` tells echo to do. Raises InvalidRequest for what it does not know, so that a typing error shows."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        unknown = set(given) - {"delay_ms", "piece_delay_ms", "fail"}
        if unknown:
            raise InvalidRequest(
                f"provider_options.{sorted(unknown)[0]} is unknown to echo; expected delay_ms, piece_delay_ms or fail",
                field="provider_options",
            )
        self.delay_s = _seconds(given, "delay_ms")
        self.piece_delay_s = _seconds(given, "piece_delay_ms")
        self.fail = given.get("fail", "")
        if self.fail not in ("", "stall", "cut", *_FAILURES):
            expected = ", ".join(("stall", "cut", *_FAILURES))
            raise InvalidRequest(f"provider_options.fail is {self.fail!r}; expected one of {expected}", field="provider_options.fail")

    async def begin(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.fail == "stall":
            await asyncio.Event().wait()  # only the caller's or our own limits end this
        failure = _FAILURES.get(self.fail)
        if failure is not None:
            raise type(failure)(failure.message, status=failure.status, retry_after_ms=failure.retry_after_ms)


def _seconds(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3_600_000:
        raise InvalidRequest(f"provider_options.{name} is {value!r}; expected milliseconds, 0 to 3600000", field=f"provider_options.{name}")
    return float(value) / 1000


def _answer(ask: GenerateAsk) -> tuple[str, Any]:
    last = ask.messages[-1]
    text = " ".join(p.text if isinstance(p, Text) else p.content for p in last.parts if isinstance(p, Text | ToolResult))
    stops = [place for place in (text.find(stop) for stop in ask.stop) if place >= 0]
    if stops:
        text = text[: min(stops)]
    if count_text(_TOKENIZER, text) <= ask.max_output_tokens:
        return text, "stop"
    kept = ""
    for piece in _PIECES.findall(text):
        if count_text(_TOKENIZER, kept + piece) > ask.max_output_tokens:
            break
        kept += piece
    return kept, "length"


def _prompt_tokens(ask: GenerateAsk) -> int:
    return sum(count_text(_TOKENIZER, part.text) for message in ask.messages for part in message.parts if isinstance(part, Text))


def _vector(text: str, dimensions: int) -> list[float]:
    """The sum of one random direction (plus or minus one in each dimension) per word and pair of words, at length one."""
    words = text.lower().split() or [text]
    values = [0.0] * dimensions
    for term in (*words, *map(" ".join, pairwise(words))):
        bits = int.from_bytes(hashlib.shake_128(term.encode()).digest((dimensions + 7) // 8), "little")
        for place in range(dimensions):
            values[place] += 1.0 if bits >> place & 1 else -1.0
    length = math.sqrt(sum(v * v for v in values))
    if not length:  # an even number of terms may cancel out
        values[0] = length = 1.0
    return [v / length for v in values]
