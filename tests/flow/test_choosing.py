"""Who answers: the order of models with plans, preferences and complexity, and a provider's regions and keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import Sidecar, model_row, provider_tables, serving, start
from tests.fakes.script import Fail, Say, Vectors
from tests.fakes.upstream import Upstream
from tests.flow.reading import failed, streamed

ORDER = """
[profile]
primary = "compatible/usual"
fallbacks = ["compatible/spare"]

[nodes.flow.order]
primary = "compatible/row"
fallbacks = ["compatible/row-fallback"]

[nodes.flow.guess]
primary = "compatible/row"
complexity = "estimate"

[nodes.flow.single]
primary = "compatible/row"
fallback_allowed = false

[tiers]
cheap = "compatible/cheap"
standard = "compatible/standard"
strong = "compatible/strong"

[plans.gold]
preferred = ["compatible/wished"]

[plans.small]
models = ["compatible/little", "compatible/least"]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def order(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """One sidecar in which each rule of the order has a model of its own."""
    environ = {"MODEL_FLOW_SET": "compatible/set"}
    tables = ORDER + provider_tables(upstream.url, "compatible")
    async with serving(tmp_path_factory.mktemp("order"), tables, environ=environ) as running:
        await running.ops.SetPreference(ops_pb2.SetPreferenceRequest(user="ann", plan="gold", model="compatible/wished"))
        yield running


def ask(node: str, model: str = "", prompt: str = "hi", complexity: int = 0, **caller: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=prompt, model=model, complexity=complexity, caller=pb.Caller(node=node, **caller))


async def explained(sidecar: Sidecar, request: pb.GenerateRequest) -> ops_pb2.ExplainResponse:
    return await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=request))


LOW, MEDIUM, HIGH, ESTIMATE = pb.COMPLEXITY_LOW, pb.COMPLEXITY_MEDIUM, pb.COMPLEXITY_HIGH, pb.COMPLEXITY_ESTIMATE
GOLD, SMALL = {"user": "ann", "plan": "gold"}, {"user": "ann", "plan": "small"}
HARD = "Analyse why the two differ, compare their trade-offs and prove it.\n```\ndef f(x): ...\n```"


@pytest.mark.parametrize(
    ("request_", "expected", "complexity"),
    [
        (ask("flow.order"), "row row-fallback spare", ""),
        (ask("flow.order", complexity=LOW), "cheap row row-fallback spare", "low"),
        (ask("flow.order", complexity=MEDIUM), "standard row row-fallback spare", "medium"),
        (ask("flow.order", complexity=HIGH), "strong row row-fallback spare", "high"),
        (ask("flow.set", complexity=HIGH), "set strong spare", "high"),
        (ask("flow.order", complexity=HIGH, **GOLD), "wished strong row row-fallback spare", "high"),
        (ask("flow.order", "compatible/own", complexity=HIGH, **GOLD), "own wished strong row row-fallback spare", "high"),
        (ask("flow.set", **GOLD), "wished set spare", ""),
        (ask("flow.order", user="bob", plan="gold"), "row row-fallback spare", ""),
        (ask("flow.order", user="ann"), "row row-fallback spare", ""),
        (ask("flow.order", user="ann", plan="gold", tenant="elsewhere"), "row row-fallback spare", ""),
        (ask("flow.guess"), "cheap row spare", "low"),
        (ask("flow.guess", prompt=HARD), "strong row spare", "high"),
        (ask("flow.order", prompt=HARD, complexity=ESTIMATE), "strong row row-fallback spare", "high"),
        (ask("flow.order", **SMALL), "little least", ""),
        (ask("flow.order", "compatible/least", complexity=HIGH, **SMALL), "least", ""),
        (ask("flow.set", **SMALL), "little least", ""),
        (ask("flow.single"), "row", ""),
        (ask("flow.single", **SMALL), "little", ""),
        (ask("flow.order", plan="nobody-knows-it"), "row row-fallback spare", ""),
    ],
)
async def test_the_order_of_models(order, upstream, request_, expected, complexity):
    found = await explained(order, request_)
    assert " ".join(c.model.removeprefix("compatible/") for c in found.candidates) == expected
    assert found.complexity == complexity
    reply = await order.llm.Generate(request_)
    assert (reply.model, reply.fallback) == (found.candidates[0].model, False)
    assert upstream.exchanges[-1].model == expected.split()[0]


async def test_a_model_outside_the_plan_is_replaced_and_the_caller_told(order, upstream):
    request = ask("flow.order", "compatible/own", **SMALL)
    reply = await order.llm.Generate(request)
    assert (reply.model, reply.fallback) == ("compatible/little", True)
    assert "compatible/own was asked for and is not available: plan small does not allow it" in reply.notices
    skipped = {s.model: s.reason for s in (await explained(order, request)).skipped}
    assert skipped["compatible/own"] == skipped["compatible/row"] == "plan small does not allow it"
    assert upstream.asked("own") == [] or upstream.asked("own")[-1] is not upstream.exchanges[-1]


