"""Health over real sockets: gRPC health of the sidecar, its providers and its nodes, Watch, and active checks of every wire."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import MODELS as PROVIDERS
from tests.fakes.running import provider_tables, serving
from tests.fakes.script import Fail, Raw, Say, Stall
from tests.fakes.upstream import MODELS, Upstream
from tests.fakes.wires import Anthropic, Google, Ollama, OpenAI
from tests.flow.reading import failed

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
WHOLE = ("", "sidecar.v1.LLMService", "sidecar.v1.OpsService")

# Each call of the node asks each model once, so that the third failed call opens both breakers.
PLAIN = """
[retries]
unavailable = {retries = 0}
"""


class Watched:
    """Every status that a Watch has told."""

    def __init__(self, sidecar, name):
        self.seen = []
        self._news = asyncio.Event()
        self._call = sidecar.health.Watch(health_pb2.HealthCheckRequest(service=name))
        self._task = asyncio.create_task(self._read())

    async def _read(self):
        async for reply in self._call:
            self.seen.append(reply.status)
            self._news.set()

    async def until(self, *statuses, within_s=10):
        """Wait until exactly these have come."""
        async with asyncio.timeout(within_s):
            while len(self.seen) < len(statuses):
                self._news.clear()
                await self._news.wait()
        assert self.seen == list(statuses)

    def close(self):
        self._call.cancel()
        self._task.cancel()


def ask(node: str = "flow.chain") -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="hi", caller=pb.Caller(node=node))


async def status(sidecar) -> ops_pb2.GetStatusResponse:
    return await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())


async def provider(sidecar, name) -> ops_pb2.ProviderStatus:
    return next(p for p in (await status(sidecar)).providers if p.name == name)


async def events(sidecar) -> list[str]:
    reply = await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(kind="health"))
    return [event.message for event in reversed(reply.events)]


async def until(happened, within_s=15):
    async with asyncio.timeout(within_s):
        while not await happened():  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)


# --- nodes ------------------------------------------------------------------------------------------------------------------------


async def test_a_node_without_candidates_makes_the_sidecar_unhealthy_until_one_is_back(start_sidecar, upstream):
    sidecar = await start_sidecar(PLAIN + "[services.flow]\nbreaker_open_ms = 3000\n")
    upstream.on("compatible-default", Fail(503))
    upstream.on("compatible-spare", Say())
    whole, node = Watched(sidecar, ""), Watched(sidecar, "node:flow.chain")
    try:
        await whole.until(SERVING)
        for _ in range(4):  # the first model's breaker opens; the fallback goes on answering
            assert (await sidecar.llm.Generate(ask(), timeout=10)).fallback
        assert [(n.name, n.candidates_left, n.candidates) for n in (await status(sidecar)).nodes] == [("flow.chain", 1, 2)]
        found = await provider(sidecar, "compatible")
        assert (found.health, found.health_source) == (ops_pb2.HEALTH_DEGRADED, "traffic")
        for name in (*WHOLE, "provider:compatible", "node:flow.chain"):
            assert await sidecar.serving(name), name

        upstream.on("compatible-spare", Fail(503))
        for _ in range(3):
            await failed(sidecar.llm.Generate(ask(), timeout=10))
        await whole.until(SERVING, NOT_SERVING)
        await node.until(SERVING, NOT_SERVING)
        assert (await status(sidecar)).nodes[0].candidates_left == 0
        assert (await provider(sidecar, "compatible")).health == ops_pb2.HEALTH_DOWN
        for name in (*WHOLE, "provider:compatible", "node:flow.chain"):
            assert not await sidecar.serving(name), name
        assert await sidecar.serving("provider:echo")
        assert await sidecar.serving("node:core.react_agent")  # of the portfolio, and not in use
        # The pod itself stays in its service: its provider's outage is not its own.
        async with aiohttp.ClientSession() as session, session.get(f"{sidecar.ops_url}/readyz") as reply:
            assert reply.status == 200

        # Time alone brings it back: a breaker whose pause is over lets a trial through, and for that calls must come.
        await whole.until(SERVING, NOT_SERVING, SERVING)
        await node.until(SERVING, NOT_SERVING, SERVING)
        upstream.on("compatible-default", Say())
        assert (await sidecar.llm.Generate(ask(), timeout=10)).text
        assert (await events(sidecar))[0] == "nobody is left to answer flow.chain: the breakers of all its candidates are open"
    finally:
        whole.close()
        node.close()
        upstream.on("compatible-default", Say())
        upstream.on("compatible-spare", Say())


async def test_all_that_can_be_asked_for_is_listed(start_sidecar, upstream):
    sidecar = await start_sidecar("")
    await sidecar.llm.Generate(ask("nobody.told_of_this"), timeout=10)
    listed = (await sidecar.health.List(health_pb2.HealthListRequest())).statuses
    assert {
        "",
        "sidecar.v1.LLMService",
        "sidecar.v1.OpsService",
        "provider:compatible",
        "node:flow.chain",
        "node:nobody.told_of_this",
    } <= set(listed)
    for name, said in listed.items():
        assert said == await sidecar.health.Check(health_pb2.HealthCheckRequest(service=name)), name


async def test_names_that_are_not_known(sidecar):
    for name in ("provider:nobody", "node:no.such", "provider:", "node:", "compatible", "provider:compatible "):
        refused = await failed(sidecar.health.Check(health_pb2.HealthCheckRequest(service=name)))
        assert refused.code == grpc.StatusCode.NOT_FOUND, name
    watched = Watched(sidecar, "node:nobody.calls_this")
    await watched.until(UNKNOWN)
    await sidecar.llm.Generate(ask("nobody.calls_this"), timeout=10)
    await watched.until(UNKNOWN, SERVING)
    watched.close()


async def test_a_provider_that_cannot_be_called_is_not_serving(start_sidecar):
    sidecar = await start_sidecar()
    assert not await sidecar.serving("provider:openai")  # it has no key
    assert await sidecar.serving("provider:compatible")  # it has not been asked yet


async def test_draining_wins(start_sidecar):
    sidecar = await start_sidecar()
    watched = [Watched(sidecar, name) for name in (*WHOLE, "provider:compatible", "node:flow.chain")]
    for one in watched:
        await one.until(SERVING)
    await sidecar.ops.Drain(ops_pb2.DrainRequest())
    for one in watched:
        await one.until(SERVING, NOT_SERVING)
        one.close()


# --- checks -----------------------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def checked(tmp_path):
    """A sidecar with every wire that checks its providers five times a second, and the fake that plays them: this test's own."""
    async with Upstream() as fake:
        rule = "[health]\ncheck_interval_ms = 200\ncheck_timeout_ms = 500\n"
        async with serving(tmp_path, rule + provider_tables(fake.url, *PROVIDERS)) as sidecar:
            yield sidecar, fake


