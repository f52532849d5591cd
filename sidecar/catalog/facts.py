"""The values the catalogue is made of."""

from __future__ import annotations

from datetime import date
from typing import Literal

from msgspec import Struct

from sidecar.call import Feature, Usage
from sidecar.settings.caching import NodeCache


class Prices(Struct, frozen=True, gc=False):
    """What a model costs. A token in pico-USD, exact: 1 micro-USD per million tokens is 1 pico-USD per token, so "2.50" USD is 2_500_000.

    `call` and `image` are nano-USD for each call and each picture in its prompt, beside its tokens. `over` holds the prices of the whole
    call where its input (cached and written tokens too) is more than so many tokens, the least number first. `is_known` False: nobody has
    set a price; the cost is then 0 and says nothing. `is_estimated`: they are another model's, and so is what they say.
    """

    input: int = 0
    cached_input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    call: int = 0
    image: int = 0
    over: tuple[tuple[int, Prices], ...] = ()
    is_known: bool = True
    is_estimated: bool = False

    def of(self, usage: Usage) -> Prices:
        """The prices of a call that used so much."""
        if not self.over:
            return self
        given = (usage.input_tokens or 0) + (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        return next((dearer for least, dearer in reversed(self.over) if given > least), self)

    def cost(self, usage: Usage, images: int = 0) -> int:
        """Nano-USD for what was used, rounded up once, at the very end. Buckets nobody reported count as nothing.

        What used nothing costs nothing, not the price of a call either: nobody answered.
        """
        at = self.of(usage) if self.over else self
        writes, writes_1h = usage.cache_write_tokens or 0, usage.cache_write_1h_tokens or 0
        given = (usage.input_tokens or 0, usage.cached_input_tokens or 0, usage.output_tokens or 0, usage.reasoning_tokens or 0)
        pico = (
            given[0] * at.input
            + given[1] * at.cached_input
            + max(0, writes - writes_1h) * at.cache_write_5m
            + writes_1h * at.cache_write_1h
            + given[2] * at.output
            + given[3] * at.reasoning
        )
        flat = at.call + images * at.image if (at.call or at.image) and (writes or any(given)) else 0
        return flat - (-pico // 1000)

    def most(self, input_tokens: int, output_tokens: int, images: int = 0, *, writes: Literal["", "5m", "1h"] = "") -> int:
        """The most nano-USD that a call costs whose input and output (reasoning too) are at most so many tokens.

        `writes`: it may write to its provider's cache, for so long at most, which is dearer and only done on request. Prices of long calls
        count where the input may be that long, also where they are lower.
        """
        reach = [self, *(dearer for least, dearer in self.over if input_tokens > least)] if self.over else (self,)
        found = 0
        for at in reach:
            entry = max(at.input, at.cached_input)
            if writes:
                entry = max(entry, at.cache_write_5m, at.cache_write_1h if writes == "1h" else 0)
            pico = input_tokens * entry + output_tokens * max(at.output, at.reasoning)
            found = max(found, at.call + images * at.image - (-pico // 1000))
        return found


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
    cache_min_tokens: int | None = None  # the shortest prefix that its provider keeps on request; None: it is not asked to
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
    cache: NodeCache = NodeCache()
    prompt_caching: Literal["", "auto", "off"] = ""  # "": as its service says
    is_listed: bool = True


class Profile(Struct, frozen=True):
    """Who answers where neither request, node nor service says: models as settings write them, best first."""

    name: str
    models: tuple[str, ...]  # the default, then its fallbacks
    embeddings: tuple[str, ...]
