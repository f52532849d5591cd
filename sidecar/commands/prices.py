"""`sidecar prices`: what each model costs here, since when and by whose word, and where a well-kept list of prices says otherwise."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.types import ModelPrice, Provider

    from sidecar.catalog import Catalog, Model
    from sidecar.settings import Settings

Line = dict[str, Any]  # by column

_OLD_DAYS = 90
_TOKEN = ("input", "cached_input", "cache_write_5m", "cache_write_1h", "output", "reasoning")  # pico-USD each
_FLAT = ("image", "call")  # nano-USD each
_SHOWN = ("model", "provider", "kind", "over_tokens", *_TOKEN, *_FLAT, "as_of", "source")
_DIFFERENCE = ("model", "price", "over_tokens", "ours", "theirs", "ratio")
_LIST = "genai-prices"
# Where the list keeps each price, the first that it states; USD per million tokens, and per 1,000 calls.
_THEIRS = {
    "input": ("input_mtok",),
    "cached_input": ("cache_read_mtok",),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok", "cache_write_mtok"),
    "output": ("output_mtok",),
    "reasoning": ("output_reasoning_mtok", "output_mtok"),
    "call": ("requests_kcount",),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put `prices` among the commands."""
    prices = commands.add_parser(
        "prices", help="what each model costs, since when and by whose word; exit status 1: --compare found differences"
    )
    prices.add_argument("models", nargs="*", metavar="MODEL", help="only these: a model, a part of its name, or a provider (default: all)")
    prices.add_argument("--compare", action="store_true", help=f"tell where {_LIST} has other prices (pip install 'llm-sidecar[prices]')")
    prices.add_argument("--settings", metavar="FILE", help="the TOML file (default: $SIDECAR_SETTINGS, else none)")
    forms = prices.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="as JSON; tokens in pico-dollars, calls and images in nano-dollars")
    forms.add_argument("--csv", action="store_true", help="as CSV, in the same units")


def prices(arguments: argparse.Namespace, path: Path | None, environ: Mapping[str, str], today: date) -> int:
    """Prints the prices or the differences. Exit status 0, 1 where prices differ, 2 for a mistake or where the list is not installed.

    Raises SettingsError when the settings cannot be read.
    """
    from sidecar import catalog as catalogs
    from sidecar.errors import UnknownModel
    from sidecar.settings import load

    settings = load(path, environ)
    catalog, shipped = catalogs.load(settings, today), catalogs.load(load(None, {}), today)
    try:
        models = _chosen(catalog, arguments.models)
    except UnknownModel as error:
        sys.stderr.write(f"sidecar prices: {error.message}\n")
        return 2
    lines = [line for model in models for line in _lines(model, shipped, today)]
    _tell_old(lines)
    if arguments.compare:
        return _compare(arguments, models, settings, today)
    if arguments.json:
        _write_json(
            {"as_of": str(today), "units": {"tokens": "pico-USD per token", "image": "nano-USD", "call": "nano-USD"}, "prices": lines}
        )
    elif arguments.csv:
        _write_csv(lines, (*_SHOWN, "age_days"))
    else:
        words = [{**line, **{name: _usd(line[name], name) for name in (*_TOKEN, *_FLAT)}} for line in lines]
        sys.stdout.write("US dollars: per million tokens, per image, per call\n")
        _write_table(words, _SHOWN)
    return 0


def _chosen(catalog: Catalog, words: Sequence[str]) -> list[Model]:
    """Raises UnknownModel, with the nearest known name."""
    if not words:
        return list(catalog.models.values())
    found: dict[str, Model] = {}
    for word in words:
        hits = [model for model in catalog.models.values() if word == model.provider or word in model.id]
        found |= {model.id: model for model in hits or [catalog.named(word)]}
    return list(found.values())


def _lines(model: Model, shipped: Catalog, today: date) -> Iterator[Line]:
    """One line for the model, and one for each number of input tokens beyond which calls cost otherwise."""
    kinds = [kind for kind in ("generate", "embed") if kind in model.capabilities]
    source = _source(model, shipped)
    as_of = None if model.prices.is_estimated else model.as_of
    for over, at in ((None, model.prices), *model.prices.over):
        yield {
            "model": model.id,
            "provider": model.provider,
            "kind": "+".join(kinds),
            "over_tokens": over,
            **{name: getattr(at, name) if model.prices.is_known else None for name in (*_TOKEN, *_FLAT)},
            "as_of": None if as_of is None else str(as_of),
            "age_days": None if as_of is None else (today - as_of).days,
            "source": source,
        }


def _source(model: Model, shipped: Catalog) -> str:
    """By whose word: the catalogue's, the settings', or nobody's."""
    if model.prices.is_estimated:
        return "estimated: the provider's dearest"
    if not model.prices.is_known:
        return "none"
    listed = shipped.models.get(model.id)
    if listed is None:
        return "settings"
    own = [name for name in (*_TOKEN, *_FLAT, "over") if getattr(model.prices, name) != getattr(listed.prices, name)]
    return f"settings ({', '.join(own)}), else catalogue" if own else "catalogue"


