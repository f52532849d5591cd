"""Which questions are the same: everything that an answer may depend on, hashed once."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Literal

from msgspec import Struct
from msgspec.json import Encoder

from sidecar.call import Call, Candidate
from sidecar.request import EmbedRequest, GenerateRequest, Image, Message, Part, Text

_encode = Encoder().encode  # JSON, in the order in which it came: the order of a schema's properties guides the model
_encode_options = Encoder(order="deterministic").encode  # of a map without an order of its own
_FORM = 1  # of what is hashed


class Key(Struct, frozen=True, gc=False):
    """`digest` is the whole question, `partition` everything but the last user turn, `question` that turn's text.

    `is_similar`: the last message is text of the user's and nothing else, so that similar ones can be looked for.
    """

    digest: bytes
    partition: bytes
    question: str
    is_similar: bool


NO_KEY = Key(b"", b"", "", False)  # of calls for vectors: each input has a key of its own


def key_of(call: Call, scope: Literal["user", "tenant"], version: str) -> Key | None:
    """The key of a call whose candidates are known. None: it holds text that is no Unicode, and nothing is remembered of it.

    Tenant first: an answer never crosses tenants. The models that may answer are in it, so that a plan, a preference or a changed setting
    that allows others finds other answers. Text is compared in Unicode's form NFC, and otherwise as it is: white space, look-alike
    letters and zero-width characters make another question. What is hashed is JSON, so that no text can pass for another field.
    """
    request = call.request
    assert isinstance(request, GenerateRequest)  # noqa: S101  (vectors have keys of their own)
    last = call.messages[-1]
    is_user = last.role == "user"
    question = [part.text for part in last.parts if isinstance(part, Text)] if is_user else []
    frame = Message("user", tuple(Text("") if isinstance(part, Text) else part for part in last.parts)) if is_user else last
    node = call.node
    try:
        around = _encode(
            (
                _FORM,
                version,
                call.tenant,
                scope,
                call.user if scope == "user" else "",
                call.service,
                call.node_name,
                request.model,
                sorted({f"{c.model.provider}/{c.model.name}" for c in call.candidates}),
                _small((*call.messages[:-1], frame)) if "image" in call.needs else (*call.messages[:-1], frame),
                request.temperature if request.temperature is not None or node is None else node.temperature,
                request.top_p,
                request.max_output_tokens if request.max_output_tokens is not None or node is None else node.max_output_tokens,
                request.stop,
                request.seed,
                call.response_format,
                request.tools,
                request.tool_choice,
                request.prompt_name,
                request.prompt_version,
                call.metadata.get("accept-language", ""),
            )
        )
        options = _encode_options(request.provider_options) if request.provider_options else b""
        asked = _encode(question)
    except UnicodeEncodeError:
        return None
    partition = hashlib.sha256(_normal(around) + b"\0" + _normal(options)).digest()
    digest = hashlib.sha256(partition + _normal(asked)).digest()
    is_similar = is_user and len(question) == len(last.parts)
    return Key(digest, partition, question[0] if len(question) == 1 else "\n".join(question), is_similar)


def _small(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """With pictures by their hashes: a megabyte as JSON takes a millisecond, and is hashed all the same."""

    def part_of(part: Part) -> Part:
        if not isinstance(part, Image) or not part.data:
            return part
        return Image(mime_type=part.mime_type, url=f"sha256:{hashlib.sha256(part.data).hexdigest()}", detail=part.detail)

    return tuple(Message(message.role, tuple(map(part_of, message.parts))) for message in messages)


def _normal(json: bytes) -> bytes:
    """NFC. No composition begins with a character of JSON's own (quote, bracket, comma, colon, backslash), so that none is lost."""
    return json if json.isascii() else unicodedata.normalize("NFC", json.decode()).encode()


def vector_keys(
    call: Call, request: EmbedRequest, candidate: Candidate, scope: Literal["user", "tenant"], version: str
) -> list[bytes] | None:
    """A key for each input's vector: never of another tenant, model or length. None: an input is no Unicode."""
    model = f"{candidate.model.provider}/{candidate.model.name}"
    user = call.user if scope == "user" else ""
    try:
        around = _encode((_FORM, version, call.tenant, scope, user, model, candidate.dimensions(request)))
        options = _encode_options(request.provider_options)
        return [hashlib.sha256(around + options + b"\0" + unicodedata.normalize("NFC", text).encode()).digest() for text in request.inputs]
    except UnicodeEncodeError:
        return None
