"""Remembered answers to similar questions: which there are, and whether one of them may be given."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from sidecar._core import PromptIndex, SimilarityIndex

if TYPE_CHECKING:
    from sidecar.answer import Answer
    from sidecar.call import Call
    from sidecar.policies.cache_audits import Standing
    from sidecar.settings.caching import NodeCache
    from sidecar.store.cache_entry import Entry

_MOST: Final = 50_000  # questions: a look-up among so many stays under a millisecond, so that it may be made where calls are
_BYTES_EACH: Final = 1_024
_LONGEST: Final = 2_000  # characters: longer questions are the same only if they are identical, which another look-up finds
_LOOKED_AT: Final = 32
_MOST_GIVEN: Final = 10_000


class Likely(Struct, frozen=True):
    """A remembered answer to a question like this one. `veto` is the difference that refuses it, "" if none does."""

    entry: Entry
    age_ns: int
    is_fresh: bool
    similarity: float
    score: float
    veto: str
    deciding: tuple[str, ...] = ()
    features: dict[str, float] = {}


class Given(Struct, frozen=True, gc=False):
    """A call of whose answer somebody may say that it is wrong."""

    id: str
    kind: str  # exact, semantic or stale; "": a provider gave it
    source: str  # the id of the call that made the answer, "" for itself
    node: str  # service.node
    tenant: str
    plan: str
    model: str  # provider/model
    prompt_name: str
    prompt_version: str


class Judge(Protocol):
    """Whether what the verifier lets through has been proven good enough to be given."""

    def may_give(self, call: Call, likely: Likely) -> bool:
        """False: ask a provider all the same, and say afterwards what it said."""

    def unproven(self, call: Call, likely: Likely) -> str:
        """Why nothing like this is given yet; "": it is, but for those that are audited."""

    def refutes(self, call: Call, likely: Likely) -> bool:
        """Answers like this one have been found wrong of late."""

    def gave(self, call: Call, likely: Likely) -> None:
        """It was given."""

    def asked(self, call: Call, likely: Likely, fresh: Answer, differs: Callable[[], None]) -> None:
        """It was not given, and a provider said this. `differs` is called, now or later, if the remembered one is not to be kept."""

    def complain(self, given: Given, rule: NodeCache | None) -> None:
        """A user says that this answer to a similar question is wrong; `rule` is its node's."""

    def forget(self, tenant: str) -> None:
        """Everything of this tenant is to be erased."""

    def standings(self, node: str) -> list[Standing]:
        """What has been proven of this node, or of all (""), the latest audited first."""


Embed = Callable[["Call", str], Awaitable[Sequence[float] | None]]  # the vector of a question, None where there is none in time


class Similar:
    """The questions of the answers that are remembered, by partition. Without a judge nothing is given: everything is shadow."""

    def __init__(self, most_bytes: int) -> None:
        self._index = PromptIndex(max(1, min(_MOST, most_bytes // _BYTES_EACH)))
        self._keys: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        self._next = 0
        self._most_bytes = most_bytes
        self._vectors: SimilarityIndex | None = None  # once it is known how long vectors are
        self.judge: Judge | None = None
        self.given: OrderedDict[str, Given] = OrderedDict()  # of late, where no usage log knows them
        self.embed: Embed | None = None

    def __len__(self) -> int:
        return len(self._index)

    @staticmethod
    def is_short(question: str) -> bool:
        """Something is asked, and it is not so long that only an identical question is the same."""
        return len(question) <= _LONGEST and bool(question.strip())

    def remember(self, given: Given) -> None:
        """Somebody may complain about this one."""
        self.given[given.id] = given
        if len(self.given) > _MOST_GIVEN:
            self.given.popitem(last=False)

    def add(self, entry: Entry) -> None:
        """An answer is remembered now."""
        if not self.is_short(entry.question):
            return
        key = self._keys.get(entry.digest)
        if key is not None:
            return  # the same question: nothing of it has changed
        key = self._next
        self._next += 1
        self._keys[entry.digest], self._digests[key] = key, entry.digest
        gone = self._index.add(entry.partition.hex(), key, entry.question)
        if gone is not None:
            self._keys.pop(self._digests.pop(gone), None)

    def remove(self, digests: list[bytes]) -> None:
        """Answers are no longer remembered."""
        for digest in digests:
            key = self._keys.pop(digest, None)
            if key is not None:
                del self._digests[key]
                self._index.remove(key)
                if self._vectors is not None:
                    self._vectors.remove(key)

    def add_vector(self, entry: Entry, vector: Sequence[float]) -> None:
        """The vector of a remembered question. One that is of another length than the first, or no direction at all, finds nothing."""
        key = self._keys.get(entry.digest)
        if key is None:
            return
        try:
            if self._vectors is None:
                each = len(vector) * 4 + len(vector) // 8 + 100
                self._vectors = SimilarityIndex(len(vector), capacity=max(1, min(_MOST, self._most_bytes // each)))
            self._vectors.add(entry.partition.hex(), key, vector)
        except ValueError:
            return

    async def nearest(self, partition: bytes, vector: Sequence[float], least: float) -> list[tuple[bytes, float]]:
        """Digest and cosine of questions whose vectors are near, nearest first. In a thread: of many it takes a millisecond."""
        if self._vectors is None or not any(vector):
            return []
        try:
            found = await asyncio.to_thread(self._vectors.nearest, partition.hex(), vector, _LOOKED_AT, least)
        except ValueError:
            return []
        return [(digest, cosine) for key, cosine in found if (digest := self._digests.get(key)) is not None]

    def candidates(self, partition: bytes, question: str) -> list[tuple[bytes, float, float, str]]:
        """Digest, similarity, score and veto of questions like this one, best first. Some 0.1 ms among 10,000 of its partition."""
        if not self.is_short(question):
            return []
        found = self._index.candidates(partition.hex(), question, _LOOKED_AT)
        return [(self._digests[one.key], one.similarity, one.score, one.veto) for one in found]
