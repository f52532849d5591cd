"""One row of the usage log per ended call: who asked, who answered, what it took. Never a prompt, never an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.json import Encoder
from msgspec.msgpack import Decoder as MessagePackDecoder
from msgspec.msgpack import Encoder as MessagePackEncoder
from msgspec.structs import fields

from sidecar.call import NOTHING, Candidate, Tried, Usage
from sidecar.request import Caller, GenerateRequest

if TYPE_CHECKING:
    from sidecar.call import Call
    from sidecar.days import Days

_LONGEST = 256  # bytes of a text; six of them must fit into one index entry of PostgreSQL (2,704 bytes)
_MOST_TAGS = 16
_NO_PROMPT = ("", "", "")
_encode = Encoder().encode
_encode_note = MessagePackEncoder().encode


class BadRow(ValueError):
    """A store cannot hold one of these rows, now or later: a figure is out of all range. Nothing was written."""


class Ended(Struct, frozen=True, gc=False):
    """What a call hands over when it ends: references only, none to its messages or its answer, so that these can go."""

    id: str
    operation: str
    wall_ns: int
    duration_s: float
    first_token_s: float | None
    names: tuple[str, str, str, str, str, str, str]  # service, node, tenant, user, plan, run, agent
    caller: Caller
    prompt: tuple[str, str, str]  # name, version, idempotency key
    trace_id: str
    status: str
    finish: str
    cache: tuple[str, str]  # kind, and the call that made the answer
    saved_nano_usd: int
    served: Candidate | None
    candidates: tuple[Candidate, ...]
    attempts: list[Tried]
    usage: Usage
    estimated: bool
    nano_usd: int


class Row(Struct, array_like=True):
    """One row; its fields are the table's columns, in this order. Times and durations in ms, money in nano-USD.

    Nothing may be renamed or removed: a fleet's pods are not all of one version. New fields go to the end, with a default.
    """

    id: str
    time_ms: int  # Unix time of the call's arrival: the day to which budgets charge it
    day: str  # YYYY-MM-DD in usage.time_zone
    operation: str
    service: str
    node: str
    tenant: str
    user_id: str
    plan: str
    run: str
    agent: str
    step: int
    model: str
    provider: str
    endpoint: str
    status: str  # `ok` or the error's reason
    finish: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int  # of cache_write_tokens
    output_tokens: int
    reasoning_tokens: int
    estimated: int  # 1: some tokens are our count, not the provider's
    cost_nano_usd: int
    duration_ms: int
    first_token_ms: int | None
    attempts: int
    failed_attempts_nano_usd: int  # of cost_nano_usd: tries that did not give the answer
    fallback: int
    primary_model: str  # of an answer by fallback: who was wanted first; "": nobody else could have been asked
    primary_nano_usd: int  # and what the answer's tokens would have cost there
    cache_saved_nano_usd: int  # what the provider's cached input would have cost more at full price
    cache_write_extra_nano_usd: int  # what writing to that cache cost above the full price
    cache: str  # our own cache: `exact`, `semantic` or `stale`; "": a provider gave the answer
    prompt_name: str
    prompt_version: str
    idempotency_key: str
    trace_id: str
    tags: str  # a JSON object
    quality_ppm: int | None = None  # feedback: 0 to 1,000,000
    vote: int | None = None  # feedback: 1 up, -1 down
    answer_saved_nano_usd: int = 0  # our own cache: what the answer had cost when it was made
    cache_source: str = ""  # and the id of the call that made it


COLUMNS: dict[str, str] = {f.name: "TEXT" if f.type is str else "BIGINT" for f in fields(Row)}

# What days are summed by, and the sums: of each its value in one row.
DAY_KEYS = ("day", "service", "node", "tenant", "provider", "model")
SUMS: dict[str, str] = {
    "calls": "1",
    "failed": "CASE WHEN status <> 'ok' THEN 1 ELSE 0 END",
    "cancelled": "CASE WHEN status = 'CANCELLED' THEN 1 ELSE 0 END",
    "cached": "CASE WHEN cache <> '' THEN 1 ELSE 0 END",
    "estimated": "estimated",
    "input_tokens": "input_tokens",
    "cached_input_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "cost_nano_usd": "cost_nano_usd",
    "duration_ms": "duration_ms",
    "first_tokens": "CASE WHEN first_token_ms IS NULL THEN 0 ELSE 1 END",
    "first_token_ms": "COALESCE(first_token_ms, 0)",
    "attempts": "attempts",
    "failed_attempts_nano_usd": "failed_attempts_nano_usd",
    "cache_saved_nano_usd": "cache_saved_nano_usd",
    "cache_write_extra_nano_usd": "cache_write_extra_nano_usd",
    "fallbacks": "fallback",
    "fallback_nano_usd": "CASE WHEN fallback = 1 AND primary_model <> '' THEN cost_nano_usd - failed_attempts_nano_usd ELSE 0 END",
    "fallback_primary_nano_usd": "CASE WHEN fallback = 1 AND primary_model <> '' THEN primary_nano_usd ELSE 0 END",
    "fallback_failed_nano_usd": "CASE WHEN fallback = 1 THEN failed_attempts_nano_usd ELSE 0 END",
    "rated": "CASE WHEN quality_ppm IS NULL THEN 0 ELSE 1 END",
    "quality_ppm": "COALESCE(quality_ppm, 0)",
    "ups": "CASE WHEN vote = 1 THEN 1 ELSE 0 END",
    "downs": "CASE WHEN vote = -1 THEN 1 ELSE 0 END",
    "answer_saved_nano_usd": "COALESCE(answer_saved_nano_usd, 0)",
}
FEEDBACK_SUMS = ("rated", "quality_ppm", "ups", "downs")


def ended(call: Call, duration_s: float, wall_ns: int) -> Ended:
    """What is on the call's path: 20 references."""
    request, error, answer = call.request, call.error, call.answer
    return Ended(
        call.id,
        call.operation,
        wall_ns,
        duration_s,
        None if call.first_piece is None else call.first_piece - call.arrived,
        (call.service, call.node_name, call.tenant, call.user, call.plan, call.run, call.agent),
        request.caller,
        (request.prompt_name, request.prompt_version, request.idempotency_key) if isinstance(request, GenerateRequest) else _NO_PROMPT,
        call.trace_id,
        "ok" if error is None else error.reason,
        (answer.finish or "") if answer is not None else "",
        (call.recalled.kind, call.recalled.source) if call.recalled is not None else ("", ""),
        call.saved_nano_usd,
        call.served,
        call.candidates,
        call.attempts,
        call.usage,
        call.estimated,
        call.nano_usd,
    )


