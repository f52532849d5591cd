"""What operators have said of budgets, in a Redis or Valkey that pods share. It may forget all of it: each pod knows it too."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec.json import decode, encode

from sidecar.errors import StoreFailed
from sidecar.settings import Settings
from sidecar.store.redis_server import client_of, problem_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

_ANSWER_S: Final = 3.0
_AT_ONCE: Final = 500
# Each word that is later than the one that is there. Whoever brings news says so by another version, and so does the first one of all.
_SAY: Final = """
local news = redis.call('EXISTS', KEYS[2]) == 0
for i = 2, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if not old or tonumber(string.match(old, '^%[(%d+)')) < tonumber(string.match(ARGV[i + 1], '^%[(%d+)')) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    news = true
  end
end
if news then redis.call('SET', KEYS[2], ARGV[1]) end
"""

Key = tuple[str, str]  # kind and name
Word = tuple[int, str]  # Unix time in milliseconds, and text


class SharedWords:
    """All of it raises StoreFailed, with what is wrong in words for operators."""

    def __init__(self, client: Redis, address: str, prefix: str) -> None:
        self._client = client
        self._address = address
        key = f"{{{prefix}}}:words"
        self._keys = [key, f"{key}:version"]
        self._say = client.register_script(_SAY)

    async def say(self, words: Mapping[Key, Word]) -> None:
        """Tell all pods. Words that are older than what is there are passed over."""
        pairs = [(encode(key), encode(word)) for key, word in words.items()]
        async with self._asking():
            for first in range(0, max(1, len(pairs)), _AT_ONCE):
                some: list[Any] = [part for pair in pairs[first : first + _AT_ONCE] for part in pair]
                await self._say(keys=self._keys, args=[uuid.uuid4().hex, *some])

    async def version(self) -> str:
        """Another one for each news; "": the server knows nothing, or has forgotten all."""
        async with self._asking():
            found: Any = await self._client.get(self._keys[1])
            return found.decode() if found else ""

    async def hear(self) -> dict[Key, Word]:
        """All that is known there."""
        async with self._asking():
            found = await self._client.hgetall(self._keys[0])
        return {decode(key, type=Key): decode(word, type=Word) for key, word in found.items()}

    async def close(self) -> None:
        async with self._asking():
            await self._client.aclose()

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_ANSWER_S):
                yield
        except Exception as error:  # redis-py's, whose classes would have to be imported for it
            raise StoreFailed(f"{self._address} {problem_of(error)}; it is not in force here, look before saying it again") from None


async def connect(settings: Settings) -> SharedWords | None:
    """What `settings.redis` names, without a word over the network; None where budgets are not shared.

    Raises SettingsError for a missing package, an address or a file that cannot be used.
    """
    if settings.redis.url is None or not settings.fleet.share_budgets:
        return None
    return SharedWords(await client_of(settings), settings.redis.url, settings.redis.prefix)
