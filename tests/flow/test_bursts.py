"""Many calls in one moment: all are taken and answered."""

from __future__ import annotations

import asyncio

import grpc

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc

CALLS = 3_000  # gRPC's own limits: from the 1,000th waiting call on some are cancelled, by chance, and from the 3,000th on all


async def test_burst_of_calls_is_answered_whole(sidecar):
    """Eight connections, so that the calls arrive faster than they are taken."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(sidecar.target, options) for _ in range(8)]
    try:
        stubs = [llm_pb2_grpc.LLMServiceStub(channel) for channel in channels]
        calls = [stubs[i % 8].Generate(pb.GenerateRequest(prompt=f"{i}", model="echo/echo"), timeout=120) for i in range(CALLS)]
        replies = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        for channel in channels:
            await channel.close()
    failures = [reply for reply in replies if isinstance(reply, BaseException)]
    assert not failures, f"{len(failures)} of {CALLS} failed; the first: {failures[0]}"
    assert [reply.text for reply in replies] == [str(i) for i in range(CALLS)]
