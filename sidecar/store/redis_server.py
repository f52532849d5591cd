"""The Redis or Valkey that settings name: a client, a talk that is begun anew whenever it fails, and what is wrong in words."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import SettingsError
from sidecar.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

_CONNECT_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.25


class Talk:
    """Whether the server at `address` answers, as the one who talks to it all the time has it."""

    def __init__(self, address: str, longest_pause_s: float, random: Callable[[], float], tell: Callable[[str], None]) -> None:
        """`tell` is told once for each change what is wrong, "" if nothing is."""
        self._address = address
        self._longest_pause_s = longest_pause_s
        self._random = random
        self._tell = tell
        self._told: bool | None = None
        self.is_up = False

    async def keep(self, talk: Callable[[], Awaitable[None]]) -> None:
        """Talk until cancelled; whatever fails is begun anew, after pauses that grow."""
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                try:
                    await talk()
                except Exception as error:  # also a defect in it must not end the sidecar, nor the trying
                    if self.is_up:
                        pause_s = _FIRST_PAUSE_S
                    self.turn(problem_of(error))
                await asyncio.sleep(pause_s * (0.5 + self._random() / 2))
                pause_s = min(pause_s * 2, self._longest_pause_s)
        finally:
            self.is_up = False

    def turn(self, problem: str) -> None:
        self.is_up = not problem
        if self.is_up is not self._told:
            self._told = self.is_up
            self._tell(problem and f"{self._address} {problem}")


async def client_of(settings: Settings) -> Redis:
    """A client of the Redis that settings name, without a word over the network. What is asked of it ends by the asker's own timeout.

    Raises SettingsError for a missing package, an address or a file that cannot be used.
    """
    rule = settings.redis
    assert rule.url is not None  # noqa: S101
    try:
        module = await asyncio.to_thread(importlib.import_module, "redis.asyncio")
        retry = importlib.import_module("redis.asyncio.retry")
        backoff = importlib.import_module("redis.backoff")
    except ImportError:
        raise SettingsError(
            settings.origin("redis", "url"), "", "needs the package redis: pip install 'llm-sidecar[redis]', or leave the address out"
        ) from None
    encrypted: dict[str, Any] = {"ssl_ca_certs": _readable(settings)} if rule.ca_file else {}
    try:
        client: Redis = module.Redis.from_url(
            rule.url,
            username=rule.username or None,
            password=rule.password,
            protocol=2,  # both servers speak it, and nothing of 3 is needed
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=None,  # redis-py would wait with asyncio.wait_for, which loses a cancellation that comes with the answer
            retry=retry.Retry(backoff.NoBackoff(), 0),  # whoever uses it tries again, after pauses of its own
            **encrypted,
        )
    except ValueError as error:
        raise SettingsError(settings.origin("redis", "url"), "", f"cannot be used: {error}") from None
    return client


def _readable(settings: Settings) -> str:
    path = settings.redis.ca_file
    where = settings.origin("redis", "ca_file")
    if not (settings.redis.url or "").startswith("rediss://"):
        raise SettingsError(where, "", "is for encrypted connections, expected redis.url to begin with rediss://")
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(where, "", f"cannot read certificates from {path}: {error.strerror or error}") from None
    return path


def problem_of(error: Exception) -> str:
    """In words for operators. By name, so that nothing is imported for it; the names of the lower classes come first."""
    names = {kind.__name__ for kind in type(error).__mro__}
    detail = " ".join(str(error).split())[:300]
    if names & {"AuthenticationError", "AuthenticationWrongNumberOfArgsError"}:
        return f"refuses the user or the password (redis.username, redis.password): {detail}"
    if "NoPermissionError" in names:
        return f"does not allow its user what is needed (channel and keys under redis.prefix, scripts, INFO): {detail}"
    if "TimeoutError" in names:
        return "does not answer in time"
    if names & {"ConnectionError", "OSError"}:
        return f"cannot be reached: {detail}"
    return f"cannot be used: {type(error).__name__}: {detail}"
