"""Everything a provider can do wrong, as scripts for the fake, and what the caller of the sidecar must see.

A fault is scripted once for all four wire formats where they allow it. `reason` is what the caller reads; `tries` how often the provider
is asked when nobody else can answer (three failures in a row open its breaker, and the third retry is its trial; `is_silent`: a stream
is not asked a third time for its first token); `tries_first` how often when a fallback is there, if not three times; `moves_on`: the
fallback's answer is what the caller gets then. A stream that broke after its first piece has sent `text`, and nobody is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tests.fakes.script import Fail, HangUp, Raw, Say, Stall, Step, Tool, Vectors
from tests.fakes.wires import Anthropic, Google, Ollama, OpenAI, Wire

Way = Literal["unary", "stream", "embed"]

WIRES: Mapping[str, Wire] = {"openai": OpenAI, "anthropic": Anthropic, "google": Google, "ollama": Ollama, "compatible": OpenAI}
CHAT: tuple[Way, ...] = ("unary", "stream")
ALL: tuple[Way, ...] = ("unary", "stream", "embed")
KEYS = ("sk-test-openai-000000", "sk-ant-test-000000", "AIzaTest000000000")

Of = Callable[[Wire], Step]


class Fault(Struct, frozen=True):
    """One fault. `step` is a script for all wires, or a function of the wire; `where` an address to call in place of the fake."""

    name: str
    step: Step | Of
    reason: str = "PROVIDER_UNAVAILABLE"
    tries: int = 4
    tries_first: int | None = None
    is_silent: bool = False
    moves_on: bool = True
    sent: bool = False
    text: str = ""
    finish: str = ""
    ways: tuple[Way, ...] = ALL
    wires: tuple[str, ...] = tuple(WIRES)
    where: str = ""

    def script(self, provider: str) -> Step:
        return self.step(WIRES[provider]) if callable(self.step) else self.step

    def cases(self) -> list[tuple[str, Way]]:
        """The wires and ways that it can happen in. Anthropic has no embeddings."""
        return [(wire, way) for wire in self.wires for way in self.ways if (wire, way) != ("anthropic", "embed")]


def failing(status: int, message: str | Mapping[str, str] = "scripted failure", code: str | Mapping[str, str] = "", **headers: str) -> Of:
    """An HTTP error in the wire's own words; `message` and `code` may differ by wire."""

    def of(wire: Wire) -> Step:
        said = message if isinstance(message, str) else message[wire.__name__]
        word = code if isinstance(code, str) else code.get(wire.__name__, "")
        return Fail(status, said, word, tuple((name.replace("_", "-"), value) for name, value in headers.items()))

    return of


def _in_body(wire: Wire) -> Step:
    """Google's way to say how long to wait: in the body alone."""
    said = wire.failure(Fail(429, headers=(("Retry-After", "0.02"),)))
    return Fail(429, body=msgspec.json.encode(said))


def _per_day(wire: Wire) -> Step:
    quota = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}
    error = {"code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED", "details": [quota, wait]}
    return Fail(429, body=msgspec.json.encode({"error": error}))


def _body(wire: Wire, say: Say, *, streamed: bool) -> bytes:
    if not streamed:
        return msgspec.json.encode(wire.whole(say, "m"))
    return b"".join(data for _, data in wire.frames(say, "m", {"stream_options": {"include_usage": True}}))


def streaming(raw: Callable[[Wire, bytes], dict[str, Any]], say: Say) -> Of:
    """A stream's bytes, changed."""
    return lambda wire: Raw(content_type=wire.stream_type, **raw(wire, _body(wire, say, streamed=True)))


def whole(raw: Callable[[Wire, bytes], dict[str, Any]], say: Say) -> Of:
    """A whole answer's bytes, changed."""
    return lambda wire: Raw(**raw(wire, _body(wire, say, streamed=False)))


def _cut_in_a_character(wire: Wire, body: bytes) -> dict[str, Any]:
    return {"body": body[: body.index("다".encode()) + 1]}


def _promised(_: Wire, body: bytes) -> dict[str, Any]:
    return {"body": body[:-9], "promised": len(body)}


def _begun(wire: Wire) -> bytes:
    """A stream up to its first piece."""
    begun = b""
    for kind, data in wire.frames(_ONCE, "m", {}):
        begun += data
        if kind == "piece":
            break
    return begun


def _garbage(wire: Wire) -> Step:
    return Raw(_begun(wire) + (b"{oops}\n" if wire is Ollama else b"data: {oops}\n\n"), wire.stream_type)


