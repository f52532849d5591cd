"""What tests of the cache in the pipeline share: a node that uses it, questions, a judge that does as it is told."""

from __future__ import annotations

import msgspec

from sidecar import errors
from sidecar.call import Chunk, Usage, Vectors
from sidecar.request import GenerateRequest
from tests.unit.fakes import DONE, FakeProvider, caller

NODE = "SIDECAR_NODES__CORE__REACT_AGENT__CACHE__"
ON = {NODE + "MODE": "default"}
STALE = {NODE + "STALE": "true", NODE + "TTL_MS": "1000"}
DOWN = (errors.ProviderUnavailable("down"),)
SIMILAR = {NODE + "MODE": "default", NODE + "SEMANTIC": "on"}
ASKED, ALIKE, OTHER = "How do I reset my password?", "how do i reset my password", "How do I reset my e-mail address?"


def ask(prompt="hello", mode="default", tenant="", user="", **fields):
    return GenerateRequest(prompt=prompt, cache_mode=mode, caller=caller("core.react_agent", tenant=tenant, user=user), **fields)


def slow(text="hi", seconds=0.05):
    return [(seconds, Chunk(text=text), DONE)]


class Elapsed:
    """A clock that goes on by itself, and further when it is told to."""

    def __init__(self, bench):
        self.ahead_ns = 0
        real = bench.engine.clock_ns
        bench.engine = msgspec.structs.replace(bench.engine, clock_ns=lambda: real() + self.ahead_ns)

    def pass_s(self, seconds):
        self.ahead_ns += int(seconds * 1e9)


def hits(bench):
    """llm_cache by kind."""
    families = bench.engine.meter.metrics.registry.collect()
    found = {}
    for sample in (s for f in families if f.name == "llm_cache" for s in f.samples if s.name == "llm_cache_total"):
        found[sample.labels["kind"]] = found.get(sample.labels["kind"], 0) + sample.value
    return found


class OpenJudge:
    """Gives what it is told to, and notes everything."""

    def __init__(self, *, gives=True, keeps=True):
        self.gives, self.keeps = gives, keeps
        self.gave_calls, self.audits = [], []

    def may_give(self, call, likely):
        return self.gives

    def unproven(self, call, likely):
        return "" if self.gives else "no figures"

    def gave(self, call, likely):
        self.gave_calls.append((call.id, likely.entry.call_id))

    def asked(self, call, likely, fresh, differs):
        self.audits.append((likely.entry.answer().text, fresh.text))
        if not self.keeps:
            differs()


class Embedder(FakeProvider):
    """Each text's vector is its length."""

    async def embed(self, ask):
        self.asks.append(ask)
        return Vectors([[float(len(text)), 0.5] for text in ask.inputs], Usage(7 * len(ask.inputs)))
