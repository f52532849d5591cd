"""Counts of audits that pods add up in a Redis or Valkey. Each pod's own are in its file; what Redis forgets, the pods tell it again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.settings import Settings
from sidecar.store.redis_server import client_of, problem_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

_ANSWER_S: Final = 2.0
_KEEP_S: Final = 90 * 86_400  # without an audit
_SCRIPT: Final = Path(__file__).with_suffix(".lua")


class SharedProofs:
    """One pod's talk with the server. Everything raises what redis-py raises, or TimeoutError; `problem` puts it into words."""

    def __init__(self, client: Redis, *, address: str, prefix: str, pod: str) -> None:
        """`pod`: the same for as long as its own counts go on."""
        self._client = client
        self._address = address
        self._prefix = f"{prefix}:cache:proof:"
        self._pod = pod
        self._script = client.register_script(_SCRIPT.read_text())

    async def exchange(self, own: Sequence[tuple[str, tuple[int, int] | None]]) -> list[tuple[int, int]]:
        """Say this pod's audits and failures by namespace, and hear the other pods'. None: it is forgotten, by all pods.

        Of a name that holds something else: nothing.
        """
        async with asyncio.timeout(_ANSWER_S), self._client.pipeline(transaction=False) as words:
            for name, counts in own:
                key = self._prefix + hashlib.sha256(name.encode()).hexdigest()[:32]
                if counts is None:
                    words.delete(key)
                else:
                    await self._script(keys=[key], args=[self._pod, *counts, _KEEP_S], client=words)
            heard = await words.execute(raise_on_error=False)
        problem = next((one for one in heard if isinstance(one, Exception)), None)
        if problem is not None and all(isinstance(one, Exception) for one in heard):
            raise problem
        return [(max(0, one[0]), max(0, one[1])) if isinstance(one, list) else (0, 0) for one in heard]

    async def close(self) -> None:
        async with asyncio.timeout(_ANSWER_S):
            await self._client.aclose()

    def problem(self, error: Exception) -> str:
        """In words for operators."""
        return f"{self._address} {problem_of(error)}"


async def connect(settings: Settings, pod: str) -> SharedProofs | None:
    """What `settings.redis` names, without a word over the network. Raises SettingsError for what is wrong with it."""
    if settings.redis.url is None:
        return None
    return SharedProofs(await client_of(settings), address=settings.redis.url, prefix=settings.redis.prefix, pod=pod)
