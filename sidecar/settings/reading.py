"""Reads tables of plain values into frozen Structs and tells a mistake in one line.

One walk over the Struct's own fields serves the settings file, environment variables and the shipped catalogue, so a mistake in any
of them is told in the same words: file or variable, key path, what was found, what is expected, the nearest known name.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo

from sidecar.errors import SettingsError

S = TypeVar("S", bound=Struct)
Path = tuple[str, ...]

NanoUsd = NewType("NanoUsd", int)  # 1 USD is 1_000_000_000
PicoUsdPerToken = NewType("PicoUsdPerToken", int)  # 1 USD per million tokens is 1_000_000; written as USD per million tokens
DIGITS = {NanoUsd: 9, PicoUsdPerToken: 6}

_SECRETS = {
    "key", "api_key", "langchain_api_key", "headers", "sha256", "ops_sha256", "password", "postgres_password",
    "chat_url", "webhook_url", "webhook_key",
}  # fmt: skip
_LOOKS_LIKE_A_KEY = re.compile(r"(.*/)?(sk-|AIza|gsk_|lsv2_|xai-|Bearer )")
_DECIMAL = re.compile(r"([0-9]{1,9})(?:\.([0-9]+))?")


class Source:
    """Where values come from: a file by its label, except for the paths that a variable has given."""

    def __init__(self, file: str, variables: Mapping[Path, str] | None = None) -> None:
        self.file = file
        self.variables = variables or {}

    def variable(self, path: Path) -> str:
        """The variable that gave the value at `path` or, for a table, one that gave something inside it; "" when the file did."""
        found = self.variables.get(path)
        if found is None:
            found = next((name for given, name in self.variables.items() if given[: len(path)] == path), "")
        return found

    def error(self, path: Path, problem: str) -> SettingsError:
        variable = self.variables.get(path)
        return SettingsError(variable, "", problem) if variable else SettingsError(self.file, dotted(path), problem)


def dotted(path: Path) -> str:
    """A key path as TOML writes it."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in path)


def shown(value: object) -> str:
    """A value as an error may show it: short, and nothing that looks like a key."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if _LOOKS_LIKE_A_KEY.match(value):
            return "(hidden, it looks like a key)"
        value = re.sub(r"(?<=\?).*", "(hidden)", re.sub(r"(?<=//)[^/@]*@", "(hidden)@", value)) if "://" in value else value
        return '"' + (value if len(value) <= 60 else value[:57] + "...").replace("\n", "\\n").replace("\r", "\\r") + '"'
    return str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing when no known name is near. Of a short name, more must agree: two letters are soon found."""
    from difflib import get_close_matches  # 0.7 MiB that a process without mistakes need not hold

    close = get_close_matches(name, sorted(known), n=1, cutoff=0.6 if len(name) > 5 else 0.7)
    return f'; did you mean "{close[0]}"?' if close else ""


def decimal(text: str, digits: int) -> int | None:
    """`text` times 10^digits as an exact whole number; None when it is no plain decimal or has more digits than that."""
    found = _DECIMAL.fullmatch(text)
    if found is None:
        return None
    whole, fraction = found[1], found[2] or ""
    return int(whole) * 10**digits + int(fraction.ljust(digits, "0") or "0") if len(fraction) <= digits else None


def read(kind: type[S], raw: object, source: Source, path: Path = ()) -> S:
    """`raw`, a table as TOML gives it, as a `kind`. Raises SettingsError for the first mistake found."""
    if not isinstance(raw, dict):
        raise source.error(path, f"found {shown(raw)}, expected a table")
    fields = _fields(kind)
    for key in raw:
        if key not in fields:
            raise _unknown(key, fields, source, path)
    values = {field.name: _value(field.type, raw[key], source, (*path, key)) for key, field in fields.items() if key in raw}
    missing = next((key for key, field in fields.items() if field.required and key not in raw), None)
    if missing is not None:
        raise source.error((*path, missing), f"is missing, expected {_words(fields[missing].type)}")
    return kind(**values)


