"""`sidecar check`: what is wrong with a deployment's settings, before it starts.

Exit status: 0 nothing that stops a call, 1 at least one error, 2 the settings cannot be read. Warnings and notes do not change it, so
that a pipeline stops for a node nobody can answer and not for a model that retires in seven weeks.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from msgspec import Struct, to_builtins

from sidecar import catalog as catalogs
from sidecar.catalog import Catalog
from sidecar.errors import SettingsError
from sidecar.policies.models import Preferences, refusals
from sidecar.settings import PLANS, Settings, load
from sidecar.upkeep.alerts import receivers

_PACKAGES = {"openai": "openai", "anthropic": "anthropic", "google": "google.genai"}


class Finding(Struct, frozen=True):
    """`error`: calls will fail, or the sidecar will not start. `warning`: it works, but not as written. `note`: good to know."""

    level: Literal["error", "warning", "note"]
    about: str
    message: str


def check(path: Path | None, environ: Mapping[str, str], today: date, *, live: bool, as_json: bool) -> int:
    """Prints what it found and returns the exit status 0 or 1. Raises SettingsError when the settings cannot be read."""
    settings = load(path, environ)
    catalog = catalogs.load(settings, today)
    found = list(findings(settings, catalog, today))
    if live:
        found += _live(settings)
    found.sort(key=lambda finding: ("error", "warning", "note").index(finding.level))
    is_ok = not any(finding.level == "error" for finding in found)
    if as_json:
        report = {"ok": is_ok, "profile": catalog.profile.name, "providers": sorted(settings.configured), "findings": to_builtins(found)}
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{finding.level:8}{finding.about}: {finding.message}\n" for finding in found))
        ready = ", ".join(sorted(settings.configured)) or "none, the built-in echo answers"
        errors = sum(finding.level == "error" for finding in found)
        sys.stdout.write(
            f"{'ok' if is_ok else f'{errors} error' + 's' * (errors != 1)}: profile {catalog.profile.name}, providers configured: {ready}\n"
        )
    return 0 if is_ok else 1


def findings(settings: Settings, catalog: Catalog, today: date) -> Iterator[Finding]:
    """Everything that can be known without calling anybody."""
    for notice in (*settings.notices, *catalog.notices):
        yield Finding("warning", "settings", notice)
    yield from _providers(settings)
    refused = refusals(settings, catalog, settings.configured)
    for line in refused:
        yield Finding("error", "production", line)
    yield from _nodes(settings, catalog, is_told=bool(refused))
    yield from _plans(settings, catalog)
    if settings.usage.postgres is not None and not _is_installed("psycopg"):
        yield Finding("error", "usage.postgres", "needs the package psycopg: pip install 'llm-sidecar[postgres]'")
    yield from _alerts(settings)
    yield from _services(settings, catalog)
    yield from _ends(settings, catalog, today)


def _alerts(settings: Settings) -> Iterator[Finding]:
    """Nobody to tell is worth knowing in production; `sidecar alerts test` tries those who are named."""
    try:
        receivers(settings, time.time_ns)
    except SettingsError as error:
        yield Finding("error", "alerts", str(error))
    if not settings.alerts.is_on and settings.profile.name == "production":
        yield Finding("note", "alerts", "nobody is told of trouble: set alerts.chat_url, alerts.webhook_url or alerts.mail.server")
    if settings.alerts.is_on and settings.server.data_dir is None:
        yield Finding("note", "alerts", "without server.data_dir the next process tells again what was told, and forgets what was not sent")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _providers(settings: Settings) -> Iterator[Finding]:
    for name, provider in settings.providers.items():
        package = _PACKAGES.get(provider.kind or "")
        if provider.is_configured and package is not None and not _is_installed(package):
            yield Finding("error", f"provider {name}", f"needs the package {package}: pip install 'llm-sidecar[{provider.kind}]'")
        if provider.kind in ("ollama", "echo") or provider.has_key:
            continue
        if provider.kind == "compatible":
            yield Finding("note", f"provider {name}", f"no key is set; {provider.base_url} is called without one")
        elif provider.base_url is not None:
            yield Finding("warning", f"provider {name}", f"no key is set; {provider.base_url} is called without one")
        else:
            variable = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "google": "GOOGLE_API_KEY"}.get(name, "")
            how = variable or f"SIDECAR_PROVIDERS__{name.upper().replace('-', '_')}__API_KEY"
            yield Finding("note", f"provider {name}", f"no key: its models are skipped; set {how} to use it")


def _nodes(settings: Settings, catalog: Catalog, *, is_told: bool) -> Iterator[Finding]:
    """Nodes that nobody, or not the model of their row, can answer. Without any provider the echo answers, and one line says so."""
    if not settings.configured:
        if not is_told:
            yield Finding("warning", "providers", "none is configured: the built-in echo answers every call")
        return
    preferences = Preferences(settings, catalog, settings.configured)
    for key, node in catalog.nodes.items():
        embed = bool(node.primary) and "generate" not in catalog.model(node.primary).capabilities
        wanted = preferences.of(node.service, node.name, embed=embed)
        why = "; ".join(f"{skipped.model}: {skipped.reason}" for skipped in wanted.skipped)
        if not wanted.choices:
            if not is_told:
                yield Finding("error", f"node {key}", f"no model can be called ({why})")
            continue
        first = wanted.choices[0]
        lacks = "strict_schema" not in first.model.capabilities if node.structured == "strict_schema" else False
        if lacks:
            yield Finding("error", f"node {key}", f"needs strict schemas, and {first.model.id} does not guarantee them")
        elif node.primary and f"{key}" not in settings.node_models and first.model.name != catalog.model(node.primary).name:
            yield Finding("warning", f"node {key}", f"{first.model.id} answers instead of its primary ({why})")


def _plans(settings: Settings, catalog: Catalog) -> Iterator[Finding]:
    """Plans of which no model can be called, or one alone: their callers get no answer, or have no fallback.

    Of a plan that is as it was shipped it is a note: it may be nobody's.
    """
    for name, plan in settings.plans.items():
        models = [model for model in map(catalog.model, plan.models) if "generate" in model.capabilities]
        able = [model.id for model in models if model.provider in settings.configured]
        if not settings.configured or not models or len(able) > 1:
            continue
        level: Literal["note", "warning"] = "note" if PLANS.get(name) == plan else "warning"
        why = "".join(f"; {model.id}: provider {model.provider} cannot be called" for model in models if model.id not in able)
        if able:
            yield Finding(level, f"plan {name}", f"allows {able[0]} alone, so its callers have no fallback{why}")
        else:
            yield Finding(level, f"plan {name}", f"allows nothing that can be called, so its callers get no answer{why}")


def _services(settings: Settings, catalog: Catalog) -> Iterator[Finding]:
    """Names in variables that match no node and no service: allowed, because services bring their own, and often a misprint."""
    known = {node.service for node in catalog.nodes.values()}
    for name in settings.services:
        if name not in known:
            yield Finding(
                "note", f"service {name}", f"has settings and no node in the portfolio; known services: {', '.join(sorted(known))}"
            )
    for key in settings.node_models:
        if key not in catalog.nodes:
            yield Finding("note", f"node {key}", f"{settings.origin('node_models', key)} names a node that is not in the portfolio")


def _ends(settings: Settings, catalog: Catalog, today: date) -> Iterator[Finding]:
    """Models that somebody names and that retire soon. Those that have retired are in the catalogue's notices."""
    for name, users in catalog.users.items():
        model = catalog.models.get(name)
        if model is None or model.retires_on is None:
            continue
        days = (model.retires_on - today).days
        if 0 < days <= settings.catalog.soon_days:
            after = f"; {model.successor} answers from then on, try it before" if model.successor else " and names no successor"
            yield Finding("warning", f"model {name}", f"retires on {model.retires_on}, in {days} days{after} (named by {', '.join(users)})")


def _live(settings: Settings) -> list[Finding]:
    """One tiny real call per configured provider."""
    from sidecar import connecting

    results = asyncio.run(connecting.live_check(settings))
    return [Finding("note" if ok else "error", f"provider {name}", f"live: {message}") for name, ok, message in results]
