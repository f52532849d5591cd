"""What is proven together, and what starts anew; what operators are told."""

from __future__ import annotations

import pytest

from sidecar.policies import cache_judge
from sidecar.policies.cache_judge import fingerprint
from sidecar.policies.cache_similar import Given, Likely
from sidecar.store.cache_entry import Entry, Named
from tests.unit.fakes import Bench, caller


def likely(model="openai/gpt-4o", name="", version=""):
    named = Named("default", "", "core", "react_agent", model, name, version)
    entry = Entry(b"d" * 32, b"p" * 32, named, "old", 0, 1, 1, 0, 0, "text", "", (), "stop", "stop", model, "")
    return Likely(entry, 0, True, 1.0, 1.0, "")


def namespace(one=None, tenant="a", plan="free", node="core.react_agent", **environ):
    bench = Bench(**environ)
    call = bench.call(caller=caller(node, tenant=tenant, plan=plan))
    from sidecar.pipeline import plan as planned

    planned(bench.engine, call)
    return bench.engine.similar.judge.namespace(call, one or likely())


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"tenant": "b"}, True),
        ({"plan": "paid"}, False),
        ({"node": "core.mcp_tool"}, False),
        ({"one": likely(model="anthropic/claude-sonnet-4-6")}, False),
        ({"one": likely(name="greet", version="1")}, False),
        ({"SIDECAR_SERVICES__CORE__CACHE_ACCEPTANCE": "0.97"}, False),
        ({"SIDECAR_NODES__CORE__REACT_AGENT__CACHE__COMPARE": "exact"}, False),
        ({"SIDECAR_CACHE__TTL_MS": "1000"}, True),
    ],
)
def test_what_is_proven_together(fields, same):
    assert (namespace(**fields) == namespace()) is same


def test_prompt_versions_are_apart():
    assert namespace(likely(name="greet", version="1")) != namespace(likely(name="greet", version="2"))


@pytest.mark.parametrize(("by", "other_tenant", "other_plan"), [("plan", True, False), ("tenant", False, True), ("all", True, True)])
def test_classes_of_tenants(by, other_tenant, other_plan):
    by = {"SIDECAR_CACHE__AUDIT__BY": by}
    assert (namespace(tenant="b", **by) == namespace(**by)) is other_tenant
    assert (namespace(plan="paid", **by) == namespace(**by)) is other_plan


def test_another_verifier_proves_anew(monkeypatch):
    class Verdict:
        def __init__(self, verdict):
            self.veto, self.score = verdict.veto, verdict.score * 0.999

    before, compare = fingerprint(), cache_judge.compare
    fingerprint.cache_clear()
    assert fingerprint() == before
    fingerprint.cache_clear()
    monkeypatch.setattr(cache_judge, "compare", lambda asked, stored: Verdict(compare("a b", "a  b")))
    assert fingerprint() != before
    fingerprint.cache_clear()


async def test_operators_are_told_when_it_opens_and_when_it_closes():
    bench = Bench(SIDECAR_CACHE__AUDIT__TARGET="0.1", SIDECAR_NODES__CORE__REACT_AGENT__CACHE__SEMANTIC="on")
    judge, one = bench.engine.similar.judge, likely()
    call = await bench.run()
    while judge.unproven(call, one):
        judge.asked(call, one, one.entry.answer(), differs=None)
    judge.gave(call, one)
    named = one.entry.named
    rule = bench.engine.catalog.nodes["core.react_agent"].cache
    given = Given("id", "semantic", "old", "core.react_agent", call.tenant, call.plan, named.model, named.prompt_name, named.prompt_version)
    judge.complain(given, rule)
    opened, closed = reversed(bench.engine.meter.events.latest(10, "cache"))
    assert "core.react_agent are from now on answered from the cache: 0 of 33 audits failed" in opened.message
    assert "so at 0.95 confidence fewer than 9.77%" in opened.message
    assert "no longer answered from the cache: 1 of 34 audits failed" in closed.message
    assert "10.00% is the target" in closed.message
