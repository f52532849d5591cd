"""What single values cannot show: mistakes between settings, and addresses nobody may reach without a key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.days import zone_of
from sidecar.errors import SettingsError
from sidecar.settings.alerts import check_alerts
from sidecar.settings.budgets import account_suffix
from sidecar.settings.caching import check_cache
from sidecar.settings.reading import nearest, shown
from sidecar.settings.variables import ALIASES, KINDS

if TYPE_CHECKING:
    from sidecar.settings import Settings
    from sidecar.settings.routing import ProviderSettings

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]", re.IGNORECASE)
_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less its closing zero

_OTEL = {
    "OTEL_SDK_DISABLED": ("true|false", "true or false"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (r"https?://\S+", 'a URL like "http://127.0.0.1:4317"'),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": (r"https?://\S+", 'a URL like "http://127.0.0.1:4317"'),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc|http/protobuf|http/json", "one of grpc, http/protobuf, http/json"),
    "OTEL_EXPORTER_OTLP_TIMEOUT": (r"\d+", "milliseconds"),
    "OTEL_TRACES_SAMPLER": (
        "(parentbased_)?(always_on|always_off|traceidratio)",
        "one of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio",
    ),
}


def check(settings: Settings) -> None:
    """Raises SettingsError for the first mistake found."""
    _doors(settings)
    _usage(settings)
    check_cache(settings)
    check_alerts(settings)
    for table, zone in (("limits", settings.limits.time_zone), ("usage", settings.usage.time_zone)):
        _zone(settings, table, zone)
    _budgets(settings)
    _fleet(settings)
    for name, provider in settings.providers.items():
        _provider(settings, name, provider)
    for name in settings.profile.preferred:
        known = sorted({*settings.providers, "ollama"})
        if ALIASES.get(name, name) not in known:
            problem = f"found {shown(name)}, expected providers, from {', '.join(known)}{nearest(name, known)}"
            raise SettingsError(settings.origin("profile", "preferred"), "", problem)
    for name, (pattern, expected) in _OTEL.items():
        value = settings.tracing.otel.get(name)
        if value is not None and not re.fullmatch(pattern, value, re.IGNORECASE):
            raise SettingsError(settings.origin("tracing", "otel", name), "", f"found {shown(value)}, expected {expected}")


def _zone(settings: Settings, *table_and_name: str) -> None:
    *table, name = table_and_name
    try:
        zone_of(name)
    except ValueError:
        expected = "expected a time zone like Asia/Seoul (the system's, or the package tzdata's), or UTC"
        raise SettingsError(settings.origin(*table, "time_zone"), "", f"found {shown(name)}, {expected}") from None


def _fleet(settings: Settings) -> None:
    fleet = settings.fleet
    shares = [f"budgets.{name}" for name, row in settings.budgets.items() if row.without_redis == "share"]
    if fleet.pods is None and (shares or fleet.without_redis == "share"):
        where = shares[0] if shares else "fleet"
        problem = f"is missing, expected how many pods there are: {where}.without_redis = share parts limits by it"
        raise SettingsError(settings.origin("fleet", "pods"), "", problem)
    if fleet.learn_ms >= fleet.lease_ms:
        problem = f"found {fleet.learn_ms}, expected less than fleet.lease_ms, which is {fleet.lease_ms}"
        raise SettingsError(settings.origin("fleet", "learn_ms"), "", problem)


# Budgets that have keys of their own.
_ELSEWHERE = {
    "tenant_day": "limits.tenant_day_usd and limits.tenant_day_tokens",
    "plan_month": "plans.NAME.month_usd and plans.NAME.month_tokens",
}


def _budgets(settings: Settings) -> None:
    for name, row in settings.budgets.items():
        if name in _ELSEWHERE:
            raise SettingsError(settings.origin("budgets", name), "", f"is set elsewhere, expected {_ELSEWHERE[name]}, or another name")
        if row.scope is None:
            problem = "is missing, expected one of company, service, node, tenant, user, plan, run, agent"
            raise SettingsError(settings.origin("budgets", name, "scope"), "", problem)
        if row.of and row.scope not in ("service", "node", "tenant", "plan"):
            problem = f"found {shown(row.of)}, expected none: with scope {row.scope} the limit is for each"
            raise SettingsError(settings.origin("budgets", name, "of"), "", problem)
        if row.scope == "node" and row.of and "." not in row.of:
            raise SettingsError(settings.origin("budgets", name, "of"), "", f"found {shown(row.of)}, expected service.node")
        if row.time_zone:
            _zone(settings, "budgets", name, row.time_zone)
        if row.scope in ("run", "agent") and account_suffix(name, row.scope) in ("plan", "plan-first"):
            problem = "means the accounts of runs' own plans, expected another name"
            raise SettingsError(settings.origin("budgets", name), "", problem)
    suffixes = {("tenant", "day"): "tenant_day", ("plan", "month"): "plan_month"}
    for name, row in settings.budgets.items():
        other = suffixes.setdefault((str(row.scope), account_suffix(name, str(row.scope))), name)
        if other != name:
            problem = f"means the same accounts as budgets.{other}, expected another name"
            raise SettingsError(settings.origin("budgets", name), "", problem)


def _usage(settings: Settings) -> None:
    usage = settings.usage
    if usage.postgres is None:
        return
    if "password=" in usage.postgres:
        expected = "expected an address without one: set usage.postgres_password"
        raise SettingsError(settings.origin("usage", "postgres"), "", f"found a password, {expected}")
    if settings.server.data_dir is None:
        problem = "is set without server.data_dir, expected a folder there too: in it rows wait while PostgreSQL is away"
        raise SettingsError(settings.origin("usage", "postgres"), "", problem)


def _doors(settings: Settings) -> None:
    server, http = settings.server, settings.http
    addresses = {("server", "listen"): server.listen, ("server", "ops_listen"): server.ops_listen, ("http", "listen"): http.listen}
    for key, address in addresses.items():
        port = address.rpartition(":")[2]
        if port and int(port) > 65535:
            raise SettingsError(settings.origin(*key), "", f"found port {port}, expected one from 0 to 65535")
    _proofs(settings)
    for key in (("server", "listen"), ("http", "listen")):
        host = addresses[key].rpartition(":")[0]
        if host and not _LOOPBACK.fullmatch(host) and not settings.tls.cert_file and not settings.auth.tokens:
            raise SettingsError(
                settings.origin(*key),
                "",
                f"found {shown(addresses[key])}, expected a loopback address (127.0.0.1, localhost, [::1]) as long as anybody may call: "
                "for another one set TLS (tls.cert_file and tls.key_file, and tls.client_ca_file for callers' certificates) or a token "
                "(auth.tokens.NAME.sha256); server.socket shares the sidecar between the containers of one pod",
            )
    if not server.listen and not server.socket:
        raise SettingsError(
            settings.origin("server", "listen"), "", "found nothing to listen on, expected an address here or a path in server.socket"
        )
    if len(server.socket.encode()) > _SOCKET_PATH_BYTES:
        raise SettingsError(
            settings.origin("server", "socket"),
            "",
            f"found a path of {len(server.socket.encode())} bytes, expected at most {_SOCKET_PATH_BYTES}",
        )


def open_doors(settings: Settings) -> list[str]:
    """What an operator should know of doors that others than this machine can reach: who may call, and who may listen."""
    told = []
    for key, address in ((("server", "listen"), settings.server.listen), (("http", "listen"), settings.http.listen)):
        host = address.rpartition(":")[0]
        if host and not _LOOPBACK.fullmatch(host):
            where = settings.origin(*key)
            if not settings.tls.cert_file:
                told.append(f"{where}: tokens and prompts go over the network unencrypted: set tls.cert_file and tls.key_file")
            elif not settings.tls.client_ca_file and not settings.auth.tokens:
                told.append(f"{where}: whoever reaches {address} may call: set tls.client_ca_file or auth.tokens")
    return told


def _proofs(settings: Settings) -> None:
    """Certificates and tokens, by which callers and the sidecar prove who they are."""
    tls, auth = settings.tls, settings.auth
    for field, needed in (("cert_file", "key_file"), ("key_file", "cert_file"), ("client_ca_file", "cert_file")):
        if getattr(tls, field) and not getattr(tls, needed):
            raise SettingsError(settings.origin("tls", needed), "", f"is missing, expected a file beside tls.{field}")
    seen = {auth.ops_sha256: "auth.ops_sha256"} if auth.ops_sha256 is not None else {}
    for name, token in auth.tokens.items():
        first = seen.setdefault(token.sha256, f"auth.tokens.{name}")
        if first != f"auth.tokens.{name}":
            raise SettingsError(settings.origin("auth", "tokens", name, "sha256"), "", f"found the token of {first}, expected another one")
        if "." in token.node and token.service and token.node.partition(".")[0] != token.service:
            raise SettingsError(
                settings.origin("auth", "tokens", name, "node"), "", f"found {shown(token.node)}, expected a node of {shown(token.service)}"
            )


def _provider(settings: Settings, name: str, provider: ProviderSettings) -> None:
    if name in KINDS and provider.kind != name:
        raise SettingsError(
            settings.origin("providers", name, "kind"),
            "",
            f'found "{provider.kind}", expected "{name}": the catalogue\'s models of {name} would go to it; give the provider another name',
        )
    if provider.endpoints:
        _endpoints(settings, name, provider)
    elif provider.kind == "compatible" and provider.base_url is None:
        raise SettingsError(
            settings.origin("providers", name, "base_url"),
            "",
            f'is missing, expected the address of the server "{name}", like "http://127.0.0.1:8000/v1"',
        )
    if provider.service and not name.startswith(provider.service + "-"):
        raise SettingsError(
            settings.origin("providers", name, "service"),
            "",
            f'found "{provider.service}", expected a provider called {provider.service}-PROVIDER: its name says whose place it takes',
        )


def _endpoints(settings: Settings, name: str, provider: ProviderSettings) -> None:
    """A provider of which no endpoint has a key is one without a key: skipped, and said so at start."""

    def mistake(*path: str, problem: str) -> SettingsError:
        return SettingsError(settings.origin("providers", name, "endpoints", *path), "", problem)

    if provider.kind == "echo":
        raise mistake(problem="found endpoints, expected none: the echo is inside of this process")
    if not any(endpoint.weight for endpoint in provider.endpoints.values()):
        expected = "expected one above 0: weight 0 is for endpoints that are asked only in need"
        raise mistake(problem=f"found weight 0 for every endpoint, {expected}")
    for endpoint in provider.endpoints:
        spot = provider.at(endpoint)
        if provider.kind == "compatible" and spot.base_url is None:
            expected = f'expected the address of "{endpoint}", like "http://127.0.0.1:8000/v1", here or at the provider'
            raise mistake(endpoint, "base_url", problem=f"is missing, {expected}")
        if provider.kind in ("openai", "anthropic", "google") and provider.has_key and spot.api_key is None:
            raise mistake(endpoint, "api_key", problem=f'is missing, expected a key for "{endpoint}", here or at the provider')
