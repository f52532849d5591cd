"""Callers in a crowd who ask the same few questions, leave, run out of time and meet failing models: what must hold whatever happens."""

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from sidecar import errors
from sidecar.call import Chunk, Usage
from sidecar.pipeline import run
from sidecar.request import GenerateRequest, Text
from sidecar.store.cache_invalidation import Invalidation
from tests.unit.fakes import Bench, FakeProvider, caller

NODE = "SIDECAR_NODES__CORE__REACT_AGENT__CACHE__"
FAILURES = (errors.ProviderRejected("no"), errors.ProviderUnavailable("down"), errors.StreamCut("cut"), ValueError("a defect"))


class Moody(FakeProvider):
    """Answers with who asked what, late or never or with half of it; counts who is asked the same at the same time."""

    def __init__(self, name, dice):
        super().__init__(name)
        self.dice = dice
        self.now = Counter()
        self.most = 0
        self.answers = set()

    async def generate(self, ask, emit):
        system, turn = ask.messages
        question = (system.parts[0].text, turn.parts[0].text)
        self.asks.append(ask)
        self.now[question] += 1
        if question[1] != "refreshed":
            self.most = max(self.most, self.now[question])
        number = len(self.asks)
        try:
            await asyncio.sleep(self.dice.choice((0, 0, 0.001, 0.004, 0.02)))
            if self.dice.random() < 0.3:
                raise self.dice.choice(FAILURES)
            text = f"{question}: {number}"
            await emit((Chunk(text=text),))
            self.answers.add(text)
            await emit((Chunk(finish="stop", usage=Usage(10, 0, 0, 0, 5, 0), last=True),))
        finally:
            self.now[question] -= 1


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_happens(seed):
    dice = random.Random(seed)
    settings = {NODE + "STALE": "true", NODE + "TTL_MS": str(dice.choice((1, 20, 100_000))), "SIDECAR_CACHE__MAX_BYTES": "65536"}
    bench = Bench(**settings, SIDECAR_NODES__CORE__REACT_AGENT__FALLBACK_ALLOWED="false", SIDECAR_SERVICES__CORE__BREAKER_OFF="true")
    model = bench.engine.providers["openai"] = Moody("openai", dice)
    calls, tasks = [], []

    async def one():
        await asyncio.sleep(dice.random() * 0.05)
        tenant, prompt = dice.choice("ab"), dice.choice(("x", "y", "refreshed"))
        mode = "refresh" if prompt == "refreshed" else dice.choice(("default", "default", "default", "only"))
        request = GenerateRequest(
            prompt=prompt, system=tenant, caller=caller("core.react_agent", tenant=tenant), cache_mode=mode, model="gpt-4o", seed=seed
        )
        call = bench.call(request, stream=dice.random() < 0.5, seconds=dice.choice((0.005, 0.05, 2.0)))
        call.id = f"{len(calls)}"
        calls.append(call)
        with contextlib.suppress(errors.SidecarError):
            await run(bench.engine, call)

    for _ in range(120):
        tasks.append(asyncio.ensure_future(one()))
    for _ in range(10):
        await asyncio.sleep(0.005)
        dice.choice(tasks).cancel()
        if dice.random() < 0.2:
            what = Invalidation(generation=bench.engine.answers.invalidations.generation + 1, tenant=dice.choice(("", "a")))
            bench.engine.answers.invalidate(what)
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks, return_exceptions=True)

    assert len(bench.engine.flights) == 0
    assert bench.ledger.pending() == 0
    assert model.most <= 1  # of two identical calls one waits
    assert not any(model.now.values())
    kinds = Counter(call.recalled.kind if call.recalled is not None else "" for call in calls)
    for call in calls:
        assert call.error is not None or call.answer is not None
        if call.error is not None:
            continue
        own = (call.tenant, call.messages[-1].parts[0])
        assert call.answer.text.startswith(str((own[0], own[1].text if isinstance(own[1], Text) else "")))
        assert call.answer.text in model.answers  # whole, as the model said it
        if call.recalled is not None:
            assert call.recalled.source in {other.id for other in calls if other.tenant == call.tenant}
            assert call.nano_usd == sum(tried.nano_usd for tried in call.attempts)
            assert call.recalled.kind == "stale" or not call.attempts
    assert kinds["exact"] + kinds["stale"] > 0
