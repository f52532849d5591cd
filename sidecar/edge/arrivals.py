"""How a call begins, whatever the door: its id, who says they ask, and how much time it has."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from sidecar.call import Call, Operation, Send
from sidecar.engine import Engine
from sidecar.errors import InvalidRequest
from sidecar.request import EmbedRequest, GenerateRequest

CALLER = ("service", "node", "tenant", "user", "plan", "run", "agent")
METADATA = frozenset({"accept-language", "traceparent", *(f"x-sidecar-{name}" for name in CALLER)})
_MARGIN = 0.05  # share of the caller's time kept back, at most 50 ms, so that our status arrives before its deadline does


def arrive(
    engine: Engine,
    operation: Operation,
    request: GenerateRequest | EmbedRequest,
    metadata: Mapping[str, str],
    left_s: float | None,
    send: Send | None,
) -> Call:
    """A call that has just come in. `left_s` is what its caller gives it, None: as long as settings say."""
    now = time.monotonic()
    total = engine.settings.timeouts.total_ms / 1000 if left_s is None else max(0.0, left_s - min(0.05, left_s * _MARGIN))
    return Call(
        id=os.urandom(16).hex(), operation=operation, request=request, metadata=metadata, arrived=now, deadline=now + total, send=send
    )


def note(found: dict[str, str], key: str, value: str | bytes) -> None:
    """Put one name and value of metadata into `found`. Raises InvalidRequest where it may not be what was sent.

    gRPC turns bytes that are no UTF-8 into other letters without a word, and HTTP leaves the meaning of such bytes open: only ASCII is
    sure to be what was sent.
    """
    if isinstance(value, bytes) or not value.isascii():
        if key == "accept-language":  # no call fails for the language in which its failure would be told
            return
        raise InvalidRequest(
            f"metadata {key} holds bytes that are not ASCII, all that metadata can carry; put the name into the message's caller", field=key
        )
    found[key] = value
