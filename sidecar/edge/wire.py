"""Protobuf messages into the pipeline's requests, and answers back. No decision is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct as ProtoStruct
from google.protobuf.struct_pb2 import Value
from msgspec.json import decode

from sidecar.answer import Answer
from sidecar.call import Call, Candidate, Chunk, Finish, Recalled, Start
from sidecar.catalog import Model
from sidecar.edge.run_plans import run_plan
from sidecar.errors import InvalidRequest
from sidecar.json_text import UNREADABLE
from sidecar.request import (
    NOBODY,
    Caller,
    EmbedRequest,
    GenerateRequest,
    Image,
    Message,
    Part,
    ResponseFormat,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from sidecar.v1 import llm_pb2 as pb

_ROLES: dict[int, Role] = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant", pb.ROLE_TOOL: "tool"}
_CHOICES: dict[int, Literal["auto", "none", "required", "tool"]] = {0: "auto", 1: "auto", 2: "none", 3: "required", 4: "tool"}
_CACHE_MODES = {0: "", 1: "default", 2: "bypass", 3: "refresh", 4: "only"}
_ON_CUT = {0: "", 1: "fail", 2: "restart", 3: "hold"}
_COMPLEXITIES = {0: "", 1: "low", 2: "medium", 3: "high", 4: "estimate"}
_PRIORITIES = {0: "normal", 1: "critical", 2: "normal", 3: "optional"}
FINISHES: dict[Finish, pb.FinishReason.ValueType] = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
    "refusal": pb.FINISH_REASON_REFUSAL,
}

KINDS = {"exact": pb.CacheResult.KIND_EXACT, "semantic": pb.CacheResult.KIND_SEMANTIC, "stale": pb.CacheResult.KIND_STALE}


# --- in -------------------------------------------------------------------------------------------------------------------------


def generate_request(message: pb.GenerateRequest) -> GenerateRequest:
    """Raises InvalidRequest for what has no place in ours: unknown enum numbers, empty oneofs, JSON text that is none."""
    has = message.HasField
    caller = _caller(message.caller) if has("caller") else NOBODY
    messages = message.messages
    tools = message.tools
    cache_mode, max_age_ms = _cache(message.cache) if has("cache") else ("", None)
    return GenerateRequest(
        caller,
        message.prompt,
        message.system,
        tuple(_message(m, f"messages[{i}]") for i, m in enumerate(messages)) if messages else (),
        message.model,
        message.temperature if has("temperature") else None,
        message.top_p if has("top_p") else None,
        message.max_output_tokens if has("max_output_tokens") else None,
        tuple(message.stop),
        message.seed if has("seed") else None,
        _response_format(message.response_format) if has("response_format") else None,
        tuple(_tool(t, f"tools[{i}]") for i, t in enumerate(tools)) if tools else (),
        _tool_choice(message.tool_choice) if has("tool_choice") else None,
        cache_mode,
        max_age_ms,
        _known(_ON_CUT, message.on_cut, "on_cut"),
        message.idempotency_key,
        message.prompt_ref.name,
        message.prompt_ref.version,
        options(message.provider_options) if has("provider_options") else {},
        _known(_COMPLEXITIES, message.complexity, "complexity"),
    )


def embed_request(message: pb.EmbedRequest) -> EmbedRequest:
    return EmbedRequest(
        _caller(message.caller) if message.HasField("caller") else NOBODY,
        tuple(message.inputs),
        message.model,
        message.dimensions if message.HasField("dimensions") else None,
        options(message.provider_options) if message.HasField("provider_options") else {},
        *(_cache(message.cache) if message.HasField("cache") else ()),
    )


def _cache(policy: pb.CachePolicy) -> tuple[str, int | None]:
    mode: str = _known(_CACHE_MODES, policy.mode, "cache.mode")
    return mode, policy.max_age.ToMilliseconds() if policy.HasField("max_age") else None


def options(struct: ProtoStruct) -> dict[str, Any]:
    """A Struct as plain values. Its numbers are all doubles; whole ones become ints again, because providers insist on them."""
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return options(value.struct_value)
        case "list_value":
            return [_value(item) for item in value.list_value.values]
    return None


def _known(names: Mapping[int, Any], number: int, field: str) -> Any:
    found = names.get(number)
    if found is None:
        raise InvalidRequest(f"{field} is {number}, which is no value of its enum; expected 0 to {max(names)}", field=field)
    return found


def _caller(message: pb.Caller) -> Caller:
    return Caller(
        message.service,
        message.node,
        message.tenant,
        message.user,
        message.plan,
        message.run,
        message.agent,
        message.step,
        dict(message.tags),
        _known(_PRIORITIES, message.priority, "caller.priority"),
        run_plan(message.run_plan, "caller.run_plan") if message.HasField("run_plan") else None,
    )


def _message(message: pb.Message, field: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(
            f"{field}.role is {message.role}; expected ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL", field=f"{field}.role"
        )
    return Message(role, tuple(_part(part, f"{field}.parts[{i}]") for i, part in enumerate(message.parts)))


def _part(part: pb.Part, field: str) -> Part:
    match part.WhichOneof("kind"):
        case "text":
            return Text(part.text)
        case "image":
            image = part.image
            return Image(image.data, image.mime_type, image.url, image.detail)
        case "tool_call":
            called = part.tool_call
            return ToolCall(called.id, called.name, called.arguments or "{}", called.signature)
        case "tool_result":
            return ToolResult(part.tool_result.tool_call_id, "", part.tool_result.content, part.tool_result.is_error)
    raise InvalidRequest(f"{field} is empty; expected text, image, tool_call or tool_result", field=field)


def _json_object(text: str, field: str) -> dict[str, Any]:
    try:
        value = decode(text)
    except UNREADABLE as error:
        raise InvalidRequest(f"{field} is no JSON: {error}", field=field) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f'{field} is JSON, but no object; expected a JSON schema like {{"type": "object"}}', field=field)
    return value


def _tool(tool: pb.Tool, field: str) -> Tool:
    parameters = _json_object(tool.parameters, f"{field}.parameters") if tool.parameters else {}
    return Tool(tool.name, tool.description, parameters, tool.strict)


def _tool_choice(choice: pb.ToolChoice) -> ToolChoice:
    return ToolChoice(_known(_CHOICES, choice.mode, "tool_choice.mode"), choice.name)


def _response_format(message: pb.ResponseFormat) -> ResponseFormat | None:
    match message.WhichOneof("kind"):
        case "json_object":
            return ResponseFormat("json_object")
        case "json_schema":
            wanted = message.json_schema
            field = "response_format.json_schema.schema"
            if not wanted.schema:
                raise InvalidRequest(f"{field} is empty; expected the JSON text of a JSON schema", field=field)
            return ResponseFormat("json_schema", wanted.name, _json_object(wanted.schema, field), wanted.strict)
        case "text":
            return ResponseFormat("text")
    return None


# --- out ------------------------------------------------------------------------------------------------------------------------


def generate_response(call: Call, now: float, *, with_text: bool) -> pb.GenerateResponse:
    """The answer of a call that ended well; a stream's `end` has no text."""
    answer, served = call.answer, call.served
    assert answer is not None and served is not None and answer.finish is not None  # noqa: S101, PT018  (the pipeline has returned)
    response = pb.GenerateResponse(id=call.id, finish_reason=FINISHES[answer.finish], model=served.model.id, provider=served.model.provider)
    _account(response, call, served, now)
    if answer.head is not None and answer.head.request_id:
        response.provider_request_id = answer.head.request_id
    if call.recalled is not None:
        _recalled(response.cache, call.recalled)
    else:
        response.cache.kind = pb.CacheResult.KIND_NONE
    if with_text:
        response.text = answer.text
        if answer.reasoning:
            response.reasoning = answer.reasoning
    if answer.finish == "tool_calls" or answer.tool_calls:
        response.tool_calls.extend(tool_call_messages(answer))
    return response


