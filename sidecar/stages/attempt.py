"""Ask; retry; fall back while nothing has been sent on. The only place that retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from math import inf

from sidecar import schemas
from sidecar._core import Refusal
from sidecar.answer import Answer
from sidecar.billing import billed, tokens
from sidecar.call import (
    Call,
    Candidate,
    Chunk,
    EmbedAsk,
    EmbedRequest,
    GenerateAsk,
    GenerateRequest,
    Start,
    Tried,
)
from sidecar.engine import Engine
from sidecar.errors import (
    InternalError,
    ProviderGarbled,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    SidecarError,
)
from sidecar.policies.quotas import observe
from sidecar.policies.retries import NEXT, RULES, Rule, counts_against, wait_ms
from sidecar.time_limit import TimeLimit

_NO_ANSWER = ("refusal", "content_filter", "tool_calls")  # ends that no schema was promised for; one cut by `length` must still fit
_LEAST_LEFT_S = 0.01  # an attempt that has less time than this is not begun


async def attempt(engine: Engine, call: Call) -> None:
    """Ask the candidates until one gives a whole answer, within the call's deadline and the table in `policies/retries.py`.

    Writes begun, attempts, served, answer (also a broken one), vectors, first_piece, sent. Raises the last candidate's ProviderError or
    SchemaViolated; TimeoutError (from the pipeline) at the deadline. After the first piece was sent on nothing is retried, unless the
    caller chose `on_cut: restart`.
    """
    if time.monotonic() + _LEAST_LEFT_S > call.deadline:  # not loop.time(): uvloop's is that of the turn's beginning
        raise TimeoutError  # nobody is asked for a caller whose time is up: a cancellation would come after the question
    turns = [_Turn(candidate) for candidate in call.candidates]
    failure: SidecarError | None = None
    while turns:
        turn = turns.pop(0)
        if turn.retries:
            await _wait_until(turn.not_before)
        try:
            await _ask(engine, call, turn.candidate)
        except SidecarError as error:
            if call.sent and not _may_restart(call):
                raise
            rule = NEXT if isinstance(error, _Closed) else RULES.get(type(error))
            if rule is None:
                raise
            failure = _shortest_wait(failure, error)
            if not _again(engine, call, turn, turns, rule, error) and not rule.move_on:
                raise
        else:
            return
    raise failure or InternalError("no candidate was tried")


class _Turn:
    """A candidate waiting for its next try."""

    __slots__ = ("candidate", "not_before", "retries")

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.retries = 0
        self.not_before = 0.0


def _again(engine: Engine, call: Call, turn: _Turn, turns: list[_Turn], rule: Rule, error: SidecarError) -> bool:
    """Queue another try of the same model, if the table, its breaker and the deadline allow one."""
    if turn.retries >= rule.retries:
        return False
    model = turn.candidate.model
    if turns and engine.breakers.of(call.service, f"{model.provider}/{model.name}").state(engine.clock_ns()) == "open":
        return False  # waiting for a try that will not be let through would only keep the next model waiting
    pause = wait_ms(rule, error, turn.retries, engine.random) / 1000
    turn.not_before = asyncio.get_running_loop().time() + pause
    if turn.not_before + _LEAST_LEFT_S >= call.deadline or (turns and error.retry_after_ms is not None and pause > _longest_wait(call)):
        return False
    turn.retries += 1
    turns.insert(len(turns) if rule.others_first else 0, turn)
    return True


def _longest_wait(call: Call) -> float:
    """With another candidate at hand, at most half of the time left is spent waiting for this one."""
    return (call.deadline - asyncio.get_running_loop().time()) / 2


async def _wait_until(moment: float) -> None:
    pause = moment - asyncio.get_running_loop().time()
    if pause > 0:
        await asyncio.sleep(pause)


def _may_restart(call: Call) -> bool:
    return isinstance(call.request, GenerateRequest) and call.request.on_cut == "restart"


def _shortest_wait(before: SidecarError | None, now: SidecarError) -> SidecarError:
    """The error to tell when all fails: the last real one, with the shortest wait that any candidate asked for."""
    if before is None:
        return now
    told = before if isinstance(now, _Closed) and not isinstance(before, _Closed) else now
    waits = [w for w in (before.retry_after_ms, now.retry_after_ms) if w is not None]
    told.retry_after_ms = min(waits) if waits else None
    return told


class _Closed(ProviderUnavailable):
    """No attempt was made: the breaker is open."""


async def _ask(engine: Engine, call: Call, candidate: Candidate) -> None:
    """One try: permit, quota, the provider's answer with proof that it is whole, and one record of how it ended."""
    name = f"{candidate.model.provider}/{candidate.model.name}"
    now_ns = engine.clock_ns()
    breaker = engine.breakers.of(call.service, name)
    permit = breaker.permit(now_ns)
    if isinstance(permit, Refusal):
        wait_ns = None if permit.retry_at_ns is None else max(0, permit.retry_at_ns - now_ns)
        raise _Closed(f"{candidate.model.id} failed too often and is not asked for a while", retry_after_ms=_ms(wait_ns))
    quota = engine.quotas.of(candidate.model)
    asked = candidate.input_tokens + candidate.max_output_tokens
    if quota is not None:
        exceeded = quota.take(asked, now_ns)
        if exceeded is not None:
            breaker.ignore(permit, now_ns)
            left = f"{exceeded.remaining} of {exceeded.limit} {exceeded.unit} a minute are left"
            raise RateLimited(f"the quota of {candidate.model.id} is used up: {left}", retry_after_ms=_ms(exceeded.retry_after_ns))
    if call.begun is None:
        call.begun = time.monotonic()
    call.answer = answer = Answer()
    call.served = candidate
    outcome: SidecarError | None = None
    ended = False
    try:
        if isinstance(call.request, EmbedRequest):
            await _embed(engine, call, candidate, call.request)
        else:
            await _generate(engine, call, candidate, call.request, answer)
        ended = True
    except SidecarError as error:
        outcome = error
        ended = True
        raise
    finally:
        # Also reached when the caller went away or the deadline passed: then nobody can be blamed, and what came is still paid for.
        end_ns = engine.clock_ns()
        if outcome is None and ended:
            breaker.success(permit, end_ns)
        elif outcome is not None and counts_against(outcome):
            breaker.failure(permit, end_ns)
        else:
            breaker.ignore(permit, end_ns)
        usage, estimated = billed(call, candidate, answer, outcome, ended=ended)
        if quota is not None:
            quota.give_back(max(0, asked - tokens(usage)), end_ns)
            head = answer.head if call.vectors is None else call.vectors.head
            if head is not None and head.limits:
                observe(quota, head.limits, end_ns)
        call.attempts.append(
            Tried(
                candidate,
                "ok" if outcome is None and ended else outcome.reason if outcome is not None else "INTERRUPTED",
                end_ns - now_ns,
                usage,
                estimated,
                candidate.model.prices.cost(usage),
            )
        )
        engine.meter.attempt(candidate.model.provider, outcome)


