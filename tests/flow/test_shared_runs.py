"""Runs that pods share through a real Redis or Valkey: opened, held to their plan and closed at any pod, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from tests.fakes.running import Sidecar
from tests.flow.test_runs import COST, ask, closed, opened, refusal


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, server, tmp_path) -> AsyncIterator[Callable[..., Awaitable[Sidecar]]]:
    """Starts the pod of a name, whose folder outlives it."""

    async def started(name: str, fleet: str = "") -> Sidecar:
        (tmp_path / name).mkdir(exist_ok=True)
        tables = f'[redis]\nurl = "{server.url}"\n[fleet]\nlearn_ms = 500\nwait_ms = 2000\n{fleet}'
        return await start_sidecar(tables, f'data_dir = "{tmp_path / name}"')

    yield started


async def until(what: Callable[[], Awaitable[bool]], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not await what():  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)


async def is_up(sidecar: Sidecar) -> bool:
    return (await sidecar.metrics())("llm_shared_runs_up") == 1


async def answered(sidecar: Sidecar, request: pb.GenerateRequest) -> bool:
    call = sidecar.llm.Generate(request, timeout=20)
    code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED), await call.details()
    return code == grpc.StatusCode.OK


async def test_sixty_calls_at_three_pods_are_held_to_one_plan(pod):
    pods = [await pod(name) for name in ("one", "two", "three")]
    await opened(pods[0], "many", total_nano_usd=30 * COST + 10_000, reserve_percent=0, max_steps=100)
    calls = [answered(pods[n % 3], ask("many", f"agent{n % 4}", step=n)) for n in range(1, 61)]
    outcomes = await asyncio.gather(*calls)
    extra = 0
    while await answered(pods[extra % 3], ask("many")):  # what calls had held and did not cost is there again
        extra += 1
    summary = await closed(pods[2], "many")
    let_in = sum(outcomes) + extra
    assert (summary.balance.used_nano_usd, summary.balance.pending_nano_usd) == (let_in * COST, 0)
    assert summary.balance.used_nano_usd <= summary.balance.limit_nano_usd
    assert (summary.steps, sum(agent.calls for agent in summary.agents)) == (let_in, let_in)
    assert summary.refused == 60 - sum(outcomes) + 1
    assert sum(agent.input_tokens for agent in summary.agents) == let_in * 11
    for one in pods:
        assert await refusal(one, ask("many", "agent0", step=1)) == "run:acme:many:plan"
