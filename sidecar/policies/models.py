"""Which models a call wants, best first: the written order of the policy, as one pure function and a memory for it.

    request's own model → the user's stored preference → MODEL_<SERVICE>_<NODE> → the model for questions of this complexity
    → the node's row with its fallbacks
    → only if none of MODEL_<SERVICE>_<NODE> and the row is configured: <SERVICE>_LLM_* → the profile's default
    → the profile's fallbacks
    → only if nothing at all was found: the plan's own models, or without a plan the default of any provider that is configured

A plan that names models lets no other one answer, whoever asks for it; a user may prefer what the plan says they may. Preference and
complexity are wishes: a node with strict schemas passes over a wish that does not guarantee them, and a wish that turns out to be unable
to answer leaves the node what it has. A node that forbids a fallback has the first choice of the first two lines and no other. A model
whose provider is not configured is skipped, with the reason. Without any provider the built-in echo answers, whatever the plan. What a
model can do and whether the prompt fits is asked later, by the choose stage, which sees the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from sidecar.call import Feature, Skipped
from sidecar.errors import UnknownModel
from sidecar.request import Complexity

if TYPE_CHECKING:
    from sidecar.catalog import Catalog, Model, Node
    from sidecar.settings import Settings

_REMEMBERED = 4096  # callers choose the names of nodes and models; the memory must not grow with them

Wish = Literal["", "user", "complexity"]


class Choice(Struct, frozen=True):
    """A model to try, and why. `fallback`: it comes after another choice, or the request named another model.

    `endpoints` are the regions or keys of its provider with their weights, none: it has only one. `wish` says whose wish put it before
    what the node has, if anybody's.
    """

    model: Model
    reason: str
    fallback: bool
    endpoints: tuple[tuple[str, float], ...] = ()
    wish: Wish = ""


class Preference(Struct, frozen=True):
    """What a call wants. `notices` are for the caller; `skipped` says why a wanted model is not among the choices.

    `is_single`: the node forbids a fallback, so that the first choice that can answer is the only one.
    """

    choices: tuple[Choice, ...]
    skipped: tuple[Skipped, ...] = ()
    notices: tuple[str, ...] = ()
    is_single: bool = False


class Preferences:
    """`preference` with a memory: on the way of every call, the same question is asked again and again."""

    def __init__(self, settings: Settings, catalog: Catalog, configured: frozenset[str]) -> None:
        self._settings = settings
        self._catalog = catalog
        self._configured = configured
        self._known: dict[tuple[str, str, str, bool, str, str, Complexity], Preference] = {}

    def of(
        self,
        service: str,
        node: str,
        requested: str = "",
        *,
        embed: bool = False,
        plan: str = "",
        preferred: str = "",
        complexity: Complexity = "",
    ) -> Preference:
        """As `preference`. Raises UnknownModel for a requested model that does not exist."""
        question = (service, node, requested, embed, plan, preferred, complexity)
        found = self._known.get(question)
        if found is None:
            found = preference(
                self._settings,
                self._catalog,
                self._configured,
                service,
                node,
                requested,
                embed=embed,
                plan=plan,
                preferred=preferred,
                complexity=complexity,
            )
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[question] = found
        return found


def preference(
    settings: Settings,
    catalog: Catalog,
    configured: frozenset[str],
    service: str,
    node: str,
    requested: str = "",
    *,
    embed: bool = False,
    plan: str = "",
    preferred: str = "",
    complexity: Complexity = "",
) -> Preference:
    """The models for a call of `service.node`, best first. `configured` names the providers that can be called, `echo` apart.

    `plan` and `preferred` are the user's plan and stored preference, `complexity` is low, medium or high; "": none. Raises UnknownModel
    for a requested model that does not exist; all other names were checked when the catalogue was loaded.
    """
    row = catalog.node(service, node)
    if row.primary and ("embed" if embed else "generate") not in catalog.model(row.primary).capabilities:
        row = replace(row, primary="", fallbacks=(), fallback_allowed=True)  # the row is about the other kind of call
    listing = _Listing(settings, catalog, configured, row, embed)
    allowed = listing.limit(plan)
    if requested:
        listing.request(requested)
    if preferred:
        listing.prefer(preferred, plan)
    _put_node(listing, settings, row, complexity)
    if row.fallback_allowed and all(choice.wish for choice in listing.choices):
        for ref, reason in _defaults(settings, catalog, row, embed):
            listing.add(ref, reason)
    if row.fallback_allowed:
        for ref in (catalog.profile.embeddings if embed else catalog.profile.models)[1:]:
            listing.add(ref, f"fallback of profile {catalog.profile.name}")
    if not listing.choices:
        for ref in allowed:
            listing.add(ref, f"plan {plan} allows it")
    if not listing.choices and not configured:
        listing.echo()
    elif not listing.choices and row.fallback_allowed and not allowed:
        listing.anyone()
    choices = listing.choices if row.fallback_allowed else _to_first(listing.choices)
    return Preference(tuple(choices), tuple(listing.skipped), tuple(listing.notices), is_single=not row.fallback_allowed)


def _to_first(choices: list[Choice]) -> list[Choice]:
    """Up to the first choice that is nobody's mere wish."""
    return choices[: next((number for number, choice in enumerate(choices, 1) if not choice.wish), len(choices))]