async def all_are(sidecar, health) -> bool:
    found = [p for p in (await status(sidecar)).providers if p.name in PROVIDERS]
    assert len(found) == len(PROVIDERS)
    return all((p.health, p.health_source) == (health, "check") for p in found)


async def test_checks_of_every_wire(checked):
    sidecar, fake = checked
    await until(lambda: all_are(sidecar, ops_pb2.HEALTH_UP))
    asked = fake.asked(MODELS)
    assert {exchange.wire for exchange in asked} == {OpenAI, Anthropic, Google, Ollama}
    assert {exchange.path.partition("?")[0] for exchange in asked} >= {"/v1/models", "/compatible/v1/models", "/api/tags"}
    assert all(exchange.headers.get("authorization") for exchange in asked if exchange.path == "/v1/models")

    fake.on(MODELS, Fail(503))
    await until(lambda: all_are(sidecar, ops_pb2.HEALTH_DOWN))
    assert not await sidecar.serving("provider:openai")
    assert await sidecar.serving()  # no node is in use, and checks count against no breaker
    assert not (await sidecar.ops.ListBreakers(ops_pb2.ListBreakersRequest())).breakers
    many = len(fake.asked(MODELS)) + 3 * len(PROVIDERS)
    await fake.request(MODELS, many, within_s=15)  # several more rounds, and nothing is told again
    assert len(await events(sidecar)) == len(PROVIDERS)

    fake.on(MODELS, Say())
    await until(lambda: all_are(sidecar, ops_pb2.HEALTH_UP))
    found = await status(sidecar)
    assert all(p.attempts == p.failures == 0 for p in found.providers)
    told = await events(sidecar)
    for name in PROVIDERS:
        failure, success = (message for message in told if message.startswith(f"the check of {name} "))
        assert "failed: PROVIDER_UNAVAILABLE" in failure
        assert success == f"the check of {name} went well again"
    assert len(told) == 2 * len(PROVIDERS)
    assert fake.exchanges == fake.asked(MODELS)  # no token was asked for


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Stall(), "no list of models came within 500 ms"),
        (Fail(401), "PROVIDER_AUTH_FAILED"),
        (Raw(b"<html>a gateway's page</html>", content_type="text/html"), "PROVIDER_"),
        (Raw(b"{}"), "PROVIDER_GARBLED"),
    ],
)
async def test_what_a_check_does_not_take_for_health(checked, step, said):
    sidecar, fake = checked
    fake.on(MODELS, step)
    await until(lambda: all_are(sidecar, ops_pb2.HEALTH_DOWN))
    failures = [e for e in await events(sidecar) if "failed" in e]
    assert len(failures) == len(PROVIDERS)
    assert all(said in failure for failure in failures), failures
    assert "sk-test" not in sidecar.log
    assert "sk-ant" not in sidecar.log
    assert "AIza" not in sidecar.log


async def test_a_server_without_a_list_of_models_is_up_all_the_same(checked):
    sidecar, fake = checked
    fake.on(MODELS, Fail(404))

    async def told() -> bool:
        found = {p.name: p.health for p in (await status(sidecar)).providers}
        return found["openai"] == ops_pb2.HEALTH_DOWN and found["compatible"] == ops_pb2.HEALTH_UP

    await until(told)


async def test_without_the_setting_nothing_is_checked_and_nobody_knows(start_sidecar, upstream):
    sidecar = await start_sidecar()
    assert not upstream.asked(MODELS)
    found = await provider(sidecar, "compatible")
    assert (found.health, found.health_source) == (ops_pb2.HEALTH_UNSPECIFIED, "")
    assert not [line for line in sidecar.log.splitlines() if json.loads(line).get("event") == "health"]
