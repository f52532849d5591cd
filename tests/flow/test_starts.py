"""What a start says and does beyond opening its doors."""

from __future__ import annotations

import grpc

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import serving
from tests.flow.reading import failed


async def test_status_shows_what_was_noticed_at_start(start_sidecar):
    sidecar = await start_sidecar("[providers.openai]\n")
    status = await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())
    assert "provider openai is skipped: it has no key" in status.notices
    assert not any("compatible" in notice or "echo" in notice for notice in status.notices)
    await sidecar.logged('"message":"serving"')
    for notice in status.notices:
        assert sidecar.log.count(notice) == 1


async def test_small_limit_hinders_no_start(tmp_path):
    """The calls that warm the process up are on no account."""
    async with serving(tmp_path, "[limits]\ntenant_day_tokens = 1\n") as sidecar:
        got = await failed(sidecar.llm.Generate(pb.GenerateRequest(prompt="hi", model="echo/echo")))
        assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
        assert (await sidecar.metrics())("llm_request_total") == 1