def _ms(ns: int | None) -> int | None:
    return None if ns is None else ns // 1_000_000 + 1


async def _embed(engine: Engine, call: Call, candidate: Candidate, request: EmbedRequest) -> None:
    provider = candidate.provider
    dimensions = request.dimensions
    if dimensions is None and "dimensions" in candidate.model.capabilities & provider.features:
        dimensions = candidate.model.dimensions  # the catalogue's length may differ from the provider's own default
    idle_s = engine.settings.timeouts.idle_ms / 1000
    try:
        with TimeLimit(asyncio.get_running_loop().time() + idle_s):
            reply = await provider.embed(EmbedAsk(candidate.model.name, request.inputs, dimensions, request.provider_options))
    except TimeoutError:
        raise ProviderTimeout(f"{provider.name} sent nothing for {idle_s} s") from None
    if len(reply.vectors) != len(request.inputs):
        raise ProviderGarbled(f"{provider.name} answered {len(reply.vectors)} vectors for {len(request.inputs)} inputs")
    call.vectors = reply
    if candidate.fallback:
        wanted = call.candidates[0].model.id if call.candidates[0] is not candidate else "the model wanted first"
        call.notices.append(f"these vectors are {candidate.model.id}'s, not {wanted}'s: another space; never mix them into one index")


