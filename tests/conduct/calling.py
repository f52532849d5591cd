"""Calls the real sidecar while its provider does one of the faults, and notes what the caller saw."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from msgspec import Struct

from sidecar.v1 import llm_pb2 as pb
from tests.conduct.faults import FAULTS, KEYS, WIRES, Fault, Way
from tests.fakes import addresses
from tests.fakes.running import Sidecar, model_row, serving
from tests.fakes.script import Say
from tests.fakes.upstream import Upstream
from tests.flow.reading import failure, read_stream

AT_ONCE = 16  # cases at a time: more would make the times those of a crowd

FALLBACK_TEXT = "From the fallback."
BROKEN_OFF = ("STREAM_CUT", "PROVIDER_GARBLED")

# Of a failure before anything was sent on; what broke after that is DATA_LOSS.
CODES = {
    "ok": "OK",
    "PROVIDER_UNAVAILABLE": "UNAVAILABLE",
    "PROVIDER_TIMEOUT": "UNAVAILABLE",
    "PROVIDER_GARBLED": "UNAVAILABLE",
    "PROVIDER_EMPTY": "UNAVAILABLE",
    "PROVIDER_WRONG_TYPE": "UNAVAILABLE",
    "STREAM_CUT": "DATA_LOSS",
    "PROVIDER_RATE_LIMITED": "RESOURCE_EXHAUSTED",
    "PROVIDER_QUOTA_EXHAUSTED": "RESOURCE_EXHAUSTED",
    "PROVIDER_AUTH_FAILED": "FAILED_PRECONDITION",
    "PROVIDER_REJECTED": "INVALID_ARGUMENT",
    "PROVIDER_CONTEXT_EXCEEDED": "INVALID_ARGUMENT",
    "PROVIDER_MODEL_UNKNOWN": "NOT_FOUND",
}

# The shipped policy, with shorter waits and limits of time; all cases share their providers, so that budgets of
# retries are large, and no refused key is set aside.
SETTINGS = """
[profile]
primary = "compatible/spare"
fallbacks = []
embedding = "compatible/spare"
embedding_fallbacks = []

[nodes.conduct.chain]
primary = "compatible/spare"
fallbacks = []

[timeouts]
headers_ms = 500
first_token_ms = 700
idle_ms = 600
answer_ms = 900

[retries]
budget_percent = 100
budget_most = 100_000
set_aside_ms = 1

[limits]
tenant_day_tokens = 1_000_000_000
tenant_day_usd = "1000000"
"""
QUICK = "".join(
    f"[retries.{failure}]\nwaits_ms = [30]\n"
    for failure in ("rate_limited", "unavailable", "garbled", "stream_cut", "timeout", "first_token")
)


class Case(Struct, frozen=True):
    """One fault at one provider, in one way to call it, with or without a fallback."""

    fault: Fault
    provider: str
    way: Way
    with_fallback: bool

    @property
    def at(self) -> str:
        """The provider's name in settings."""
        where = self.fault.where.replace("_", "-")
        return f"{where}-{self.provider}" if where else self.provider

    @property
    def model(self) -> str:
        """A model that no other case asks, so that its breaker and its script are its own."""
        named = re.sub(r"\W+", "-", self.fault.name).strip("-").lower()
        return f"{FAULTS.index(self.fault)}-{named}-{self.provider}-{self.way}-{'chain' if self.with_fallback else 'alone'}"

    @property
    def is_moved(self) -> bool:
        """Is it the fallback that answers?"""
        return self.with_fallback and self.fault.moves_on

    def wanted(self) -> dict[str, object]:
        """What the caller must see, as far as it is certain: the names are those of `Seen`."""
        fault = self.fault
        tries = fault.tries
        if self.with_fallback or (fault.is_silent and self.way == "stream"):
            tries = min(tries, 3)
        if self.with_fallback and fault.tries_first is not None:
            tries = fault.tries_first
        reason = "ok" if self.is_moved else fault.reason
        wanted: dict[str, object] = {"reason": reason, "asked": tries, "fallback": self.is_moved}
        wanted["code"] = "DATA_LOSS" if fault.sent else CODES[reason]
        if self.way != "embed":
            wanted["text"] = FALLBACK_TEXT if self.is_moved else fault.text
            wanted["finish"] = "STOP" if self.is_moved else fault.finish
            if self.way == "unary" and reason in BROKEN_OFF:
                del wanted["text"]  # a whole reply without its end is told with its text
        return wanted


CASES = [Case(fault, wire, way, chain) for fault in FAULTS for wire, way in fault.cases() for chain in (False, True)]


