"""What models cost, from the rows of settings and catalogue: no model is ever free because a price was forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter

from msgspec.structs import replace

from sidecar.catalog.facts import Model, Prices
from sidecar.catalog.lookup import OPEN_KINDS, Catalog
from sidecar.settings import Settings
from sidecar.settings.routing import ModelRow, OverRow


def half_priced(row: ModelRow, *, is_open: bool, only_embeds: bool) -> str:
    """Which price is missing beside those that are there; "" if none is. Of a server of one's own all may be: it is free then."""
    names = ["input"] if only_embeds else ["input", "output"]
    missing = [name for name in names if getattr(row, name) is None]
    is_free = is_open and len(missing) == len(names) and row.output is None
    return missing[-1] if missing and not is_free else ""


def prices_of(row: ModelRow | OverRow, call: int = 0, image: int = 0) -> Prices:
    """Where no price of its own is set, cached and written input cost what input costs, and reasoning what output costs."""
    entry, output = row.input or 0, row.output or 0
    write_5m = entry if row.cache_write_5m is None else row.cache_write_5m
    over: list[tuple[int, Prices]] = []
    if isinstance(row, ModelRow):
        call, image = row.call or 0, row.image or 0
        over = sorted(((int(least), prices_of(dearer, call, image)) for least, dearer in (row.over or {}).items()), key=itemgetter(0))
    return Prices(
        input=entry,
        cached_input=entry if row.cached_input is None else row.cached_input,
        cache_write_5m=write_5m,
        cache_write_1h=write_5m if row.cache_write_1h is None else row.cache_write_1h,
        output=output,
        reasoning=output if row.reasoning is None else row.reasoning,
        call=call,
        image=image,
        over=tuple(over),
        is_known=row.input is not None or bool(call or image),
    )


def estimated(models: Mapping[str, Model], settings: Settings) -> dict[str, Model]:
    """Models of providers that bill, without prices of their own, at the dearest of any of their provider's, price by price.

    A provider none of whose models has a price is given the dearest of all: nothing is ever free by accident.
    """
    found = dict(models)
    for name, model in models.items():
        if model.prices.is_known or _kind(model.provider, settings) in OPEN_KINDS:
            continue
        known = [other for other in models.values() if other.prices.is_known]
        own = [other for other in known if _kind(other.provider, settings) == _kind(model.provider, settings)]
        found[name] = replace(model, prices=_dearest([other.prices for other in own or known]))
    return found


def _kind(provider: str, settings: Settings) -> str:
    return (settings.providers[provider].kind if provider in settings.providers else None) or "ollama"


def _dearest(prices: Sequence[Prices]) -> Prices:
    rows = [at for one in prices for at in (one, *(dearer for _, dearer in one.over))]
    names = ("input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "reasoning", "call", "image")
    return Prices(**{name: max(getattr(row, name) for row in rows) for name in names}, is_estimated=True)


def unpriced(catalog: Catalog) -> Iterator[str]:
    """One line per model that costs nothing because nobody set a price, or what others cost."""
    for name, users in catalog.users.items():
        model = catalog.models.get(name) or catalog.named(name)
        table = model.id if model.is_listed else model.name
        how = f'give [models."{table}"]{"" if model.is_listed else f" with provider = {model.provider!r}"} its input and output prices'
        if not model.prices.is_known and model.provider != "ollama":
            yield f"{model.id} has no price, so its calls are counted as free: {how} ({', '.join(users)})"
        elif model.prices.is_estimated:
            yield f"{model.id} has no price of its own and is counted at its provider's dearest: {how} ({', '.join(users)})"