async def _generate(engine: Engine, call: Call, candidate: Candidate, request: GenerateRequest, answer: Answer) -> None:
    """Stream or not, the answer comes as chunks through `emit`; awaiting the door is the back-pressure on the provider."""
    now = asyncio.get_running_loop().time
    timeouts = engine.settings.timeouts
    idle_s = timeouts.idle_ms / 1000
    strict = call.response_format is not None and call.response_format.strict
    streaming = call.send is not None
    # A strict answer is checked before anybody sees it, and a held one is proven whole: both go on in one piece at the end.
    send = None if strict or request.on_cut == "hold" else call.send
    begun = False

    async def emit(chunks: Sequence[Chunk]) -> None:
        nonlocal begun
        pieces = False
        for chunk in chunks:
            pieces = answer.add(chunk) or pieces
        if pieces and call.first_piece is None:
            call.first_piece = time.monotonic()
        begun = begun or pieces
        if not streaming or not begun:
            return  # headers, roles and pings are no token: the first one is still waited for
        if pieces and send is not None:
            silence.until = inf  # a slow reader is not a silent provider
            if call.sent is answer:
                await send(chunks)
            else:
                await _send_on(call, candidate, chunks)
        silence.until = now() + idle_s

    first_s = timeouts.first_token_ms / 1000
    silence = TimeLimit(now() + (first_s if streaming else idle_s))  # a unary reply is silence until it is whole
    try:
        with silence:
            await candidate.provider.generate(_written(call, candidate, request), emit)
    except TimeoutError:
        what = f"sent no first token within {first_s} s" if streaming and not begun else f"sent nothing for {idle_s} s"
        raise ProviderTimeout(f"{candidate.model.provider} {what}") from None
    answer.prove(candidate.model.provider)
    if strict and answer.finish not in _NO_ANSWER and call.response_format is not None and call.response_format.schema is not None:
        schemas.require_fit(answer.text, call.response_format.schema, candidate.model.id)
    if call.send is None:
        return
    if send is None:
        held = Chunk(text=answer.text, reasoning=answer.reasoning, tool_calls=answer.tool_deltas(), finish=answer.finish)
        await _send_on(call, candidate, (held,))
    elif call.sent is not answer:
        await _send_on(call, candidate, ())  # an answer without a word has a beginning too


async def _send_on(call: Call, candidate: Candidate, chunks: Sequence[Chunk]) -> None:
    assert call.send is not None  # noqa: S101  (the caller asked)
    if call.sent is not call.answer:  # each try has an answer of its own, also the same candidate's second one
        restart = call.attempts[-1].outcome if call.sent else ""
        call.sent = call.answer
        await call.send(Start(candidate, restart))
    await call.send(chunks)


def _written(call: Call, candidate: Candidate, request: GenerateRequest) -> GenerateAsk:
    """The request for this candidate: the node's temperature where the caller gave none and the model takes one."""
    temperature = request.temperature
    if temperature is None and call.node is not None and "sampling" in candidate.model.capabilities & candidate.provider.features:
        temperature = call.node.temperature
    return GenerateAsk(
        candidate.model.name,
        call.messages,
        call.send is not None,
        candidate.max_output_tokens,
        temperature,
        request.top_p,
        request.stop,
        request.seed,
        call.response_format,
        request.tools,
        request.tool_choice,
        request.provider_options,
    )
