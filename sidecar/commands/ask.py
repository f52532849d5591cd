"""`sidecar ask`: one question to a running sidecar, as any client would ask it."""

import os
import sys
from collections.abc import Iterator

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from sidecar.v1.llm_pb2 import Caller, GenerateRequest, GenerateResponse
from sidecar.v1.llm_pb2_grpc import LLMServiceStub


def ask(prompt: str, *, target: str, stream: bool, node: str, model: str, system: str) -> int:
    """Prints the answer, then one line with model, tokens and cost. Exit status 0, or 1 after one line with the error's reason.

    A token is in LLM_TOKEN: everybody on the machine can read what is in a command line.
    """
    service, _, name = node.partition(".")
    request = GenerateRequest(caller=Caller(service=service, node=name), prompt=prompt, system=system, model=model)
    with grpc.insecure_channel(target) as channel:
        stub = LLMServiceStub(channel)
        try:
            end = _streamed(stub, request) if stream else _whole(stub, request)
        except grpc.RpcError as error:
            sys.stdout.flush()
            sys.stderr.write(f"\nsidecar ask: {told(error, target)}\n" if stream else f"sidecar ask: {told(error, target)}\n")
            return 1
    sys.stdout.write(f"\n{_summary(end)}\n")
    for notice in end.notices:
        sys.stdout.write(f"({notice})\n")
    return 0


def _token() -> tuple[tuple[str, str], ...]:
    token = os.environ.get("LLM_TOKEN")
    return (("authorization", f"Bearer {token}"),) if token else ()


def _whole(stub: LLMServiceStub, request: GenerateRequest) -> GenerateResponse:
    answer = stub.Generate(request, metadata=_token())
    sys.stdout.write(answer.text)
    return answer


def _streamed(stub: LLMServiceStub, request: GenerateRequest) -> GenerateResponse:
    """Writes each piece as it comes. A stream without its end event is an error of the sidecar, which gRPC's status tells."""
    end = GenerateResponse()
    for piece in _pieces(stub, request, end):
        sys.stdout.write(piece)
        sys.stdout.flush()
    return end


def _pieces(stub: LLMServiceStub, request: GenerateRequest, end: GenerateResponse) -> Iterator[str]:
    for event in stub.Stream(request, metadata=_token()):
        kind = event.WhichOneof("event")
        if kind == "text_delta":
            yield event.text_delta
        elif kind == "restart":
            yield f"\n[{event.restart.start.model} starts again: {event.restart.reason}]\n"
        elif kind == "end":
            end.CopyFrom(event.end)


def _summary(end: GenerateResponse) -> str:
    usage = end.usage
    entered = usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens
    written = usage.output_tokens + usage.reasoning_tokens
    about = "about " if usage.estimated else ""
    dollars = f"{end.cost.nano_usd // 10**9}.{end.cost.nano_usd % 10**9:09d}"
    fallback = ", by fallback" if end.fallback else ""
    return f"[{end.provider}/{end.model}{fallback}: {about}{entered} tokens in, {written} out, {dollars} USD]"


def told(error: grpc.RpcError, target: str) -> str:
    """Status, reason and message in one line."""
    code, details = error.code(), " ".join((error.details() or "").split())
    reason = ""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # a failed call's error is the call as well
    for packed in status.details if status is not None else ():
        info = ErrorInfo()
        if packed.Unpack(info):
            reason = f" {info.reason}"
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        return f"UNAVAILABLE: no sidecar answers at {target} ({details}); start one with `sidecar serve`, or name another with --target"
    return f"{code.name}{reason}: {details}"
