"""Requests that have been answered from memory and come again, byte for byte: what the stages found out of them is still true."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from sidecar.call import Call
from sidecar.store.answers import Answers, Kept

if TYPE_CHECKING:
    from sidecar.caching import Caching

_SHARE: Final = 16  # of the bytes that answers may take, this part is for repeats
_OWN_BYTES: Final = 6_000  # of one beside its texts: the call with its candidates (tracemalloc: 4,600) and the reply of its door

Asked = tuple[object, ...]  # a request's bytes, and the metadata it came with


class Repeat:
    """A call that was answered from memory, for those that ask the same. `reply` is what its door made of it, for the door's own use."""

    __slots__ = ("caching", "call", "kept", "reply", "size")

    def __init__(self, call: Call, caching: Caching, kept: Kept, size: int) -> None:
        self.call = call
        self.caching = caching
        self.kept = kept
        self.reply: Any = None
        self.size = size


class Repeats:
    """Bounded in bytes, the longest unasked goes first. Of an answer that memory has forgotten nothing is left here either.

    Reading a request, choosing its models, counting it and making its key take several times as long as finding its answer.
    """

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` is what answers may take."""
        self._most_bytes = most_bytes // _SHARE
        self._bytes = 0
        self._repeats: OrderedDict[Asked, Repeat] = OrderedDict()
        self._of: dict[bytes, set[Asked]] = {}  # by the answer's digest

    def __len__(self) -> int:
        return len(self._repeats)

    def find(self, asked: Asked) -> Repeat | None:
        found = self._repeats.get(asked)
        if found is not None:
            self._repeats.move_to_end(asked)
        return found

    def note(self, asked: Asked, request_bytes: int, call: Call, answers: Answers) -> None:
        """This call has ended. What was answered from memory is noted, with what it would be answered with again.

        Not of a run, whose plan may say tomorrow that another model answers, and not of a user whose plan lets him choose his models.
        """
        how, caching, answer = call.recalled, call.caching, call.answer
        if how is None or how.kind != "exact" or caching is None or answer is None or call.run or (call.plan and call.user):
            return
        kept = answers.peek(caching.key.digest)
        if kept is None or kept.call_id != how.source:
            return
        size = _OWN_BYTES + 3 * request_bytes + 2 * len(answer.text)
        if size > self._most_bytes:
            return
        self._remove(asked)
        call.send = None  # of a stream that has ended
        self._repeats[asked] = Repeat(call, caching, kept, size)
        self._of.setdefault(caching.key.digest, set()).add(asked)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._remove(next(iter(self._repeats)))

    def forget(self, digests: list[bytes]) -> None:
        """These answers are gone."""
        for digest in digests:
            for asked in self._of.get(digest, ()) and tuple(self._of[digest]):
                self._remove(asked)

    def _remove(self, asked: Asked) -> None:
        gone = self._repeats.pop(asked, None)
        if gone is None:
            return
        self._bytes -= gone.size
        digest = gone.caching.key.digest
        others = self._of[digest]
        others.discard(asked)
        if not others:
            del self._of[digest]
