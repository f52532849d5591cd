"""A deployment drawn at random: settings as an operator would write them, so that they go through the real reader."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache
from random import Random

from sidecar.catalog import load as load_catalog
from sidecar.catalog import loading
from sidecar.settings import load

loading._shipped = cache(loading._shipped)  # the same for all seeds, and most of what drawing one costs

SERVICES = ("core", "oracle", "vision", "synapse", "weaver", "reports")  # the last one is a service that settings need not know
NODES = ("first", "second")
TENANTS = ("acme", "blue", "cork")
MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-6", "gemini-2.5-flash", "local/small", "local/large")
EMBEDDING_MODELS = ("text-embedding-3-small", "gemini-embedding-001")
USERS = ("", "", "ann", "bob")
PLANS = ("", "", "small", "large")  # the second one has no limit
AGENTS = ("lead", "work", "extra")
FAILURES = ("RATE_LIMITED", "UNAVAILABLE", "GARBLED", "STREAM_CUT", "TIMEOUT", "FIRST_TOKEN", "SCHEMA_VIOLATED")
TODAY = date(2026, 11, 21)

ZONES = ("UTC", "Asia/Seoul", "Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe")
# Rows of budgets that may get a limit: shipped ones, and some that only these deployments have.
_ROWS = (
    *("TENANT_MONTH", "SERVICE_DAY", "SERVICE_MONTH", "NODE_DAY", "USER_DAY", "USER_MONTH"),
    *("COMPANY_DAY_WARNING", "COMPANY_WEEK_CRITICAL"),
)
_OWN_ROWS = {
    "TENANT_MINUTE": {"SCOPE": "tenant", "WINDOW": "minute"},
    "COMPANY_HOUR": {"SCOPE": "company", "WINDOW": "hour"},
    "ONLY_BLUE": {"SCOPE": "tenant", "OF": "blue", "WINDOW": "week"},
    "RUN_DAY": {"SCOPE": "run"},
    "AGENT_HOUR": {"SCOPE": "agent", "WINDOW": "hour"},
}


def draw(random: Random, more: Mapping[str, str] | None = None):
    """Settings and catalogue of one deployment; `more` is set in all of its kind."""
    environ = {
        "OPENAI_API_KEY": "k",
        "ANTHROPIC_API_KEY": "k",
        "GOOGLE_API_KEY": "k",
        "SIDECAR_PROVIDERS__LOCAL__BASE_URL": "http://127.0.0.1:1/v1",
        "SIDECAR_PROFILE__NAME": "production",
        "SIDECAR_LOGGING__LEVEL": "error",
        "SIDECAR_LIMITS__TENANT_DAY_TOKENS": "1000000000",
        "SIDECAR_LIMITS__TENANT_DAY_USD": "100000",
    }
    _limits(random, environ)
    if random.random() < 0.4:
        _budgets(random, environ)
    _times(random, environ)
    _retries(random, environ)
    _endpoints(random, environ)
    for service in SERVICES:
        _service(random, environ, service)
        for node in NODES:
            _node(random, environ, f"SIDECAR_NODES__{service.upper()}__{node.upper()}__")
    environ |= more or {}
    settings = load(None, environ)
    return settings, load_catalog(settings, TODAY), environ


def rare(seed: int) -> dict[str, str]:
    """What few deployments set, by a chance of its own, so that the others stay what they were."""
    random = Random(f"rare {seed}")
    if random.random() < 0.08:
        return dear(random)
    if random.random() < 0.05:
        return {"SIDECAR_LIMITS__RESERVE_QUANTILE": f"{random.uniform(0.5, 0.97):.3f}"}
    return {}


def dear(random: Random) -> dict[str, str]:
    """Thresholds of single calls that some calls pass."""
    names = ("LOG", "NOTIFY", "THROTTLE")
    environ = {f"SIDECAR_LIMITS__CALL_{name}_USD": f"{10 ** random.uniform(-5, -2.5):.6f}" for name in names}
    environ["SIDECAR_LIMITS__CALL_THROTTLE_MS"] = str(random.choice((500, 5_000, 60_000)))
    environ["SIDECAR_LIMITS__CALL_NOTIFY_EVERY_MS"] = str(random.choice((1_000, 10_000, 300_000)))
    return environ


def _maybe(random: Random, chance: float, environ: dict[str, str], name: str, low: int, high: int) -> None:
    if random.random() < chance:
        environ[name] = str(random.randint(low, high))


def _limits(random: Random, environ: dict[str, str]) -> None:
    if random.random() < 0.25:
        environ["SIDECAR_LIMITS__TENANT_DAY_USD"] = f"{random.uniform(0.001, 0.05):.4f}"
    _maybe(random, 0.25, environ, "SIDECAR_LIMITS__TENANT_DAY_TOKENS", 500, 20_000)
    _maybe(random, 0.25, environ, "SIDECAR_LIMITS__TENANT_REQUESTS_PER_MINUTE", 10, 120)
    _maybe(random, 0.2, environ, "SIDECAR_LIMITS__TENANT_TOKENS_PER_MINUTE", 200, 20_000)
    for model in ("GPT_4O", "CLAUDE_SONNET_4_6", "GEMINI_2_5_FLASH"):
        _maybe(random, 0.15, environ, f"SIDECAR_MODELS__{model}__REQUESTS_PER_MINUTE", 5, 100)
        _maybe(random, 0.1, environ, f"SIDECAR_MODELS__{model}__TOKENS_PER_MINUTE", 300, 20_000)


def _budgets(random: Random, environ: dict[str, str]) -> None:
    """Limits of every scope, from such that a few calls use up to such that nobody reaches."""
    if random.random() < 0.5:
        environ["SIDECAR_LIMITS__TIME_ZONE"] = random.choice(ZONES)
    rows = {name: {} for name in _ROWS} | _OWN_ROWS
    for name, facts in rows.items():
        if random.random() > 0.3:
            continue
        path = f"SIDECAR_BUDGETS__{name}__"
        environ |= {path + key: value for key, value in facts.items()}
        environ[path + "LIMIT_USD"] = f"{10 ** random.uniform(-3.5, 0.5):.6f}"
        _maybe(random, 0.2, environ, path + "LIMIT_TOKENS", 200, 50_000)
        if random.random() < 0.2:
            environ[path + "MODE"] = random.choice(("refuse", "warn", "shadow", "off"))
        if random.random() < 0.3:
            environ[path + "TIME_ZONE"] = random.choice(ZONES)
    if random.random() < 0.4:
        environ["SIDECAR_PLANS__SMALL__MONTH_USD"] = f"{10 ** random.uniform(-3.5, -1):.6f}"
        _maybe(random, 0.2, environ, "SIDECAR_PLANS__SMALL__MONTH_TOKENS", 200, 50_000)
    if random.random() < 0.2:
        for name in ("LOG", "NOTIFY", "THROTTLE", "HALT"):
            environ[f"SIDECAR_LIMITS__CALL_{name}_USD"] = f"{10 ** random.uniform(-4.5, -1):.6f}"


def _times(random: Random, environ: dict[str, str]) -> None:
    for name, low, high in (
        ("HEADERS_MS", 300, 5_000),
        ("FIRST_TOKEN_MS", 300, 8_000),
        ("IDLE_MS", 200, 5_000),
        ("STREAM_MS", 1_000, 60_000),
        ("ANSWER_MS", 500, 20_000),
        ("BLAME_MS", 1, 5_000),
    ):
        _maybe(random, 0.6, environ, f"SIDECAR_TIMEOUTS__{name}", low, high)
    if random.random() < 0.3:
        environ["SIDECAR_TIMEOUTS__FIRST_SHARE"] = f"{random.uniform(0.1, 1):.2f}"


def _retries(random: Random, environ: dict[str, str]) -> None:
    for name, values in (("PERCENT", (0, 0, 20, 100)), ("PER_SECOND", (0, 0, 1, 3)), ("MOST", (1, 5, 30))):
        if random.random() < 0.7:
            environ[f"SIDECAR_RETRIES__BUDGET_{name}"] = str(random.choice(values))
    _maybe(random, 0.7, environ, "SIDECAR_RETRIES__SET_ASIDE_MS", 1_000, 60_000)
    for name in FAILURES:
        _retry_row(random, environ, f"SIDECAR_RETRIES__{name}__")


def _retry_row(random: Random, environ: dict[str, str], path: str) -> None:
    _maybe(random, 0.3, environ, path + "RETRIES", 0, 6)
    if random.random() < 0.3:
        environ[path + "WAITS_MS"] = ",".join(str(random.choice((0, 1, 50, 400, 3_000))) for _ in range(random.randint(1, 3)))
    if random.random() < 0.1:
        environ[path + "OTHERS_FIRST"] = random.choice(("true", "false"))


def _endpoints(random: Random, environ: dict[str, str]) -> None:
    """Some providers have several keys or regions."""
    for provider in ("OPENAI", "ANTHROPIC"):
        if random.random() < 0.3:
            for name in ("ASIA", "EU", "US")[: random.randint(2, 3)]:
                environ[f"SIDECAR_PROVIDERS__{provider}__ENDPOINTS__{name}__API_KEY"] = name.lower()
                environ[f"SIDECAR_PROVIDERS__{provider}__ENDPOINTS__{name}__WEIGHT"] = str(
                    random.choice((1, 3) if name == "ASIA" else (0, 1, 3))
                )


def _service(random: Random, environ: dict[str, str], service: str) -> None:
    path = f"SIDECAR_SERVICES__{service.upper()}__"
    if service == "reports" and random.random() < 0.5:
        return
    if random.random() < 0.4:
        environ[path + "CONCURRENCY"] = str(random.choice((0, 1, 2, 4, 8)))
        environ[path + "QUEUE"] = str(random.choice((0, 1, 5, 20, 100)))
    _maybe(random, 0.5, environ, path + "BREAKER_FAILURES", 1, 6)
    if random.random() < 0.6:
        environ[path + "BREAKER_OPEN_MS"] = str(random.choice((1, 100, 1_000, 5_000, 30_000)))
    _maybe(random, 0.3, environ, path + "BREAKER_TRIALS", 1, 4)
    _maybe(random, 0.3, environ, path + "BREAKER_RATE_PERCENT", 0, 90)
    _maybe(random, 0.3, environ, path + "BREAKER_WINDOW_MS", 1_000, 60_000)
    _maybe(random, 0.3, environ, path + "BREAKER_LEAST_CALLS", 2, 20)
    _maybe(random, 0.5, environ, path + "MOST_ATTEMPTS", 1, 8)
    if random.random() < 0.1:
        environ[path + "BREAKER_OPENS_ON_RATE_LIMIT"] = random.choice(("true", "false"))
    if random.random() < 0.1:
        environ[path + "BREAKER_OFF"] = random.choice(("true", "false"))
    if random.random() < 0.2:
        _retry_row(random, environ, f"{path}RETRIES__{random.choice(FAILURES)}__")


def _node(random: Random, environ: dict[str, str], path: str) -> None:
    models = random.sample(MODELS, random.randint(1, 4))
    environ[path + "PRIMARY"] = models[0]
    if len(models) > 1:
        environ[path + "FALLBACKS"] = ",".join(models[1:])
    if random.random() < 0.15:
        environ[path + "FALLBACK_ALLOWED"] = "false"
    if random.random() < 0.5:
        environ[path + "ON_CUT"] = random.choice(("fail", "restart", "hold"))
    if random.random() < 0.3:
        environ[path + "HEDGE"] = "true"
        _maybe(random, 0.7, environ, path + "HEDGE_AFTER_MS", 1, 2_000)
    _maybe(random, 0.2, environ, path + "FIRST_TOKEN_MS", 100, 5_000)
    _maybe(random, 0.2, environ, path + "IDLE_MS", 60, 5_000)
    _maybe(random, 0.2, environ, path + "ANSWER_MS", 100, 10_000)