async def test_a_plans_models_are_each_others_fallback_and_nobody_elses(order, upstream):
    upstream.on("little", Fail(400, "You exceeded your current quota.", "insufficient_quota"))
    upstream.on("least", Fail(400, "You exceeded your current quota.", "insufficient_quota"))
    try:
        before = len(upstream.exchanges)
        got = await failed(order.llm.Generate(ask("flow.order", **SMALL)))
        assert got.reason == "PROVIDER_QUOTA_EXHAUSTED"
        assert {e.model for e in upstream.exchanges[before:]} == {"little", "least"}
    finally:
        upstream.on("little", Say())
        upstream.on("least", Say())


async def test_a_forgotten_preference_is_no_preference(order):
    await order.ops.SetPreference(ops_pb2.SetPreferenceRequest(user="eve", plan="gold", model="compatible/wished"))
    mine = ask("flow.order", user="eve", plan="gold")
    assert (await order.llm.Generate(mine)).model == "compatible/wished"
    await order.ops.DeletePreference(ops_pb2.DeletePreferenceRequest(user="eve"))
    assert (await order.llm.Generate(mine)).model == "compatible/row"


# --- regions and keys ----------------------------------------------------------------------------------------------------------------

REGIONS = """
[retries.unavailable]
retries = 0

[retries]
set_aside_ms = {aside_ms}

[profile]
primary = "main"
fallbacks = ["compatible/other"]
embedding = "vectors"
embedding_fallbacks = []

[nodes.flow.single]
primary = "main"
fallback_allowed = false

[providers.openai.endpoints.eu]
api_key = "sk-test-of-the-eu"
base_url = "{eu}/v1"
weight = {eu_weight}

[providers.openai.endpoints.us]
api_key = "sk-test-of-the-us"
base_url = "{us}/v1"
weight = {us_weight}
"""


class Regions:
    """A sidecar with two endpoints of one provider, each at a fake of its own, and a fallback at `upstream`."""

    def __init__(self, sidecar: Sidecar, eu: Upstream, us: Upstream, upstream: Upstream) -> None:
        self.sidecar, self.llm, self.ops = sidecar, sidecar.llm, sidecar.ops
        self.eu, self.us, self.upstream = eu, us, upstream

    @property
    def asked(self) -> tuple[int, int]:
        return len(self.eu.asked("main")), len(self.us.asked("main"))


@pytest_asyncio.fixture(loop_scope="session")
async def regions(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Regions]]]:
    """`await regions(eu_weight=..., us_weight=...)`: with the usual weights the EU is always asked first, the US only in need."""
    async with Upstream() as eu, Upstream() as us:
        running: list[Sidecar] = []

        async def factory(eu_weight: float = 1, us_weight: float = 0, aside_ms: int = 300_000, **environ: str) -> Regions:
            tables = REGIONS.format(eu=eu.url, us=us.url, eu_weight=eu_weight, us_weight=us_weight, aside_ms=aside_ms)
            models = model_row("main", "openai") + model_row("vectors", "openai", capabilities=["embed", "dimensions"], dimensions=8)
            one = await start(tmp_path, tables + provider_tables(upstream.url, "compatible") + models, environ=environ)
            running.append(one)
            return Regions(await one.until_serving(), eu, us, upstream)

        try:
            yield factory
        finally:
            for one in running:
                await one.stop(within_s=3)


async def test_calls_are_shared_out_by_weight(regions):
    run = await regions(eu_weight=1, us_weight=3)
    endpoints = Counter()
    for _ in range(80):
        reply = await run.llm.Generate(ask("flow.any"))
        assert not reply.fallback
        endpoints[reply.attempts[0].endpoint] += 1
    assert run.asked == (endpoints["eu"], endpoints["us"])
    assert 0 < endpoints["eu"] < endpoints["us"]
    assert {e.headers["authorization"] for e in run.eu.asked("main")} == {"Bearer sk-test-of-the-eu"}
    assert {e.headers["authorization"] for e in run.us.asked("main")} == {"Bearer sk-test-of-the-us"}


async def test_a_key_may_come_from_a_variable(regions):
    run = await regions(SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__EU__API_KEY="sk-test-of-the-env")
    await run.llm.Generate(ask("flow.any"))
    assert run.eu.asked("main")[0].headers["authorization"] == "Bearer sk-test-of-the-env"