@cache
def _fields(kind: type[Struct]) -> dict[str, FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _unknown(key: str, fields: Mapping[str, FieldInfo], source: Source, path: Path) -> SettingsError:
    variable = source.variable((*path, key))
    if variable:
        prefix = "SIDECAR_" + "".join(part.upper() + "__" for part in path)
        inner = {name: field.type for name, field in fields.items()}
        names = [prefix + name.upper() for name in inner]
        leaves = [f"{prefix}{name}__{leaf}".upper() for name, kind in inner.items() if _is_struct(kind) for leaf in _fields(kind)]
        return SettingsError(
            variable, "", "no such setting" + (nearest(variable, [*names, *leaves]) or f"; known: {', '.join(sorted(names))}")
        )
    hint = nearest(key, fields) or f"; known: {', '.join(sorted(fields))}"
    return SettingsError(source.file, dotted((*path, key)), "no such key" + hint)


def _value(kind: Any, raw: Any, source: Source, path: Path) -> Any:
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if _is_struct(kind):
        return read(kind, raw, source, path)
    is_text = path in source.variables
    if get_origin(kind) is Mapping:
        return _table(kind, raw, source, path, is_text)
    if kind in DIGITS:
        return _money(kind, raw, source, path)
    if get_origin(kind) is tuple:
        if is_text:
            raw = [part.strip() for part in raw.split(",") if part.strip()]
        if isinstance(raw, list):
            return tuple(_leaf(get_args(kind)[0], entry, source, path, is_text) for entry in raw)
    return _leaf(kind, raw, source, path, is_text)


def _leaf(kind: Any, raw: Any, source: Source, path: Path, is_text: bool) -> Any:
    try:
        return msgspec.convert(raw, kind, strict=not is_text)
    except msgspec.ValidationError:
        pass
    found = "(hidden)" if _SECRETS.intersection(path) else shown(raw)
    hint = nearest(raw, get_args(kind)) if get_origin(kind) is Literal and isinstance(raw, str) else ""
    raise source.error(path, f"found {found}, expected {_words(kind)}{hint}")


def _table(kind: Any, raw: Any, source: Source, path: Path, is_text: bool) -> dict[str, Any]:
    name, inner = get_args(kind)
    if is_text:  # NAME=VALUE,NAME=VALUE
        pairs = [pair.partition("=") for pair in raw.split(",") if pair.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise source.error(path, "found something that is not name=value,name=value")
        return {left.strip(): right.strip() for left, _, right in pairs}
    if not isinstance(raw, dict):
        raise source.error(path, f"found {'(hidden)' if _SECRETS.intersection(path) else shown(raw)}, expected a table")
    for key in raw:
        try:
            msgspec.convert(key, name)
        except msgspec.ValidationError:
            where = source.variable((*path, key)) or source.file
            raise SettingsError(where, dotted(path), f"found the name {shown(key)}, expected {_words(name)}") from None
    return {key: _value(inner, value, source, (*path, key)) for key, value in raw.items()}


def _money(kind: Any, raw: object, source: Source, path: Path) -> int:
    digits = DIGITS[kind]
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        raise source.error(
            path, f'found the number {raw}, expected US dollars in quotes, like "{raw}": write it in quotes, so that it stays exact'
        )
    amount = decimal(raw, digits) if isinstance(raw, str) else None
    if amount is None:
        raise source.error(path, f"found {shown(raw)}, expected {_words(kind)}")
    return amount


def _words(kind: Any) -> str:
    """What a value of this type looks like, for a person."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if kind in DIGITS:
        unit = "US dollars" if kind is NanoUsd else "US dollars per million tokens"
        return f'{unit} in quotes, like "2.50", with at most {DIGITS[kind]} digits after the point'
    if get_origin(kind) is Annotated:
        bare, meta = kind.__origin__, next(part for part in kind.__metadata__ if isinstance(part, Meta))
        return meta.description or f"{_words(bare)} from {meta.ge} to {meta.le}"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list; each entry: {_words(get_args(kind)[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}
    return words.get(kind, "a date, like 2027-01-14" if getattr(kind, "__name__", "") == "date" else "a table")
