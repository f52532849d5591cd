"""A reservation below the most: how often answers are longer, that nobody is kept out who need not be, and that the books stay exact."""

from __future__ import annotations

import asyncio
import math
import random
import time
from datetime import date
from types import SimpleNamespace

import pytest

from sidecar.call import Candidate, Chunk, Tried, Usage
from sidecar.catalog import load as load_catalog
from sidecar.errors import BudgetExceeded
from sidecar.policies.reservations import Outputs
from sidecar.settings import load
from tests.unit.fakes import Bench

MODEL = load_catalog(load(None, {}), date(2026, 11, 21)).models["gpt-4o"]
MOST = 16_384
TENANT = "tenant:default:day"


def candidate(most: int = MOST, model=MODEL) -> Candidate:
    return Candidate(model, None, "", 10, False, most, 0, fallback=False)


def ended(output: int, *, node: str = "answer", outcome: str = "ok", reasoning: int = 0, model=MODEL) -> SimpleNamespace:
    tried = Tried(candidate(model=model), outcome, 1, Usage(10, 0, 0, 0, output, reasoning), False, 1)
    return SimpleNamespace(service="rag", node_name=node, attempts=[tried])


def held(outputs: Outputs, most: int = MOST, node: str = "answer") -> int:
    return outputs.held(ended(0, node=node), candidate(most))


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("seed", range(3))
def test_of_10_000_answers_no_more_are_longer_than_was_said(quantile, seed):
    draw = random.Random(seed)
    outputs = Outputs(quantile)
    tried = overruns = 0
    for _ in range(10_000):
        output = min(MOST, int(draw.lognormvariate(5, 1)))
        reserved = held(outputs)
        assert reserved <= MOST
        if reserved < MOST:
            tried += 1
            overruns += output > reserved
        outputs.saw(ended(output))
    assert tried >= 9_000  # all but the first hundred, or the first 999
    share = 1 - quantile
    deviation = math.sqrt(tried * share * quantile)
    # One window of 1,000 answers serves 1,000 calls, so that its own error is theirs together: twice the variance of as many throws.
    assert overruns <= tried * share + 3 * math.sqrt(2) * deviation
    assert overruns >= tried * share / 2 - 3 * deviation  # and it is no other way of reserving the most


def test_nothing_is_said_before_enough_is_known():
    outputs, strict = Outputs(0.99), Outputs(0.999)
    for _ in range(99):
        outputs.saw(ended(7))
    assert held(outputs) == MOST
    outputs.saw(ended(7))
    assert held(outputs) == 7
    for _ in range(998):
        strict.saw(ended(7))
    assert held(strict) == MOST
    strict.saw(ended(7))
    assert held(strict) == 7


def test_the_rank_is_the_quantile_of_the_answers_and_the_next_one():
    outputs = Outputs(0.9)
    for output in range(1, 101):
        outputs.saw(ended(output))
    assert held(outputs) == 91  # the 91st of 100: of 101 in all, 10 are longer, which is no more than a tenth


def test_a_calls_own_limit_is_the_most():
    outputs = Outputs(0.5)
    for _ in range(100):
        outputs.saw(ended(500))
    assert held(outputs, most=200) == 200
    assert held(outputs, most=0) == 0  # vectors


def test_what_broke_off_counts_as_it_was_billed_and_who_never_answered_does_not():
    outputs = Outputs(0.5)
    for _ in range(100):
        outputs.saw(ended(0, outcome="PROVIDER_UNAVAILABLE"))
        outputs.saw(ended(3, outcome="HEDGED"))
    assert held(outputs) == MOST
    for _ in range(50):
        outputs.saw(ended(0))
        outputs.saw(ended(40, outcome="STREAM_CUT"))
        outputs.saw(ended(60, outcome="INTERRUPTED"))
    assert held(outputs) == 40


def test_reasoning_is_output():
    outputs = Outputs(0.5)
    for _ in range(100):
        outputs.saw(ended(5, reasoning=300))
    assert held(outputs) == 305