def repeated_response(call: Call, now: float, before: pb.GenerateResponse) -> pb.GenerateResponse:
    """The answer of a call that was answered from memory with the very answer of `before`."""
    assert call.recalled is not None  # noqa: S101  (it has been answered from memory)
    response = pb.GenerateResponse()
    response.CopyFrom(before)
    response.id = call.id
    _set(response.timing.total, now - call.arrived)
    _set(response.cache.age, call.recalled.age_ns / 1e9)
    return response


def to_repeat(response: pb.GenerateResponse) -> pb.GenerateResponse:
    """What stays the same when it is given again from memory: everything but the call's id and the times."""
    before = pb.GenerateResponse()
    before.CopyFrom(response)
    before.ClearField("id")
    before.ClearField("timing")
    before.cache.ClearField("age")
    return before


def _recalled(cache: pb.CacheResult, how: Recalled) -> None:
    cache.kind, cache.similarity, cache.score = KINDS[how.kind], how.similarity, how.score
    _set(cache.age, how.age_ns / 1e9)
    cache.source_call_id, cache.saved_nano_usd, cache.joined = how.source, how.saved_nano_usd, how.joined


def embed_response(call: Call, now: float) -> pb.EmbedResponse:
    vectors, served = call.vectors, call.served
    assert vectors is not None and served is not None  # noqa: S101, PT018  (the pipeline has returned)
    response = pb.EmbedResponse(id=call.id, model=served.model.id, provider=served.model.provider)
    response.vectors.extend([pb.Vector(values=vector) for vector in vectors.vectors])
    response.cached_inputs = call.cached_inputs
    _account(response, call, served, now)
    if vectors.head is not None and vectors.head.request_id:
        response.provider_request_id = vectors.head.request_id
    return response


