"""Where a provider that keeps prompts on request is asked to keep one: at prefixes that were sent to it a short while ago.

Anthropic keeps what stands before a mark (tools, system, messages, in this order) for five minutes after its last use. Keeping costs a
quarter more than the input's price, a later read a tenth of it: it pays when more than about one in four is read again. A prompt that is
sent once is therefore not marked; one that begins as another did within the five minutes is (docs.claude.com, prompt caching).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from sidecar.billing import may_write
from sidecar.call import Call, Candidate, GenerateAsk
from sidecar.catalog import Model
from sidecar.request import GenerateRequest, Image, Part, Text
from sidecar.settings import Settings

TOOLS: Final = -1  # the mark behind the last tool
_LIFE_NS: Final = 290_000_000_000  # a little less than the provider's five minutes
_MOST: Final = 20_000  # prefixes, about 4 MB
_EACH: Final = 8  # of one prompt: so many from its beginning, and from its end
_IMAGE_BYTES: Final = 6_000  # of text that take about as many tokens as a picture
_encode = msgspec.json.Encoder().encode


class Prefix(Struct, frozen=True, gc=False):
    """A prompt up to and including one of its blocks. `mark` as in `GenerateAsk.cache_marks`; `is_shared`: tools or system, no message."""

    mark: int
    digest: bytes
    is_shared: bool


class Prompt(Struct, frozen=True):
    """The prefixes of a prompt that are long enough to be kept, the shortest first, and where it is to be marked."""

    prefixes: tuple[Prefix, ...]  # the last one is the whole prompt
    marks: tuple[int, ...]


class PromptPrefixes:
    """What was sent lately, by tenant, node, model and endpoint. Digests only. Not for several threads."""

    def __init__(self, settings: Settings, most: int = _MOST) -> None:
        self._settings = settings
        self._most = most
        self._sent: OrderedDict[bytes, tuple[int, bool]] = OrderedDict()  # until when, and whether it was a whole prompt

    def __len__(self) -> int:
        return len(self._sent)

    def may_mark(self, call: Call, model: Model, input_tokens: int) -> bool:
        """Might a prompt of this length be marked, and so cost what keeping it costs? Where callers place marks of their own we do not."""
        if model.cache_min_tokens is None or input_tokens < model.cache_min_tokens or not isinstance(call.request, GenerateRequest):
            return False
        return self._is_on(call) and not may_write(call)

    def of(self, call: Call, candidate: Candidate, ask: GenerateAsk, now_ns: int) -> Prompt | None:
        """None: nothing is to be marked or remembered."""
        least = candidate.model.cache_min_tokens
        if least is None or not self.may_mark(call, candidate.model, candidate.input_tokens):
            return None
        whose = _encode((call.tenant, call.service, call.node_name, candidate.target))
        try:
            sized = list(_prefixes(whose, ask))
        except UnicodeEncodeError:  # halves of characters
            return None
        whole = sized[-1][1] if sized else 0
        long = tuple(prefix for prefix, size in sized if candidate.input_tokens * size >= least * whole)
        if not long:
            return None
        marks = self._marks(long, now_ns)
        return Prompt(long if len(long) <= 2 * _EACH else long[:_EACH] + long[-_EACH:], marks)

    def _marks(self, prefixes: tuple[Prefix, ...], now_ns: int) -> tuple[int, ...]:
        known = [prefix for prefix in prefixes if (sent := self._sent.get(prefix.digest)) is not None and now_ns < sent[0]]
        if not known:
            return ()
        deepest = known[-1]
        marks = {deepest.mark}
        # What several conversations have in common is kept for itself too.
        shared = next((prefix for prefix in reversed(known) if prefix.is_shared), None)
        if shared is not None:
            marks.add(shared.mark)
        # It goes on where a whole prompt ended: a conversation, and what is new of it will be sent again.
        if self._sent[deepest.digest][1]:
            marks.add(prefixes[-1].mark)
        return tuple(sorted(marks))

    def sent(self, prompt: Prompt, now_ns: int) -> None:
        """The provider has taken this prompt in."""
        for prefix in prompt.prefixes:
            was = self._sent.pop(prefix.digest, None)
            is_whole = prefix is prompt.prefixes[-1] or (was is not None and was[1])
            self._sent[prefix.digest] = (now_ns + _LIFE_NS, is_whole)
        while len(self._sent) > self._most:
            self._sent.popitem(last=False)

    def _is_on(self, call: Call) -> bool:
        own = call.node.prompt_caching if call.node is not None else ""
        service = self._settings.services.get(call.service)
        return (own or (service.prompt_caching if service is not None else "auto")) == "auto"


def _prefixes(whose: bytes, ask: GenerateAsk) -> Iterator[tuple[Prefix, int]]:
    """Each prefix that ends behind a block, and its length in bytes, about in proportion to its tokens."""
    hashed = hashlib.blake2b(whose, digest_size=16)
    size = 0
    if ask.tools:
        tools = _encode(ask.tools)
        hashed.update(tools)
        size += len(tools)
        yield Prefix(TOOLS, hashed.digest(), True), size
    number = 0
    for message in ask.messages:
        is_system = message.role == "system"
        for part in message.parts:
            if not _is_block(part, is_system=is_system):
                continue
            # Texts as they are: as JSON a long one takes five times as long. The kind and the length keep blocks apart.
            kind, block = (b"t", part.text.encode()) if isinstance(part, Text) else (b"j", _encode(part))
            hashed.update(b"%b %b %d " % (message.role.encode(), kind, len(block)))
            hashed.update(block)
            size += _IMAGE_BYTES if isinstance(part, Image) else len(block)
            yield Prefix(number, hashed.digest(), is_system), size
            number += 1


def _is_block(part: Part, *, is_system: bool) -> bool:
    """Empty texts are no blocks, and of system messages only texts are."""
    return bool(part.text) if isinstance(part, Text) else not is_system