class Note(Struct, array_like=True):
    """What must not be lost of a call that was posted, should the process be killed before its row is written."""

    id: str
    operation: str
    wall_ns: int
    duration_s: float
    names: tuple[str, str, str, str, str, str, str]
    model: str
    provider: str
    endpoint: str
    status: str
    fallback: bool
    usage: tuple[int, int, int, int, int, int]
    estimated: bool
    nano_usd: int
    trace_id: str = ""


_decode_note = MessagePackDecoder(Note).decode


def note(call: Call, duration_s: float, wall_ns: int) -> bytes:
    served, usage, error = call.served, call.usage, call.error
    model, provider, endpoint = ("", "", "") if served is None else (served.model.id, served.model.provider, served.endpoint)
    return _encode_note(
        Note(
            call.id,
            call.operation,
            wall_ns,
            duration_s,
            (call.service, call.node_name, call.tenant, call.user, call.plan, call.run, call.agent),
            model,
            provider,
            endpoint,
            "ok" if error is None else error.reason,
            served is not None and served.fallback,
            (
                usage.input_tokens or 0,
                usage.cached_input_tokens or 0,
                usage.cache_write_tokens or 0,
                usage.cache_write_1h_tokens or 0,
                usage.output_tokens or 0,
                usage.reasoning_tokens or 0,
            ),
            call.estimated,
            call.nano_usd,
            call.trace_id,
        )
    )


def row_of_note(content: bytes, days: Days) -> Row:
    """The row of a call whose process was killed; what the note does not say is 0 or empty. Raises ValueError."""
    one = _decode_note(content)
    time_ms = one.wall_ns // 1_000_000 - round(one.duration_s * 1000)
    service, node, tenant, user, plan, run, agent = (_text(name) for name in one.names)
    values: dict[str, str | int | None] = {name: "" if kind == "TEXT" else 0 for name, kind in COLUMNS.items()}
    values |= {
        "id": one.id, "time_ms": time_ms, "day": days.of(time_ms).isoformat(), "operation": one.operation,
        "service": service, "node": node, "tenant": tenant, "user_id": user, "plan": plan, "run": run, "agent": agent,
        "model": _text(one.model), "provider": _text(one.provider), "endpoint": _text(one.endpoint), "status": one.status,
        "fallback": int(one.fallback), "estimated": int(one.estimated), "cost_nano_usd": one.nano_usd, "trace_id": one.trace_id,
        "duration_ms": round(one.duration_s * 1000), "attempts": 1, "tags": "{}",
        "first_token_ms": None, "quality_ppm": None, "vote": None,
    }  # fmt: skip
    tokens = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens")
    return Row(**(values | dict(zip(tokens, one.usage, strict=True))))  # type: ignore[arg-type]


