"""Pods that share a real PostgreSQL for their usage logs: it stops, a pod dies by kill -9, and every row arrives exactly once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.postgres import HOW, Postgres, programs
from tests.fakes.running import Sidecar, free_port
from tests.flow.reading import failed
from tests.flow.test_commands import sidecar_command
from tests.flow.test_usage import COST, ask, report


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    if programs() is None:
        pytest.skip(HOW)
    with Postgres() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, server, tmp_path) -> AsyncIterator[Callable]:
    """Starts the pod of a name; its folder outlives it."""
    await asyncio.to_thread(server.clear)

    async def started(name: str) -> Sidecar:
        return await start_sidecar(f'[usage]\npostgres = "{server.url}"\n', f'data_dir = "{tmp_path}/{name}"')

    yield started


async def until(what: Callable, within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not await what():  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.1)


async def all_moved(sidecar: Sidecar) -> bool:
    metric = await sidecar.metrics()
    return metric("llm_usage_rows_waiting") == 0 and metric("llm_usage_store_up", store="postgres") == 1


class Callers:
    """Calls without a pause, until the pod is gone or they are told to stop."""

    def __init__(self, sidecar: Sidecar, number: int = 4) -> None:
        self.ended: dict[str, float] = {}
        self._sidecar = sidecar
        self._enough = asyncio.Event()
        self._tasks = [asyncio.create_task(self._call()) for _ in range(number)]

    async def _call(self) -> None:
        while not self._enough.is_set():
            try:
                answer = await self._sidecar.llm.Generate(ask(), timeout=10)
            except grpc.aio.AioRpcError:
                return
            self.ended[answer.id] = time.monotonic()

    async def reach(self, number: int) -> None:
        async with asyncio.timeout(60):
            while len(self.ended) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        self._enough.set()
        await asyncio.gather(*self._tasks)


async def test_rows_of_all_pods_arrive_once_whatever_stops_in_between(pod, server):
    one, two = await asyncio.gather(pod("one"), pod("two"))  # both find an empty database
    calls = [Callers(one), Callers(two)]
    for callers in calls:
        await callers.reach(100)
    await asyncio.to_thread(server.stop)
    already = [len(callers.ended) for callers in calls]
    for callers, before in zip(calls, already, strict=True):
        await callers.reach(before + 100)  # calls do not notice

    async def noticed() -> bool:
        return (await one.metrics())("llm_usage_store_up", store="postgres") == 0

    await until(noticed)
    notices = (await one.ops.GetStatus(ops_pb2.GetStatusRequest())).notices
    assert any("does not reach its PostgreSQL" in notice and "wait in" in notice for notice in notices)
    got = await failed(one.ops.ReportUsage(ops_pb2.ReportUsageRequest()))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
    two.process.kill()
    await two.process.wait()
    for callers in calls:
        await callers.end()
    two = await pod("two")
    await asyncio.to_thread(server.start)
    for sidecar in (one, two):
        await until(lambda sidecar=sidecar: all_moved(sidecar))

    rows = await asyncio.to_thread(server.ask, "SELECT id, cost_nano_usd FROM llm_calls")
    there = {id_ for id_, _ in rows}
    assert len(rows) == len(there)
    assert set(calls[0].ended) <= there
    assert set(calls[1].ended) <= there
    assert {cost for _, cost in rows} == {COST}
    for sidecar in (one, two):  # both tell of all pods
        total = (await report(sidecar)).total
        assert (total.calls, total.cost_nano_usd) == (len(rows), sum(cost for _, cost in rows))


async def test_feedback_reaches_another_pods_call(pod, server):
    one, two = await pod("one"), await pod("two")
    answer = await one.llm.Generate(ask())
    await until(lambda: all_moved(one))

    async def there() -> bool:
        return bool(await asyncio.to_thread(server.ask, "SELECT 1 FROM llm_calls WHERE id = %s", answer.id))

    await until(there)
    await two.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=answer.id, quality=1.0, vote=ops_pb2.VOTE_UP))
    assert await asyncio.to_thread(server.ask, "SELECT quality_ppm, vote FROM llm_calls") == [(1_000_000, 1)]
    total = (await report(one)).total
    assert (total.rated, total.ups) == (1, 1)
    status, out, _ = await sidecar_command("usage", "calls", "--where", f"id={answer.id}", "--json", "--target", one.target)
    (call,) = json.loads(out)["calls"]
    assert (status, call["quality"], call["vote"], call["cost_nano_usd"]) == (0, 1.0, 1, COST)
    got = await failed(two.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id="nobody's", vote=ops_pb2.VOTE_UP)))
    assert got.reason == "UNKNOWN_CALL"


async def test_a_pod_that_stops_in_good_order_leaves_nothing_behind(pod, server):
    one = await pod("one")
    ids = {(await one.llm.Generate(ask())).id for _ in range(50)}
    assert await one.stop() == 0
    assert {id_ for (id_,) in await asyncio.to_thread(server.ask, "SELECT id FROM llm_calls")} == ids


async def test_nobody_there_is_no_reason_not_to_start(start_sidecar, tmp_path):
    nobody = f'[usage]\npostgres = "postgresql://u@127.0.0.1:{free_port()}/d"\npostgres_password = "hunter2secret"\n'
    one = await start_sidecar(nobody, f'data_dir = "{tmp_path}/data"')
    answer = await one.llm.Generate(pb.GenerateRequest(prompt="hi"))

    async def told() -> bool:
        notices = (await one.ops.GetStatus(ops_pb2.GetStatusRequest())).notices
        return any("does not reach its PostgreSQL" in notice for notice in notices)

    await until(told)
    assert "hunter2" not in one.log
    await one.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=answer.id, vote=ops_pb2.VOTE_DOWN))  # its row waits here
    await one.stop()
    status, out, _ = await sidecar_command("usage", "calls", "--data-dir", f"{tmp_path}/data")
    assert status == 0
    assert answer.id in out