def _silent(wire: Wire) -> Step:
    return Raw(_begun(wire), wire.stream_type, then="stall")


def _nothing_chosen(wire: Wire) -> Step:
    body = {
        "OpenAI": {"id": "x", "object": "chat.completion", "model": "m", "choices": []},
        "Anthropic": {"id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": None, "usage": {}},
        "Google": {"candidates": [], "modelVersion": "m"},
        "Ollama": {"model": "m", "done": False},
    }
    return Raw(msgspec.json.encode(body[wire.__name__]))


_TOO_LONG = {
    "OpenAI": "This model's maximum context length is 8192 tokens.",
    "Anthropic": "prompt is too long: 210000 tokens > 200000 maximum",
    "Google": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Ollama": "the input length exceeds the context length",
}
_NO_MODEL = {
    "OpenAI": "The model `m` does not exist or you do not have access to it.",
    "Anthropic": "model: m",
    "Google": "models/m is not found for API version v1",
    "Ollama": "model 'm' not found",
}
_RETIRED = "The model `m` has been decommissioned and is no longer supported."
_LOADED = Say(pieces=("가나", "다라"), cut_after=1)
_ONCE = Say(pieces=("Once ", "upon ", "a time"), cut_after=1)
_ADDRESS = Stall()  # never reached
_CUT = {"tries": 1, "moves_on": False, "sent": True, "ways": ("stream",)}
_LIMITED = {"reason": "PROVIDER_RATE_LIMITED"}
_SLOW = {"reason": "PROVIDER_TIMEOUT", "tries_first": 1}
_SILENT = {**_SLOW, "is_silent": True}
_SPENT = {"reason": "PROVIDER_QUOTA_EXHAUSTED", "tries": 1}
_GONE = {"reason": "PROVIDER_MODEL_UNKNOWN", "tries": 1}
_LONG = {"reason": "PROVIDER_CONTEXT_EXCEEDED", "tries": 1}
_WRONG = {"reason": "PROVIDER_REJECTED", "tries": 1, "moves_on": False}
_LOCKED = {"reason": "PROVIDER_AUTH_FAILED", "tries": 1, "moves_on": False}
_GARBLED = {"reason": "PROVIDER_GARBLED"}
_ANSWER = {"reason": "ok", "tries": 1, "moves_on": False, "ways": CHAT}

CONNECTIONS = [
    Fault("connection refused", _ADDRESS, where="refused"),
    Fault("name that does not resolve", _ADDRESS, where="nameless"),
    Fault("connecting takes too long", _ADDRESS, where="deaf", **_SLOW),
    Fault("TLS to a port without", _ADDRESS, where="plain"),
    Fault("TLS with a certificate that nobody vouches for", _ADDRESS, where="self_signed"),
    Fault("reset before headers", HangUp()),
    Fault("reset after headers", HangUp(after_headers=True)),
    Fault("accepted, never answered", Stall(), **_SILENT),
    Fault("headers, then nothing", Stall(after_headers=True), **_SILENT),
    Fault("headers, then signs of life only", Stall(after_headers=True, pings_ms=50), **_SILENT),
    Fault("slow headers", Say(first_delay_ms=3_000), ways=CHAT, **_SILENT),
    Fault("slow vectors", Vectors(first_delay_ms=3_000), ways=("embed",), **_SILENT),
    Fault("a byte at a time, slowly", streaming(lambda _, b: {"body": b, "split": 1, "delay_ms": 40}, _ONCE), ways=("stream",), **_SILENT),
    Fault("a byte at a time, slowly", whole(lambda _, b: {"body": b, "split": 1, "delay_ms": 40}, _ONCE), ways=("unary",), **_SILENT),
]