def test_only_the_last_thousand_count():
    outputs = Outputs(0.5)
    for output in (9_000, 30):
        for _ in range(1_000):
            outputs.saw(ended(output))
    assert held(outputs) == 30


def test_each_node_has_its_own_and_the_quiet_ones_are_forgotten():
    outputs = Outputs(0.5)
    for _ in range(100):
        outputs.saw(ended(7, node="quiet"))
        outputs.saw(ended(70, node="busy"))
    assert (held(outputs, node="quiet"), held(outputs, node="busy"), held(outputs, node="other")) == (7, 70, MOST)
    for number in range(250):  # of each node two: the model's own and all of them
        outputs.saw(ended(1, node=f"n{number}"))
        outputs.saw(ended(70, node="busy"))
    assert (held(outputs, node="quiet"), held(outputs, node="busy")) == (MOST, 70)


def test_without_a_quantile_nothing_is_kept():
    outputs = Outputs(None)
    for _ in range(200):
        outputs.saw(ended(7))
    assert held(outputs) == MOST


def answer(output: int, seconds: float = 0.0) -> tuple:
    last = Chunk(text="hi", finish="stop", usage=Usage(10, 0, 0, 0, output, 0), last=True)
    return (seconds, last) if seconds else (last,)


async def starved(quantile: str | None) -> tuple[Bench, int]:
    """100 short answers for 0.0975 USD, then 20 calls at once of a tenant with 0.1525 USD left for them: how many are refused."""
    environ = {"SIDECAR_LIMITS__TENANT_DAY_USD": "0.25"} | ({"SIDECAR_LIMITS__RESERVE_QUANTILE": quantile} if quantile else {})
    bench = Bench([*[answer(95)] * 100, *[answer(95, 0.05)] * 20], **environ)
    for _ in range(100):
        await bench.run(stream=False, max_output_tokens=4_000)
    ends = await asyncio.gather(*[bench.run(stream=False, max_output_tokens=4_000) for _ in range(20)], return_exceptions=True)
    refused = [end for end in ends if isinstance(end, BaseException)]
    assert all(isinstance(end, BudgetExceeded) for end in refused)
    return bench, len(refused)


async def test_callers_that_the_most_would_have_kept_out_are_let_in_and_the_books_are_exact():
    cost = 10 * 2_500 + 95 * 10_000  # nano-USD; the most is 0.06 USD, of the fallback
    bench, refused = await starved(None)
    assert refused == 18
    assert bench.ledger.balance(TENANT, time.time_ns()).used_nano_usd == 102 * cost
    bench, refused = await starved("0.99")
    assert refused == 0
    assert bench.ledger.balance(TENANT, time.time_ns()).used_nano_usd == 120 * cost
    bench.assert_settled(used=120 * 105)


async def test_what_a_call_costs_above_is_an_overrun_posted_in_full():
    bench = Bench([*[answer(95)] * 100, answer(3_000)], SIDECAR_LIMITS__RESERVE_QUANTILE="0.99")
    for _ in range(100):
        assert (await bench.run(stream=False, max_output_tokens=4_000)).max_nano_usd > 4_000 * 10_000
    call = await bench.run(stream=False, max_output_tokens=4_000)
    first, fallback = call.candidates
    assert first.max_nano_usd == first.input_tokens * 2_500 + 4_000 * 10_000  # what a dry run tells
    assert call.max_nano_usd == fallback.input_tokens * 3_000 + 95 * 15_000  # it was never asked: as long as the node's answers
    assert call.max_tokens == max(first.input_tokens, fallback.input_tokens) + 95
    assert call.nano_usd == 10 * 2_500 + 3_000 * 10_000 > call.max_nano_usd
    assert bench.ledger.balance(TENANT, time.time_ns()).overruns == 1
    bench.assert_settled(used=100 * 105 + 3_010)
