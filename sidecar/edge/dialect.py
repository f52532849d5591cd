"""What the doors for other people's APIs share: a body read by name, the field `sidecar`, and the facts that those APIs have no words for.

A request may have a field `sidecar`: an object of those fields of GenerateRequest (or EmbedRequest) that the API itself has no words for.
An answer has one too; its names are GenerateResponse's.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from sidecar.call import Call, Chunk, Start, Usage
from sidecar.edge.http import Door, decoded
from sidecar.edge.http_errors import Failure
from sidecar.edge.http_native import read
from sidecar.edge.sse import Frames
from sidecar.edge.wire import FINISHES, KINDS, embed_request, generate_request
from sidecar.errors import InvalidRequest, RequestError, SidecarError
from sidecar.request import Caller, GenerateRequest, Image, ResponseFormat
from sidecar.v1 import llm_pb2 as pb

S = TypeVar("S", bound=Struct)

ANY_MODEL = ("", "auto", "sidecar")  # names of no model: the policy chooses
_VENDOR = ("caller", "cache", "on_cut", "idempotency_key", "prompt_ref", "provider_options", "complexity")
_VENDOR_EMBED = ("caller", "cache", "provider_options")
_PLACE = re.compile(r" - at `\$\.?(.*?)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_DATA_URL = re.compile(r"data:([a-z]+/[a-z0-9.+-]+);base64,", re.IGNORECASE)


Names = Sequence[tuple[str, str]]  # patterns of our fields' names, and an API's own for them


class Events(Protocol):
    """One answer in the events of an API. `call` is set before the first."""

    call: Call

    async def send(self, pieces: Start | Sequence[Chunk]) -> None: ...

    def whole(self) -> Iterable[bytes]:
        """The last events of an answer that is proven whole."""

    def broken(self, failure: Failure) -> Iterable[bytes]:
        """The last events of one that broke: clients must not take it for a good end."""


class Words(Struct, frozen=True):
    """An API's top-level parameters.

    `known` are read. `meaningless` ones may have the value that changes nothing. `refused` ones ask for what cannot be answered, and why.
    """

    known: frozenset[str]
    meaningless: Mapping[str, Any]
    refused: Mapping[str, str]


class Asked(Struct, frozen=True):
    """A body, sorted: what the API's own words say, what is handed on as it is, and the field `sidecar`."""

    said: dict[str, Any]
    options: dict[str, Any]
    extra: GenerateRequest

    def caller(self, user: str, tags: Mapping[str, str]) -> Caller:
        """Who asks, as far as the body says."""
        own = self.extra.caller
        if not user and not tags:
            return own
        return replace(own, user=own.user or user, tags={**tags, **own.tags})


def sort(body: bytes, words: Words, *, may_pass: bool, embed: bool = False) -> Asked:
    """Sort the body's parameters; null is as not set. Raises InvalidRequest for what is not known, by name, unless it `may_pass`."""
    raw = decoded(body)
    if not isinstance(raw, dict):
        raise InvalidRequest("the body is JSON, but no object")
    said: dict[str, Any] = {}
    options: dict[str, Any] = {}
    extra = GenerateRequest()
    for name, value in raw.items():
        if value is None:
            continue
        if name in words.known:
            said[name] = value
        elif name == "sidecar":
            extra = _extra(value, embed=embed)
        elif name in words.refused and not (name in words.meaningless and value == words.meaningless[name]):
            raise InvalidRequest(f"{name} cannot be served: {words.refused[name]}", field=name)
        elif name in words.meaningless and value == words.meaningless[name]:
            continue
        elif may_pass:
            options[name] = value
        else:
            raise InvalidRequest(
                f"{name[:100]} is no parameter that is served here; leave it out, or hand it to the provider in sidecar.provider_options "
                '(all such parameters are handed on with http.unknown_parameters = "pass")',
                field=name[:100],
            )
    return Asked(said, {**options, **extra.provider_options}, extra)