def row(one: Ended, days: Days) -> Row:
    """The record in full, in integers."""
    served, usage = one.served, one.usage
    time_ms = one.wall_ns // 1_000_000 - round(one.duration_s * 1000)
    answer = next((tried for tried in one.attempts if tried.outcome == "ok"), None)
    saved, extra = _cache_effect(one.attempts)
    primary, primary_nano_usd = _primary(one, answer)
    service, node, tenant, user, plan, run, agent = (_text(name) for name in one.names)
    prompt_name, prompt_version, idempotency_key = (_text(name) for name in one.prompt)
    return Row(
        id=one.id,
        time_ms=time_ms,
        day=days.of(time_ms).isoformat(),
        operation=one.operation,
        service=service,
        node=node,
        tenant=tenant,
        user_id=user,
        plan=plan,
        run=run,
        agent=agent,
        step=one.caller.step,
        model=_text(served.model.id) if served is not None else "",
        provider=_text(served.model.provider) if served is not None else "",
        endpoint=_text(served.endpoint) if served is not None else "",
        status=one.status,
        finish=one.finish,
        input_tokens=usage.input_tokens or 0,
        cached_input_tokens=usage.cached_input_tokens or 0,
        cache_write_tokens=usage.cache_write_tokens or 0,
        cache_write_1h_tokens=usage.cache_write_1h_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        reasoning_tokens=usage.reasoning_tokens or 0,
        estimated=int(one.estimated),
        cost_nano_usd=one.nano_usd,
        duration_ms=round(one.duration_s * 1000),
        first_token_ms=None if one.first_token_s is None else round(one.first_token_s * 1000),
        attempts=len(one.attempts),
        failed_attempts_nano_usd=one.nano_usd - (answer.nano_usd if answer is not None else 0),
        fallback=int(served is not None and served.fallback),
        primary_model=primary,
        primary_nano_usd=primary_nano_usd,
        cache_saved_nano_usd=saved,
        cache_write_extra_nano_usd=extra,
        cache=one.cache[0],
        prompt_name=prompt_name,
        prompt_version=prompt_version,
        idempotency_key=idempotency_key,
        trace_id=one.trace_id,
        tags=_tags(one.caller.tags) if one.caller.tags else "{}",
        answer_saved_nano_usd=one.saved_nano_usd,
        cache_source=one.cache[1],
    )


def _cache_effect(attempts: list[Tried]) -> tuple[int, int]:
    """What the provider's own prompt cache saved, and what filling it cost above the input price: nano-USD, whole ones."""
    saved = extra = 0
    for tried in attempts:
        usage, prices = tried.usage, tried.candidate.model.prices.of(tried.usage)
        if usage.cached_input_tokens:
            saved += usage.cached_input_tokens * (prices.input - prices.cached_input)
        if written := usage.cache_write_tokens:
            hourly = usage.cache_write_1h_tokens or 0
            extra += (written - hourly) * (prices.cache_write_5m - prices.input) + hourly * (prices.cache_write_1h - prices.input)
    return saved // 1000, extra // 1000


def _primary(one: Ended, answer: Tried | None) -> tuple[str, int]:
    """Of an answer by fallback: the model that was wanted first, and what the same tokens would have cost there, pictures left out."""
    if one.served is None or not one.served.fallback:
        return "", 0
    wanted = next((candidate for candidate in one.candidates if not candidate.fallback), None)
    if wanted is None:
        return "", 0
    return _text(wanted.model.id), wanted.model.prices.cost(answer.usage if answer is not None else NOTHING)


def _tags(tags: Mapping[str, str]) -> str:
    """As JSON; of a call that was refused for having too many the first ones."""
    return _encode({_text(key): _text(value) for key, value in islice(tags.items(), _MOST_TAGS)}).decode()


def _text(value: str) -> str:
    """The text as every store can take it: Unicode without NUL, at most 256 bytes."""
    if len(value) <= _LONGEST and value.isascii() and "\0" not in value:
        return value
    return value.encode(errors="replace").replace(b"\0", b"?")[:_LONGEST].decode(errors="ignore")


def encoded(rows: Sequence[object]) -> str:
    """A JSON array (of rows, each an array): one value hands a whole batch to a store that takes it apart by itself."""
    return _encode(rows).decode()
