"""What a caller can do when no model answers, by service and node, in the language that it reads."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from sidecar.settings import Settings
from sidecar.settings.reading import Source, read
from sidecar.settings.routing import Degradation

Language = Literal["en", "ko"]

_ACCEPTED = re.compile(r"\s*(?P<language>en|ko)(?:-[A-Za-z0-9-]+)?\s*(?:;\s*q=(?P<share>[01](?:\.[0-9]{0,3})?)\s*)?", re.IGNORECASE)


class Advice(Struct, frozen=True):
    """`action` is for programs, `message` for people, in `language`; `http_status` and `code` for a service's own clients.

    `most_retries`: how often a client may try again; 0: not at all.
    """

    action: str
    message: str
    language: Language
    http_status: int
    most_retries: int
    code: str


class _Row(Struct, frozen=True):
    """A row with nothing left out."""

    action: str
    message_en: str
    message_ko: str
    http_status: int
    most_retries: int
    code: str


class _Shipped(Struct, frozen=True):
    default: _Row
    services: Mapping[str, Degradation]


class Degradations:
    """Key by key, the first that says something: settings' node, settings' service, shipped service, shipped default."""

    def __init__(self, settings: Settings) -> None:
        raw = tomllib.loads(files("sidecar.catalog").joinpath("degradations.toml").read_text("utf-8"))
        shipped = read(_Shipped, raw, Source("sidecar/catalog/degradations.toml"))
        self._language: Language = settings.server.language
        self._default = shipped.default
        self._services = {name: _over(self._default, row) for name, row in shipped.services.items()}
        for name, service in settings.services.items():
            self._services[name] = _over(self._services.get(name, self._default), service.degradation)
        self._nodes = {
            (service, name): _over(self._services.get(service, self._default), row.degradation)
            for service, rows in settings.nodes.items()
            for name, row in rows.items()
            if row.degradation is not None
        }

    def of(self, service: str, node: str, accept_language: str = "") -> Advice:
        """The advice for a caller of `service.node`; a service that nobody knows, or "", has the default's.

        `accept_language` is as HTTP has it (RFC 9110, 12.5.4), for example `ko-KR,ko;q=0.9,en;q=0.8`.
        """
        row = self._nodes.get((service, node)) or self._services.get(service, self._default)
        language = _accepted(accept_language) or self._language
        message = row.message_ko if language == "ko" else row.message_en
        return Advice(row.action, message, language, row.http_status, row.most_retries, row.code)


def _over(row: _Row, own: Degradation) -> _Row:
    """`own` over `row`, key by key."""
    return replace(row, **{key: value for key, value in asdict(own).items() if value is not None})


def _accepted(accept_language: str) -> Language | None:
    """The one of our languages that is wanted most, the first of equals; None if none is, or what is written cannot be read."""
    found: Language | None = None
    most = 0.0
    for entry in accept_language.split(","):
        match = _ACCEPTED.fullmatch(entry)
        if match is not None and (share := float(match["share"] or 1)) > most:
            found, most = "ko" if match["language"].lower() == "ko" else "en", share
    return found
