"""Budgets that pods share, in a Redis or Valkey: one Lua script, in which each pod says what it has used and is told what it may use.

Nothing here is the only place where something is known: what was spent is in the pods' journals, and the server may forget all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import StoreFailed
from sidecar.settings import Settings
from sidecar.shares import Answer, Ask, Reply
from sidecar.store.redis_server import client_of, problem_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

_ANSWER_S: Final = 1.0  # what Redis may take for one word
_SCRIPT: Final = Path(__file__).with_suffix(".lua")
_TEACH: Final = Path(__file__).with_name("shared_budgets_teach.lua")
_POD: Final = "pod"
_WORDS: Final = 2**32  # of one life at most, of two million lives: sequences are doubles
_TAUGHT_AT_ONCE: Final = 50


class SharedBudgets:
    """One pod's talk with the server. Everything raises what redis-py raises, or TimeoutError; `problem` puts it into words."""

    def __init__(
        self,
        client: Redis,
        *,
        address: str,
        prefix: str,
        pod: str,
        life: int,
        lease_ms: int,
        learn_ms: int,
        advise: Callable[[str], None] = lambda advice: None,
    ) -> None:
        """`pod` and `life` are those of `pod_life`; `advise` is told once what an operator should change at the server."""
        self._advise = advise
        self._is_known = False
        self._client = client
        self._address = address
        self._keys = f"{{{prefix}}}:budgets"  # the braces keep them together in a cluster
        self._pod = pod
        self.first_sequence = life * _WORDS
        self._times = (lease_ms, learn_ms)
        self._script = client.register_script(_SCRIPT.read_text())
        self._teach = client.register_script(_TEACH.read_text())

    async def exchange(self, asks: Sequence[Ask], *, is_telling: bool) -> Reply:
        """Say what this pod has to say of some accounts, and hear what it may use of them.

        `is_telling`: it has more to tell of what it has spent; a server that is learning learns on.
        """
        keys = [self._keys, f"{self._keys}:short", *(self._key(ask.account, ask.end_ns) for ask in asks)]
        words: list[Any] = [self._pod, uuid.uuid4().hex, *self._times, int(is_telling)]
        for ask in asks:
            words += (short_name(ask.account, ask.end_ns), ask.sequence, ask.known, max(1, ask.keep_ms))
            for unit in (0, 1):
                words += (ask.limit[unit], ask.used[unit], ask.held[unit], ask.have[unit], ask.want[unit], ask.need[unit], ask.least[unit])
        async with asyncio.timeout(_ANSWER_S):
            epoch, learning, short, *answers = await self._script(keys=keys, args=words)
        if not self._is_known:
            self._is_known = True
            with contextlib.suppress(Exception):  # it is advice, and the answer is here
                await self._look_at_memory()
        return Reply(epoch.decode(), bool(learning), tuple(read_short(name) for name in short), tuple(_answer(words) for words in answers))

    async def teach(self, untaught: list[tuple[str, int, tuple[tuple[bytes, bytes], ...]]], keep_ms: int) -> None:
        """Say what this pod knows of others; what has been said is taken from the list."""
        while untaught:
            some = untaught[:_TAUGHT_AT_ONCE]
            words: list[Any] = []
            for _, _, entries in some:
                words += (keep_ms, len(entries), *(part for entry in entries for part in entry))
            async with asyncio.timeout(_ANSWER_S):
                await self._teach(keys=[self._key(account, end_ns) for account, end_ns, _ in some], args=words)
            del untaught[: len(some)]

    async def _look_at_memory(self) -> None:
        """Once: a server that throws away what was not used lately would have to be told again and again."""
        async with asyncio.timeout(_ANSWER_S):
            memory: dict[str, Any] = await self._client.info("memory")
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            self._advise(f"{self._address} throws keys away when its memory is full (maxmemory-policy {policy}): set noeviction")

    async def close(self) -> None:
        async with asyncio.timeout(_ANSWER_S):
            await self._client.aclose()

    def problem(self, error: Exception) -> str:
        """In words for operators."""
        return f"{self._address} {problem_of(error)}"

    def _key(self, account: str, end_ns: int) -> str:
        return f"{self._keys}:{short_name(account, end_ns)}"


async def connect(settings: Settings, advise: Callable[[str], None] = lambda advice: None) -> SharedBudgets | None:
    """What `settings.redis` names, without a word over the network; None where budgets are not shared.

    Raises SettingsError for a missing package, an address or a file that cannot be used; StoreFailed for server.data_dir.
    """
    if settings.redis.url is None or not settings.fleet.share_budgets:
        return None
    client = await client_of(settings)
    pod, life = pod_life(settings.server.data_dir)
    return SharedBudgets(
        client,
        address=settings.redis.url,
        prefix=settings.redis.prefix,
        pod=pod,
        life=life,
        lease_ms=settings.fleet.lease_ms,
        learn_ms=settings.fleet.learn_ms,
        advise=advise,
    )


def pod_life(data_dir: str | None) -> tuple[str, int]:
    """This pod among others, and how many times it has begun: one name for as long as its journal is, since it speaks of sums in that.

    Lives are counted, as the newer word holds and a clock may be put back between two lives. Raises StoreFailed.
    """
    if data_dir is None:
        return uuid.uuid4().hex, 1
    path = Path(data_dir, _POD)
    try:
        said = path.read_text().split() if path.exists() else []
        name = said[0] if said else uuid.uuid4().hex
        life = int(said[1]) + 1 if len(said) > 1 and said[1].isdecimal() else 1
        new = path.with_suffix(".new")
        with new.open("w") as file:
            file.write(f"{name} {life}")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise StoreFailed(f"cannot read or write {path}: {error.strerror} (server.data_dir)") from None
    return name, life


def short_name(account: str, end_ns: int) -> str:
    """An account in one window."""
    return f"{end_ns}:{account}"


def read_short(name: bytes) -> tuple[str, int]:
    end_ns, _, account = name.decode().partition(":")
    return account, int(end_ns)


def _answer(words: list[Any]) -> Answer:
    if len(words) == 1:
        return Answer(stale=words[0])
    _, *numbers, others = words
    one, two = numbers[:4], numbers[4:]
    pairs = tuple(zip(others[::2], others[1::2], strict=True))
    return Answer(0, (one[0], two[0]), (one[1], two[1]), (one[2], two[2]), (one[3], two[3]), pairs)
