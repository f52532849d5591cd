"""What a provider's check reads: a list of models, of which nothing matters but that it is one."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from sidecar.errors import ProviderGarbled
from sidecar.json_text import UNREADABLE


def require_list(body: bytes, name: str, whose: str) -> None:
    """Raises ProviderGarbled unless `body` is a JSON object with a list called `name`: else it is not the provider that answers there."""
    try:
        read = msgspec.json.decode(body, type=dict[str, Raw])
    except UNREADABLE as error:
        raise ProviderGarbled(f"{whose}: the list of models cannot be read: {error}; is the base URL right?") from error
    if not bytes(read.get(name, b"")).startswith(b"["):
        raise ProviderGarbled(f"{whose}: the list of models has no {name!r} with a list; is the base URL right?")
