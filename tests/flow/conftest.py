"""What these tests share: a client of the HTTP door, and the servers that pods share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import pytest_asyncio

from tests.fakes.servers import HOW, Server, programs

PROGRAMS = programs()


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(params=PROGRAMS or ["none"])
def program(request: pytest.FixtureRequest) -> str:
    """Each kind of server that pods may share and that can be started here."""
    if not PROGRAMS:
        pytest.skip(HOW)
    return PROGRAMS[request.param]


@pytest.fixture
def server(program: str) -> Iterator[Server]:
    with Server(program) as running:
        yield running
