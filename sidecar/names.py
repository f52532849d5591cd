"""An event loop on which the names of hosts are looked up without standing in anybody's way.

uvloop asks four threads for all names and, through them, for addresses that need no lookup: while four lookups hang, which they do for
five seconds or more when a name server does not answer, not one connection is made, to no provider, not even to a model on this host.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

Addresses = list[tuple[Any, ...]]  # what socket.getaddrinfo gives

_PATIENCE_S: Final = 1.0


class Names:
    """Looks names up for an event loop: an address at once, a name in a thread of its own, the same name once for all who want it.

    A name that was found before and is not found now, or not within a second, has its old addresses: most providers' names outlive their
    name servers' outages, and a connection to an address that is no longer right fails by itself.
    """

    def __init__(self, look_up: Callable[..., Addresses] = socket.getaddrinfo) -> None:
        self._look_up = look_up
        self._running: dict[tuple[Any, ...], asyncio.Future[Addresses]] = {}
        self._known: dict[tuple[Any, ...], Addresses] = {}  # of the names in settings: they are few

    async def find(self, *asked: Any) -> Addresses:
        """As `socket.getaddrinfo(*asked)`. Raises OSError as that does."""
        if _is_address(asked[0]):
            return self._look_up(*asked)
        running = self._running.get(asked)
        if running is None:
            running = self._running[asked] = self._begun(asked)
        known = self._known.get(asked)
        if known is None:
            return await asyncio.shield(running)
        await asyncio.wait([running], timeout=_PATIENCE_S)
        return known if not running.done() or running.exception() is not None else running.result()

    def _begun(self, asked: tuple[Any, ...]) -> asyncio.Future[Addresses]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Addresses] = loop.create_future()

        def end(found: Addresses | OSError) -> None:
            del self._running[asked]
            if isinstance(found, OSError):
                future.set_exception(found)
                future.exception()  # whoever asked may have left
            else:
                self._known[asked] = found
                future.set_result(found)

        def run() -> None:
            try:
                found: Addresses | OSError = self._look_up(*asked)
            except (OSError, UnicodeError) as error:
                found = error if isinstance(error, OSError) else OSError(f"no name of a host: {error}")
            if not loop.is_closed():
                loop.call_soon_threadsafe(end, found)

        threading.Thread(target=run, name="name", daemon=True).start()  # a process that ends waits for no name server
        return future


def _is_address(host: object) -> bool:
    if not isinstance(host, str):
        return host is None
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class _Looking:
    """Over an event loop's class: its `getaddrinfo`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._names = Names()

    async def getaddrinfo(self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Addresses:
        return await self._names.find(host, port, family, type, proto, flags)


class _PlainLoop(_Looking, asyncio.SelectorEventLoop):
    pass


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, or Python's own on platforms that it is not built for."""
    try:
        import uvloop
    except ImportError:
        return _PlainLoop()

    loop: asyncio.AbstractEventLoop = type("Loop", (_Looking, uvloop.Loop), {})()
    return loop
