"""An engine without doors: real catalogue, ledger, breakers and pipeline; providers that do what a test tells them."""

from __future__ import annotations

import asyncio
import time
from copy import copy
from datetime import date
from typing import get_args

from sidecar._core import Ledger
from sidecar.assembly import make_engine
from sidecar.call import Call, Chunk, Feature, Usage, Vectors
from sidecar.catalog import load as load_catalog
from sidecar.observe import Log
from sidecar.pipeline import run
from sidecar.request import GenerateRequest
from sidecar.settings import load

FEATURES = frozenset(get_args(Feature))
# Waits between tries are asked for, but hardly waited.
SHORT_WAITS = {f"SIDECAR_RETRIES__{name}__WAITS_MS": "1" for name in ("RATE_LIMITED", "UNAVAILABLE", "GARBLED", "STREAM_CUT", "TIMEOUT")}
DONE = Chunk(finish="stop", raw_finish="stop", usage=Usage(10, 0, 0, 0, 5, 0), last=True)


class FakeProvider:
    """Plays one script per call, the last one again and again. A script's steps: chunks to emit, errors to raise, seconds to wait."""

    features = FEATURES

    def __init__(self, name, *scripts):
        self.name = name
        self.scripts = list(scripts)
        self.asks = []
        self.asked_at = []  # time.monotonic()
        self.cancelled = 0
        self.most_at_once = 0
        self._now = 0

    async def generate(self, ask, emit):
        self.asks.append(ask)
        self.asked_at.append(time.monotonic())
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        script = self.scripts[min(len(self.asks), len(self.scripts)) - 1]
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise copy(step)  # the call writes into what it is told
                if isinstance(step, float | int):
                    await asyncio.sleep(step)
                else:
                    await emit((step,))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._now -= 1

    async def embed(self, ask):
        self.asks.append(ask)
        step = self.scripts[min(len(self.asks), len(self.scripts)) - 1][0]
        if isinstance(step, Exception):
            raise copy(step)  # the call writes into what it is told
        return Vectors(step, Usage(3))

    async def close(self):
        pass


class Bench:
    """One engine and the providers `openai` and `anthropic`: node `core.react_agent` has gpt-4o first, then claude-sonnet-4-6."""

    def __init__(self, first=(), second=(), **environ):
        keys = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "SIDECAR_PROFILE__NAME": "production", **SHORT_WAITS}
        settings = load(None, {**keys, **environ})
        self.engine = make_engine(settings, load_catalog(settings, date(2026, 11, 21)), Log("error"))
        self.openai = FakeProvider("openai", *(first or [(Chunk(text="hi"), DONE)]))
        self.anthropic = FakeProvider("anthropic", *(second or [(Chunk(text="hi"), DONE)]))
        self.engine.providers.update(openai=self.openai, anthropic=self.anthropic)
        self.sent = []
        self.waits = []

    @property
    def ledger(self) -> Ledger:
        return self.engine.ledger

    def call(self, request=None, *, stream=True, seconds=5.0, **fields):
        async def send(pieces):
            self.sent.append(pieces)

        if request is None:
            request = GenerateRequest(prompt="hello", **{"caller": caller("core.react_agent"), **fields})
        now = time.monotonic()
        return Call(
            id="c1",
            operation="stream" if stream else "generate",
            request=request,
            metadata={},
            arrived=now,
            deadline=now + seconds,
            send=send if stream else None,
        )

    async def run(self, request=None, **options):
        call = self.call(request, **options)
        await run(self.engine, call)
        return call

    def text(self):
        """What the caller has read."""
        return "".join(chunk.text for pieces in self.sent if isinstance(pieces, tuple) for chunk in pieces)

    def assert_settled(self, used=None):
        """Nothing is held any more; `used` tokens were posted."""
        assert self.ledger.pending() == 0
        balance = self.ledger.balance("tenant:default:day", time.time_ns())
        assert (balance.pending_tokens if balance else 0) == 0
        if used is not None:
            assert (balance.used_tokens if balance else 0) == used


def caller(node, **fields):
    from sidecar.request import Caller

    return Caller(node=node, **fields)
