"""Names of hosts: nobody waits for a name that is not theirs, and an outage of name servers leaves what was known."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.names import Addresses, Names, _PlainLoop, new_event_loop


class Server:
    """A name server of our own making. Names that begin with `slow` are answered when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_down = False
        self.go = threading.Event()

    def __call__(self, host: Any, port: Any, *more: Any) -> Addresses:
        self.asked.append(host)
        if host.startswith("slow"):
            assert self.go.wait(10)
        if self.is_down:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"of {host}", port))]


@pytest.fixture
def server() -> Server:
    return Server()


async def test_a_name_that_hangs_keeps_nobody_else_waiting(server: Server) -> None:
    names = Names(server)
    slow = [asyncio.create_task(names.find(f"slow-{i}", 443)) for i in range(20)]
    async with asyncio.timeout(5):
        assert (await names.find("quick", 443))[0][4] == ("of quick", 443)
        assert (await names.find("127.0.0.1", 80))[0][4] == ("of 127.0.0.1", 80)
    assert not any(task.done() for task in slow)
    server.go.set()
    assert [(await task)[0][4][0] for task in slow] == [f"of slow-{i}" for i in range(20)]


async def test_a_name_is_looked_up_once_for_all_who_want_it(server: Server) -> None:
    names = Names(server)
    wanting = [asyncio.create_task(names.find("slow", 443)) for _ in range(50)]
    await asyncio.sleep(0)
    wanting[0].cancel()
    server.go.set()
    await asyncio.wait(wanting)
    assert server.asked == ["slow"]
    assert all(task.result()[0][4] == ("of slow", 443) for task in wanting[1:])


async def test_an_outage_leaves_what_was_known(server: Server) -> None:
    names = Names(server)
    found = await names.find("api.example", 443)
    server.is_down = True
    assert await names.find("api.example", 443) == found
    with pytest.raises(socket.gaierror):
        await names.find("other.example", 443)


async def test_a_silence_leaves_what_was_known(server: Server) -> None:
    names = Names(server)
    server.go.set()
    found = await names.find("slow", 443)
    server.go.clear()
    async with asyncio.timeout(8):
        assert await names.find("slow", 443) == found
    server.go.set()


async def test_a_host_that_is_no_name_is_an_error_of_the_connection(server: Server) -> None:
    def refuse(host: Any, *_: Any) -> Addresses:
        return [(host.encode("idna"),)]

    with pytest.raises(OSError, match="no name of a host"):
        await Names(refuse).find("a" * 70, 443)


@pytest.mark.parametrize("make", [new_event_loop, _PlainLoop])
def test_the_loop_connects_to_an_address_while_names_hang(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def connect() -> None:
        loop = asyncio.get_running_loop()
        hanging = [asyncio.ensure_future(loop.getaddrinfo(f"slow-{i}", 80)) for i in range(8)]
        await asyncio.sleep(0.05)
        listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with listener:
            with socket.socket() as one:
                one.setblocking(False)
                async with asyncio.timeout(5):
                    await loop.sock_connect(one, listener.sockets[0].getsockname())
        assert not any(task.done() for task in hanging)
        server.go.set()
        await asyncio.wait(hanging)

    server = Server()
    loop = make()
    looking: Any = loop
    looking._names = Names(lambda host, *more: server(host, *more) if str(host).startswith("slow") else socket.getaddrinfo(host, *more))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(connect())
