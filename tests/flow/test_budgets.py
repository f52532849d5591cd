"""Budgets of every scope, dear calls, and what operators change, over a real socket."""

from __future__ import annotations

import grpc

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.flow.reading import failed

M = "compatible-default"
COST = 39_000  # nano-USD: the fake's 11 tokens in and 7 out, at the test models' prices


def ask(tenant: str = "acme", **fields) -> pb.GenerateRequest:
    caller = {"tenant": tenant} | {name: fields.pop(name) for name in ("service", "node", "user", "plan", "run", "agent") if name in fields}
    return pb.GenerateRequest(**{"prompt": "hi", "model": M, "max_output_tokens": 10, "caller": pb.Caller(**caller)} | fields)


async def accounts(sidecar, **fields) -> dict[str, ops_pb2.AccountView]:
    """The accounts that such a call is on."""
    return {one.name: one for one in (await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=ask(**fields)))).accounts}


async def events(sidecar, kind: str) -> list[ops_pb2.Event]:
    return [*reversed((await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(kind=kind))).events)]


async def test_each_scope_refuses_by_name_and_nobody_else(start_sidecar):
    sidecar = await start_sidecar(f"""
[budgets.service_day]
of = "vision"
limit_usd = "0.00015"
[budgets.node_pivots]
scope = "node"
of = "core.pivot"
window = "week"
limit_tokens = 60
[budgets.user_month]
limit_usd = "0.00015"
[plans.tiny]
models = ["{M}"]
month_tokens = 60
""")
    for account, who, others in (
        ("service:vision:day", {"service": "vision"}, {"service": "weaver"}),
        ("node:core.pivot:pivots", {"service": "core", "node": "pivot"}, {"service": "core", "node": "other"}),
        ("user:acme:kim:month", {"service": "s1", "user": "kim"}, {"service": "s1", "user": "lee"}),
        ("plan:acme:tiny:month", {"service": "s2", "plan": "tiny"}, {"service": "s2", "plan": "paid"}),
    ):
        for _ in range(2):
            await sidecar.llm.Generate(ask(**who))
        got = await failed(sidecar.llm.Generate(ask(**who)))
        assert (got.code, got.reason, got.facts["account"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED", account)
        assert got.facts["mode"] == "manual"
        assert got.retry_after_s is not None
        assert got.degradation is not None
        found = (await accounts(sidecar, **who))[account]
        assert (found.pending_nano_usd, found.pending_tokens) == (0, 0)
        assert found.refuses
        told = [one.facts["threshold"] for one in await events(sidecar, "budget") if one.facts["account"] == account]
        assert told[-1] == "100"
        await sidecar.llm.Generate(ask(**others))
