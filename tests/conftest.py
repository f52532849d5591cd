"""The real sidecar on a real socket, and the fake provider that it calls: shared by flow and e2e tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.fakes.running import MODELS, Sidecar, model_row, provider_tables, serving, start
from tests.fakes.upstream import Upstream

# How fast a machine is, is no matter for a test to fail on.
settings.register_profile("any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_machine")

ONE_LOOP = ("flow", "e2e", "clients")  # tests that share one sidecar share one event loop too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in ONE_LOOP:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as fake:
        yield fake


# What all tests may use: every provider, models with round prices, a chain to fall back along, no model of the policy's.
SHARED = """
[profile]
primary = "compatible/compatible-default"
fallbacks = []
embedding = "compatible/compatible-default"
embedding_fallbacks = []

[nodes.flow.chain]
primary = "compatible/compatible-default"
fallbacks = ["compatible/compatible-spare"]

[limits]
tenant_day_tokens = 100_000_000
"""

SMALL_MODELS = "".join(
    (
        model_row("compatible-default", "compatible"),
        model_row("compatible-spare", "compatible"),
        model_row("compatible-blind", "compatible", capabilities=["generate", "system", "sampling"]),
        model_row("compatible-small", "compatible", context_tokens=200, max_output_tokens=100),
    )
)


def usual_tables(url: str) -> str:
    """Settings of a sidecar with one provider, played at `url`, and small models; a test's own come after."""
    return SHARED + provider_tables(url, "compatible") + SMALL_MODELS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sidecar(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """One sidecar with all providers for all tests that do not need their own."""
    models = "".join(model_row(f"{p}-{i}", p) for p, many in MODELS.items() for i in range(many))
    tables = SHARED + provider_tables(upstream.url, *MODELS) + SMALL_MODELS + models
    async with serving(tmp_path_factory.mktemp("sidecar"), tables, "max_message_bytes = 8388608") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def start_sidecar(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Sidecar]]]:
    """A factory of sidecars with settings of their own: `await start_sidecar(tables, server_lines, http=http_lines)`.

    Only `compatible` is configured.
    """
    running: list[Sidecar] = []

    async def factory(tables: str = "", server: str = "", *, http: str = "", wait: bool = True) -> Sidecar:
        one = await start(tmp_path, usual_tables(upstream.url) + tables, server, http=http)
        running.append(one)
        return await one.until_serving() if wait else one

    try:
        yield factory
    finally:
        for one in running:
            await one.stop(within_s=3)


@pytest.fixture(scope="session")
def fresh() -> Callable[[str], str]:
    """`fresh("openai")`: a model of that provider which no other test has touched."""
    numbers = {provider: count() for provider in MODELS}

    def take(provider: str) -> str:
        number = next(numbers[provider])
        assert number < MODELS[provider], f"all {number} models of {provider} are used up; raise their number in MODELS"
        return f"{provider}-{number}"

    return take


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """A tenant of this test's own, so that its account is its own."""
    return f"{abs(hash(request.node.nodeid)):x}"
