"""Runs that pods share, in a Redis or Valkey: one Lua script. What a pod has spent is in its journal; the server may forget all of it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import StoreFailed
from sidecar.run_words import Heard, Looked, Part
from sidecar.settings import Settings
from sidecar.store.redis_server import client_of, problem_of
from sidecar.store.shared_budgets import pod_life

if TYPE_CHECKING:
    from redis.asyncio import Redis

_ANSWER_S: Final = 1.0  # what Redis may take for one word
_LEAST_ABSENCE_MS: Final = 10_000  # pods are heard of every second, unless they stand still for a while
_SCRIPT: Final = Path(__file__).with_suffix(".lua")
_KEYS: Final = ("", ":pods", ":acks", ":open", ":closed", ":ages", ":news", ":bell")
_BURIED_AT_ONCE: Final = 200


class SharedRuns:
    """One pod's talk with the server. A run is known by its key, a text that no other tenant's run has, and its generation.

    Everything raises StoreFailed, with what is wrong in words for operators.
    """

    def __init__(
        self, client: Redis, *, address: str, prefix: str, pod: tuple[str, int], lease_ms: int, learn_ms: int, keep_ms: int
    ) -> None:
        """`pod` is what `pod_life` gives; `keep_ms`: how long a run is remembered of which nothing is heard."""
        self.pod, life = pod
        self.first_sequence = life << 32
        self._client = client
        self._address = address
        self._keep_ms = keep_ms
        self._times = (lease_ms, learn_ms)
        self._begin = f"{{{prefix}}}:runs"  # the braces keep all of them together in a cluster
        self._keys = [f"{self._begin}{key}" for key in _KEYS]
        self._script = client.register_script(_SCRIPT.read_text())

    async def look(self, epoch: str, number: int, *, is_telling: bool = False, is_leaving: bool = False) -> Looked:
        """Say that this pod is there and knows all up to this news of this epoch, and hear what is new."""
        name, learning, newest, more, found = await self._ask("look", epoch, number, int(is_leaving), is_telling=is_telling)
        texts = [item.decode() for item in found]
        changes = tuple(zip(texts[::3], texts[1::3], texts[2::3], strict=True))
        return Looked(name.decode(), bool(learning), int(newest), bool(more), changes)

    async def bell(self, number: int, within_s: float) -> None:
        """Wait until there is something newer than this news, but no longer than so."""
        async with self._asking(within_s + _ANSWER_S):
            await self._client.xread({self._keys[7]: f"{number}-1"}, block=max(1, int(within_s * 1000)))

    async def lagging(self, number: int, trust_ms: int) -> int:
        """How many other pods have been heard of within `trust_ms` and do not know this news yet."""
        return int(await self._ask("lagging", number, trust_ms))

    async def open(self, key: str, generation: str, text: str, most: int, *, is_reopening: bool) -> Heard:
        return await self._of(key, "open", generation, text, self._keep_ms, most, int(is_reopening))

    async def enter(self, key: str, generation: str, version: int, sequence: int, text: str, step: str, *, is_again: bool) -> Heard:
        """Take down this pod's part if the run is still at this version and the step was, or was not, made before."""
        return await self._of(key, "enter", generation, version, sequence, text, step, int(is_again), self._keep_ms)

    async def put(self, key: str, generation: str, sequence: int, text: str) -> Heard:
        """Take down this pod's part, whatever the others say."""
        return await self._of(key, "put", generation, sequence, text, self._keep_ms)

    async def state(self, key: str, *, with_steps: bool = False) -> Heard:
        return await self._of(key, "state", int(with_steps))

    async def close(self, key: str, generation: str, idle_ms: int) -> Heard:
        """End it, if it was not used for so long. Gives its state."""
        return await self._of(key, "close", generation, idle_ms)

    async def restore(self, key: str, generation: str, text: str, parts: Iterable[tuple[str, str]], steps: Iterable[str]) -> Heard:
        """Tell what this pod knows of an open run: parts of pods, and steps that were made. So long a server that is learning learns on."""
        words = [word for part in parts for word in part]
        return await self._of(key, "restore", generation, text, self._keep_ms, len(words) // 2, *words, *steps, is_telling=True)

    async def bury(self, closed: Sequence[tuple[str, str]]) -> None:
        """Tell what this pod knows of runs that were closed: keys and generations."""
        for first in range(0, len(closed), _BURIED_AT_ONCE):
            await self._ask("bury", *(word for pair in closed[first : first + _BURIED_AT_ONCE] for word in pair), is_telling=True)

    async def end(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_ANSWER_S):
                await self._client.aclose()

    async def _of(self, key: str, operation: str, *words: str | int, is_telling: bool = False) -> Heard:
        keys = (f"{self._begin}:run:{key}", f"{self._begin}:steps:{key}")
        status, *rest = await self._ask(operation, key, *words, keys=keys, is_telling=is_telling)
        match status.decode():
            case "state":
                version, is_again, named, found, *steps = rest
                parts = tuple(
                    Part(pod.decode(), bool(is_live), text.decode())
                    for pod, is_live, text in zip(found[::3], found[1::3], found[2::3], strict=True)
                )
                return Heard(
                    "state",
                    int(version),
                    is_again=bool(is_again),
                    named=named,
                    parts=parts,
                    steps=tuple(step.decode() for step in steps[0]) if steps else (),
                )
            case "in" | "told" as said:
                return Heard(said, int(rest[0]) if rest else 0)
            case "open" | "other" as said:
                return Heard(said, text=rest[0].decode(), number=int(rest[1]))
            case said:
                return Heard(said, number=int(rest[0]) if rest else 0)

    async def _ask(self, operation: str, *words: str | int, keys: Sequence[str] = (), is_telling: bool = False) -> Any:
        async with self._asking(_ANSWER_S):
            args = [operation, self.pod, uuid.uuid4().hex, *self._times, int(is_telling), *words]
            return await self._script(keys=[*self._keys, *keys], args=args)

    @contextlib.asynccontextmanager
    async def _asking(self, within_s: float) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a coroutine always runs in one)
        before = task.cancelling()
        try:
            async with asyncio.timeout(within_s):
                yield
        except Exception as error:  # redis-py's, whose classes would have to be imported for it
            raise StoreFailed(f"{self._address} {problem_of(error)}") from None
        if task.cancelling() > before:
            raise asyncio.CancelledError  # redis-py loses one that comes together with the answer


async def connect(settings: Settings) -> SharedRuns | None:
    """What `settings.redis` names, without a word over the network; None where budgets are not shared.

    Raises SettingsError for a missing package, an address or a file that cannot be used; StoreFailed for server.data_dir.
    """
    if settings.redis.url is None or not settings.fleet.share_budgets:
        return None
    return SharedRuns(
        await client_of(settings),
        address=settings.redis.url,
        prefix=settings.redis.prefix,
        pod=pod_life(settings.server.data_dir),
        lease_ms=max(settings.fleet.lease_ms, _LEAST_ABSENCE_MS),
        learn_ms=settings.fleet.learn_ms,
        keep_ms=(settings.limits.run_idle_hours + 24) * 3_600_000,
    )
