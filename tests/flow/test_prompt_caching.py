"""Anthropic's prompt caching, end to end: the marks on its wire, its figures in the answer, and money that is exact, also in the report."""

from __future__ import annotations

from collections import OrderedDict

import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import model_row, provider_tables
from tests.fakes.script import Say, Tokens
from tests.flow.reading import streamed, tokens

MODEL = "anthropic-keeps"
RULES = "Answer as the rules of the house have it. " * 400
KEPT, NEW, OUT = 4_000, 6, 7  # tokens: what is marked, what follows it, the answer


def parts_before_mark(body) -> str | None:
    """What the provider would keep: all before the last mark."""
    blocks = [*body.get("tools", ()), *body.get("system", ()), *(b for turn in body["messages"] for b in turn["content"])]
    marked = [number for number, block in enumerate(blocks) if "cache_control" in block]
    assert len(marked) <= 4
    assert all(blocks[number]["cache_control"] == {"type": "ephemeral"} for number in marked)
    if not marked:
        return None
    return repr([{key: value for key, value in block.items() if key != "cache_control"} for block in blocks[: marked[-1] + 1]])


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, upstream, tmp_path):
    """`cache_min_tokens` as a model of the catalogue has it."""
    rows = provider_tables(upstream.url, "anthropic") + model_row(MODEL, "anthropic", cache_min_tokens=1024)
    return await start_sidecar(rows, f'data_dir = "{tmp_path}/data"')


async def test_marks_figures_and_money(pod, upstream):
    kept: OrderedDict[str, None] = OrderedDict()
    before = len(upstream.asked(MODEL))
    spent, seen = 0, []
    for number in range(4):
        request = pb.GenerateRequest(
            prompt=f"Question {number}?", system=RULES, model=MODEL, caller=pb.Caller(service="flow", tenant="keeps")
        )
        # What the fake says is what the provider would say to marks as we are expected to set them: none, write, read, read.
        said = [Tokens(KEPT + NEW, 0, 0, OUT), Tokens(NEW, 0, KEPT, OUT), Tokens(NEW, KEPT, 0, OUT), Tokens(NEW, KEPT, 0, OUT)][number]
        upstream.on(MODEL, Say(tokens=said))
        got = (await streamed(pod.llm.Stream(request))).end if number % 2 else await pod.llm.Generate(request)
        body = (await upstream.request(MODEL, before + number)).body
        prefix = parts_before_mark(body)
        seen.append("none" if prefix is None else "read" if prefix in kept else "write")
        if prefix is not None:
            kept[prefix] = None
        assert tokens(got.usage) == (said.input, said.cached, said.cache_write, OUT, 0)
        assert got.cost.nano_usd == said.input * 1_000 + said.cached * 250 + said.cache_write * 1_250 + OUT * 4_000
        spent += got.cost.nano_usd
    assert seen == ["none", "write", "read", "read"]
    assert len(kept) == 1
    total = (await pod.ops.ReportUsage(ops_pb2.ReportUsageRequest(filter=ops_pb2.UsageFilter(equals={"tenant": "keeps"})))).total
    assert total.cost_nano_usd == spent
    assert (total.cache_saved_nano_usd, total.cache_write_extra_nano_usd) == (2 * KEPT * 750, KEPT * 250)
    without = 4 * ((KEPT + NEW) * 1_000 + OUT * 4_000)
    assert without - spent == total.cache_saved_nano_usd - total.cache_write_extra_nano_usd > 0


async def test_reservation_covers_a_write_before_it_is_known_whether_there_is_one(pod):
    request = pb.GenerateRequest(prompt="Question?", system=RULES, model=MODEL, max_output_tokens=10)
    plan = await pod.ops.Explain(ops_pb2.ExplainRequest(generate=request))
    (candidate,) = plan.candidates
    assert candidate.max_cost.nano_usd == candidate.input_tokens * 1_250 + 10 * 5_000
