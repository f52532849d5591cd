"""The environment's names: `SIDECAR_...` for every key, and the names the services already use.

    DEFAULT_LLM_PROVIDER DEFAULT_LLM_MODEL                   profile.primary
    FALLBACK_LLM_PROVIDER FALLBACK_LLM_MODEL                 profile.fallbacks
    DEFAULT_EMBEDDING_PROVIDER DEFAULT_EMBEDDING_MODEL       profile.embedding
    OPENAI_API_KEY OPENAI_MODEL OPENAI_BASE_URL              providers.openai
    ANTHROPIC_API_KEY or CLAUDE_API_KEY, ANTHROPIC_BASE_URL  providers.anthropic
    GOOGLE_API_KEY or GEMINI_API_KEY                         providers.google
    OLLAMA_BASE_URL                                          providers.ollama
    <SERVICE>_LLM_PROVIDER <SERVICE>_LLM_MODEL               services.<service>.llm
    <SERVICE>_EMBEDDING_PROVIDER <SERVICE>_EMBEDDING_MODEL   services.<service>.embedding
    <SERVICE>_LLM_API_KEY <SERVICE>_LLM_BASE_URL             providers.<service>-<provider>, for that service only
    <SERVICE>_CONF_THRESHOLD                                 services.<service>.cache_acceptance
    MODEL_<SERVICE>_<NODE>                                   beats every row, for that node
    LANGCHAIN_TRACING_V2 LANGCHAIN_API_KEY LANGCHAIN_PROJECT tracing
    OTEL_*                                                   tracing.otel

`overlay` puts what they say into the file's own tables before those are read, so that one reader checks both. Kubernetes adds
`<NAME>_SERVICE_HOST`, `<NAME>_PORT` and the like for every service of a namespace; such names are passed over.
"""

import re
from collections.abc import Mapping
from typing import Any

from sidecar.errors import SettingsError
from sidecar.settings.reading import Path, nearest, shown

KINDS = ("openai", "anthropic", "google", "ollama", "compatible", "echo")
ALIASES = {"gemini": "google", "claude": "anthropic"}  # the names some services use for a provider

