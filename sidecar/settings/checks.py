"""What single values cannot show: mistakes between settings, and addresses nobody may reach without a key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.errors import SettingsError
from sidecar.settings.reading import nearest, shown
from sidecar.settings.variables import ALIASES, KINDS

if TYPE_CHECKING:
    from sidecar.settings import ProviderSettings, Settings

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


def _doors(settings: Settings) -> None:
    server = settings.server
    for field, address in (("listen", server.listen), ("ops_listen", server.ops_listen)):
        port = address.rpartition(":")[2]
        if port and int(port) > 65535:
            raise SettingsError(settings.origin("server", field), "", f"found port {port}, expected one from 0 to 65535")
    host = server.listen.rpartition(":")[0]
    if host and not _LOOPBACK.fullmatch(host):
        raise SettingsError(
            settings.origin("server", "listen"),
            "",
            f"found {shown(server.listen)}, expected a loopback address (127.0.0.1, localhost, [::1]): every other one needs TLS or a "
            "token, which this version does not have; server.socket shares the sidecar between the containers of one pod",
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
