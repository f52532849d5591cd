"""Counts against what providers really counted. Needs LLM_RECORDINGS, the folder of a recording; see recordings.py."""

from __future__ import annotations

import os
import re

import pytest

from sidecar.counting import Size, count_embed, count_generate
from sidecar.request import Image

from .recordings import Recorded, read

FOLDER = os.environ.get("LLM_RECORDINGS", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="LLM_RECORDINGS is not set: no recording of real exchanges to count against")


@pytest.fixture(scope="module")
def recorded() -> list[Recorded]:
    return read(FOLDER)


def counted(r: Recorded) -> Size:
    tokenizer = {"anthropic": "claude", "google": "gemini", "ollama": "llama"}.get(r.provider)
    if tokenizer is None:
        tokenizer = "cl100k_base" if re.match(r"gpt-3\.5|gpt-4($|-)|text-embedding", r.model) else "o200k_base"
    return count_embed(tokenizer, r.inputs) if r.inputs else count_generate(tokenizer, r.model, r.messages, r.tools, r.wanted)


def above(recorded: list[Recorded], provider: str, least: int) -> dict[str, tuple[int, int]]:
    """Per exchange of a provider: tokens above the truth, and the truth. There must be at least so many, or nothing was tested."""
    found = {r.id: (counted(r).tokens - r.tokens, r.tokens) for r in recorded if r.provider == provider}
    assert len(found) >= least
    return found


def test_openai_text_and_embeddings_are_exact(recorded: list[Recorded]) -> None:
    plain = [r for r in recorded if r.provider == "openai" and r.plain]
    assert len(plain) >= 15
    assert {r.id: counted(r).tokens for r in plain} == {r.id: r.tokens for r in plain}
    assert not any(counted(r).estimated for r in plain)


def test_openai_tools_and_schemas_are_never_below_and_little_above(recorded: list[Recorded]) -> None:
    rest = [r for r in recorded if r.provider == "openai" and not r.plain and not has_image(r)]
    assert len(rest) >= 10
    assert all(counted(r).estimated for r in rest)
    assert {r.id: counted(r).tokens - r.tokens for r in rest if not 0 <= counted(r).tokens - r.tokens <= 5} == {}


def has_image(r: Recorded) -> bool:
    return any(isinstance(part, Image) for message in r.messages for part in message.parts)


@pytest.mark.parametrize(("provider", "least"), [("anthropic", 12), ("google", 20), ("ollama", 4)])
def test_estimates_are_never_below(recorded: list[Recorded], provider: str, least: int) -> None:
    assert {k: v for k, v in above(recorded, provider, least).items() if v[0] < 0} == {}


def test_claude_is_at_most_a_third_above(recorded: list[Recorded]) -> None:
    assert {k: v for k, v in above(recorded, "anthropic", 12).items() if v[0] > v[1] / 3} == {}


def test_gemini_text_and_images_are_at_most_a_quarter_above(recorded: list[Recorded]) -> None:
    without_tools = [r for r in recorded if not r.tools]
    assert {k: v for k, v in above(without_tools, "google", 10).items() if v[0] > v[1] / 4} == {}