def _extra(value: Any, *, embed: bool) -> GenerateRequest:
    if not isinstance(value, dict):
        raise InvalidRequest("sidecar is no object; expected one of fields of GenerateRequest", field="sidecar")
    allowed = _VENDOR_EMBED if embed else _VENDOR
    for name in value:
        if name not in allowed:
            raise InvalidRequest(f"sidecar.{name[:100]} cannot be set here; expected {', '.join(allowed)}", field=f"sidecar.{name[:100]}")
    try:
        if embed:
            own = embed_request(read(msgspec.json.encode(value), pb.EmbedRequest()))
            return GenerateRequest(
                caller=own.caller,
                provider_options=own.provider_options,
                cache_mode=own.cache_mode,
                cache_max_age_ms=own.cache_max_age_ms,
            )
        return generate_request(read(msgspec.json.encode(value), pb.GenerateRequest()))
    except RequestError as error:
        error.field = f"sidecar.{error.field}" if error.field else "sidecar"
        error.message = f"sidecar: {error.message}"
        raise


def shaped(said: Mapping[str, Any], shape: type[S]) -> S:
    """The values as the shape wants them. Raises InvalidRequest naming the place, what was found and what is expected."""
    try:
        return msgspec.convert(said, shape)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _invalid(text: str) -> InvalidRequest:
    found = _PLACE.search(text)
    field = found[1] if found is not None else ""
    what = text[: found.start()] if found is not None else text
    for pattern, words in ((_UNKNOWN, "is not served here; leave it out"), (_MISSING, "is missing")):
        named = pattern.fullmatch(what)
        if named is not None:
            field = f"{field}.{named[1]}" if field else named[1]
            return InvalidRequest(f"{field} {words}", field=field)
    if what.startswith("Expected `null`"):
        return InvalidRequest(f"{field} is not served here; leave it out", field=field)
    return InvalidRequest(f"{field or 'the body'} cannot be read: {what[:1].lower()}{what[1:]}", field=field)


def may_pass(door: Door) -> bool:
    return door.engine.settings.http.unknown_parameters == "pass"


def model_of(name: str) -> str:
    return "" if name in ANY_MODEL else name


def on_cut_of(extra: GenerateRequest) -> str:
    """What to do when a stream breaks: neither API can say "forget everything so far", so a node's `restart` is as `fail`."""
    if extra.on_cut == "restart":
        raise InvalidRequest(
            "sidecar.on_cut is ON_CUT_RESTART, which this API's streams have no words for; use HOLD", field="sidecar.on_cut"
        )
    return extra.on_cut or "no_restart"


def image(url: str, field: str, detail: str = "") -> Image:
    """A picture by address, or in a data: URL. Raises InvalidRequest."""
    if not url.startswith("data:"):
        return Image(url=url, detail=detail)
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidRequest(f"{field} is {url[:30]!r}…; expected data:image/png;base64,… or an http(s) address", field=field)
    return Image(data=base64(url[head.end() :], field), mime_type=head[1].lower(), detail=detail)


def base64(text: str, field: str) -> bytes:
    """Raises InvalidRequest."""
    try:
        found = b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"{field} is no base64: {error}", field=field) from None
    if not found:
        raise InvalidRequest(f"{field} is empty; expected a picture in base64", field=field)
    return found


def schema_format(name: str, schema: Any, strict: bool, field: str) -> ResponseFormat:
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{field} is missing or no object; expected a JSON schema", field=field)
    return ResponseFormat("json_schema", name, schema, strict)


def rename(error: RequestError, names: Names) -> None:
    """Put the field of an error of the pipeline into an API's own words, also where the message begins with it."""
    for ours, theirs in names:
        renamed = re.sub(ours, theirs, error.field)
        if renamed != error.field:
            if error.message.startswith(error.field):
                error.message = renamed + error.message[len(error.field) :]
            error.field = renamed


def signature_of(extra_content: dict[str, Any]) -> str:
    """The signature of a tool call, where Google's own OpenAI-style API has it."""
    google = extra_content.get("google")
    found = google.get("thought_signature") if isinstance(google, dict) else None
    return found if isinstance(found, str) else ""


