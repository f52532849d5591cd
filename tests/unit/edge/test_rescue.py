"""What callers meet when the sidecar is not ready yet, or has a defect: a status with a reason, never gRPC's UNKNOWN."""

from __future__ import annotations

import json

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from sidecar.edge.calls import Calls
from sidecar.edge.ops import OpsService
from sidecar.edge.rescue import Rescue
from sidecar.edge.rpc import LLMService
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc, ops_pb2, ops_pb2_grpc
from sidecar.v1.errors_pb2 import Degradation
from tests.unit.fakes import Bench

ASKED = pb.GenerateRequest(prompt="hi", model="gpt-4o")


class Doors:
    """Both services behind a real port, before the engine is ready."""

    def __init__(self):
        self.engine = Bench().engine
        self.calls = Calls(self.engine.meter.metrics.in_flight)
        self.server = grpc.aio.server()
        llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(self.engine, self.calls), self.server)
        ops_pb2_grpc.add_OpsServiceServicer_to_server(OpsService(self.engine, self.calls, self.drain, ()), self.server)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}")
        self.llm = llm_pb2_grpc.LLMServiceStub(self.channel)
        self.ops = ops_pb2_grpc.OpsServiceStub(self.channel)

    async def drain(self):
        return self.calls.drain()

    async def failure(self, rpc):
        """Code, message, reason and id of one failed call."""
        asking = {
            "Generate": lambda: self.llm.Generate(ASKED),
            "Stream": lambda: self.llm.Stream(ASKED).read(),
            "Embed": lambda: self.llm.Embed(pb.EmbedRequest(inputs=["hi"], model="text-embedding-3-small")),
            "CountTokens": lambda: self.llm.CountTokens(pb.CountTokensRequest(generate=ASKED)),
            "Explain": lambda: self.ops.Explain(ops_pb2.ExplainRequest(generate=ASKED)),
            "GetStatus": lambda: self.ops.GetStatus(ops_pb2.GetStatusRequest()),
            "ListModels": lambda: self.ops.ListModels(ops_pb2.ListModelsRequest()),
            "Drain": lambda: self.ops.Drain(ops_pb2.DrainRequest()),
        }
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asking[rpc]()
        error = caught.value
        status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        info = ErrorInfo.FromString(status.details[0].value)
        return error.code(), error.details(), info.reason, info.metadata["id"]


@pytest_asyncio.fixture
async def doors():
    doors = Doors()
    await doors.server.start()
    yield doors
    await doors.channel.close()
    await doors.server.stop(None)


@pytest.mark.parametrize("rpc", ["Generate", "Stream", "Embed", "CountTokens", "Explain"])
async def test_not_ready_while_providers_are_connected(doors, rpc):
    doors.engine.providers.clear()
    code, _, reason, _ = await doors.failure(rpc)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")


async def test_explain_answers_while_draining(doors):
    doors.calls.ready = True
    doors.calls.drain()
    explained = await doors.ops.Explain(ops_pb2.ExplainRequest(generate=ASKED))
    assert explained.candidates[0].model == "gpt-4o"
    assert (await doors.failure("CountTokens"))[2] == "DRAINING"


@pytest.mark.parametrize("rpc", ["CountTokens", "Explain", "GetStatus", "ListModels", "Drain"])
async def test_defect_is_told_and_logged_under_one_id(doors, capfdbinary, rpc):
    """Parts are taken out that these RPCs cannot do without; the exceptions that follow are not of our making."""
    doors.calls.ready = True
    doors.engine.providers.clear()
    doors.engine.catalog.models["odd"] = None
    doors.engine.providers[1] = None
    doors.calls.drain = None
    code, message, reason, known_as = await doors.failure(rpc)
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    doors.engine.meter.log.flush()
    lines = [json.loads(line) for line in capfdbinary.readouterr().err.splitlines() if line.startswith(b"{")]
    (line,) = [line for line in lines if line["message"] == "defect"]
    assert len(known_as) == 32
    assert line["id"] == known_as
    assert known_as in message
    assert line["error"] in message
    assert line["raised_at"]
    assert len(doors.calls) == 0


class Aborted(Exception):
    """What gRPC raises once a status has been set."""


class FakeContext:
    """Takes the status that an RPC is ended with."""

    async def abort(self, code, message, trailers):
        self.status = Status.FromString(dict(trailers)["grpc-status-details-bin"])
        raise Aborted


@pytest.mark.parametrize("answered_by_models", [True, False])
async def test_defect_before_any_call_has_the_usual_advice_where_a_model_would_answer(answered_by_models):
    engine, context = Bench().engine, FakeContext()
    with pytest.raises(Aborted):
        async with Rescue(context, engine.meter.log, engine.degradations if answered_by_models else None):
            raise ZeroDivisionError
    advice = [Degradation.FromString(d.value) for d in context.status.details if d.Is(Degradation.DESCRIPTOR)]
    assert [(a.action, a.language) for a in advice] == ([("retry_later", "en")] if answered_by_models else [])
