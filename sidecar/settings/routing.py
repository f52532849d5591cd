"""Who answers: providers, models, nodes, services and plans, and what becomes of tries that fail."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from sidecar.call import Feature
from sidecar.settings.caching import NodeCache
from sidecar.settings.kinds import (
    Count,
    FailureName,
    HeaderName,
    HeaderValue,
    InputTokens,
    Key,
    Kind,
    Milliseconds,
    Name,
    Percent,
    Share,
    Temperature,
    Tokens,
    Url,
)
from sidecar.settings.reading import NanoUsd, PicoUsdPerToken


class Profile(Struct, frozen=True):
    """Who answers when neither the request nor the node's row says so. What is not set comes from the shipped profile of that name.

    A model is written `gpt-4o`, `openai/gpt-4o`, or `openai/` for that provider's default model. `preferred` is an order of providers
    (`google,openai,anthropic`): their default models take the place of primary and fallbacks, in that order.
    """

    name: Literal["local", "staging", "production"] = "local"
    primary: str | None = None
    fallbacks: tuple[str, ...] | None = None
    embedding: str | None = None
    embedding_fallbacks: tuple[str, ...] | None = None
    preferred: tuple[str, ...] = ()


class Endpoint(Struct, frozen=True):
    """One region or key of a provider; what is not set comes from the provider. `weight` is its share of the calls, 0: only in need."""

    api_key: Key | None = None
    base_url: Url | None = None
    headers: Mapping[HeaderName, HeaderValue] = {}
    weight: Annotated[float, Meta(ge=0, le=1000)] = 1.0

    def __repr__(self) -> str:
        return f"Endpoint(base_url={self.base_url!r}, api_key={'hidden' if self.api_key else 'none'}, headers={list(self.headers)})"


class ProviderSettings(Struct, frozen=True):
    """One provider to call. It counts as configured when it has what its kind needs: a key, a base URL (compatible), or a table (ollama).

    With `service` the provider is for that service's calls only, in place of the provider in its name: `oracle-openai` stands in for
    `openai` when service `oracle` calls. `model` and `embedding_model` are the ones meant by `NAME/`. With `endpoints` the provider has
    several regions or keys: the healthiest first, by weight.
    """

    name: str = ""  # filled in from the table's name
    kind: Kind | None = None  # default: the table's name if that is a kind, else `compatible`; never None after loading
    api_key: Key | None = None
    base_url: Url | None = None
    headers: Mapping[HeaderName, HeaderValue] = {}
    connect_timeout_ms: Milliseconds = 5000
    model: str = ""
    embedding_model: str = ""
    service: str = ""
    endpoints: Mapping[Name, Endpoint] = {}

    @property
    def is_configured(self) -> bool:
        """Has everything a call needs, as far as settings can tell. A server at a base URL of its own may need no key."""
        if self.endpoints:
            return any(self.at(name).is_configured for name in self.endpoints)
        if self.kind == "compatible":
            return self.base_url is not None
        return self.kind in ("ollama", "echo") or self.api_key is not None or self.base_url is not None

    @property
    def has_key(self) -> bool:
        """Some call to it carries a key: its own, or an endpoint's."""
        return self.api_key is not None or any(endpoint.api_key is not None for endpoint in self.endpoints.values())

    def at(self, endpoint: str) -> "ProviderSettings":
        """The provider as one endpoint has it, called `NAME#ENDPOINT`: what the endpoint does not set is the provider's."""
        own = self.endpoints[endpoint]
        return replace(
            self,
            name=f"{self.name}#{endpoint}",
            api_key=own.api_key or self.api_key,
            base_url=own.base_url or self.base_url,
            headers={**self.headers, **own.headers},
            endpoints={},
        )

    def __repr__(self) -> str:
        secrets = f"api_key={'hidden' if self.api_key else 'none'}, headers={list(self.headers)}"
        return f"ProviderSettings(name={self.name!r}, kind={self.kind!r}, base_url={self.base_url!r}, {secrets})"


class RetryRow(Struct, frozen=True):
    """What to do after one kind of failure; what is not set comes from the row below (a service's, the deployment's, the shipped one).

    `retries` of the same model after the first try; before the n-th of them at most `waits_ms[n]` (the last figure repeats), a random
    share of it, so that callers do not come back together. `others_first`: untried candidates go before another try.
    """

    retries: Annotated[int, Meta(ge=0, le=20)] | None = None
    waits_ms: tuple[Annotated[int, Meta(ge=0, le=3_600_000)], ...] | None = None
    others_first: bool | None = None