def _put_node(listing: _Listing, settings: Settings, row: Node, complexity: Complexity) -> None:
    """What is set for exactly this node, and what the complexity of the question wishes in between."""
    key = f"{row.service}.{row.name}"
    override = settings.node_models.get(key)
    if override is not None:
        listing.add(override, f"{settings.source.variables.get(('node_models', key), 'MODEL_<SERVICE>_<NODE>')} is set for {key}")
    tiers = settings.tiers
    tier = {"low": ("cheap", tiers.cheap), "medium": ("standard", tiers.standard), "high": ("strong", tiers.strong)}.get(complexity)
    if tier is not None:
        name, ref = tier
        listing.wish(ref, f"the {name} model, for questions of {complexity} complexity", "complexity")
    if row.primary:
        listing.add(row.primary, f"primary of {key}")
    if row.fallback_allowed:
        for ref in row.fallbacks:
            listing.add(ref, f"fallback of {key}")


def _defaults(settings: Settings, catalog: Catalog, row: Node, embed: bool) -> Iterator[tuple[str, str]]:
    """What holds for a node that says nothing, or nothing that is configured."""
    if not row.name:
        why = "no node named"
    elif not row.is_listed:
        why = f"node {row.service}.{row.name} is not in the portfolio"
    elif not row.primary:
        why = f"node {row.service}.{row.name} names no model for this"
    else:
        why = f"nothing of {row.service}.{row.name} is configured"
    service = settings.services.get(row.service)
    if service is not None:
        ref = service.embedding if embed else service.llm
        if ref:
            yield ref, f"{why}; set for service {row.service}"
    for ref in (catalog.profile.embeddings if embed else catalog.profile.models)[:1]:
        yield ref, f"{why}; default of profile {catalog.profile.name}"