@pytest.mark.parametrize("node", ["flow.any", "flow.single"])
async def test_the_healthiest_goes_first(regions, node):
    """The other endpoint is no fallback, so that a node without one has it too."""
    run = await regions()
    run.eu.on("main", Fail(503))
    for number in range(5):
        reply = await run.llm.Generate(ask(node))
        assert (reply.model, reply.fallback) == ("main", False)
        tried = [(a.endpoint, a.outcome) for a in reply.attempts]
        assert tried == ([("eu", "PROVIDER_UNAVAILABLE")] if number < 3 else []) + [("us", "ok")]
    assert run.asked == (3, 5)
    found = await explained(run.sidecar, ask(node))
    assert [(c.endpoint, c.breaker, c.fallback) for c in found.candidates][:2] == [("us", "closed", False), ("eu", "open", False)]
    assert [(c.model, c.fallback) for c in found.candidates][2:] == ([("compatible/other", True)] if node == "flow.any" else [])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("status", [401, 403])
async def test_another_key_answers_for_one_that_is_refused(regions, streaming, status):
    run = await regions()
    run.eu.on("main", Fail(status, "Incorrect API key provided: sk-test-of-the-eu.", "invalid_api_key"))

    async def answer() -> pb.GenerateResponse:
        if streaming:
            return (await streamed(run.llm.Stream(ask("flow.any")))).end
        return await run.llm.Generate(ask("flow.any"))

    reply = await answer()
    assert [(a.endpoint, a.outcome) for a in reply.attempts] == [("eu", "PROVIDER_AUTH_FAILED"), ("us", "ok")]
    assert (reply.model, reply.fallback) == ("main", False)
    assert [a.endpoint for a in (await answer()).attempts] == ["us"]
    assert run.asked == (1, 2)
    found = await explained(run.sidecar, ask("flow.any"))
    assert [c.endpoint for c in found.candidates] == ["us", "", "eu"]  # behind all others, and not dropped
    assert "set aside for" in found.candidates[2].reason
    assert found.candidates[2].reason.endswith("PROVIDER_AUTH_FAILED")
    (event,) = (await run.ops.ListEvents(ops_pb2.ListEventsRequest(kind="set_aside"))).events
    assert event.facts["key"] == ("openai#eu" if status == 401 else "openai#eu/main")  # 403 may be about this model alone
    assert "sk-test-of" not in run.sidecar.log + str(found) + str(event)


async def test_where_every_key_is_refused_the_next_model_is_not_asked_in_that_call(regions):
    run = await regions()
    for region in (run.eu, run.us):
        region.on("main", Fail(401, "no", "invalid_api_key"))
    before = len(run.upstream.asked("other"))
    got = await failed(run.llm.Generate(ask("flow.any")))
    assert got.reason == "PROVIDER_AUTH_FAILED"
    assert got.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "sk-test" not in got.message
    assert len(run.upstream.asked("other")) == before
    reply = await run.llm.Generate(ask("flow.any"))  # both are set aside now
    assert (reply.model, reply.fallback) == ("compatible/other", True)
    assert run.asked == (1, 1)


async def test_a_key_comes_back_when_its_time_is_over(regions):
    run = await regions(aside_ms=1)
    run.eu.on("main", Fail(401, "no", "invalid_api_key"), Say())
    assert [a.endpoint for a in (await run.llm.Generate(ask("flow.any"))).attempts] == ["eu", "us"]
    assert [a.endpoint for a in (await run.llm.Generate(ask("flow.any"))).attempts] == ["eu"]


async def test_what_answers_in_need_is_not_set_aside_any_more(regions):
    run = await regions()
    run.eu.on("main", Fail(401, "no", "invalid_api_key"), Say())
    run.us.on("main", Fail(401, "no", "invalid_api_key"))
    assert (await failed(run.llm.Generate(ask("flow.single")))).reason == "PROVIDER_AUTH_FAILED"
    for _ in range(2):  # nobody else may answer: the one that was in front is asked again, and well
        assert [a.endpoint for a in (await run.llm.Generate(ask("flow.single"))).attempts] == ["eu"]
    assert "set aside" not in (await explained(run.sidecar, ask("flow.single"))).candidates[0].reason


async def test_a_quota_that_is_used_up_is_one_keys(regions):
    run = await regions()
    run.eu.on("main", Fail(429, "You exceeded your current quota.", "insufficient_quota"))
    reply = await run.llm.Generate(ask("flow.any"))
    assert [(a.endpoint, a.outcome) for a in reply.attempts] == [("eu", "PROVIDER_QUOTA_EXHAUSTED"), ("us", "ok")]
    assert [a.endpoint for a in (await run.llm.Generate(ask("flow.any"))).attempts] == ["us"]


async def test_embeddings_go_to_another_endpoint_too_and_stay_in_their_space(regions):
    run = await regions()
    run.eu.on("vectors", Fail(401, "no", "invalid_api_key"))
    run.us.on("vectors", Vectors())
    reply = await run.llm.Embed(pb.EmbedRequest(inputs=["a", "b"], caller=pb.Caller(node="flow.any")))
    assert (len(reply.vectors), reply.model, reply.fallback) == (2, "vectors", False)
    assert not any("another space" in notice for notice in reply.notices)
