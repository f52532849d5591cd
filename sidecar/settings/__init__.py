"""This deployment's settings: one TOML file, every key also as an environment variable, parsed once into frozen values.

    [server]            where it listens, sizes, grace            SIDECAR_SERVER__LISTEN=127.0.0.1:50051
    [profile]           local | staging | production, defaults    SIDECAR_PROFILE__NAME=production
    [providers.NAME]    keys and addresses                        SIDECAR_PROVIDERS__OPENAI__API_KEY=...
    [services.NAME]     a service's own models, concurrency       SIDECAR_SERVICES__ORACLE__CONCURRENCY=5
    [nodes.SERVICE.NODE] rows over or beside the shipped ones     SIDECAR_NODES__RAG__ANSWER__PRIMARY=gpt-4o
    [models."NAME"]     prices and facts over or beside the catalogue's
    [plans.NAME]        which models a user's plan allows
    [retries.FAILURE]   what to do after a failed attempt; FAILURE is rate_limited, unavailable, garbled, stream_cut, timeout (of a whole
                        answer or between its pieces), first_token or schema_violated
    [tiers]             the cheap, the standard and the strong model, for calls that say how hard they are
    [http]              the HTTP door: address, limits, streams, browsers' origins
    [tls]               certificate of both doors, and of whom they let in
    [auth]              tokens of callers and operators             SIDECAR_AUTH__TOKENS__ORACLE__SHA256=...
    [journal]           how safely spending is kept in server.data_dir   SIDECAR_JOURNAL__FSYNC=interval
    [budgets.NAME]      limits of services, nodes, users, plans, runs and of all together: see `budgets.py`
    [cache]             what is remembered of answers, and where; one node's is [nodes.SERVICE.NODE.cache]: see `caching.py`
    [alerts]            whom to tell of trouble: chat, webhook, e-mail; see `alerts.py`    SIDECAR_ALERTS__CHAT_URL=https://...
    [usage]             the usage log: for how long, which days, a PostgreSQL that pods share
    [catalog] [timeouts] [limits] [admission] [health] [redis] [fleet] [logging] [tracing]

A variable's name is `SIDECAR_`, then the key path in upper case with `__` between its parts; what is no letter or digit in a name is
`_`. Lists are written a,b and tables of text name=value,name=value. An empty variable counts as not set. The environment wins over
the file; `SIDECAR_SETTINGS` names the file. The names that the services already use (OPENAI_API_KEY, DEFAULT_LLM_MODEL,
MODEL_<SERVICE>_<NODE>, ...) are understood too: see `variables.py`; where both are set, the SIDECAR_ one wins.

Amounts of money are decimal text in quotes and become exact integers. Every mistake is one `SettingsError`.
"""

import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from sidecar.call import Feature
from sidecar.errors import SettingsError
from sidecar.settings import variables
from sidecar.settings.alerts import AlertSettings, open_alerts
from sidecar.settings.budgets import BUDGETS, BudgetRow, WithoutRedis
from sidecar.settings.caching import CacheSettings, NodeCache
from sidecar.settings.checks import check, open_doors
from sidecar.settings.reading import NanoUsd, PicoUsdPerToken, Source, dotted, read

__all__ = ["Limits", "ModelRow", "NodeRow", "Profile", "ProviderSettings", "Server", "Service", "Settings", "SettingsError", "load"]