class Degradation(Struct, frozen=True):
    """What a caller is told to do when nobody answers; what is not set comes from the service's row, then from the shipped one."""

    action: str | None = None
    message_en: str | None = None
    message_ko: str | None = None
    http_status: Annotated[int, Meta(ge=400, le=599)] | None = None
    most_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    code: str | None = None


class Service(Struct, frozen=True):
    """What holds for all nodes of one service. `llm` and `embedding` are used where a node has no row of its own."""

    llm: str = ""
    embedding: str = ""
    concurrency: Annotated[int, Meta(ge=0, le=100_000)] = 0  # calls at a time; 0: no limit
    queue: Annotated[int, Meta(ge=0, le=1_000_000)] = 100  # calls that may wait for a place; one more is refused
    cache_acceptance: Share = 0.95  # least score at which the answer to a similar question may be given
    breaker_failures: Annotated[int, Meta(ge=1, le=1_000_000)] = 3  # in a row, until a model is left alone
    breaker_open_ms: Milliseconds = 30_000  # for how long, before the trials
    breaker_trials: Annotated[int, Meta(ge=1, le=1_000)] = 1  # calls let through then, whatever the number of callers
    breaker_rate_percent: Percent = 50  # of the calls in the window: above it the breaker opens too; 0: never for that
    breaker_window_ms: Milliseconds = 60_000
    breaker_least_calls: Annotated[int, Meta(ge=1, le=1_000_000)] = 20  # in the window, before its rate says anything
    breaker_opens_on_rate_limit: bool = False  # at once, for as long as the provider asks to wait
    breaker_off: bool = False  # nothing is ever passed over
    most_attempts: Annotated[int, Meta(ge=1, le=100)] = 6  # in one call, all candidates together
    prompt_caching: Literal["auto", "off"] = "auto"  # Anthropic is asked to keep prompts that begin like another a short while ago
    retries: Mapping[FailureName, RetryRow] = {}
    degradation: Degradation = Degradation()


class NodeRow(Struct, frozen=True):
    """One row of the portfolio. What is not set comes from the shipped row of that name, if there is one.

    `accuracy` is a note for people; nothing reads it yet.
    """

    primary: str | None = None
    fallbacks: tuple[str, ...] | None = None
    fallback_allowed: bool | None = None
    temperature: Temperature | None = None
    max_output_tokens: Count | None = None
    accuracy: Literal["low", "medium", "high", "highest"] | None = None
    structured: Literal["", "json_object", "strict_schema"] | None = None
    first_token_ms: Milliseconds | None = None  # these three: None is as in [timeouts]
    idle_ms: Milliseconds | None = None
    answer_ms: Milliseconds | None = None
    on_cut: Literal["fail", "restart", "hold"] | None = None  # of streams whose request does not say; None: fail
    hedge: bool | None = None  # ask the second candidate too when the first is silent for longer than it mostly is; None: no
    hedge_after_ms: Milliseconds | None = None  # silent for so long; None: for the first candidate's own p95, once that is known
    complexity: Literal["", "low", "medium", "high", "estimate"] | None = None  # of calls that do not say; None or "": it chooses nothing
    degradation: Degradation | None = None
    cache: NodeCache | None = None
    prompt_caching: Literal["auto", "off"] | None = None  # None: as its service says


class OverRow(Struct, frozen=True):
    """Prices of a whole call with more input tokens than the table's name says; what is not set is as in `ModelRow` from these two."""

    input: PicoUsdPerToken
    output: PicoUsdPerToken
    cached_input: PicoUsdPerToken | None = None
    cache_write_5m: PicoUsdPerToken | None = None
    cache_write_1h: PicoUsdPerToken | None = None
    reasoning: PicoUsdPerToken | None = None


