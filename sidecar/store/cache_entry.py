"""One remembered answer, and its form wherever it is kept: MessagePack, compressed where that pays, encrypted outside of this process."""

from __future__ import annotations

import hmac
import os
import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from sidecar.answer import Answer
from sidecar.call import Chunk, Head, ToolDelta
from sidecar.json_text import UNREADABLE

if TYPE_CHECKING:
    from sidecar.settings import Settings

FORM: Final = 1  # of an entry; whoever reads another one knows nothing
_PLAIN, _DEFLATED = b"p", b"z"
_WORTH_IT: Final = 400  # bytes: what is shorter hardly shrinks
_LEVEL: Final = 1
_MOST_BYTES: Final = 64 * 1024 * 1024  # of an entry that somebody else may have written
_NONCE: Final = 12


class Named(Struct, frozen=True, array_like=True, gc=False):
    """Whose an entry is and what made it: all that it can be told to go by. `model` is `provider/model`."""

    tenant: str
    user: str
    service: str
    node: str
    model: str
    prompt_name: str
    prompt_version: str


class Entry(Struct, frozen=True, array_like=True):
    """A whole answer. `kept_ms` is Unix time, `generation` the last invalidation that the call knew of when it began.

    New fields go to the end, with a default: pods of a fleet are not all of one version.
    """

    digest: bytes
    partition: bytes
    named: Named
    call_id: str
    kept_ms: int
    life_ms: int
    keep_ms: int
    generation: int
    nano_usd: int  # what the answering try had cost
    text: str
    reasoning: str
    tool_calls: tuple[tuple[str, str, str, str], ...]
    finish: str
    raw_finish: str
    model_said: str
    request_id: str
    question: str = ""  # where similar questions may be answered too

    def answer(self) -> Answer:
        """As it was, in one piece."""
        whole = Answer()
        calls = tuple(ToolDelta(index, *called) for index, called in enumerate(self.tool_calls))
        head = Head(request_id=self.request_id) if self.request_id else None
        finish: Any = self.finish
        whole.add(
            Chunk(
                text=self.text,
                reasoning=self.reasoning,
                tool_calls=calls,
                finish=finish,
                raw_finish=self.raw_finish,
                model=self.model_said,
                head=head,
                last=True,
            )
        )
        return whole


class Unreadable(Exception):
    """What is kept there is no entry of ours: why, in a few words."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def packed(entry: Entry) -> bytes:
    data = _encode(entry)
    if len(data) >= _WORTH_IT:
        small = zlib.compress(data, _LEVEL)
        if len(small) < len(data):
            return _DEFLATED + small
    return _PLAIN + data


def unpacked(data: bytes) -> Entry:
    """Raises Unreadable."""
    try:
        if data[:1] == _DEFLATED:
            unzip = zlib.decompressobj()
            plain = unzip.decompress(data[1:], _MOST_BYTES)
            if not unzip.eof:
                raise Unreadable("damaged or too large")
            return _decode(plain)
        if data[:1] == _PLAIN:
            return _decode(data[1:])
    except (zlib.error, *UNREADABLE):
        raise Unreadable("damaged") from None
    raise Unreadable("of another form")


class Vault:
    """Seals entries with AES-256-GCM, bound to their names: an entry that somebody copies to another name does not open.

    Names are keyed hashes of the questions' digests, so that whoever reads a store cannot try whether a question was asked.
    """

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes. Raises ImportError without the package cryptography."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._invalid = InvalidTag
        self._cipher = AESGCM(hmac.digest(key, b"entries", "sha256"))
        self._names = hmac.digest(key, b"names", "sha256")

    def name(self, digest: bytes) -> bytes:
        return hmac.digest(self._names, digest, "sha256")

    def seal(self, name: bytes, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return bytes((FORM,)) + nonce + self._cipher.encrypt(nonce, data, name)

    def open(self, name: bytes, sealed: bytes) -> bytes:
        """Raises Unreadable."""
        if sealed[:1] != bytes((FORM,)):
            raise Unreadable("of another version")
        try:
            return self._cipher.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], name)
        except (self._invalid, ValueError):
            raise Unreadable("damaged, or sealed with another key") from None

    def entry(self, name: bytes, sealed: bytes) -> Entry:
        """Raises Unreadable."""
        return unpacked(self.open(name, sealed))


def vault_of(settings: Settings) -> Vault | None:
    """Of `cache.key`; None where nothing leaves this process. Raises SettingsError for a missing package."""
    from sidecar.errors import SettingsError

    cache = settings.cache
    if cache.key is None or not (cache.persist or cache.shared):
        return None
    try:
        return Vault(bytes.fromhex(cache.key))
    except ImportError:
        raise SettingsError(
            settings.origin("cache", "key"),
            "",
            "needs the package cryptography: pip install 'llm-sidecar[cache]', or keep the cache in memory",
        ) from None
