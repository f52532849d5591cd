"""The floor program: the least that a Python process can do between gRPC and HTTP: `python -m tests.bench.floor HOST:PORT UPSTREAM`.

grpc.aio on uvloop and aiohttp, raw bytes both ways, no features: a unary call's bytes are posted and the answer's bytes returned; a
stream's network reads are sent on as they come, one message each. It is what the sidecar's cost is measured against. Prints
`serving` and its port when it can answer.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import grpc
import uvloop

SERVICE = "floor.Floor"
Context = grpc.aio.ServicerContext[bytes, bytes]


def handlers(session: aiohttp.ClientSession, upstream: str) -> grpc.GenericRpcHandler:
    """`Unary` and `Stream`, both forwarding to the chat path, `Embed`, and `Empty`, which answers nothing at once."""

    async def post(path: str, body: bytes) -> bytes:
        async with session.post(f"{upstream}{path}", data=body, headers={"Content-Type": "application/json"}) as response:
            return await response.read()

    async def unary(request: bytes, _: Context) -> bytes:
        return await post("/v1/chat/completions", request)

    async def empty(request: bytes, _: Context) -> bytes:
        return b""

    async def embed(request: bytes, _: Context) -> bytes:
        return await post("/v1/embeddings", request)

    async def stream(request: bytes, context: Context) -> None:
        headers = {"Content-Type": "application/json"}
        async with session.post(f"{upstream}/v1/chat/completions", data=request, headers=headers) as response:
            async for data in response.content.iter_any():
                await context.write(data)

    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Empty": grpc.unary_unary_rpc_method_handler(empty),
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Embed": grpc.unary_unary_rpc_method_handler(embed),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


async def main(address: str, upstream: str) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    server.add_generic_rpc_handlers((handlers(session, upstream),))
    port = server.add_insecure_port(address)
    await server.start()
    print("serving", port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
