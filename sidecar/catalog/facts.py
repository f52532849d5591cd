"""The values the catalogue is made of."""

from datetime import date
from typing import Literal

from msgspec import Struct

from sidecar.call import Feature, Usage


class Prices(Struct, frozen=True, gc=False):
    """Pico-USD per token, exact: 1 micro-USD per million tokens is 1 pico-USD per token, so "2.50" USD is 2_500_000.

    `is_known` is False when nobody has set a price; the cost is then 0 and says nothing.
    """

    input: int = 0
    cached_input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    is_known: bool = True

    def cost(self, usage: Usage) -> int:
        """Nano-USD for what was used, rounded up once, at the very end. Buckets nobody reported count as nothing."""
        writes, writes_1h = usage.cache_write_tokens or 0, usage.cache_write_1h_tokens or 0
        pico = (
            (usage.input_tokens or 0) * self.input
            + (usage.cached_input_tokens or 0) * self.cached_input
            + max(0, writes - writes_1h) * self.cache_write_5m
            + writes_1h * self.cache_write_1h
            + (usage.output_tokens or 0) * self.output
            + (usage.reasoning_tokens or 0) * self.reasoning
        )
        return -(-pico // 1000)

    def most(self, input_tokens: int, output_tokens: int) -> int:
        """The most nano-USD that so many tokens cost. Writing to a provider's cache is dearer and only done on request: an overrun."""
        pico = input_tokens * max(self.input, self.cached_input) + output_tokens * max(self.output, self.reasoning)
        return -(-pico // 1000)


class Model(Struct, frozen=True):
    """One model at one provider. `id` is the catalogue's name, `name` the provider's own.

    `provider` is the name of a provider in settings: for a service with a provider of its own it is that one (`oracle-openai`).
    `is_listed` False: nothing is known about it, limits and capabilities are the stated defaults.
    """

    id: str
    provider: str
    name: str
    context_tokens: int  # input and output together
    max_output_tokens: int  # 0 for an embedding model
    tokenizer: str  # o200k_base, cl100k_base: exact; claude, gemini, llama, estimate: estimated
    capabilities: frozenset[Feature]
    prices: Prices
    as_of: date | None = None
    retires_on: date | None = None
    successor: str | None = None
    dimensions: int | None = None  # of an embedding model, when the request does not say
    max_dimensions: int | None = None  # the most that a request may ask of it; None: not known
    tier: str = "standard"  # cheap, standard, strong
    requests_per_minute: int | None = None  # the provider's quota; None: the sidecar does not limit it
    tokens_per_minute: int | None = None
    is_listed: bool = True


class Node(Struct, frozen=True):
    """One row of the portfolio. `primary` "": the node has no models of its own. None: the node says nothing.

    `temperature` and `max_output_tokens` hold where a request does not say. A node with `fallback_allowed` False is answered by its
    first available model or not at all.
    """

    service: str
    name: str
    primary: str = ""
    fallbacks: tuple[str, ...] = ()
    fallback_allowed: bool = True
    temperature: float | None = None
    max_output_tokens: int | None = None
    accuracy: str = "medium"
    structured: str = ""  # "", json_object, strict_schema
    first_token_ms: int | None = None  # these three: None is as in the settings' [timeouts]
    idle_ms: int | None = None
    answer_ms: int | None = None
    on_cut: Literal["fail", "restart", "hold"] = "fail"  # of a stream whose request does not say
    hedge: bool = False
    hedge_after_ms: int | None = None  # None: the first candidate's own p95
    complexity: Literal["", "low", "medium", "high", "estimate"] = ""  # of a call that does not say
    is_listed: bool = True


class Profile(Struct, frozen=True):
    """Who answers where neither request, node nor service says: models as settings write them, best first."""

    name: str
    models: tuple[str, ...]  # the default, then its fallbacks
    embeddings: tuple[str, ...]
