"""Does marking prompts pay? Traffic of several kinds against a provider that keeps what is marked for five minutes, at real prices."""

from __future__ import annotations

import random

import pytest

from sidecar.call import Chunk, GenerateAsk, Usage
from sidecar.pipeline import run
from sidecar.request import GenerateRequest, Message, Text
from tests.unit.fakes import Bench, caller

MODEL = "claude-sonnet-4-6"
LEAST = 1024
LIFE_S = 300.0
RULES = "Answer as the rules of the house have it. " * 400  # some 4,200 tokens


class KeepingProvider:
    """Anthropic's own rules: the longest kept prefix that ends at a block is read, what lies behind it up to the last mark is written."""

    name = "anthropic"

    def __init__(self, features):
        self.features = features
        self.now_s = 0.0
        self.kept: dict[tuple[str, ...], float] = {}

    async def generate(self, ask: GenerateAsk, emit):
        blocks = [part.text for message in ask.messages for part in message.parts]
        sizes = [len(block) // 4 for block in blocks]
        marks = ask.cache_marks
        assert len(marks) <= 4
        read = written = 0
        if marks:
            ends = [n for n in range(max(marks) + 1) if self.kept.get(tuple(blocks[: n + 1]), -1.0) > self.now_s]
            read = sum(sizes[: ends[-1] + 1]) if ends else 0
            whole = sum(sizes[: max(marks) + 1])
            written = whole - read if whole >= LEAST else 0
            for mark in marks:
                if sum(sizes[: mark + 1]) >= LEAST:
                    self.kept[tuple(blocks[: mark + 1])] = self.now_s + LIFE_S
            for end in ends:
                self.kept[tuple(blocks[: end + 1])] = self.now_s + LIFE_S
        usage = Usage(sum(sizes) - read - written, read, written, 0, 50, 0)
        await emit((Chunk(text="Yes, it does, and here is why.", usage=usage, finish="stop", last=True),))

    async def embed(self, ask):
        raise NotImplementedError

    async def close(self):
        pass


def single(chance):
    """Prompts that are all different."""
    for number in range(60):
        yield chance.expovariate(1 / 20), [(f"{number} {RULES}", "What now?")]


def busy(chance):
    """One node's instructions, a call about every half a minute."""
    for number in range(120):
        yield chance.expovariate(1 / 30), [(RULES, f"Question {number}?")]


def seldom(chance):
    """The same, a call about every ten minutes: worse than what pays."""
    for number in range(120):
        yield chance.expovariate(1 / 600), [(RULES, f"Question {number}?")]


def conversations(chance):
    """Ten people who talk to it, with an answer of a page in each turn."""
    talks = [[RULES] for _ in range(10)]
    for number in range(120):
        talk = chance.choice(talks)
        talk.append(f"{number}: " + "What about this? " * 20)
        yield chance.expovariate(1 / 15), [tuple(talk)]
        talk.append("It is like that. " * 60)


async def spent(traffic, caching) -> int:
    """Nano-USD for all input. Asserts that no call cost more than was held for it, but for an estimate's share."""
    bench = Bench(SIDECAR_SERVICES__CORE__PROMPT_CACHING=caching)
    provider = KeepingProvider(bench.anthropic.features)
    bench.engine.providers["anthropic"] = provider
    prefixes = bench.engine.prefixes
    of, sent = prefixes.of, prefixes.sent
    prefixes.of = lambda call, candidate, ask, _: of(call, candidate, ask, int(provider.now_s * 1e9))
    prefixes.sent = lambda prompt, _: sent(prompt, int(provider.now_s * 1e9))
    total = 0
    for pause_s, prompts in traffic(random.Random(7)):
        provider.now_s += pause_s
        for system, *turns in prompts:
            messages = [Message("assistant" if n % 2 else "user", (Text(turn),)) for n, turn in enumerate(turns)]
            request = GenerateRequest(
                caller=caller("core.react_agent"), model=MODEL, messages=(Message("system", (Text(system),)), *messages)
            )
            call = bench.call(request, stream=False)
            await run(bench.engine, call)
            assert call.nano_usd <= call.max_nano_usd
            total += call.nano_usd - 50 * 15_000
    return total


@pytest.mark.parametrize(
    ("traffic", "least", "most"), [(single, 1.0, 1.0), (busy, 0.10, 0.20), (seldom, 0.9, 1.15), (conversations, 0.15, 0.35)]
)
async def test_what_input_costs_with_it_in_shares_of_what_it_costs_without(traffic, least, most):
    share = await spent(traffic, "auto") / await spent(traffic, "off")
    assert least <= share <= most, share