class Seen(Struct):
    """What the caller saw. `code` and `reason` are OK and `ok` for an answer; `asked` is how often the faulty provider was."""

    code: str
    reason: str
    text: str
    finish: str
    fallback: bool
    outcomes: list[str]
    asked: int
    took_ms: float
    message: str = ""


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[Sidecar, Upstream]]:
    """A sidecar with all providers, those at the fake and those at addresses where nobody answers."""
    async with Upstream() as upstream, addresses.addresses(folder, upstream.url) as nowhere:
        tables = [SETTINGS, QUICK, model_row("compatible-spare", "compatible", name="spare")]
        for provider in WIRES:
            tables.append(_table(provider, provider, upstream.url))
            tables += [_table(f"{way.replace('_', '-')}-{provider}", provider, url) for way, url in nowhere.items()]
        tables += [model_row(case.model, case.at) for case in CASES]
        async with serving(folder, "".join(tables)) as running:
            yield running, upstream


def _table(name: str, kind: str, url: str) -> str:
    path = {"openai": "/v1", "compatible": "/compatible/v1"}.get(kind, "")
    keys = dict(zip(("openai", "anthropic", "google"), KEYS, strict=True))
    key = f'api_key = "{keys[kind]}"\n' if kind in keys else ""
    return f'[providers.{name}]\nkind = "{kind}"\nbase_url = "{url}{path}"\nconnect_timeout_ms = 300\n{key}'


async def perform(sidecar: Sidecar, upstream: Upstream, case: Case) -> Seen:
    """One call."""
    model, fault = case.model, case.fault
    if not fault.where:
        upstream.on(model, fault.script(case.provider))
    caller = pb.Caller(service="conduct", node="conduct.chain" if case.with_fallback else "", tenant="t")
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    try:
        if case.way == "embed":
            embed = pb.EmbedRequest(inputs=["a", "b", "c"], model=model, caller=caller)
            seen = _embedded(await sidecar.llm.Embed(embed, timeout=20))
        else:
            ask = pb.GenerateRequest(prompt="Tell me a story.", model=model, caller=caller)
            seen = await (_streamed if case.way == "stream" else _whole)(sidecar, ask)
    except grpc.aio.AioRpcError as error:
        seen = _failed(error, "")
    seen.took_ms = (loop.time() - began_at) * 1000
    seen.asked = sum(outcome.startswith(f"{model} ") for outcome in seen.outcomes)
    if not fault.where:
        assert seen.asked == len(upstream.asked(model)), f"{model}: {seen.outcomes} is told, {len(upstream.asked(model))} requests came"
    return seen


def _outcomes(attempts: list[pb.Attempt]) -> list[str]:
    return [f"{a.model} {a.outcome}" for a in attempts]


async def _whole(sidecar: Sidecar, ask: pb.GenerateRequest) -> Seen:
    reply = await sidecar.llm.Generate(ask, timeout=20)
    return _answered(reply, reply.text)


async def _streamed(sidecar: Sidecar, ask: pb.GenerateRequest) -> Seen:
    result, error = await read_stream(sidecar.llm.Stream(ask, timeout=20))
    if error is not None:
        return _failed(error, result.text)
    assert result.end is not None
    return _answered(result.end, result.text)


def _answered(reply: pb.GenerateResponse, text: str) -> Seen:
    finish = pb.FinishReason.Name(reply.finish_reason).removeprefix("FINISH_REASON_")
    return Seen("OK", "ok", text, finish, reply.fallback, _outcomes(list(reply.attempts)), 0, 0)


def _embedded(reply: pb.EmbedResponse) -> Seen:
    assert len(reply.vectors) == 3
    marked = any("another space" in notice for notice in reply.notices)
    assert marked == reply.fallback, f"{reply.notices} for fallback {reply.fallback}"
    return Seen("OK", "ok", "", "", reply.fallback, _outcomes(list(reply.attempts)), 0, 0)


def _failed(error: grpc.aio.AioRpcError, streamed_text: str) -> Seen:
    got = failure(error)
    partial = got.partial
    if partial is not None and streamed_text:
        assert partial.text == streamed_text
    outcomes = [] if partial is None else _outcomes(list(partial.attempts))
    text = "" if partial is None else partial.text
    return Seen(got.code.name, got.reason, text, "", False, outcomes, 0, 0, got.message)


async def perform_all(sidecar: Sidecar, upstream: Upstream) -> dict[Case, Seen | Exception]:
    """Each case once, a few at a time; an exception is an answer that contradicts itself.

    A refused key is left out for a moment by all calls, so those cases come last and one by one.
    """
    upstream.on("spare", Say(pieces=(FALLBACK_TEXT,)))
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Seen | Exception:
        async with gate:
            try:
                return await perform(sidecar, upstream, case)
            except (AssertionError, TimeoutError) as error:
                return error

    refused = [case for case in CASES if case.fault.reason == "PROVIDER_AUTH_FAILED"]
    others = [case for case in CASES if case not in refused]
    seen = dict(zip(others, await asyncio.gather(*map(one, others)), strict=True))
    for case in refused:
        seen[case] = await one(case)
        await asyncio.sleep(0.005)
    return seen
