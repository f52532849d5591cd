"""How many tokens a request is, as its provider will count it, before it is sent."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from sidecar.call import Message, ResponseFormat, Tool
from sidecar.counting import estimates, openai
from sidecar.counting.encodings import Encoding, counter, once

_EXACT: dict[str, Encoding] = {"o200k_base": "o200k_base", "cl100k_base": "cl100k_base"}


class Size(Struct, frozen=True, gc=False):
    """`estimated`: at least a part is not what the provider will count to the token."""

    tokens: int
    estimated: bool
    tokenizer: str


def count_generate(
    tokenizer: str, model: str, messages: Sequence[Message], tools: Sequence[Tool], response_format: ResponseFormat | None
) -> Size:
    """Count a whole request with the frame its provider puts around messages, tools, schema and images.

    `model` is the provider's own name: image formulas, Claude's vocabularies and OpenAI's frame differ between models of one tokenizer.
    """
    encoding = _EXACT.get(tokenizer)
    if encoding is not None:
        tokens, estimated = openai.prompt(once(counter(encoding)), model, messages, tools, response_format)
        return Size(tokens, estimated, tokenizer)
    family = estimates.family(tokenizer, model)
    count = once(estimates.text_count(family))
    return Size(estimates.prompt(family, count, model, messages, tools, response_format), True, tokenizer)


def count_embed(tokenizer: str, inputs: Sequence[str]) -> Size:
    """Count the texts to embed; nothing is put around them."""
    encoding = _EXACT.get(tokenizer)
    count = once(counter(encoding) if encoding is not None else estimates.text_count(estimates.family(tokenizer, "")))
    return Size(sum(map(count, inputs)), encoding is None, tokenizer)


def count_text(tokenizer: str, text: str, model: str = "") -> int:
    """Count an answer that its provider did not count. Without `model`, as the dearest model of the tokenizer."""
    encoding = _EXACT.get(tokenizer)
    return counter(encoding)(text) if encoding is not None else estimates.text_count(estimates.family(tokenizer, model))(text)