_SIMPLE: dict[str, Path] = {
    "OPENAI_API_KEY": ("providers", "openai", "api_key"),
    "OPENAI_MODEL": ("providers", "openai", "model"),
    "OPENAI_BASE_URL": ("providers", "openai", "base_url"),  # the SDKs would read these two by themselves, unseen by anybody
    "ANTHROPIC_BASE_URL": ("providers", "anthropic", "base_url"),
    "ANTHROPIC_API_KEY": ("providers", "anthropic", "api_key"),
    "CLAUDE_API_KEY": ("providers", "anthropic", "api_key"),
    "GOOGLE_API_KEY": ("providers", "google", "api_key"),
    "GEMINI_API_KEY": ("providers", "google", "api_key"),
    "OLLAMA_BASE_URL": ("providers", "ollama", "base_url"),
    "LANGCHAIN_TRACING_V2": ("tracing", "langchain"),
    "LANGCHAIN_API_KEY": ("tracing", "langchain_api_key"),
    "LANGCHAIN_PROJECT": ("tracing", "langchain_project"),
}
_SERVICE = re.compile(r"([A-Z][A-Z0-9_]*)_((?:LLM|EMBEDDING)_(?:PROVIDER|MODEL)|LLM_API_KEY|LLM_BASE_URL|CONF_THRESHOLD)")
_NODE = re.compile(r"MODEL_([A-Z][A-Z0-9_]*)")
_KUBERNETES = re.compile(r"(?!.*__)\w+_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


class _Overlay:
    """The tables being filled, with the variable that gave each value."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.given: dict[Path, str] = {}
        self.notices: list[str] = []

    def put(self, path: Path, value: object, variable: str) -> None:
        """Sets one value, unless a variable has set it already: the callers come in the order of their right."""
        first = self.given.get(path)
        if first is not None:
            self.notices.append(f"{variable} is passed over because {first} is set too")
            return
        table = self.raw
        for depth, part in enumerate(path[:-1], 1):
            table = table.setdefault(_existing(part, table), {})
            if not isinstance(table, dict):
                raise SettingsError(variable, "", f"cannot be set inside {'.'.join(path[:depth])}, which the file gives as {shown(table)}")
        table[_existing(path[-1], table)] = value
        self.given[path] = variable


def overlay(raw: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[Path, str], dict[str, str], tuple[str, ...]]:
    """Writes the environment's values into `raw`; returns the variable of each path, MODEL_<SERVICE>_<NODE> by node, and notices."""
    values = {name: value.strip() for name, value in sorted(environ.items()) if value.strip()}
    fill = _Overlay(raw)
    for name, value in values.items():
        if name.startswith("SIDECAR_") and name != "SIDECAR_SETTINGS" and not _KUBERNETES.fullmatch(name):
            path = _path_of(name, raw)
            fill.put(path, value, name)
    for name, path in _SIMPLE.items():
        if name in values:
            fill.put(path, values[name], name)
    _defaults(fill, values)
    _services(fill, values)
    for name, value in values.items():
        if name.startswith("OTEL_"):
            fill.put(("tracing", "otel", name), value, name)
    node_models = _node_models(fill, values)
    return fill.given, node_models, tuple(fill.notices)


def _existing(part: str, table: Mapping[str, object]) -> str:
    """The key of `table` that a variable's part means: `gpt_4o` is `gpt-4o` if that is there."""
    if part in table:
        return part
    return next((key for key in table if re.sub(r"[^a-z0-9]", "_", key.lower()) == part), part)


def _path_of(variable: str, raw: Mapping[str, Any]) -> Path:
    """The key path a SIDECAR_ variable names, in the file's own spelling where the file has it."""
    path: list[str] = []
    table: Any = raw
    for part in variable.removeprefix("SIDECAR_").lower().split("__"):
        key = _existing(part, table) if isinstance(table, dict) else part
        table = table.get(key) if isinstance(table, dict) else None
        path.append(key)
    return tuple(path)


def _reference(provider: str, model: str) -> str:
    """What a pair of ..._PROVIDER and ..._MODEL means, as one text; `openai/` is that provider's default model."""
    provider = ALIASES.get(provider, provider)
    return f"{provider}/{model.removeprefix(provider + '/')}" if provider else model


def _pair(values: Mapping[str, str], provider: str, model: str) -> tuple[str, str]:
    """The reference of a pair of variables, and their names as an error should show them. Empty when neither is set."""
    names = " and ".join(name for name in (provider, model) if name in values)
    return _reference(values.get(provider, "").lower(), values.get(model, "")), names


def _defaults(fill: _Overlay, values: Mapping[str, str]) -> None:
    primary, names = _pair(values, "DEFAULT_LLM_PROVIDER", "DEFAULT_LLM_MODEL")
    if primary:
        fill.put(("profile", "primary"), primary, names)
    fallback, names = _pair(values, "FALLBACK_LLM_PROVIDER", "FALLBACK_LLM_MODEL")
    if fallback:
        fill.put(("profile", "fallbacks"), fallback, names)
    embedding, names = _pair(values, "DEFAULT_EMBEDDING_PROVIDER", "DEFAULT_EMBEDDING_MODEL")
    if embedding:
        fill.put(("profile", "embedding"), embedding, names)
    for name in ("DEFAULT_LLM_PROVIDER", "FALLBACK_LLM_PROVIDER", "DEFAULT_EMBEDDING_PROVIDER"):
        _provider(fill, name, values)


def _services(fill: _Overlay, values: Mapping[str, str]) -> None:
    found = {(match[1], match[2]) for name in values if (match := _SERVICE.fullmatch(name))}
    for prefix in sorted({prefix for prefix, _ in found} - {"DEFAULT", "FALLBACK"}):
        service = prefix.lower()
        own = _own_provider(fill, prefix, values)
        llm, names = _pair(values, f"{prefix}_LLM_PROVIDER", f"{prefix}_LLM_MODEL")
        if llm:
            fill.put(("services", service, "llm"), f"{own}/{values.get(f'{prefix}_LLM_MODEL', '')}" if own else llm, names)
        embedding, names = _pair(values, f"{prefix}_EMBEDDING_PROVIDER", f"{prefix}_EMBEDDING_MODEL")
        if embedding:
            fill.put(("services", service, "embedding"), embedding, names)
        if f"{prefix}_CONF_THRESHOLD" in values:
            fill.put(("services", service, "cache_acceptance"), values[f"{prefix}_CONF_THRESHOLD"], f"{prefix}_CONF_THRESHOLD")
        _provider(fill, f"{prefix}_EMBEDDING_PROVIDER", values)
        if not own:
            _provider(fill, f"{prefix}_LLM_PROVIDER", values)


def _provider(fill: _Overlay, variable: str, values: Mapping[str, str]) -> str:
    """The provider a variable names; naming ollama is enough to use it at its usual address."""
    name = ALIASES.get(values.get(variable, "").lower(), values.get(variable, "").lower())
    table = fill.raw.setdefault("providers", {})
    if not name or not isinstance(table, dict):
        return name
    if name == "ollama":
        table.setdefault("ollama", {})
    known = {*KINDS, *ALIASES, *table}
    if name not in known:
        raise SettingsError(
            variable, "", f"found {shown(values[variable])}, expected one of {', '.join(sorted(known))}{nearest(name, known)}"
        )
    return name


def _own_provider(fill: _Overlay, prefix: str, values: Mapping[str, str]) -> str:
    """The provider that <SERVICE>_LLM_API_KEY and _BASE_URL make for one service; "" when neither is set.

    With a base URL of its own it inherits no key: a key must never be sent to an address it was not meant for.
    """
    key, url = f"{prefix}_LLM_API_KEY", f"{prefix}_LLM_BASE_URL"
    if key not in values and url not in values:
        return ""
    named = next((name for name in (f"{prefix}_LLM_PROVIDER", "DEFAULT_LLM_PROVIDER") if name in values), "")
    base = _provider(fill, named, values) or "openai"
    table = fill.raw["providers"].get(base, {})
    name = f"{prefix.lower()}-{base}"
    others = {"api_key", "endpoints", *(("base_url",) if url in values else ())}
    row = {k: v for k, v in table.items() if k not in others} if isinstance(table, dict) else {}
    kind = row.get("kind", base if base in KINDS else "compatible")
    fill.raw["providers"].setdefault(name, row | {"kind": kind, "service": prefix.lower()})
    for variable, field in ((key, "api_key"), (url, "base_url")):
        if variable in values:
            fill.put(("providers", name, field), values[variable], variable)
    return name


def _node_models(fill: _Overlay, values: Mapping[str, str]) -> dict[str, str]:
    """MODEL_<SERVICE>_<NODE> by `service.node`. A service of several words is known by its table, otherwise the first word is it."""
    services = {name for section in ("nodes", "services") if isinstance(fill.raw.get(section), dict) for name in fill.raw[section]}
    found: dict[str, str] = {}
    for variable, value in values.items():
        match = _NODE.fullmatch(variable)
        if match is None or _KUBERNETES.fullmatch(variable):
            continue
        rest = match[1].lower()
        service = max((name for name in services if rest.startswith(name + "_")), key=len, default=rest.partition("_")[0])
        node = rest[len(service) + 1 :]
        if not node:
            service_wide = f"{match[1]}_LLM_MODEL"
            fill.notices.append(
                f"{variable} names no node and is passed over; expected MODEL_<SERVICE>_<NODE>, or {service_wide} for a whole service"
            )
            continue
        found[f"{service}.{node}"] = value
        fill.given["node_models", f"{service}.{node}"] = variable
    return found
