"""Entries for tests of the cache."""

import hashlib

from sidecar.store.cache_entry import Entry, Named

MINUTE_NS = 60_000_000_000


class FakeWall:
    BEGIN_MS = 1_800_000_000_000

    def __init__(self):
        self.now_ns = self.BEGIN_MS * 1_000_000

    def __call__(self):
        return self.now_ns


def digest(number):
    return hashlib.sha256(b"%d" % number).digest()


NAMED = Named("acme", "kim", "core", "react_agent", "openai/gpt-4o", "", "")


def an_entry(number, *, kept_ms=FakeWall.BEGIN_MS, life_ms=3_600_000, keep_ms=None, generation=0, named=NAMED, **fields):
    values = {
        "text": "An answer.",
        "reasoning": "",
        "tool_calls": (),
        "finish": "stop",
        "raw_finish": "stop",
        "model_said": "gpt-4o",
        "request_id": "",
    } | fields
    return Entry(
        digest=digest(number),
        partition=b"p" * 32,
        named=named,
        call_id=f"call-{number}",
        kept_ms=kept_ms,
        life_ms=life_ms,
        keep_ms=life_ms if keep_ms is None else keep_ms,
        generation=generation,
        nano_usd=1_000,
        **values,
    )
