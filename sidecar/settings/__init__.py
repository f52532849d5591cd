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
from pathlib import Path
from typing import Any, get_args

from msgspec import Struct, field
from msgspec.structs import replace

from sidecar.errors import SettingsError
from sidecar.settings import variables
from sidecar.settings.alerts import AlertSettings, open_alerts
from sidecar.settings.budgets import BUDGETS, BudgetRow
from sidecar.settings.caching import CacheSettings
from sidecar.settings.checks import check, open_doors
from sidecar.settings.doors import Auth, Http, Server, Tls
from sidecar.settings.kinds import FailureName, Name
from sidecar.settings.operation import Admission, Fleet, Health, Journal, Limits, Logging, Redis, Tracing, UsageSettings
from sidecar.settings.reading import Source, dotted, read
from sidecar.settings.routing import (
    CatalogSettings,
    ModelRow,
    NodeRow,
    Plan,
    Profile,
    ProviderSettings,
    Retries,
    RetryRow,
    Service,
    Tiers,
    Timeouts,
)

__all__ = ["PLANS", "SERVICES", "Settings", "SettingsError", "Tables", "load"]


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
