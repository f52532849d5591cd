"""Runs with a plan over a real socket: opened by an RPC or by their first call, held to, closed with a summary, kept over kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from pathlib import Path

import grpc
import pytest

from sidecar.v1 import budgets_pb2 as bpb
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.script import Say, Stall
from tests.flow.reading import failed, streamed
from tests.flow.test_budgets import events

M = "compatible-default"
COST = 39_000  # nano-USD: the fake's 11 tokens in and 7 out, at the test models' prices
EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
NEVER = pb.RunPlan(total_nano_usd=10**9)


def ask(run: str, agent: str = "", step: int = 0, plan: pb.RunPlan | None = None, **fields) -> pb.GenerateRequest:
    caller = pb.Caller(tenant="acme", run=run, agent=agent, step=step, run_plan=plan)
    return pb.GenerateRequest(**{"prompt": "hi", "model": M, "max_output_tokens": 10, "caller": caller} | fields)


def share(agent: str, **fields) -> pb.AgentShare:
    return pb.AgentShare(agent=agent, **fields)


async def opened(sidecar, run: str, **plan) -> bpb.Run:
    return (await sidecar.ops.OpenRun(bpb.OpenRunRequest(tenant="acme", run=run, plan=pb.RunPlan(**plan)))).run


async def closed(sidecar, run: str) -> bpb.Run:
    return (await sidecar.ops.CloseRun(bpb.CloseRunRequest(tenant="acme", run=run))).run


async def found(sidecar, run: str) -> bpb.Run:
    (one,) = (await sidecar.ops.ListRuns(bpb.ListRunsRequest(tenant="acme", run=run))).runs
    return one


async def refusal(sidecar, request: pb.GenerateRequest) -> str:
    """The account for which the call is refused."""
    got = await failed(sidecar.llm.Generate(request))
    assert (got.code, got.reason, got.facts["mode"]) == (*EXHAUSTED, "manual")
    return got.facts["account"]


async def test_a_run_is_opened_held_to_its_plan_and_closed_with_a_summary(sidecar):
    run = await opened(
        sidecar,
        "whole",
        total_nano_usd=300_000,
        reserve_percent=20,
        max_steps=5,
        agents=[
            share("writer", max_nano_usd=150_000, priority=pb.PRIORITY_CRITICAL),
            share("critic", max_output_tokens=12, priority=pb.PRIORITY_OPTIONAL),
        ],
    )
    assert (run.balance.limit_nano_usd, run.steps) == (300_000, 0)
    await sidecar.llm.Generate(ask("whole", "writer", 1))
    await streamed(sidecar.llm.Stream(ask("whole", "writer", 2)))
    assert await refusal(sidecar, ask("whole", "writer", 3)) == "agent:acme:whole:writer:plan"
    got = await failed(sidecar.llm.Generate(ask("whole", "stranger")))
    assert (got.code, got.reason, got.field) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", "caller.agent")
    # 240,000 for first tries, 78,000 spent, 72,000 kept for the writer: 90,000 are left.
    await sidecar.llm.Generate(ask("whole", "critic", 1))
    assert await refusal(sidecar, ask("whole", "critic", 2)) == "agent:acme:whole:critic:plan:output"
    assert await refusal(sidecar, ask("whole", "critic", 9)) == "run:acme:whole:plan:steps"
    summary = await closed(sidecar, "whole")
    assert (summary.balance.used_nano_usd, summary.balance.pending_nano_usd) == (3 * COST, 0)
    assert (summary.steps, summary.refused) == (3, 4)
    assert [(a.agent, a.calls, a.refused, a.nano_usd, a.input_tokens, a.output_tokens) for a in summary.agents] == [
        ("", 0, 1, 0, 0, 0),
        ("critic", 1, 2, COST, 11, 7),
        ("writer", 2, 1, 2 * COST, 22, 14),
    ]
    assert await refusal(sidecar, ask("whole", "writer", 1)) == "run:acme:whole:plan"
    assert not (await sidecar.ops.ListRuns(bpb.ListRunsRequest(tenant="acme", run="whole"))).runs
    (told,) = [one for one in await events(sidecar, "run") if one.facts["run"] == "whole"]
    assert told.message == "run whole of tenant acme is closed: 0.000117 of 0.000300 USD, 3 steps, 4 calls refused"


async def test_the_first_call_may_bring_the_plan_along(sidecar):
    plan = pb.RunPlan(total_nano_usd=200_000, reserve_percent=0)
    explained = await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=ask("brought", plan=plan)))
    assert explained.candidates
    assert not (await sidecar.ops.ListRuns(bpb.ListRunsRequest(run="brought"))).runs  # a dry run opens none
    await sidecar.llm.Generate(ask("brought", plan=plan))
    embed = pb.EmbedRequest(inputs=["a"], model=M, caller=pb.Caller(tenant="acme", run="brought", run_plan=plan))
    await sidecar.llm.Embed(embed)
    run = await found(sidecar, "brought")
    assert (run.plan, run.steps) == (plan, 2)
    other = await failed(sidecar.llm.Generate(ask("brought", plan=pb.RunPlan(total_nano_usd=1))))
    assert (other.code, other.field) == (grpc.StatusCode.INVALID_ARGUMENT, "run")
    assert "is open with another plan" in other.message
    nameless = await failed(sidecar.llm.Generate(ask("", plan=plan)))
    assert (nameless.reason, nameless.field) == ("INVALID_REQUEST", "caller.run")
    await closed(sidecar, "brought")
    assert await refusal(sidecar, ask("brought", plan=plan)) == "run:acme:brought:plan"


async def test_the_reserve_is_for_steps_asked_again_and_a_top_up_helps(sidecar):
    await opened(sidecar, "short", total_nano_usd=150_000, reserve_percent=20)
    await sidecar.llm.Generate(ask("short", step=1))
    await sidecar.llm.Generate(ask("short", step=1))  # 78,000 are spent; 120,000 are for first tries, of which it was no second one
    assert await refusal(sidecar, ask("short", step=1)) == "run:acme:short:plan"
    topped = await sidecar.ops.TopUpBudget(bpb.TopUpBudgetRequest(account="run:acme:short:plan", nano_usd=100_000))
    assert topped.balance.limit_nano_usd == 250_000
    await sidecar.llm.Generate(ask("short", step=2))
    assert (await closed(sidecar, "short")).balance.used_nano_usd == 3 * COST


async def test_an_agent_asks_its_plans_model_and_puts_out_what_is_left(sidecar, upstream, fresh):
    model = fresh("compatible")
    await opened(sidecar, "led", total_nano_usd=10**9, agents=[share("a", model=model, max_output_tokens=100)])
    answer = await sidecar.llm.Generate(ask("led", "a", model="", max_output_tokens=None))
    assert answer.model == model
    await sidecar.llm.Generate(ask("led", "a", model=model, max_output_tokens=None))
    assert [one.body["max_tokens"] for one in upstream.asked(model)] == [100, 93]
    got = await failed(sidecar.llm.Generate(ask("led", "a", model="compatible-spare")))
    assert (got.reason, got.field) == ("NOT_ALLOWED", "model")
    assert model in got.message
    unknown = await failed(
        sidecar.ops.OpenRun(bpb.OpenRunRequest(run="x", plan=pb.RunPlan(total_nano_usd=1, agents=[share("a", model="gtp")])))
    )
    assert unknown.reason == "UNKNOWN_MODEL"


async def test_a_run_goes_on_after_kill_9(start_sidecar, upstream, tmp_path):
    server = f'data_dir = "{tmp_path}/data"'
    first = await start_sidecar("", server)
    plan = {"total_nano_usd": 10**9, "max_steps": 3, "agents": [share("a", max_nano_usd=250_000)]}
    await opened(first, "kept", **plan)
    await opened(first, "ended", **plan)
    for step in (1, 2):
        await first.llm.Generate(ask("kept", "a", step))
    await closed(first, "ended")
    async with asyncio.timeout(10):
        while '"steps":2' not in kept_runs(tmp_path / "data"):  # noqa: ASYNC110  (another process's file)
            await asyncio.sleep(0.05)
    upstream.on(M, Stall(), Say())
    waiting = asyncio.ensure_future(failed(first.llm.Generate(ask("kept", "a", 3), timeout=60)))
    async with asyncio.timeout(10):
        while not (await found(first, "kept")).balance.pending_nano_usd:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)
    first.process.send_signal(signal.SIGKILL)
    await first.process.wait()
    assert (await waiting).code == grpc.StatusCode.UNAVAILABLE
    second = await start_sidecar("", server)
    runs = (await second.ops.ListRuns(bpb.ListRunsRequest())).runs
    assert [one.run for one in runs] == ["kept"]
    (run,) = runs
    assert (run.balance.used_nano_usd, run.balance.pending_nano_usd) == (2 * COST, 0)
    assert [(a.agent, a.nano_usd, a.output_tokens) for a in run.agents] == [("a", 2 * COST, 14)]
    await second.llm.Generate(ask("kept", "a", 3))
    assert await refusal(second, ask("kept", "a", 4)) == "run:acme:kept:plan:steps"
    assert await second.stop() == 0
    third = await start_sidecar("", server)
    assert ((await found(third, "kept")).steps, (await found(third, "kept")).balance.used_nano_usd) == (3, 3 * COST)


def kept_runs(folder: Path) -> str:
    """What the sidecar has written down of its runs, as text."""
    with contextlib.closing(sqlite3.connect(f"file:{folder}/budgets.db?mode=ro", uri=True)) as file:
        return "".join(text for (text,) in file.execute("SELECT text FROM kept WHERE kind = 'run'"))


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"run": ""}, "run", "run is empty"),
        ({"run": "a\nb"}, "run", "printable"),
        ({"plan": pb.RunPlan()}, "total_nano_usd", "is 0; expected 1"),
        ({"plan": pb.RunPlan(total_nano_usd=-5)}, "total_nano_usd", "is -5"),
        ({"plan": pb.RunPlan(total_nano_usd=1, reserve_percent=99)}, "reserve_percent", "is 99; expected 0 to 90"),
        ({"plan": pb.RunPlan(total_nano_usd=1, max_steps=-1)}, "max_steps", "is -1"),
        ({"plan": pb.RunPlan(total_nano_usd=1, agents=[share("")])}, "agents", "without a name"),
        ({"plan": pb.RunPlan(total_nano_usd=1, agents=[share("a"), share("a")])}, "plan.agents[1].agent", "'a' twice"),
        ({"plan": pb.RunPlan(total_nano_usd=1, agents=[share("a", priority=9)])}, "plan.agents[0].priority", "is 9"),
        ({"plan": pb.RunPlan(total_nano_usd=1, agents=[share("a", max_nano_usd=2)])}, "agents", "more than the run's 1"),
    ],
)
async def test_plans_that_cannot_be(sidecar, fields, field, told):
    got = await failed(sidecar.ops.OpenRun(bpb.OpenRunRequest(**{"tenant": "acme", "run": "bad", "plan": NEVER} | fields)))
    assert (got.code, got.reason, got.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", field)
    assert told in got.message


async def test_a_run_that_is_not_open_cannot_be_closed(sidecar):
    got = await failed(sidecar.ops.CloseRun(bpb.CloseRunRequest(tenant="acme", run="nobody's")))
    assert (got.code, got.reason, got.field) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_RUN", "run")
