"""What holds for the process as a whole: load, health, Redis, money, journal, usage log, logging and tracing."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from sidecar.settings.budgets import WithoutRedis
from sidecar.settings.kinds import Count, Key, Milliseconds, Name, PostgresUrl, RedisUrl, Tokens
from sidecar.settings.reading import NanoUsd


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

    `without_redis`: while Redis is away `lease` lets a pod go on within what it has leased, and then refuses; `refuse` does so at once;
    `share` lets each pod have its part of what was left besides, by `pods`, and of the limit where it knows nothing: together less than
    twice the limit.

    What has been admitted is never more than the limit, however many pods there are and whichever of them are killed. What one that is
    killed had leased stays set aside until it is back or the window ends, as it may have spent it: what its calls in flight held, and room
    for at most four more or for a fiftieth of the limit, unless calls came so fast that they had to wait.

    Runs with a plan are those of all pods, too. Each of their calls asks Redis, and is refused while that is away. `refuse` then refuses
    also calls of runs that may have a plan for all that is known; else only tenants that have had one are refused those. What a pod held
    for calls of runs ends when nothing has been heard of it for `lease_ms`, but not before 10 s.
    """

    share_budgets: bool = True  # false: each pod has the limits for itself, and Redis is for hints only
    without_redis: WithoutRedis = "lease"  # a row of [budgets] may want something else
    pods: Annotated[int, Meta(ge=1, le=100_000)] | None = None  # how many there are; needed for `share`
    lease_ms: Annotated[int, Meta(ge=1_000, le=86_400_000)] = 600_000  # what was not used for half of it goes back
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
