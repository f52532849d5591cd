"""Real clients in front of the real sidecar, and the table of what works that is made of these tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.table import Table
from tests.clients.talking import KINDS, Client, missing
from tests.conftest import usual_tables
from tests.fakes.running import Sidecar, model_row, serving
from tests.fakes.upstream import Upstream

_MOST_MODELS = 160
TABLE = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-compatibility", action="store_true", help="write tests/clients/COMPATIBILITY.md anew")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.timeout(300))  # the first run installs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report: pytest.TestReport = yield
    feature = item.get_closest_marker("feature")
    name = getattr(item, "callspec", None) and item.callspec.params.get("client")  # type: ignore[attr-defined]
    if feature is not None and name and (report.when == "call" or report.outcome != "passed"):
        item.config.stash[TABLE].note(feature.args[0], name, report.outcome)
    return report


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    return pytestconfig.stash[TABLE]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def door(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """A sidecar that clients speak to by HTTP."""
    models = "".join(model_row(f"client-{i}", "compatible") for i in range(_MOST_MODELS))
    tables = usual_tables(upstream.url) + models
    async with serving(tmp_path_factory.mktemp("door"), tables) as running:
        yield running


@pytest.fixture(scope="session")
def take() -> Callable[[], str]:
    """`take()`: a model that no other test has touched."""
    numbers = count()

    def one() -> str:
        number = next(numbers)
        assert number < _MOST_MODELS
        return f"client-{number}"

    return one


@pytest.fixture
def model(take: Callable[[], str]) -> str:
    return take()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running(door: Sidecar) -> AsyncIterator[dict[str, Client]]:
    clients: dict[str, Client] = {}
    yield clients
    await asyncio.gather(*(one.stop() for one in clients.values()))


@pytest_asyncio.fixture(loop_scope="session")
async def client(request: pytest.FixtureRequest, door: Sidecar, running: dict[str, Client]) -> Client:
    """The client that the test is given by name, started once."""
    name: str = request.param
    lacking = missing(KINDS[name])
    if lacking:
        assert os.environ.get("CI") != "true", f"{lacking} is not installed"  # where everything must hold, nothing is left out
        pytest.skip(f"NOT TESTED WITH {name}: {lacking} is not installed")
    if name not in running:
        running[name] = await Client.start(name, door.http_url)
    return running[name]