def count_response(call: Call) -> pb.CountTokensResponse:
    best = call.candidates[0]
    model = best.model
    response = pb.CountTokensResponse(
        input_tokens=best.input_tokens,
        estimated=best.estimated,
        model=model.id,
        provider=model.provider,
        tokenizer=model.tokenizer,
        context_tokens=model.context_tokens,
    )
    set_cost(response.input_cost, model.prices.most(best.input_tokens, 0), model)
    return response


def _account(response: pb.GenerateResponse | pb.EmbedResponse, call: Call, served: Candidate, now: float) -> None:
    """Fill in what the answer took. In place and zeros left out: making each part first and copying it in costs three times as much."""
    usage, found = call.usage, response.usage
    if usage.input_tokens:
        found.input_tokens = usage.input_tokens
    if usage.cached_input_tokens:
        found.cached_input_tokens = usage.cached_input_tokens
    if usage.cache_write_tokens:
        found.cache_write_tokens = usage.cache_write_tokens
    if usage.output_tokens:
        found.output_tokens = usage.output_tokens
    if usage.reasoning_tokens:
        found.reasoning_tokens = usage.reasoning_tokens
    found.estimated = call.estimated
    set_cost(response.cost, call.nano_usd, served.model if call.attempts else None)
    timing = response.timing
    _set(timing.total, now - call.arrived)
    if call.begun is not None:
        _set(timing.queue, call.begun - call.arrived)
    if call.first_piece is not None:
        _set(timing.first_token, call.first_piece - call.arrived)
    response.fallback = served.fallback
    response.attempts.extend(attempts_message(call))
    if call.notices:
        response.notices.extend(call.notices)


def start_event(call: Call, start: Start) -> pb.StreamEvent:
    model = start.candidate.model
    begin = pb.StreamStart(id=call.id, model=model.id, provider=model.provider, fallback=start.candidate.fallback)
    if start.restart:
        return pb.StreamEvent(restart=pb.StreamRestart(reason=start.restart, start=begin))
    return pb.StreamEvent(start=begin)


def delta_events(call: Call, chunks: Sequence[Chunk]) -> list[pb.StreamEvent]:
    """The pieces in these chunks as few events as they allow: neighbouring pieces of one kind are joined."""
    if len(chunks) == 1 and not chunks[0].tool_calls and not chunks[0].reasoning:  # nearly always
        return [pb.StreamEvent(text_delta=chunks[0].text)] if chunks[0].text else []
    events: list[pb.StreamEvent] = []
    text: list[str] = []
    reasoning: list[str] = []

    def flush() -> None:
        if reasoning:
            events.append(pb.StreamEvent(reasoning_delta="".join(reasoning)))
            reasoning.clear()
        if text:
            events.append(pb.StreamEvent(text_delta="".join(text)))
            text.clear()

    for chunk in chunks:
        if chunk.reasoning:
            if text:
                flush()
            reasoning.append(chunk.reasoning)
        if chunk.text:
            if reasoning:
                flush()
            text.append(chunk.text)
        for delta in chunk.tool_calls:
            flush()
            assert call.answer is not None  # noqa: S101  (it has taken these chunks in)
            place = call.answer.tool_index(delta.index)
            piece = pb.ToolCallDelta(index=place, id=delta.id, name=delta.name, arguments=delta.arguments, signature=delta.signature)
            events.append(pb.StreamEvent(tool_call_delta=piece))
    flush()
    return events


def usage_message(call: Call) -> pb.Usage:
    usage = call.usage
    return pb.Usage(
        input_tokens=usage.input_tokens or 0,
        cached_input_tokens=usage.cached_input_tokens or 0,
        cache_write_tokens=usage.cache_write_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        reasoning_tokens=usage.reasoning_tokens or 0,
        estimated=call.estimated,
    )


def set_cost(cost: pb.Cost, nano_usd: int, model: Model | None) -> None:
    """A price, and the day of the price list it is from. Without a model nothing was priced."""
    cost.nano_usd = nano_usd  # set even if it is 0: the message is there, and says so
    if model is not None and model.as_of is not None:
        cost.as_of = model.as_of.isoformat()


def attempts_message(call: Call) -> list[pb.Attempt]:
    return [
        pb.Attempt(
            provider=t.candidate.model.provider,
            model=t.candidate.model.id,
            outcome=t.outcome,
            ms=t.duration_ns // 1_000_000,
            endpoint=t.candidate.endpoint,
            nano_usd=t.nano_usd,
        )
        for t in call.attempts
    ]


def tool_call_messages(answer: Answer) -> list[pb.ToolCall]:
    return [pb.ToolCall(id=c.id, name=c.name, arguments=c.arguments, signature=c.signature) for c in answer.tool_calls]


def duration(seconds: float) -> Duration:
    message = Duration()
    _set(message, seconds)
    return message


def _set(message: Duration, seconds: float) -> None:
    nanos = int(seconds * 1e9)
    if nanos >= 1_000_000_000:
        message.seconds, nanos = divmod(nanos, 1_000_000_000)
    message.nanos = nanos  # set even if it is 0: the message is there, and says so
