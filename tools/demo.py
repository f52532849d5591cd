"""Starts the sidecar, shows all it can do without a key, says how to call it, and serves until Ctrl-C. Run by `make run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.v1 import llm_pb2, llm_pb2_grpc

START_SECONDS = 30
GRPCURL = 'grpcurl -plaintext -d \'{"prompt": "hello"}\' %s sidecar.v1.LLMService/Generate'
PYTHON = """import grpc
from sidecar.v1 import llm_pb2, llm_pb2_grpc
stub = llm_pb2_grpc.LLMServiceStub(grpc.insecure_channel("%s"))
print(stub.Generate(llm_pb2.GenerateRequest(prompt="hello"), timeout=30).text)"""


def main() -> int:
    """Returns the sidecar's own exit status."""
    log = Path("sidecar.log")
    print(f"starting the sidecar; its log goes to {log}")
    with log.open("wb") as out:
        process = subprocess.Popen([Path(sys.executable).parent / "sidecar", "serve"], stderr=out)
    target = os.environ.get("SIDECAR_SERVER__LISTEN", "127.0.0.1:50051")
    try:
        channel = grpc.insecure_channel(target)
        if not ready(process, channel):
            print(log.read_text(errors="replace")[-2000:], end="", file=sys.stderr)
            return process.wait() or 1
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        for call in (generate, stream, embed):
            try:
                call(stub)
            except grpc.RpcError as error:  # for example a provider that makes no embeddings: the others are still worth seeing
                print(f"\n          {error.code().name}: {error.details()}")
        print(f"\nThe sidecar serves at {target}. Call it:\n\n{GRPCURL % target}\n\n{PYTHON % target}\n")
        print('.venv/bin/sidecar ask --stream "hello"\n\nCtrl-C stops it.', flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sidecar gets it too, and ends in order
        return process.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def ready(process: subprocess.Popen[bytes], channel: grpc.Channel) -> bool:
    """Wait for health to say SERVING; False if the process ended or took too long."""
    health = health_pb2_grpc.HealthStub(channel)
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            if health.Check(health_pb2.HealthCheckRequest(), timeout=1).status == health_pb2.HealthCheckResponse.SERVING:
                return True
        except grpc.RpcError:
            pass
        time.sleep(0.05)
    return False


def generate(stub: llm_pb2_grpc.LLMServiceStub) -> None:
    answer = stub.Generate(llm_pb2.GenerateRequest(prompt="Hello, who answers here?"), timeout=60)
    print(f"\nGenerate  {answer.text!r}\n          {receipt(answer)}")


def stream(stub: llm_pb2_grpc.LLMServiceStub) -> None:
    print("\nStream    ", end="", flush=True)
    request = llm_pb2.GenerateRequest(prompt="Every word of this answer arrives as a piece of its own.")
    if stub.CountTokens(llm_pb2.CountTokensRequest(generate=request), timeout=60).provider == "echo":
        request.provider_options.update({"piece_delay_ms": 120})  # a real provider takes its own time
    began = time.monotonic()
    for event in stub.Stream(request, timeout=60):
        if event.WhichOneof("event") == "text_delta":
            print(event.text_delta, end="", flush=True)
        elif event.WhichOneof("event") == "end":
            first = event.end.timing.first_token.ToMilliseconds()
            print(f"\n          first piece after {first} ms, all after {(time.monotonic() - began) * 1000:.0f} ms; {receipt(event.end)}")


def embed(stub: llm_pb2_grpc.LLMServiceStub) -> None:
    vectors = stub.Embed(llm_pb2.EmbedRequest(inputs=["one text", "another text"]), timeout=60)
    numbers = [round(value, 3) for value in vectors.vectors[0].values[:4]]
    count, length = len(vectors.vectors), len(vectors.vectors[0].values)
    print(f"\nEmbed     {count} vectors of {length} numbers, the first: {json.dumps(numbers)[:-1]}, ...]")
    print(f"          {receipt(vectors)}")


def receipt(answer: llm_pb2.GenerateResponse | llm_pb2.EmbedResponse) -> str:
    usage = answer.usage
    read = usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens
    written = usage.output_tokens + usage.reasoning_tokens
    return f"{answer.provider}/{answer.model}: {read} tokens in, {written} out, {answer.cost.nano_usd / 1e9:.6f} USD"


if __name__ == "__main__":
    raise SystemExit(main())
