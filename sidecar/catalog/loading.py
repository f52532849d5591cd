"""Reads the shipped data, lays the settings over it, and checks every name in both."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from sidecar.catalog.facts import Model, Node, Prices, Profile
from sidecar.catalog.lookup import OPEN_KINDS, UNLISTED_CONTEXT_TOKENS, UNLISTED_OUTPUT_TOKENS, USUAL, Catalog
from sidecar.catalog.pricing import estimated, half_priced, prices_of, unpriced
from sidecar.errors import SettingsError, UnknownModel
from sidecar.settings import Settings
from sidecar.settings.caching import NodeCache
from sidecar.settings.reading import Source, nearest, read, shown
from sidecar.settings.routing import ModelRow, NodeRow

Row = TypeVar("Row", ModelRow, NodeRow)
Reference = tuple[str, str, str, bool]  # model as written, who names it, where that is written, is it an embedding model


class ProfileRow(Struct, frozen=True):
    primary: str
    fallbacks: tuple[str, ...]
    embedding: str
    embedding_fallbacks: tuple[str, ...]


class Shipped(Struct, frozen=True):
    models: Mapping[str, ModelRow]
    nodes: Mapping[str, Mapping[str, NodeRow]]
    profiles: Mapping[str, ProfileRow]
    default_models: Mapping[str, str]  # by kind of provider
    default_embedding_models: Mapping[str, str]


def load(settings: Settings, today: date) -> Catalog:
    """The shipped data under the settings' overrides; `today` decides which models have retired.

    Raises SettingsError for a name that does not exist and for a new model without the facts it needs.
    """
    shipped = _shipped()
    rows = dict(shipped.models)
    for written, row in settings.models.items():
        name = _spelling(written, shipped.models)
        rows[name] = _over(shipped.models.get(name), row)
    models = estimated({name: _model(name, row, settings) for name, row in rows.items()}, settings)
    catalog = Catalog(
        models,
        _names(models, rows),
        dict(_nodes(shipped.nodes, settings.nodes)),
        _profile(shipped.profiles, settings),
        {},
        settings.providers,
        (shipped.default_models, shipped.default_embedding_models),
    )
    references = list(_references(catalog, settings))
    for ref, _, origin, embedding in references:
        _known(catalog, ref, origin, embedding)
    _check_wishes(catalog, settings)
    pinned = {_known(catalog, ref, settings.origin("catalog", "pin"), False).id for ref in settings.catalog.pin}
    catalog.successors = {
        model.id: living
        for model in models.values()
        if model.id not in pinned and (living := _living(model, models, settings, today)) is not model
    }
    catalog.users = _users(catalog, references)
    catalog.notices = (*_notices(catalog, today), *unpriced(catalog), *_unjudged(catalog, settings))
    return catalog


def _shipped() -> Shipped:
    raw: dict[str, Any] = {}
    for file in ("models.toml", "nodes.toml", "profiles.toml"):
        raw |= tomllib.loads((Path(__file__).parent / file).read_text("utf-8"))
    return read(Shipped, raw, Source("sidecar/catalog"))


def _spelling(name: str, known: Mapping[str, object]) -> str:
    """The catalogue's name for one that a variable had to write without dots and dashes."""
    if name in known:
        return name
    return next((key for key in known if re.sub(r"[^a-z0-9]", "_", key.lower()) == name), name)


def _over(shipped: Row | None, own: Row) -> Row:
    """`own` over `shipped`, field by field; what `own` does not set stays."""
    if shipped is None:
        return own
    return replace(shipped, **{name: value for name in own.__struct_fields__ if (value := getattr(own, name)) is not None})


def _model(name: str, row: ModelRow, settings: Settings) -> Model:
    def missing(key: str, expected: str) -> SettingsError:
        return SettingsError(settings.origin("models", name, key), "", f"is missing, expected {expected}")

    if row.provider is None:
        raise missing("provider", f"the provider that serves it, one of {', '.join(sorted({*settings.providers, 'ollama'}))}")
    if row.provider not in settings.providers and row.provider != "ollama":
        known = sorted({*settings.providers, "ollama"})
        problem = f'found "{row.provider}", expected one of {", ".join(known)}{nearest(row.provider, known)}'
        raise SettingsError(settings.origin("models", name, "provider"), "", problem)
    kind = settings.providers[row.provider].kind if row.provider in settings.providers else "ollama"
    is_open = kind in OPEN_KINDS
    if row.context_tokens is None and not is_open:
        raise missing("context_tokens", "how many tokens fit its context")
    capabilities = USUAL if row.capabilities is None else frozenset(row.capabilities)
    prices = prices_of(row)
    if half := half_priced(row, is_open=is_open, only_embeds=is_open and "generate" not in capabilities):
        how = "" if is_open else ', or catalog.unpriced = "estimate"'
        if is_open or settings.catalog.unpriced == "refuse":
            raise missing(half, f"its price in US dollars per million tokens, in quotes{how}")
        prices = Prices(is_known=False)
    elif row.over and (row.input is None or row.output is None):
        raise missing("input" if row.input is None else "output", "the price of calls that are not over any number of tokens")
    return Model(
        id=name,
        provider=row.provider,
        name=row.name or name,
        context_tokens=row.context_tokens or UNLISTED_CONTEXT_TOKENS,
        max_output_tokens=row.max_output_tokens or (UNLISTED_OUTPUT_TOKENS if "generate" in capabilities else 0),
        tokenizer=row.tokenizer or "estimate",
        capabilities=capabilities,
        prices=prices,
        as_of=row.as_of,
        retires_on=row.retires_on,
        successor=row.successor,
        dimensions=row.dimensions,
        max_dimensions=row.max_dimensions or row.dimensions,
        tier=row.tier or "standard",
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        cache_min_tokens=row.cache_min_tokens,
    )


