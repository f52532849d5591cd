"""The exact cache's memory: bounded in what entries really take, not in the letters of their answers."""

import tracemalloc

import pytest

from sidecar.answer import Answer
from sidecar.call import Chunk, GenerateRequest, ToolDelta, Usage
from sidecar.pipeline import plan
from sidecar.store.answers import Answers
from tests.unit.fakes import Bench, caller


def answered(bench, number, chunks):
    call = bench.call(GenerateRequest(prompt=f"question {number}", cache_mode="default", caller=caller("core.react_agent")))
    plan(bench.engine, call)
    call.served = call.candidates[0]
    call.answer = Answer()
    for chunk in chunks:
        call.answer.add(chunk)
    call.answer.add(Chunk(finish="stop", usage=Usage(10, 0, 0, 0, number, 0), model="m", last=True))
    return call


# Each piece is a string of its own, as it is in a stream.
ANSWERS = {
    "empty": lambda n: [],
    "short": lambda n: [Chunk(text=f"{n}.")],
    "many_pieces": lambda n: [Chunk(text=f"{i} ") for i in range(n, n + 200)],
    "wide_letters": lambda n: [Chunk(text=f"{i}가") for i in range(n, n + 200)],
    "tool_calls": lambda n: [Chunk(tool_calls=(ToolDelta(i, f"id{n}{i}", f"tool{n}", f'{{"a": {n}}}'),)) for i in range(5)],
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_memory_stays_within_the_bound_whatever_is_remembered(kind):
    bench = Bench()
    answers = Answers(most_bytes=300_000)
    answers.keep(answered(bench, 0, ANSWERS[kind](0)), 0)
    tracemalloc.start()
    try:
        for number in range(1, 500):
            answers.keep(answered(bench, number, ANSWERS[kind](number)), number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    newest = answers.find(answered(bench, 499, []), 1_000)
    assert newest is not None
    assert answers.find(answered(bench, 0, []), 1_000) is None  # room was needed
    assert taken < 300_000


def test_what_is_remembered_is_the_whole_answer():
    bench = Bench()
    answers = Answers()
    call = answered(bench, 1, [Chunk(text="a"), Chunk(reasoning="r"), Chunk(text="b"), *ANSWERS["tool_calls"](1)])
    answers.keep(call, 5)
    served, kept, age_ns = answers.find(call, 8)
    assert (served, age_ns) == (call.served, 3)
    assert (kept.text, kept.reasoning, kept.tool_calls) == (call.answer.text, call.answer.reasoning, call.answer.tool_calls)
    assert (kept.finish, kept.usage, kept.model, kept.last) == ("stop", call.answer.usage, "m", True)
