"""A small client of the sidecar for Python, over gRPC: deadlines, retries where they are safe, errors with types.

    from sidecar.client import Caller, CallFailed, Client, GenerateRequest

    with Client("127.0.0.1:50051", caller=Caller(node="oracle.summary", tenant="acme"), timeout_s=30) as sidecar:
        print(sidecar.generate("hello").text)
        print(len(sidecar.embed(["one", "two"]).vectors))
        try:
            for event in sidecar.stream(GenerateRequest(prompt="hello", max_output_tokens=100)):
                print(event.text_delta, end="")
        except CallFailed as error:
            print(error.reason, error.retry_after, error.partial)

`AsyncClient` is the same for asyncio: `async with`, `await sidecar.generate(…)`, `async for event in sidecar.stream(…)`.

Requests and answers are the contract's own messages (`proto/sidecar/v1/llm.proto`); a text alone is a prompt. What this saves its user: a
deadline on every call, which covers its retries; another try where the sidecar or its providers were not there, as long as nothing of an
answer has come, after the wait that it was told; and failures as exceptions that can be acted on without reading a message:

    CallFailed              .reason .message .retry_after .field .partial .degradation .facts .code
    ├── Rejected            INVALID_ARGUMENT: change the request; `field` says where
    ├── Denied              UNAUTHENTICATED, PERMISSION_DENIED: the token, or the user's plan
    ├── NotFound            NOT_FOUND: the provider has no such model, or nothing is cached
    ├── Misconfigured       FAILED_PRECONDITION: tell the operator
    ├── Exhausted           RESOURCE_EXHAUSTED: a budget, a limit or a quota; `retry_after` says until when, None: waiting does not help
    ├── Unavailable         UNAVAILABLE: nobody answered; it was tried again already
    ├── Broken              DATA_LOSS: an answer began and broke; `partial` holds what came and what it cost
    ├── OutOfTime           DEADLINE_EXCEEDED
    ├── Cancelled           CANCELLED
    └── Defect              everything else: report it with facts["id"]

It imports gRPC and the contract, and nothing of the sidecar's server.
"""

from sidecar.client.failures import (
    Broken,
    CallFailed,
    Cancelled,
    Defect,
    Denied,
    Exhausted,
    Misconfigured,
    NotFound,
    OutOfTime,
    Rejected,
    Unavailable,
)
from sidecar.client.of_asyncio import AsyncClient
from sidecar.client.of_threads import Client
from sidecar.v1.llm_pb2 import Caller, EmbedRequest, GenerateRequest

__all__ = [
    "AsyncClient",
    "Broken",
    "CallFailed",
    "Caller",
    "Cancelled",
    "Client",
    "Defect",
    "Denied",
    "EmbedRequest",
    "Exhausted",
    "GenerateRequest",
    "Misconfigured",
    "NotFound",
    "OutOfTime",
    "Rejected",
    "Unavailable",
]