STATUSES = [
    Fault("400", failing(400, "messages: roses are red"), **_WRONG),
    Fault("422", failing(422, "roses are red"), **_WRONG),
    Fault("401, the key repeated", failing(401, "Incorrect API key: " + " ".join(KEYS)), **_LOCKED),
    Fault("403, the key repeated", failing(403, "Not with this key: " + " ".join(KEYS)), **_LOCKED),
    Fault("402", failing(402, "Payment Required"), **_SPENT),
    Fault("404 unknown model", failing(404, _NO_MODEL), **_GONE),
    Fault("404 HTML", Fail(404, body=b"<html>default backend - 404</html>", content_type="text/html"), **_GONE),
    Fault("410", failing(410, "Gone"), **_GONE),
    Fault("400 retired model", failing(400, _RETIRED), **_GONE),
    Fault("400 too long", failing(400, _TOO_LONG, {"OpenAI": "context_length_exceeded"}), **_LONG),
    Fault("413 HTML", Fail(413, body=b"<html>413 Request Entity Too Large</html>", content_type="text/html"), **_LONG),
    Fault("408", failing(408), **_SLOW),
    Fault("409", failing(409)),
    Fault("425", failing(425)),
    Fault("429", failing(429), **_LIMITED),
    Fault("429 Retry-After: 0.02", failing(429, Retry_After="0.02"), **_LIMITED),
    Fault("429 retry-after-ms: 20", failing(429, retry_after_ms="20"), **_LIMITED),
    Fault("429 Retry-After: a date gone by", failing(429, Retry_After="Sat, 21 Nov 2020 10:00:00 GMT"), **_LIMITED),
    Fault("429 try again in 20ms", failing(429, "Please try again in 20ms."), **_LIMITED),
    Fault("429 RetryInfo", _in_body, wires=("google",), **_LIMITED),
    Fault("429 Retry-After: 3600", failing(429, Retry_After="3600"), tries=1, **_LIMITED),
    Fault("429 of a day, with RetryInfo", _per_day, wires=("google",), **_SPENT),
    Fault("429 of a day", failing(429, "Limit of requests per day (RPD) reached. Please try again in 7m12s."), **_SPENT),
    Fault("429 quota", failing(429, "Quota.", "insufficient_quota"), wires=("openai", "compatible"), **_SPENT),
    Fault("400 spending limit", failing(400, "Billing hard limit has been reached"), **_SPENT),
    Fault("400 no credit", failing(400, "Your credit balance is too low to access the API."), **_SPENT),
    Fault("500", failing(500)),
    Fault("502 HTML", Fail(502, body=b"<html>502 Bad Gateway</html>", content_type="text/html")),
    Fault("502 HTML that says it is JSON", Fail(502, body=b"<html>502 Bad Gateway</html>")),
    Fault("503", failing(503)),
    Fault("503 Retry-After: 0.02", failing(503, Retry_After="0.02")),
    Fault("504", failing(504), **_SLOW),
    Fault("524", Fail(524, body=b"<html>A timeout occurred</html>", content_type="text/html"), **_SLOW),
    Fault("529 overloaded", failing(529, "Overloaded")),
    Fault("redirect", Fail(307, headers=(("Location", "/elsewhere"),)), **_GARBLED),
]

BODIES = [
    Fault("200 HTML", Raw(b"<html>It works!</html>", "text/html"), "PROVIDER_WRONG_TYPE"),
    Fault("200 {}", Raw(b"{}"), ways=("unary", "embed"), **_GARBLED),
    Fault(
        "200 {} in place of a stream",
        Raw(b"{}"),
        "PROVIDER_WRONG_TYPE",
        ways=("stream",),
        wires=("openai", "anthropic", "google", "compatible"),
    ),
    Fault("200 without a body", Raw(b""), ways=("unary", "embed"), **_GARBLED),
    Fault("200 stream without a byte", lambda wire: Raw(b"", wire.stream_type), "STREAM_CUT", ways=("stream",)),
    Fault("200 without choices", _nothing_chosen, ways=("unary",), **_GARBLED),
    Fault("200 broken JSON", whole(lambda _, b: {"body": b[:-20]}, _ONCE), ways=("unary",), **_GARBLED),
    Fault("200 cut inside a character", whole(_cut_in_a_character, _LOADED), ways=("unary",), **_GARBLED),
    Fault("200 shorter than promised", whole(lambda _, b: {"body": b[:-9], "promised": len(b)}, _ONCE), ways=("unary",)),
    Fault("200 error", Say(error_after=0, error=Fail(503, "Overloaded")), ways=CHAT),
    Fault(
        "200 without a finish reason",
        Say(cut="no_finish"),
        "STREAM_CUT",
        ways=("unary",),
        wires=("openai", "anthropic", "compatible", "ollama"),
    ),
    Fault("200 without a word", Say(pieces=()), "PROVIDER_EMPTY", ways=CHAT),
    Fault("200 tool call cut", Say(pieces=(), tools=(Tool("f", '{"a": '),), finish="tool_calls"), ways=("unary",), **_GARBLED),
    Fault(
        "200 tool calls of which none came",
        Say(finish="tool_calls"),
        ways=("unary",),
        wires=("openai", "anthropic", "compatible"),
        **_GARBLED,
    ),
    Fault("200 unknown finish reason", Say(raw_finish="weather"), ways=("unary",), **_GARBLED),
    Fault("vector missing", Vectors(missing=1), ways=("embed",), **_GARBLED),
    Fault("vector too many", Vectors(extra=1), ways=("embed",), **_GARBLED),
    Fault("vector empty", Vectors(empty=True), ways=("embed",), **_GARBLED),
    Fault("vector shorter than the others", Vectors(ragged=True), ways=("embed",), **_GARBLED),
    Fault("vector not finite", Vectors(nan=True), ways=("embed",), **_GARBLED),
    Fault("vectors of the same index", Vectors(twice=True), ways=("embed",), wires=("openai", "compatible"), **_GARBLED),
    Fault("vectors in the wrong order", Vectors(backwards=True), "ok", 1, moves_on=False, ways=("embed",), wires=("openai", "compatible")),
]