def _tell_old(lines: Sequence[Line]) -> None:
    old = {line["model"]: line for line in lines if line["age_days"] is not None and line["age_days"] > _OLD_DAYS}
    if old:
        oldest = max(old.values(), key=lambda line: line["age_days"])
        sys.stderr.write(
            f"sidecar prices: the prices of {len(old)} model{'s' * (len(old) != 1)} are older than {_OLD_DAYS} days, the oldest "
            f"{oldest['model']}'s of {oldest['as_of']}; look them up, or see what --compare says, and set them in [models] with as_of\n"
        )


# --- another list ---------------------------------------------------------------------------------------------------------------


def _compare(arguments: argparse.Namespace, models: Sequence[Model], settings: Settings, today: date) -> int:
    try:
        from importlib.metadata import version

        from genai_prices.data import providers
    except ModuleNotFoundError:
        sys.stderr.write(f"sidecar prices: --compare needs the package {_LIST}: pip install 'llm-sidecar[prices]'\n")
        return 2
    compared: list[str] = []
    absent: list[str] = []
    differences: list[Line] = []
    at = datetime.combine(today, time(12), UTC)  # the list has prices that begin on a day
    for model in models:
        provider = _their_provider(model, settings, providers)
        if provider is None or not model.prices.is_known:
            continue
        theirs = provider.find_model(model.name)
        if theirs is None or not theirs.prices:
            absent.append(model.id)
            continue
        compared.append(model.id)
        differences += _differences(model, theirs.get_prices(at))
    label = f"{_LIST} {version(_LIST)}"
    if arguments.json:
        _write_json({"list": label, "compared": compared, "not_in_the_list": absent, "differences": differences})
    elif arguments.csv:
        _write_csv(differences, _DIFFERENCE)
    else:
        if differences:
            sys.stdout.write("US dollars: per million tokens, per call\n")
            _write_table(differences, _DIFFERENCE)
        missing = f"; it does not have {', '.join(absent)}" if absent else ""
        found = f"{len(differences) or 'no'} price{' differs' if len(differences) == 1 else 's differ'}"
        sys.stdout.write(f"{len(compared)} models compared with {label}: {found}{missing}\n")
    return 1 if differences else 0


def _their_provider(model: Model, settings: Settings, providers: Sequence[Provider]) -> Provider | None:
    """The list's provider of a model: by kind, and of a server in OpenAI's format by its address. None: nobody bills for it."""
    import re

    own = settings.providers.get(model.provider)
    if own is None or own.kind in ("echo", "ollama"):
        return None
    if own.kind == "compatible":
        return next((one for one in providers if own.base_url and re.match(one.api_pattern, own.base_url)), None)
    return next((one for one in providers if one.id == own.kind), None)


def _differences(model: Model, theirs: ModelPrice) -> Iterator[Line]:
    """What both state and state differently, compared exactly. The list has no price per picture, only per token of one."""
    from fractions import Fraction

    steps = {least for least, _ in model.prices.over}
    stated = {name: next((found for key in keys if (found := getattr(theirs, key)) is not None), None) for name, keys in _THEIRS.items()}
    for price in stated.values():
        steps |= {tier.start for tier in getattr(price, "tiers", ())}
    for step in (None, *sorted(steps)):
        ours_at = next((dearer for least, dearer in reversed(model.prices.over) if step is not None and step >= least), model.prices)
        for name, price in stated.items():
            said = _at(price, step)
            if said is None:
                continue
            ours, their = Fraction(getattr(ours_at, name), 10**6), Fraction(said)
            if ours == their:
                continue
            yield {
                "model": model.id,
                "price": name,
                "over_tokens": step,
                "ours": _usd(getattr(ours_at, name), name),
                "theirs": _plain(said / 1000 if name == "call" else said),
                "ratio": f"{float(ours / their):.3f}" if their else "-",
            }


def _at(price: Any, step: int | None) -> Decimal | None:
    """The list's price of a call with more input than `step` tokens; its tiers begin above their own number, as ours do."""
    if price is None or not hasattr(price, "tiers"):
        return price  # type: ignore[no-any-return]
    found: Decimal = price.base
    for tier in price.tiers:
        if step is not None and step >= tier.start:
            found = tier.price
    return found


# --- out ------------------------------------------------------------------------------------------------------------------------


def _usd(amount: int | None, name: str) -> str:
    """Exact dollars, with two digits or as many as it takes: of pico-USD per token for a million tokens, of nano-USD for one."""
    if amount is None:
        return "-"
    digits = 6 if name in _TOKEN else 9
    whole, rest = divmod(amount, 10**digits)
    return f"{whole}.{f'{rest:0{digits}d}'.rstrip('0'):0<2}"


def _plain(value: Decimal) -> str:
    whole, _, rest = f"{value:f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<2}"


def _write_json(whole: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def _write_csv(lines: Sequence[Line], columns: Sequence[str]) -> None:
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)


def _write_table(lines: Sequence[Line], columns: Sequence[str]) -> None:
    """Columns as wide as what is in them; figures to the right."""
    cells = [["-" if line[name] is None else str(line[name]) for name in columns] for line in lines]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    are_figures = [name in (*_TOKEN, *_FLAT, "over_tokens", "ours", "theirs", "ratio") for name in columns]
    for row in (list(columns), *cells):
        put = (c.rjust(width) if right else c.ljust(width) for c, width, right in zip(row, widths, are_figures, strict=True))
        sys.stdout.write("  ".join(put).rstrip() + "\n")
