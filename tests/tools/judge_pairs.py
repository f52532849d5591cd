"""How well a model judges answers, before audits are left to it (`cache.audit.judge`).

    python -m tests.tools.judge_pairs --model gpt-4o-mini [--target 127.0.0.1:50051]

A running sidecar asks it about 80 hand-written pairs of answers, in an audit's own words. Of those that differ it should take none for the
same: where it takes a share m of them, fewer than cache.audit.target / (1 - m) of the similar answers are wrong. Of those that say the same
it should miss few: at more than one in fifty nothing ever opens.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from sidecar.client import AsyncClient, GenerateRequest
from sidecar.policies import model_judge

PAIRS = Path(__file__).parents[1] / "unit" / "policies" / "answer_pairs.jsonl"
_AT_ONCE = 4


class Pair(Struct, frozen=True):
    language: str
    same: bool
    what: str
    one: str
    other: str


async def judged(client: AsyncClient, model: str, pair: Pair) -> str:
    code = model_judge.code_of(random.random())
    prompt = model_judge.message("", pair.one, pair.other)
    request = GenerateRequest(prompt=prompt, system=model_judge.instruction(code), model=model, temperature=0.0)
    answer = await client.generate(request, timeout_s=60)
    return model_judge.verdict(answer.text, code)


async def judge_all(target: str, model: str) -> list[tuple[Pair, str]]:
    """Each pair, and why it is not the same to the model."""
    pairs = [msgspec.json.decode(line, type=Pair) for line in PAIRS.read_text("utf-8").splitlines()]
    few = asyncio.Semaphore(_AT_ONCE)

    async def one(pair: Pair) -> tuple[Pair, str]:
        async with few:
            return pair, await judged(client, model, pair)

    async with AsyncClient(target) as client:
        return await asyncio.gather(*map(one, pairs))


def report(found: list[tuple[Pair, str]]) -> str:
    lines = []
    for language in sorted({pair.language for pair, _ in found}):
        for same, wrong in ((False, "taken for the same"), (True, "not found to be the same")):
            of = [(pair, why) for pair, why in found if pair.language == language and pair.same is same]
            missed = [f"{pair.what}{' (unclear)' if why == 'unclear' else ''}" for pair, why in of if (not why) is not same]
            lines.append(f"{language}, {'the same' if same else 'different'}: {len(missed)} of {len(of)} {wrong}{': ' if missed else ''}")
            lines[-1] += ", ".join(missed)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--target", default="127.0.0.1:50051")
    arguments = parser.parse_args()
    sys.stdout.write(report(asyncio.run(judge_all(arguments.target, arguments.model))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