STREAMS = [
    Fault("error before the first piece", Say(error_after=0, error=Fail(529, "Overloaded")), ways=("stream",)),
    Fault("end before the first piece", streaming(lambda w, _: {"body": w.ping}, _ONCE), "STREAM_CUT", ways=("stream",)),
    Fault("error after a piece", Say(pieces=_ONCE.pieces, error_after=1), text="Once ", **_CUT),
    Fault("clean end after a piece", Say(pieces=_ONCE.pieces, cut="close"), "STREAM_CUT", text="Once ", **_CUT),
    Fault("reset after a piece", Say(pieces=_ONCE.pieces, cut="reset"), "STREAM_CUT", text="Once ", **_CUT),
    Fault("shorter than promised", streaming(_promised, _ONCE), "STREAM_CUT", text="Once upon a time", **_CUT),
    Fault("cut inside a character", streaming(_cut_in_a_character, _LOADED), "STREAM_CUT", text="가나", **_CUT),
    Fault("no finish reason", Say(pieces=_ONCE.pieces, cut="no_finish"), "STREAM_CUT", text="Once upon a time", **_CUT),
    Fault(
        "no end of the protocol",
        Say(pieces=_ONCE.pieces, cut="no_end"),
        "STREAM_CUT",
        text="Once upon a time",
        wires=("openai", "anthropic", "ollama", "compatible"),
        **_CUT,
    ),
    Fault("silence after a piece", _silent, "PROVIDER_TIMEOUT", text="Once ", **_CUT),
    Fault("unknown finish reason", Say(pieces=_ONCE.pieces, raw_finish="weather"), "PROVIDER_GARBLED", text="Once upon a time", **_CUT),
    Fault("garbage after a piece", _garbage, "PROVIDER_GARBLED", text="Once ", **_CUT),
    Fault(
        "tool call cut",
        Say(pieces=("Look: ",), tools=(Tool("f", '{"a": '),), finish="tool_calls"),
        "PROVIDER_GARBLED",
        text="Look: ",
        wires=("openai", "anthropic", "compatible"),
        **_CUT,
    ),
]  # fmt: skip

ANSWERS = [
    Fault("an answer", Say(), text="Hello, world!", finish="STOP", **_ANSWER),
    Fault("length", Say(finish="length"), text="Hello, world!", finish="LENGTH", **_ANSWER),
    Fault(
        "content filter",
        Say(finish="content_filter"),
        text="Hello, world!",
        finish="CONTENT_FILTER",
        wires=("openai", "google", "compatible"),
        **_ANSWER,
    ),
    Fault(
        "content filter, without a word",
        Say(pieces=(), finish="content_filter"),
        finish="CONTENT_FILTER",
        wires=("openai", "google", "compatible"),
        **_ANSWER,
    ),
    Fault("refusal", Say(finish="refusal"), text="Hello, world!", finish="REFUSAL", wires=("openai", "compatible"), **_ANSWER),
    Fault("refusal", Say(finish="content_filter"), text="Hello, world!", finish="REFUSAL", wires=("anthropic",), **_ANSWER),
    Fault(
        "400 content filter",
        failing(400, {"OpenAI": "filtered", "Anthropic": "Output blocked by content filtering policy"}, {"OpenAI": "content_filter"}),
        finish="CONTENT_FILTER",
        wires=("openai", "anthropic", "compatible"),
        **_ANSWER,
    ),
]

FAULTS = [*CONNECTIONS, *STATUSES, *BODIES, *STREAMS, *ANSWERS]
