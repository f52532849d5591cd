"""What can be wrong with JSON from outside, and JSON kept as its text."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from sidecar.errors import ProviderGarbled

# What msgspec raises for JSON it cannot read: broken or of other types, not UTF-8, nested deeper than the stack.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def text_of(raw: Raw) -> str:
    """A value that was left as it came. Raises ProviderGarbled: what msgspec passes over it does not check for UTF-8."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise ProviderGarbled(f"the arguments of a tool call are not UTF-8: {error.reason} at byte {error.start}") from error