class ModelRow(Struct, frozen=True):
    """Facts about one model. What is not set comes from the catalogue's row of that name, if there is one.

    Prices are US dollars per million tokens, as text, and become pico-USD per token (1 micro-USD per million tokens is the same thing);
    `call` and `image` are US dollars for one call and for one picture in its prompt. Cached and written input cost what input costs
    where nothing else is set, reasoning what output costs. `over` is for long calls: `[models."gemini-2.5-pro".over.200000]`. A model of
    a server of one's own (ollama, compatible) without any price costs nothing; for others see `catalog.unpriced`.
    `tier` is a note for people; nothing reads it yet.
    """

    provider: str | None = None
    name: str | None = None  # the provider's own name of it; default: the table's name
    aliases: tuple[str, ...] | None = None
    context_tokens: Count | None = None
    max_output_tokens: Count | None = None
    tokenizer: Literal["o200k_base", "cl100k_base", "claude", "gemini", "llama", "estimate"] | None = None
    capabilities: tuple[Feature, ...] | None = None
    input: PicoUsdPerToken | None = None
    cached_input: PicoUsdPerToken | None = None
    cache_write_5m: PicoUsdPerToken | None = None
    cache_write_1h: PicoUsdPerToken | None = None
    output: PicoUsdPerToken | None = None
    reasoning: PicoUsdPerToken | None = None
    call: NanoUsd | None = None
    image: NanoUsd | None = None
    over: Mapping[InputTokens, OverRow] | None = None
    as_of: date | None = None  # the day the prices were read
    retires_on: date | None = None
    successor: str | None = None
    dimensions: Count | None = None  # of a vector when the request does not say
    max_dimensions: Count | None = None  # default: dimensions
    tier: Literal["cheap", "standard", "strong"] | None = None
    requests_per_minute: Count | None = None  # None: not limited by the sidecar
    tokens_per_minute: Count | None = None
    cache_min_tokens: Count | None = None  # Anthropic: the shortest prefix that is kept on request; None: it is not asked to


class Plan(Struct, frozen=True):
    """What a user's plan allows. A plan that nobody names limits nothing; `PLANS` are there from the start.

    `models`: only these may answer, and those that can stand in where a node wants others; empty: all. If none of them makes embeddings,
    embeddings are not limited. `preferred`: the user may store one of these as their own choice; empty: they may store none.
    `month_usd` and `month_tokens`: what all calls of one tenant under this plan may spend from the first of a month to its last.
    """

    models: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()
    month_nano_usd: NanoUsd | None = field(default=None, name="month_usd")
    month_tokens: Tokens | None = None

    @property
    def is_capped(self) -> bool:
        return self.month_nano_usd is not None or self.month_tokens is not None


class Tiers(Struct, frozen=True):
    """The models for easy, usual and hard questions (`complexity`)."""

    cheap: str = "gpt-4o-mini"
    standard: str = "gpt-4o"
    strong: str = "claude-sonnet-4"


class CatalogSettings(Struct, frozen=True):
    """`pin` names retired models that shall be called all the same; `soon_days` is how early `sidecar check` warns of an end.

    `unpriced`: a model of a provider that bills, under [models] without its price. `refuse` is a mistake in the settings; `estimate` takes
    the dearest known prices of its provider, and what it costs is marked as estimated.
    """

    pin: tuple[str, ...] = ()
    unpriced: Literal["refuse", "estimate"] = "refuse"
    soon_days: Annotated[int, Meta(ge=0, le=3650)] = 60


class Timeouts(Struct, frozen=True):
    """How long a provider may take; for connecting see `providers.NAME.connect_timeout_ms`.

    `total_ms` is the budget of a call whose caller gave no deadline.
    """

    headers_ms: Milliseconds = 15_000  # of a streamed answer
    first_token_ms: Milliseconds = 15_000  # of a streamed answer, counted from the question
    idle_ms: Milliseconds = 30_000  # between two pieces of a streamed answer
    stream_ms: Milliseconds = 600_000  # a streamed answer as a whole
    answer_ms: Milliseconds = 30_000  # an answer that is not streamed, as a whole
    total_ms: Milliseconds = 60_000
    first_share: Share = 0.6  # of the time that is left, what one try may be silent for while another candidate is untried
    blame_ms: Milliseconds = 1_000  # a silence that a caller's short time ended sooner than this does not count against the model


class Retries(Struct, frozen=True):
    """The table of failures for all services, and how much of a provider's traffic retries may be, so that they never double an outage."""

    rate_limited: RetryRow = RetryRow()
    unavailable: RetryRow = RetryRow()
    garbled: RetryRow = RetryRow()
    stream_cut: RetryRow = RetryRow()
    timeout: RetryRow = RetryRow()
    first_token: RetryRow = RetryRow()
    schema_violated: RetryRow = RetryRow()
    budget_percent: Percent = 20  # retries per call at one provider, in the long run
    budget_per_second: Annotated[int, Meta(ge=0, le=1_000_000)] = 1  # beside that, so that a lone caller is not left without any
    budget_most: Annotated[int, Meta(ge=1, le=1_000_000)] = 20  # saved up
    set_aside_ms: Milliseconds = 300_000  # a key that was refused, a model whose quota is used up, where the provider does not say
