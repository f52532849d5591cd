"""Finds the model a name means, and the row of a node."""

from collections.abc import Mapping

from msgspec.structs import replace

from sidecar.call import Feature
from sidecar.catalog.facts import Model, Node, Prices, Profile
from sidecar.errors import UnknownModel
from sidecar.settings.reading import nearest, shown
from sidecar.settings.routing import ProviderSettings
from sidecar.settings.variables import ALIASES

# Servers whose models no catalogue can list: any name is taken, with the defaults of `_unlisted`.
OPEN_KINDS = frozenset({"ollama", "compatible", "echo"})
USUAL: frozenset[Feature] = frozenset(
    (
        "generate",
        "embed",
        "system",
        "image",
        "image_url",
        "tools",
        "tool_choice",
        "json_object",
        "json_schema",
        "stop",
        "seed",
        "sampling",
        "dimensions",
    )
)
UNLISTED_CONTEXT_TOKENS = 128_000
UNLISTED_OUTPUT_TOKENS = 16_384


class Catalog:
    """All models and nodes of this deployment, frozen; `load` makes it.

    `models` is by id, `nodes` by `service.node`; `successors` says who answers for a retired model that is not pinned; `users`
    which nodes, services and profiles name a model; `notices` is what the operator should read at start.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        names: Mapping[str, Model],
        nodes: Mapping[str, Node],
        profile: Profile,
        successors: Mapping[str, Model],
        providers: Mapping[str, ProviderSettings],
        defaults: tuple[Mapping[str, str], Mapping[str, str]],
    ) -> None:
        self.models = models
        self.nodes = nodes
        self.profile = profile
        self.successors = successors
        self.users: Mapping[str, tuple[str, ...]] = {}
        self.notices: tuple[str, ...] = ()
        self._names = names  # every name a model goes by, alone and after its provider's
        self._providers = {"ollama": ProviderSettings(name="ollama", kind="ollama")} | dict(providers)
        self._defaults = defaults  # model and embedding model of a kind of provider

    def model(self, ref: str, *, embedding: bool = False) -> Model:
        """The model meant by `gpt-4o`, `openai/gpt-4o`, `<compatible server>/anything` or `openai/` (that provider's default).

        For a retired model that is not pinned it is the successor. Raises UnknownModel, with the nearest known name.
        """
        found = self.named(ref, embedding=embedding)
        living = self.successors.get(found.id)
        if living is None:
            return found
        return living if found.provider == self.models[found.id].provider else replace(living, provider=found.provider)

    def named(self, ref: str, *, embedding: bool = False) -> Model:
        """As `model`, but a retired model is itself."""
        found = self._names.get(ref)
        if found is not None:
            return found
        provider, slash, name = ref.partition("/")
        if slash:
            return self._at(ALIASES.get(provider, provider), name, ref, embedding)
        hint = nearest(ref, self.models) or "; a model of your own server is asked for as <provider>/<model>"
        raise UnknownModel(f"no model is called {shown(ref)}{hint}", field="model")

    @property
    def known_names(self) -> frozenset[str]:
        """Every model that the catalogue or a setting names, by id and by its provider's name: what a metric's label may show."""
        return frozenset((*self.users, *self.models, *(model.name for model in self.models.values())))

    def node(self, service: str, name: str) -> Node:
        """The node's row; for an unknown one an empty row, which leaves everything to service and profile."""
        found = self.nodes.get(f"{service}.{name}")
        return found if found is not None else Node(service, name, is_listed=False)

    def _at(self, provider: str, name: str, ref: str, embedding: bool) -> Model:
        settings = self._providers.get(provider)
        if settings is None:
            known = sorted(self._providers)
            hint = nearest(provider, known) or f"; known: {', '.join(known)}"
            raise UnknownModel(f"no provider is called {shown(provider)} (in {shown(ref)}){hint}", field="model")
        name = name or self._default(settings, embedding)
        home = provider.removeprefix(settings.service + "-") if settings.service else provider
        found = self._names.get(f"{home}/{name}")
        if found is not None:
            return found if provider == found.provider else replace(found, provider=provider)
        if settings.kind in OPEN_KINDS:
            return _unlisted(provider, name)
        own = [model.id for model in self.models.values() if model.provider == settings.kind]
        hint = nearest(name, own) or f"; known: {', '.join(own)}"
        raise UnknownModel(
            f'provider "{provider}" has no model {shown(name)} in the catalogue{hint} (new ones go under [models] in settings)',
            field="model",
        )

    def _default(self, settings: ProviderSettings, embedding: bool) -> str:
        own, key = (settings.embedding_model, "embedding_model") if embedding else (settings.model, "model")
        name = own or self._defaults[embedding].get(settings.kind or "", "")
        if not name:
            what = "embedding model" if embedding else "model"
            raise UnknownModel(
                f'provider "{settings.name}" has no default {what}: name one, or set providers.{settings.name}.{key}', field="model"
            )
        return name


def _unlisted(provider: str, name: str) -> Model:
    """A model nothing is known about: usual capabilities, no guarantees, no price."""
    return Model(
        id=f"{provider}/{name}",
        provider=provider,
        name=name,
        context_tokens=UNLISTED_CONTEXT_TOKENS,
        max_output_tokens=UNLISTED_OUTPUT_TOKENS,
        tokenizer="estimate",
        capabilities=USUAL,
        prices=Prices(is_known=False),
        is_listed=False,
    )