def _names(models: Mapping[str, Model], rows: Mapping[str, ModelRow]) -> dict[str, Model]:
    """Every name a model goes by, alone and after its provider's; a model's own id is never taken by another's alias."""
    found = dict(models)
    for model in models.values():
        for name in (model.id, model.name, *(rows[model.id].aliases or ())):
            found.setdefault(name, model)
            found.setdefault(f"{model.provider}/{name}", model)
    return found


def _nodes(shipped: Mapping[str, Mapping[str, NodeRow]], own: Mapping[str, Mapping[str, NodeRow]]) -> Iterator[tuple[str, Node]]:
    for service in {**shipped, **own}:
        of_shipped, of_own = shipped.get(service, {}), own.get(service, {})
        for name in {**of_shipped, **of_own}:
            row = _over(of_shipped.get(name), of_own.get(name, NodeRow()))
            yield (
                f"{service}.{name}",
                Node(
                    service=service,
                    name=name,
                    primary=row.primary or "",
                    fallbacks=row.fallbacks or (),
                    fallback_allowed=row.fallback_allowed is not False,
                    temperature=row.temperature,
                    max_output_tokens=row.max_output_tokens,
                    accuracy=row.accuracy or "medium",
                    structured=row.structured or "",
                    first_token_ms=row.first_token_ms,
                    idle_ms=row.idle_ms,
                    answer_ms=row.answer_ms,
                    on_cut=row.on_cut or "fail",
                    hedge=row.hedge is True,
                    hedge_after_ms=row.hedge_after_ms,
                    complexity=row.complexity or "",
                    cache=row.cache or NodeCache(),
                    prompt_caching=row.prompt_caching or "",
                ),
            )


def _profile(shipped: Mapping[str, ProfileRow], settings: Settings) -> Profile:
    """The chosen profile. `preferred` puts its providers' defaults in place of what neither file nor variable has set."""
    own, row = settings.profile, shipped[settings.profile.name]
    preferred = tuple(name + "/" for name in own.preferred)
    chain = preferred or (row.primary, *row.fallbacks)
    first = (own.primary,) if own.primary else chain[:1]
    rest = own.fallbacks if own.fallbacks is not None else chain if own.primary and preferred else chain[1:]
    embedding = own.embedding or row.embedding
    others = row.embedding_fallbacks if own.embedding_fallbacks is None else own.embedding_fallbacks
    return Profile(settings.profile.name, (*first, *rest), (embedding, *others))


def _references(catalog: Catalog, settings: Settings) -> Iterator[Reference]:
    """Every place where a model is named; providers first, because others may mean their defaults."""
    for name, provider in settings.providers.items():
        if provider.model:
            yield f"{name}/", f"provider {name}", settings.origin("providers", name, "model"), False
        if provider.embedding_model:
            yield f"{name}/", f"provider {name}", settings.origin("providers", name, "embedding_model"), True
    for key, node in catalog.nodes.items():
        path = ("nodes", node.service, node.name)
        if node.primary:
            yield node.primary, key, settings.origin(*path, "primary"), False
        for ref in node.fallbacks:
            yield ref, key, settings.origin(*path, "fallbacks"), False
    for name, service in settings.services.items():
        if service.llm:
            yield service.llm, f"service {name}", settings.origin("services", name, "llm"), False
        if service.embedding:
            yield service.embedding, f"service {name}", settings.origin("services", name, "embedding"), True
    for key, ref in settings.node_models.items():
        yield ref, key, settings.origin("node_models", key), False
    for name, plan in settings.plans.items():
        for key, refs in (("models", plan.models), ("preferred", plan.preferred)):
            for ref in refs:
                yield ref, f"plan {name}", settings.origin("plans", name, key), False
    for name, ref in _tiers(settings):
        yield ref, f"tier {name}", settings.origin("tiers", name), False
    if settings.cache.embedding:
        yield settings.cache.embedding, "the cache", settings.origin("cache", "embedding"), True
    if settings.cache.audit.judge:
        yield settings.cache.audit.judge, "the cache", settings.origin("cache", "audit", "judge"), False
    profile = f"profile {catalog.profile.name}"
    for number, ref in enumerate(catalog.profile.models):
        yield ref, profile, settings.origin("profile", "fallbacks" if number else "primary"), False
    for number, ref in enumerate(catalog.profile.embeddings):
        yield ref, profile, settings.origin("profile", "embedding_fallbacks" if number else "embedding"), True