Kind = Literal["openai", "anthropic", "google", "ollama", "compatible", "echo"]

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]*\Z", description="a name of small letters, digits, _ and -, beginning with a letter")]
Address = Annotated[
    str, Meta(pattern=r"^((\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})?\Z", description='host:port in quotes, like "127.0.0.1:50051"')
]
Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?\Z",
        description='a URL like "http://127.0.0.1:8000/v1" without user, query or fragment (a key belongs into api_key)',
    ),
]
Key = Annotated[str, Meta(pattern=r"^[!-~]+\Z", description="a key: printable ASCII without spaces or line breaks")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="the SHA-256 of a token, 64 hex digits: printf %s TOKEN | sha256sum")]
Origin = Annotated[
    str, Meta(pattern=r"^https?://[a-z0-9.\[\]:-]+\Z", description='an origin as browsers send it, like "https://oracle.example.com"')
]
Bytes = Annotated[int, Meta(ge=1024, le=1_073_741_824)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+\Z", description="a header name")]
HeaderValue = Annotated[str, Meta(pattern=r"^[ -~]*\Z", description="printable ASCII text")]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]
Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
InputTokens = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}\Z", description="a number of input tokens, like 200000")]
Share = Annotated[float, Meta(ge=0, le=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Percent = Annotated[int, Meta(ge=0, le=100)]
RedisUrl = Annotated[
    str,
    Meta(
        pattern=r"^(redis|rediss)://[^\s/@?#]+(/[0-9]+)?\Z",
        description='an address like "redis://127.0.0.1:6379/0", rediss:// for TLS (user and password belong into keys of their own)',
    ),
]

PostgresUrl = Annotated[
    str,
    Meta(
        pattern=r"^postgres(ql)?://([^\s/@:?#]+@)?[^\s/@?#]+(/[^\s/?#]*)?(\?[^\s#]*)?\Z",
        description='an address like "postgresql://sidecar@db:5432/usage?sslmode=verify-full" (the password belongs into a key of its own)',
    ),
]

# The failures that a rule can be set for; what each means is in `errors.py`.
FailureName = Literal["rate_limited", "unavailable", "garbled", "stream_cut", "timeout", "first_token", "schema_violated"]


class Server(Struct, frozen=True):
    """The gRPC door and the operations port. Other addresses than loopback need [tls] or [auth], the operations port's apart.

    `data_dir` holds what was spent (see [journal]), the usage log, and the models that users prefer.
    """

    listen: Address = "127.0.0.1:50051"  # port 0: any free one; "": no TCP door (then `socket` must be set)
    socket: str = ""  # path of a Unix socket to listen on as well, for whoever can enter its folder (mode 0666); "": none
    ops_listen: Address = "127.0.0.1:9090"  # metrics and probes; may be any address; "": off
    grace_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 30_000  # how long calls in flight may go on after SIGTERM
    max_message_bytes: Annotated[int, Meta(ge=1024, le=1_073_741_824)] = 32 * 1024 * 1024  # one request by either door, images included
    max_prompt_bytes: Annotated[int, Meta(ge=1024, le=1_073_741_824)] = 4 * 1024 * 1024  # all text of one request
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4_096  # of the gRPC door
    reflection: bool = True
    data_dir: str | None = None  # what must outlive the process goes here; None: it is kept in memory only
    language: Literal["en", "ko"] = "en"  # of messages for people, where the caller's metadata `accept-language` names neither


class Http(Struct, frozen=True):
    """The HTTP door. Browsers may call from `allowed_origins` only; a request that names another origin is refused before it is read."""

    listen: Address = "127.0.0.1:8080"  # port 0: any free one; "": off
    allowed_origins: tuple[Origin, ...] = ()
    heartbeat_ms: Milliseconds = 15_000  # an event stream that was silent for so long says something, for proxies to see that it lives
    retry_ms: Milliseconds = 1_000  # what event streams tell clients to wait before they come back
    resume_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 30_000  # a stream whose client can resume it lives on so long without a client
    resume_bytes: Bytes = 256 * 1024  # the last events of such a stream, for a client that comes back
    header_ms: Milliseconds = 10_000  # from a connection's, or a request's, first byte to the last of its header
    body_ms: Milliseconds = 30_000  # from there to the last byte of the body
    idle_ms: Milliseconds = 75_000  # a connection without a request
    max_header_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 16_384  # a request's line, and each of its headers
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4_096
    # Of OpenAI's and Anthropic's requests; pass: handed to the provider as they are.
    unknown_parameters: Literal["refuse", "pass"] = "refuse"


class Tls(Struct, frozen=True):
    """TLS of both doors, the Unix socket apart. PEM files, read again for each new connection after they have changed.

    With `client_ca_file` callers have to show a certificate of that authority.
    """

    cert_file: str = ""  # the certificate, and those between it and its authority; "": no TLS
    key_file: str = ""
    client_ca_file: str = ""


class Token(Struct, frozen=True):
    """One caller's token, by its hash, and who its calls are from: what is not set the caller may say."""

    sha256: Sha256
    service: str = ""
    node: str = ""
    tenant: str = ""
    user: str = ""
    plan: str = ""
    run: str = ""
    agent: str = ""

    def __repr__(self) -> str:
        return f"Token(tenant={self.tenant!r}, service={self.service!r})"


class Auth(Struct, frozen=True):
    """Tokens, `authorization: Bearer TOKEN` by either door. With any of `tokens` every call needs one; OpsService has its own.

    A token should be random, 128 bits or more (`openssl rand -hex 32`): hashes of words can be guessed.
    """

    tokens: Mapping[Name, Token] = {}
    ops_sha256: Sha256 | None = None  # of OpsService; None: it is open, or, where there are `tokens`, closed to all

    def __repr__(self) -> str:
        return f"Auth(tokens={list(self.tokens)}, ops={'hidden' if self.ops_sha256 else 'none'})"


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


class Admission(Struct, frozen=True):
    """When the sidecar itself falls behind, it refuses the least important calls first: the event loop's lag says how far behind it is."""

    lag_optional_ms: Milliseconds = 250  # from here on optional calls are refused
    lag_normal_ms: Milliseconds = 1_000  # from here on normal ones too; critical ones never


class Health(Struct, frozen=True):
    """Active checks: a list of models is fetched from each endpoint every `check_interval_ms`; 0: traffic alone tells."""

    check_interval_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 0
    check_timeout_ms: Milliseconds = 5_000
    window_ms: Milliseconds = 300_000  # nodes and providers that were called in it are in use


class Redis(Struct, frozen=True):
    """A Redis or Valkey that pods share, never required: breakers tell each other of a provider that fails."""

    url: RedisUrl | None = None  # None: none
    username: str = ""
    password: Key | None = None
    ca_file: str = ""  # for rediss://; "": the system's
    prefix: Name = "sidecar"  # of all keys and channels

    def __repr__(self) -> str:
        return f"Redis(url={self.url!r}, password={'hidden' if self.password else 'none'})"


class Fleet(Struct, frozen=True):
    """How pods share budgets through [redis]: each spends leases that are set aside for it there, and asks for more before they run out.

    `without_redis`: while Redis is away `lease` lets a pod go on within what it has leased, for `lease_ms`, and then refuses; `refuse` does
    so at once; `share` lets each pod have its part of what was left besides, by `pods`, and of the limit where it knows nothing: together
    less than twice the limit.
    """

    share_budgets: bool = True  # false: each pod has the limits for itself, and Redis is for hints only
    without_redis: WithoutRedis = "lease"  # a row of [budgets] may want something else
    pods: Annotated[int, Meta(ge=1, le=100_000)] | None = None  # how many there are; needed for `share`
    lease_ms: Annotated[int, Meta(ge=20_000, le=86_400_000)] = 600_000  # a silent pod's lease goes back after this
    learn_ms: Annotated[int, Meta(ge=100, le=600_000)] = 5_000  # after it has forgotten, Redis is told again for so long before it leases
    wait_ms: Annotated[int, Meta(ge=1, le=10_000)] = 50  # the most that a call waits for a lease


class Limits(Struct, frozen=True):
    """What one tenant may spend per day, and what happens to dear calls. Amounts are written `tenant_day_usd = "30"`.

    A call that cost more than `call_log_usd` is logged, than `call_notify_usd` an alert (of each tenant and node one per cool-down), than
    `call_throttle_usd` sends its tenant's calls of that node to the cheap model of [tiers] for a while; one that could cost more than
    `call_halt_usd` is refused before anybody is asked.

    A call holds the most it can cost until it ends. Where that keeps out callers whose answers are mostly short, `reserve_quantile = 0.99`
    holds its input in full and of its output what 99 of 100 of the last 1,000 answers of its node and model came within, never more than
    its own limit: as soon as enough are known (100; for 0.999: 999) of the model, else of all that answer for the node. Then a limit may be
    overshot: of N calls in flight at most about (1 - q) N cost more than they hold, each by at most (its output limit - the quantile) times
    the output price, as far as answers are like those before them. What they cost is posted in full, and counted as an overrun.
    """

    tenant_day_nano_usd: NanoUsd = field(default=NanoUsd(30_000_000_000), name="tenant_day_usd")
    tenant_day_tokens: Tokens = 1_000_000
    time_zone: str = "UTC"  # in which the day begins and ends: a name like Asia/Seoul
    warn_percent: Annotated[int, Meta(ge=1, le=100)] = 80
    call_log_nano_usd: NanoUsd = field(default=NanoUsd(500_000_000), name="call_log_usd")
    call_notify_nano_usd: NanoUsd = field(default=NanoUsd(2_000_000_000), name="call_notify_usd")
    call_throttle_nano_usd: NanoUsd = field(default=NanoUsd(5_000_000_000), name="call_throttle_usd")
    call_halt_nano_usd: NanoUsd = field(default=NanoUsd(10_000_000_000), name="call_halt_usd")
    call_notify_every_ms: Milliseconds = 300_000
    call_throttle_ms: Milliseconds = 60_000
    reserve_quantile: Annotated[float, Meta(ge=0.5, le=0.999)] | None = None  # None: the most
    run_idle_hours: Annotated[int, Meta(ge=1, le=8_760)] = 24  # a run with a plan is closed after so long without a call
    tenant_requests_per_minute: Count | None = None  # None: not limited
    tenant_tokens_per_minute: Count | None = None


class Journal(Struct, frozen=True):
    """What was spent, kept in server.data_dir. A process that is killed loses nothing of it; `fsync` is about power cuts.

    `settle`: a post is on the disk as soon as one or two syncs take. `interval`: `fsync_interval_ms` later. `never`: when the kernel finds
    time.
    """

    fsync: Literal["settle", "interval", "never"] = "settle"
    fsync_interval_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = 100
    on_full: Literal["refuse", "go_on"] = "refuse"  # of calls, while the disk is full or fails; go_on: costs are kept in memory until then


class UsageSettings(Struct, frozen=True):
    """The usage log: one row per call in server.data_dir, which it needs; with `postgres` rows go on from there to one that pods share.

    In a PostgreSQL rows go by whole months, so that they stay for up to a month longer than `keep_days`.
    """

    keep_days: Annotated[int, Meta(ge=1, le=36_500)] = 90  # one row per call
    keep_statistics_days: Annotated[int, Meta(ge=1, le=36_500)] = 1_100  # sums of each day, by tenant, service, node and model
    time_zone: str = "UTC"  # of days: a name like Asia/Seoul; rows keep the day that they were given
    postgres: PostgresUrl | None = None  # None: the file alone
    postgres_password: Key | None = None

    def __repr__(self) -> str:
        hidden = "hidden" if self.postgres_password else "none"
        return f"UsageSettings(time_zone={self.time_zone!r}, postgres={self.postgres!r}, postgres_password={hidden})"


class Logging(Struct, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    content: bool = False  # prompts and answers in the log; keys never


class Tracing(Struct, frozen=True):
    """Where traces go, from LANGCHAIN_* and OTEL_*; `otel` holds the latter under their own names.

    It is read and checked, and does nothing yet: no traces are sent.
    """

    langchain: bool = False
    langchain_api_key: Key | None = None
    langchain_project: str = ""
    otel: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"Tracing(langchain={self.langchain}, langchain_project={self.langchain_project!r}, otel={list(self.otel)})"


class Tables(Struct, frozen=True):
    """The tables a settings file may have."""

    server: Server = Server()
    http: Http = Http()
    tls: Tls = Tls()
    auth: Auth = Auth()
    profile: Profile = Profile()
    providers: Mapping[Name, ProviderSettings] = {}
    services: Mapping[Name, Service] = {}
    nodes: Mapping[Name, Mapping[Name, NodeRow]] = {}
    models: Mapping[str, ModelRow] = {}
    plans: Mapping[Name, Plan] = {}
    tiers: Tiers = Tiers()
    catalog: CatalogSettings = CatalogSettings()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    limits: Limits = Limits()
    budgets: Mapping[Name, BudgetRow] = {}
    admission: Admission = Admission()
    health: Health = Health()
    redis: Redis = Redis()
    fleet: Fleet = Fleet()
    journal: Journal = Journal()
    cache: CacheSettings = CacheSettings()
    usage: UsageSettings = UsageSettings()
    alerts: AlertSettings = AlertSettings()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()


# Policy figures that belong to single services; a table in the file replaces them key by key.
SERVICES = {
    "core": Service(),
    "oracle": Service(concurrency=5, cache_acceptance=0.90),
    "synapse": Service(concurrency=3, breaker_opens_on_rate_limit=True),
    "vision": Service(breaker_failures=5),
    "weaver": Service(
        breaker_off=True, retries={name: RetryRow(retries=0) for name in get_args(FailureName)}
    ),  # its next batch tries again
}

# The policy's plans; a table in the file replaces them key by key.
PLANS = {
    "free": Plan(models=("gpt-4o-mini", "gemini-2.5-flash")),
    "paid": Plan(),
    "premium": Plan(preferred=("gpt-4o", "gpt-4o-mini", "claude-sonnet-4", "gemini-2.5-flash")),
}


def _built_in(own: Mapping[str, ProviderSettings]) -> dict[str, ProviderSettings]:
    """The four with a key are known by name even when nothing is set, so that a missing key can be told from a misspelt name."""
    return {name: ProviderSettings(name=name, kind=name) for name in ("openai", "anthropic", "google", "echo") if name not in own}


class Settings(Tables, frozen=True):
    """All settings. `node_models` is MODEL_<SERVICE>_<NODE> by `service.node`; `source` knows where a value came from."""

    providers: Mapping[Name, ProviderSettings] = field(default_factory=lambda: _built_in({}))
    services: Mapping[Name, Service] = field(default_factory=lambda: dict(SERVICES))
    plans: Mapping[Name, Plan] = field(default_factory=lambda: dict(PLANS))
    budgets: Mapping[Name, BudgetRow] = field(default_factory=lambda: dict(BUDGETS))
    node_models: Mapping[str, str] = {}
    notices: tuple[str, ...] = ()  # what an operator should know and is no mistake
    source: Source = Source("settings")

    def origin(self, *path: str) -> str:
        """Where the value at a key path came from, as an error should name it: the variable, or file and key."""
        return self.source.variables.get(path) or f"{self.source.file}: {dotted(path)}"

    @property
    def configured(self) -> frozenset[str]:
        """Names of the providers that have what a call needs, `echo` apart: it is always there."""
        return frozenset(name for name, provider in self.providers.items() if provider.is_configured and provider.kind != "echo")


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Reads the file, if there is one, and the environment over it. Raises SettingsError for the first mistake found."""
    raw = _file(path) if path is not None else {}
    given, node_models, notices = variables.overlay(raw, environ)
    source = Source(str(path) if path is not None else "settings", given)
    tables = read(Tables, raw, source)
    services = {name: _service(name, tables, raw) for name in {**SERVICES, **tables.services}}
    values = {field: getattr(tables, field) for field in tables.__struct_fields__} | {
        "providers": {name: _provider(name, row) for name, row in tables.providers.items()} | _built_in(tables.providers),
        "services": services,
        "plans": {name: _plan(name, tables, raw) for name in {**PLANS, **tables.plans}},
        "budgets": {**BUDGETS, **{name: _budget(name, row, raw) for name, row in tables.budgets.items()}},
    }
    settings = Settings(**values, node_models=node_models, notices=notices, source=source)
    check(settings)
    return replace(settings, notices=(*notices, *open_doors(settings), *open_alerts(settings), *_idle(settings, raw)))


def _idle(settings: Settings, raw: Mapping[str, Any]) -> Iterator[str]:
    """One line per setting that somebody has set and that does nothing yet, or not all that one may think."""
    if raw.get("tracing"):
        where = settings.source.variable(("tracing",)) or settings.origin("tracing")
        yield f"{where} does nothing yet: no traces are sent"


def _service(name: str, tables: Tables, raw: Mapping[str, Any]) -> Service:
    """A service's table over the policy's figures for it."""
    own = tables.services.get(name)
    if own is None:
        return SERVICES[name]
    return replace(SERVICES.get(name, Service()), **{key: getattr(own, key) for key in raw["services"][name]})


def _plan(name: str, tables: Tables, raw: Mapping[str, Any]) -> Plan:
    """A plan's table over the policy's; where it names models and no preferred ones, the policy's preferred that are among them stay."""
    own, shipped = tables.plans.get(name, Plan()), PLANS.get(name, Plan())
    given = raw.get("plans", {}).get(name, {})
    models = own.models if "models" in given else shipped.models
    preferred = own.preferred if "preferred" in given else tuple(ref for ref in shipped.preferred if not models or ref in models)
    return Plan(models, preferred, own.month_nano_usd, own.month_tokens)


def _budget(name: str, own: BudgetRow, raw: Mapping[str, Any]) -> BudgetRow:
    """A budget's table over the shipped row of that name."""
    given = {key: "limit_nano_usd" if key == "limit_usd" else key for key in raw["budgets"][name]}
    return replace(BUDGETS.get(name, BudgetRow()), **{field: getattr(own, field) for field in given.values()})


def _provider(name: str, row: ProviderSettings) -> ProviderSettings:
    kind = row.kind or (name if name in variables.KINDS else "compatible")
    return replace(row, name=name, kind=kind)


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise SettingsError(str(path), "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(str(path), "", f"is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(str(path), "", f"is not TOML: {str(error)[:1].lower()}{str(error)[1:]}") from None
