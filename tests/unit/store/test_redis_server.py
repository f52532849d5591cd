"""A client of the server that pods share: who asks can be cancelled at any moment."""

from __future__ import annotations

import asyncio

from sidecar.settings import load
from sidecar.store.redis_server import client_of


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server does to which every command is fine."""
    while words := (await reader.readline())[1:].strip():
        for _ in range(2 * int(words)):
            await reader.readline()
        writer.write(b"+OK\r\n")


async def test_who_asks_can_be_cancelled_at_any_moment():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await client_of(load(None, {"SIDECAR_REDIS__URL": f"redis://127.0.0.1:{port}"}))
    await client.ping()

    async def ask_for_ever() -> None:
        while True:
            async with asyncio.timeout(5):
                await client.ping()

    for turns in range(40):
        asking = asyncio.create_task(ask_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking], timeout=5)
        assert asking.cancelled(), f"it goes on when it is cancelled after {turns} turns of the loop"
    await client.aclose()
    server.close()