class _Listing:
    """The choices of one call while they are collected."""

    def __init__(self, settings: Settings, catalog: Catalog, configured: frozenset[str], row: Node, embed: bool) -> None:
        self.choices: list[Choice] = []
        self.skipped: list[Skipped] = []
        self.notices: list[str] = []
        self._settings = settings
        self._catalog = catalog
        self._configured = configured
        self._row = row
        self._service = row.service
        self._embed = embed
        self._ability: Feature = "embed" if embed else "generate"
        self._plan = ""  # set where it limits this call
        self._allowed: frozenset[str] = frozenset()
        self._seen: set[tuple[str, str]] = set()
        self._requested = False

    def limit(self, name: str) -> tuple[str, ...]:
        """Let only the plan's models answer, if it names any for this kind of call. Returns these."""
        plan = self._settings.plans.get(name)
        if plan is None:
            return ()
        models = {ref: self._catalog.model(ref, embedding=self._embed) for ref in plan.models}
        able = tuple(ref for ref, model in models.items() if self._ability in model.capabilities)
        if able:
            self._plan, self._allowed = name, frozenset(models[ref].id for ref in able)
        return able

    def request(self, ref: str) -> None:
        """The request's own choice: what it does not get is told to the caller."""
        wanted = self._catalog.named(ref, embedding=self._embed)
        model = self._catalog.model(ref, embedding=self._embed)
        if model.id != wanted.id:
            self.notices.append(f"{wanted.id} retired on {wanted.retires_on}; {model.id} is its successor")
        self._requested = True
        self.add(ref, "named by the request", may_lack=True)
        if not self.choices and self._configured:
            self.notices.append(f"{model.id} was asked for and is not available: {self.skipped[-1].reason}")

    def prefer(self, ref: str, plan: str) -> None:
        """The user's stored choice, if their plan still has it: it may have been stored under other settings, or another plan."""
        found = self._settings.plans.get(plan)
        allowed = {self._catalog.model(own).id for own in found.preferred} if found is not None else set()
        try:
            is_allowed = self._catalog.model(ref).id in allowed
        except UnknownModel:
            is_allowed = False
        if is_allowed:
            self.wish(ref, "the user prefers it", "user")
        else:
            whose = f"plan {plan}" if plan else "a call without a plan"
            self.skipped.append(Skipped(ref, f"the user prefers it, and {whose} does not allow it"))

    def wish(self, ref: str, reason: str, whose: Wish) -> None:
        """As `add`, for what the node can do without."""
        model, row = self._catalog.model(ref), self._row
        if row.structured == "strict_schema" and "strict_schema" not in model.capabilities:
            self.skipped.append(Skipped(model.id, f"{reason}; it does not guarantee the strict schemas of {row.service}.{row.name}"))
        else:
            self.add(ref, reason, wish=whose)

    def add(self, ref: str, reason: str, *, may_lack: bool = False, wish: Wish = "") -> None:
        """Puts the model at the end of the choices, or says why not. With `may_lack` it is left to the choose stage to refuse it."""
        model = self._own(self._catalog.model(ref, embedding=self._embed))
        if (model.provider, model.name) in self._seen:
            return
        self._seen.add((model.provider, model.name))
        lack = f"plan {self._plan} does not allow it" if self._plan and model.id not in self._allowed else self._lack(model.provider)
        if lack:
            self.skipped.append(Skipped(model.id, lack))
        elif not may_lack and self._ability not in model.capabilities:
            self.skipped.append(Skipped(model.id, "it makes no embeddings" if self._embed else "it only makes embeddings"))
        else:
            provider = self._settings.providers.get(model.provider)
            endpoints = tuple((name, row.weight) for name, row in provider.endpoints.items()) if provider is not None else ()
            is_fallback = bool(self.choices) or (self._requested and not may_lack)
            self.choices.append(Choice(model, reason, is_fallback, endpoints, wish))

    def echo(self) -> None:
        """A newcomer's first call: nothing is configured, and the built-in provider answers whatever was wanted."""
        self._plan = ""
        self.add("echo/", "no provider is configured")
        self.notices.append("no provider is configured, so the built-in echo answers; set a key, for example OPENAI_API_KEY")

    def anyone(self) -> None:
        """Nothing that was wanted is configured: the default of the first provider that is."""
        for provider in self._settings.providers.values():
            if provider.name in self._configured and provider.service in ("", self._service) and not self.choices:
                try:
                    self.add(f"{provider.name}/", "nothing that is wanted here is configured; default of a provider that is")
                except UnknownModel as error:  # this provider has no default model
                    self.skipped.append(Skipped(f"{provider.name}/", error.message))

    def _own(self, model: Model) -> Model:
        """The same model at the service's own provider, where it has one that takes the place of the model's."""
        own = f"{self._service}-{model.provider}"
        settings = self._settings.providers.get(own)
        if settings is None or settings.service != self._service or own not in self._configured:
            return model
        return replace(model, provider=own)

    def _lack(self, name: str) -> str:
        """Why this provider cannot be called for this service; "" if it can."""
        provider = self._settings.providers.get(name)
        if provider is not None and provider.service not in ("", self._service):
            return f"provider {name} is for service {provider.service} only"
        if name in self._configured or name == "echo":
            return ""
        if provider is not None and provider.is_configured:
            return f"provider {name} is not connected"
        return f"provider {name} has no {'base URL' if provider is None or provider.kind in ('ollama', 'compatible') else 'key'}"


def refusals(settings: Settings, catalog: Catalog, configured: frozenset[str]) -> list[str]:
    """Why `production` must not start: every node needs a model that is configured and, unless its row forbids one, a fallback.

    Empty for the other profiles. One line per node, which names it.
    """
    if catalog.profile.name != "production":
        return []
    found: list[str] = []
    for key, row in {**catalog.nodes, "": catalog.node("", "")}.items():
        name = f"node {key}" if key else "the default for nodes that are not in the portfolio"
        embed = bool(row.primary) and "generate" not in catalog.model(row.primary).capabilities
        wanted = preference(settings, catalog, configured, row.service, row.name, embed=embed)
        why = "; ".join(f"{skipped.model}: {skipped.reason}" for skipped in wanted.skipped) or "none is set"
        if not wanted.choices or wanted.choices[0].model.provider == "echo":
            found.append(f"{name} has no model that can be called ({why})")
        elif row.fallback_allowed and len(wanted.choices) < 2:
            found.append(f"{name} has a primary ({wanted.choices[0].model.id}) and no fallback ({why})")
    return found
