"""One try at one candidate: permit, quota, the provider's answer with proof that it is whole, and one record of how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf

from msgspec.structs import replace

from sidecar import schemas
from sidecar._core import Exceeded, Refusal
from sidecar.answer import Answer
from sidecar.billing import billed, images
from sidecar.caching import Batch
from sidecar.call import Call, Candidate, Chunk, EmbedAsk, GenerateAsk, Head, Start, Tried, Vectors
from sidecar.engine import Engine
from sidecar.errors import (
    ProviderAuthFailed,
    ProviderGarbled,
    ProviderModelUnknown,
    ProviderQuotaExhausted,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    SidecarError,
)
from sidecar.policies.quotas import Quota
from sidecar.policies.retries import counts_against
from sidecar.request import EmbedRequest, GenerateRequest
from sidecar.time_limit import TimeLimit

_NO_ANSWER = ("refusal", "content_filter", "tool_calls")  # ends that no schema was promised for; one cut by `length` must still fit
_GRAIN_S = 0.005  # limits of time may end a little early
_LONGEST_OPEN_MS = 86_400_000  # a provider's figure beyond a day is no figure


class NotAsked(ProviderUnavailable):
    """No attempt was made: the breaker is open. Without `retry_after_ms` a trial is out, and how it ends will soon be known."""


class Race:
    """Two tries of one call at the same time: the first that has something to say wins, the other one is cancelled."""

    def __init__(self) -> None:
        self.winner: Try | None = None
        self.tasks: dict[Try, asyncio.Task[None]] = {}
        self.begun = asyncio.Event()

    def claim(self, entrant: Try) -> None:
        """Called before anything is passed on. Raises CancelledError in a try that has lost."""
        if self.winner is None:
            self.winner = entrant
            self.begun.set()
            for other, task in self.tasks.items():
                if other is not entrant:
                    task.cancel()
        elif self.winner is not entrant:
            raise asyncio.CancelledError


class Try:
    """One try. Writes begun, attempts, served, answer, vectors, first_piece and sent of the call, for the attempt stage.

    `share_until` (the clock's seconds, or inf): so long it may be silent, since what is left then belongs to a candidate that is untried.
    In a `race` the call's own state is written only by the try that won.
    """

    def __init__(self, engine: Engine, call: Call, candidate: Candidate, share_until: float, race: Race | None = None) -> None:
        self._engine = engine
        self._call = call
        self._candidate = candidate
        self._share_until = share_until
        self._race = race
        self._answer = Answer()
        self._vectors: Vectors | None = None
        self._asked_at = 0.0
        self._billed_as = candidate
        self._is_proof = True  # how it ends says something of the model
        self.opened = False  # it was the failure too many for its breaker

    async def run(self) -> None:
        """Ask, and return when the whole answer has come and gone on.

        Raises NotAsked or RateLimited where nobody was asked, ProviderError, SchemaViolated. However it ends, the breaker is told once
        and the try is on the call's list with its price.
        """
        engine, call, candidate = self._engine, self._call, self._candidate
        asked_ns = engine.clock_ns()
        breaker = engine.breakers.of(call.service, candidate.target)
        permit = breaker.permit(asked_ns)
        if isinstance(permit, Refusal):
            wait_ns = None if permit.retry_at_ns is None else max(0, permit.retry_at_ns - asked_ns)
            raise NotAsked(f"{candidate.model.id} failed too often and is not asked for a while", retry_after_ms=_ms(wait_ns))
        quota = engine.quotas.of(candidate)
        if quota is not None:
            exceeded = quota.take(candidate, asked_ns)
            if exceeded is not None:
                breaker.ignore(permit, asked_ns)
                raise self._quota_used_up(quota, exceeded, asked_ns)
        self._asked_at = asked_ns / 1e9
        if call.begun is None:
            call.begun = self._asked_at
        if self._race is None:
            self._adopt()
        outcome: SidecarError | None = None
        ended = False
        try:
            if isinstance(call.request, EmbedRequest):
                await self._embed(call.request)
            else:
                await self._generate(call.request)
            ended = True
        except SidecarError as error:
            outcome = error
            ended = True
            raise
        finally:
            # Also reached when the caller went away, time was up or another try won: nobody can be blamed, and what came is paid for.
            end_ns = engine.clock_ns()
            if outcome is None and ended and self._is_proof:
                breaker.success(permit, end_ns)
                engine.endpoints.succeeded(candidate)
            elif outcome is not None and counts_against(outcome):
                self.opened = breaker.failure(permit, end_ns, self._open_for_ns(outcome))
            else:
                breaker.ignore(permit, end_ns)
            self._record(outcome, ended, asked_ns, end_ns, quota)

    def _open_for_ns(self, error: SidecarError) -> int | None:
        """A provider that asks for a longer wait than this call can give, or a service that wants it so: nobody asks until then."""
        asked_ms = error.retry_after_ms
        if not asked_ms or not isinstance(error, ProviderRateLimited | ProviderUnavailable):
            return None
        service = self._engine.settings.services.get(self._call.service)
        at_once = service is not None and service.breaker_opens_on_rate_limit and isinstance(error, ProviderRateLimited)
        if at_once or self._now() + asked_ms / 1000 > self._call.deadline:
            return min(asked_ms, _LONGEST_OPEN_MS) * 1_000_000
        return None

    def _quota_used_up(self, quota: Quota, exceeded: Exceeded, now_ns: int) -> RateLimited:
        """Tell the caller in plain words, and operators once a minute."""
        target, model = self._candidate.target, self._candidate.model.id
        why = f"the quota of {model} is used up: {exceeded.remaining} of {exceeded.limit} {exceeded.unit} a minute are left"
        notice = f"{model} may not be asked more this minute (its quota of {exceeded.unit} is used up)"
        if notice not in self._call.notices:
            self._call.notices.append(notice)
        if quota.is_worth_telling(now_ns):
            self._engine.meter.event("alert", f"{why}; others answer, or calls wait", key=f"quota {target}", unit=exceeded.unit)
        return RateLimited(why, retry_after_ms=_ms(exceeded.retry_after_ns))

    def _record(self, outcome: SidecarError | None, ended: bool, asked_ns: int, end_ns: int, quota: Quota | None) -> None:
        engine, call, candidate = self._engine, self._call, self._candidate
        lost = self._race is not None and self._race.winner not in (None, self)
        if self._race is not None and self._race.winner is None:
            self._adopt()  # nobody has won yet: of several that fail the last one is told of
        usage, estimated, problem = billed(call, self._billed_as, self._answer, self._vectors, outcome, ended=ended)
        if quota is not None:
            quota.give_back(candidate, usage, end_ns)
        said = "HEDGED" if lost else "ok" if outcome is None and ended else outcome.reason if outcome is not None else "INTERRUPTED"
        prices = candidate.model.prices
        cost = prices.cost(usage, images(call) if prices.image else 0)
        call.attempts.append(Tried(candidate, said, end_ns - asked_ns, usage, estimated or (prices.is_estimated and cost > 0), cost))
        if problem:
            told = f"{candidate.target} reports usage that cannot be true, and what we counted was posted instead: {problem}"
            engine.meter.event("alert", told, "error", target=candidate.target, call=call.id)
        engine.meter.attempt(candidate.model.provider, outcome)
        if outcome is not None:
            self._set_aside(outcome, end_ns)

    def _observe(self, head: Head | None) -> None:
        """What the provider says is left, as soon as it says so: by the end of a stream that would be an old figure."""
        if head is not None and head.limits:
            self._engine.quotas.observe(self._candidate, head.limits, self._engine.clock_ns(), self._engine.wall_ns())

    def _set_aside(self, error: SidecarError, now_ns: int) -> None:
        """A refused key, an empty account, a model that is gone: others go first until that may have changed."""
        candidate = self._candidate
        if isinstance(error, ProviderAuthFailed) and error.status != 403:
            key = candidate.target.partition("/")[0]
        elif isinstance(error, ProviderAuthFailed | ProviderQuotaExhausted | ProviderModelUnknown):
            key = candidate.target  # 403 is mostly about one model or feature that this key may not use
        else:
            return
        wait_ms = max(error.retry_after_ms or 0, self._engine.settings.retries.set_aside_ms)
        self._engine.endpoints.set_aside(key, now_ns + min(wait_ms, _LONGEST_OPEN_MS) * 1_000_000, error.reason)

    def _adopt(self) -> None:
        call = self._call
        call.answer, call.served = self._answer, self._candidate

    def _now(self) -> float:
        return self._engine.clock_ns() / 1e9

    def _limits(self) -> tuple[float, float, float]:
        """First piece, silence, whole: in seconds, the node's before the deployment's."""
        node, timeouts = self._call.node, self._engine.settings.timeouts
        first = (node.first_token_ms if node else None) or timeouts.first_token_ms
        idle = (node.idle_ms if node else None) or timeouts.idle_ms
        answer = (node.answer_ms if node else None) or timeouts.answer_ms
        return first / 1000, idle / 1000, answer / 1000

    async def _embed(self, request: EmbedRequest) -> None:
        call, candidate, provider = self._call, self._candidate, self._candidate.provider
        known = Batch(self._engine, call, request, candidate)
        if known.is_partial:
            self._billed_as = replace(candidate, input_tokens=known.missing_tokens)
        if not known.missing:
            self._is_proof = False
            self._vectors = call.vectors = known.whole(None)
            return
        _, _, answer_s = self._limits()
        began = self._now()
        until = min(began + answer_s, self._share_until)
        try:
            with TimeLimit(until):
                ask = EmbedAsk(candidate.model.name, known.missing, candidate.dimensions(request), request.provider_options)
                self._vectors = reply = await provider.embed(ask)
                self._observe(reply.head)
        except TimeoutError:
            raise self._too_slow(self._now() - began, until < began + answer_s) from None
        if len(reply.vectors) != len(known.missing):
            self._vectors = None
            raise ProviderGarbled(f"{provider.name} answered {len(reply.vectors)} vectors for {len(known.missing)} inputs")
        call.vectors = known.whole(reply)
        if candidate.fallback:
            wanted = call.candidates[0].model.id if call.candidates[0] is not candidate else "the model wanted first"
            call.notices.append(f"these vectors are {candidate.model.id}'s, not {wanted}'s: another space; never mix them into one index")

    async def _generate(self, request: GenerateRequest) -> None:
        """Stream or not, the answer comes as chunks through `emit`; awaiting the door is the back-pressure on the provider."""
        call, candidate, answer, race = self._call, self._candidate, self._answer, self._race
        now = self._now
        timeouts = self._engine.settings.timeouts
        first_s, idle_s, answer_s = self._limits()
        strict = call.response_format is not None and call.response_format.strict
        streaming = call.send is not None
        # A strict answer is checked before anybody sees it, and a held one is proven whole: both go on in one piece at the end.
        send = None if strict or _on_cut(call) == "hold" else call.send
        began = now()
        whole = began + (timeouts.stream_ms / 1000 if streaming else answer_s)
        share = self._share_until
        first = min(whole, share, began + first_s if streaming else inf)
        headers = began + timeouts.headers_ms / 1000 if streaming else inf
        begun = headed = False

        async def emit(chunks: Sequence[Chunk]) -> None:
            nonlocal begun, headed
            pieces = False
            for chunk in chunks:
                pieces = answer.add(chunk) or pieces
                if chunk.head is not None:
                    self._observe(chunk.head)
            if not streaming:
                return
            if not begun:
                if not headed:
                    headed = True
                    silence.until = first
                if not pieces:
                    return  # headers, roles and pings are no token: the first one is still waited for
                begun = True
                if race is not None:
                    race.claim(self)
                    self._adopt()
                self._first_piece()
            if pieces and send is not None:
                silence.until = inf  # a slow reader is not a silent provider
                if call.sent is answer:
                    await send(chunks)
                else:
                    await self._send_on(chunks)
            # What is held back can still be mended, so the next candidate's share is kept for it.
            silence.until = min(now() + idle_s, whole, share if send is None else inf)

        ask = _written(call, candidate, request)
        prompt = self._engine.prefixes.of(call, candidate, ask, self._engine.clock_ns())
        if prompt is not None and prompt.marks:
            ask = replace(ask, cache_marks=prompt.marks)
        silence = TimeLimit(min(first, headers))
        try:
            with silence:
                await candidate.provider.generate(ask, emit)
        except TimeoutError:
            ended = now() + _GRAIN_S
            is_shared = ended >= share and (send is None or not begun)
            raise self._too_slow(ended - began, is_shared, begun=begun, headed=headed, is_whole=ended >= whole) from None
        if prompt is not None:
            self._engine.prefixes.sent(prompt, self._engine.clock_ns())
        answer.prove(candidate.model.provider, may_be_empty=bool(request.stop))
        if strict and answer.finish not in _NO_ANSWER and call.response_format is not None and call.response_format.schema is not None:
            schemas.require_fit(answer.text, call.response_format.schema, candidate.model.id)
        if race is not None:
            race.claim(self)
            self._adopt()
        if not begun:
            self._first_piece()
        if call.send is None:
            return
        if send is None:
            held = Chunk(text=answer.text, reasoning=answer.reasoning, tool_calls=answer.tool_deltas(), finish=answer.finish)
            await self._send_on((held,))
        elif call.sent is not answer:
            await self._send_on(())  # an answer without a word has a beginning too

    def _first_piece(self) -> None:
        now = self._now()
        if self._call.first_piece is None:
            self._call.first_piece = now
        streaming = self._call.send is not None
        self._engine.latencies.add(self._candidate.target, now - self._asked_at, streaming=streaming)

    def _too_slow(
        self, seconds: float, is_shared: bool, *, begun: bool = False, headed: bool = False, is_whole: bool = False
    ) -> ProviderTimeout:
        """`is_shared`: the time was cut short for the next candidate's sake."""
        streaming = self._call.send is not None
        if not streaming:
            what = f"did not answer within {seconds:.1f} s"
        elif not begun:
            what = f"sent {'no first token' if headed else 'no headers'} within {seconds:.1f} s"
        elif is_whole or is_shared:
            what = f"had not ended its answer after {seconds:.1f} s"
        else:
            what = f"sent nothing for {self._limits()[1]:.1f} s"
        error = ProviderTimeout(f"{self._candidate.model.provider} {what}")
        error.first_token = streaming and not begun
        error.hurried = is_shared and (begun or seconds * 1000 < self._engine.settings.timeouts.blame_ms)
        return error

    async def _send_on(self, chunks: Sequence[Chunk]) -> None:
        call = self._call
        assert call.send is not None  # noqa: S101  (the caller asked)
        if call.sent is not self._answer:  # each try has an answer of its own, also the same candidate's second one
            restart = call.attempts[-1].outcome if call.sent else ""
            call.sent = self._answer
            await call.send(Start(self._candidate, restart))
        await call.send(chunks)


def _on_cut(call: Call) -> str:
    said = call.request.on_cut if isinstance(call.request, GenerateRequest) else ""
    own = call.node.on_cut if call.node is not None else "fail"
    if said == "no_restart":  # of a door whose streams cannot say that they begin again
        return "fail" if own == "restart" else own
    return said or own


def may_restart(call: Call) -> bool:
    """May a stream that broke after its first piece begin again from the beginning?"""
    return _on_cut(call) == "restart"


def _ms(ns: int | None) -> int | None:
    return None if ns is None else ns // 1_000_000 + 1


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