def _tiers(settings: Settings) -> tuple[tuple[str, str], ...]:
    tiers = settings.tiers
    return ("cheap", tiers.cheap), ("standard", tiers.standard), ("strong", tiers.strong)


def _check_wishes(catalog: Catalog, settings: Settings) -> None:
    """What is named for an answer must be able to give one; what users may prefer must be what their plan allows."""
    cache = settings.cache
    if cache.embedding and "embed" not in catalog.named(cache.embedding, embedding=True).capabilities:
        raise SettingsError(
            settings.origin("cache", "embedding"), "", f"found {shown(cache.embedding)}, expected a model that makes embeddings"
        )
    wishes = [(ref, settings.origin("tiers", name)) for name, ref in _tiers(settings)]
    if cache.audit.judge:
        wishes.append((cache.audit.judge, settings.origin("cache", "audit", "judge")))
    for name, plan in settings.plans.items():
        origin = settings.origin("plans", name, "preferred")
        wishes += [(ref, origin) for ref in plan.preferred]
        allowed = {catalog.named(ref).id for ref in plan.models}
        for ref in plan.preferred:
            if allowed and catalog.named(ref).id not in allowed:
                raise SettingsError(origin, "", f"found {shown(ref)}, expected some of the plan's models: {', '.join(plan.models)}")
    for ref, origin in wishes:
        if "generate" not in catalog.named(ref).capabilities:
            raise SettingsError(origin, "", f"found {shown(ref)}, which only makes embeddings, expected a model that writes answers")


def _known(catalog: Catalog, ref: str, origin: str, embedding: bool) -> Model:
    try:
        return catalog.named(ref, embedding=embedding)
    except UnknownModel as error:
        raise SettingsError(origin, "", error.message) from None


def _living(model: Model, models: Mapping[str, Model], settings: Settings, today: date) -> Model:
    """The model itself or, when it has retired, the first of its successors that has not; the last one if none lives."""
    seen = {model.id}
    while model.retires_on is not None and model.retires_on <= today and model.successor is not None and model.successor not in seen:
        if model.successor not in models:
            problem = f'found "{model.successor}", expected a model of the catalogue{nearest(model.successor, models)}'
            raise SettingsError(settings.origin("models", model.id, "successor"), "", problem)
        seen.add(model.successor)
        model = models[model.successor]
    return model


def _users(catalog: Catalog, references: list[Reference]) -> dict[str, tuple[str, ...]]:
    """Who names each model: the retired one and its successor both."""
    found: dict[str, dict[str, None]] = {}
    for ref, user, _, embedding in references:
        for model in (catalog.named(ref, embedding=embedding), catalog.model(ref, embedding=embedding)):
            found.setdefault(model.id, {})[user] = None
    return {name: tuple(users) for name, users in found.items()}


def _unjudged(catalog: Catalog, settings: Settings) -> Iterator[str]:
    """A line on nodes whose similar answers may never be proven right: sentences are hardly ever the same twice, word by word."""
    nodes = [name for name, node in catalog.nodes.items() if _is_unjudged(node)] if not settings.cache.audit.judge else []
    if nodes:
        yield (
            f"answers to similar questions of {', '.join(nodes)} are given only where models say the same word by word; set "
            "cache.audit.judge to a model that tells whether two mean the same, or the node's cache.compare to exact if none shall"
        )


def _is_unjudged(node: Node) -> bool:
    return node.cache.semantic != "off" and node.cache.compare == "auto" and not node.structured


def _notices(catalog: Catalog, today: date) -> Iterator[str]:
    """One line per retired model that somebody names."""
    for name, users in catalog.users.items():
        model = catalog.models.get(name)
        if model is None or model.retires_on is None or model.retires_on > today:
            continue
        who = ", ".join(users)
        living = catalog.successors.get(name)
        if living is not None:
            yield f"{name} retired on {model.retires_on}; {living.id} answers in its place for {who} (catalog.pin keeps the old name)"
        else:
            yield f"{name} retired on {model.retires_on} and is called all the same for {who}"
