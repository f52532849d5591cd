"""W3C trace context (https://www.w3.org/TR/trace-context/): which trace a call belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Version, trace, parent, flags; the trace is not all zeros, and a later version may have more after it.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def trace_id(metadata: Mapping[str, str]) -> str:
    """The trace id of the metadata's traceparent, or nothing if there is none, or it is none."""
    if "traceparent" not in metadata:
        return ""
    found = _TRACEPARENT.fullmatch(metadata["traceparent"])
    return found[1] if found is not None else ""