# --- out ------------------------------------------------------------------------------------------------------------------------


def facts(call: Call, now: float) -> dict[str, Any]:
    """The field `sidecar` of an answer: who answered, for how much, from where. Times in milliseconds, money in nano-USD."""
    usage, served = call.usage, call.served
    found: dict[str, Any] = {"id": call.id}
    cost: dict[str, Any] = {"nano_usd": call.nano_usd}
    if served is not None:
        found |= {"provider": served.model.provider, "model": served.model.id, "fallback": served.fallback}
        if call.attempts and served.model.as_of is not None:
            cost["as_of"] = served.model.as_of.isoformat()
    if call.answer is not None and call.answer.finish is not None:
        found["finish_reason"] = pb.FinishReason.Name(FINISHES[call.answer.finish])
    found["usage"] = {
        "input_tokens": usage.input_tokens or 0,
        "cached_input_tokens": usage.cached_input_tokens or 0,
        "cache_write_tokens": usage.cache_write_tokens or 0,
        "output_tokens": usage.output_tokens or 0,
        "reasoning_tokens": usage.reasoning_tokens or 0,
        "estimated": call.estimated,
    }
    found["cost"] = cost
    found["cache"] = {"kind": "KIND_NONE"}
    if call.cached_inputs:
        found["cached_inputs"] = call.cached_inputs
    if (how := call.recalled) is not None:
        found["cache"] = {
            "kind": pb.CacheResult.Kind.Name(KINDS[how.kind]),
            "similarity": how.similarity,
            "score": how.score,
            "age_ms": how.age_ns // 1_000_000,
            "source_call_id": how.source,
            "saved_nano_usd": how.saved_nano_usd,
            "joined": how.joined,
        }
    found["total_ms"] = round((now - call.arrived) * 1000)
    if call.first_piece is not None:
        found["first_token_ms"] = round((call.first_piece - call.arrived) * 1000)
    found["attempts"] = [
        {"provider": t.candidate.model.provider, "model": t.candidate.model.id, "outcome": t.outcome, "ms": t.duration_ns // 1_000_000}
        for t in call.attempts
    ]
    if call.notices:
        found["notices"] = list(call.notices)
    return found


def signed(signature: str) -> dict[str, Any]:
    """Where Google's own OpenAI-style API has a tool call's signature."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def headers(call: Call, *, is_over: bool) -> dict[str, str]:
    """The facts that fit into headers; what a call cost is known at its end only."""
    found = {"x-sidecar-id": call.id}
    if call.served is not None:
        model = call.served.model
        found["x-sidecar-provider"] = model.provider
        found["x-sidecar-model"] = quote(model.id, safe="/:@#._-+ ")
        found["x-sidecar-fallback"] = "true" if call.served.fallback else "false"
        found["x-sidecar-cache"] = call.recalled.kind if call.recalled is not None else "none"
    if is_over:
        found["x-sidecar-cost-nano-usd"] = str(call.nano_usd)
    return found


async def stream(
    door: Door, request: web.Request, ask: GenerateRequest, frames: Frames, events: Events, names: Names, notices: Sequence[str] = ()
) -> web.StreamResponse:
    """Answer with these events. What fails before the first of them is raised, later failures are the stream's last event."""
    call = events.call = door.call(request, "stream", ask, events.send)
    call.notices.extend(notices)

    def ending(error: SidecarError | None) -> Iterable[bytes]:
        if error is None:
            return events.whole()
        if isinstance(error, RequestError):
            rename(error, names)
        return events.broken(door.failure(error, request, call))

    return await door.stream(request, call, frames, ending, preface=b"")


def input_tokens(usage: Usage) -> int:
    """The whole prompt, cached or not."""
    return (usage.input_tokens or 0) + (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)


def output_tokens(usage: Usage) -> int:
    """The whole answer, reasoning included."""
    return (usage.output_tokens or 0) + (usage.reasoning_tokens or 0)
