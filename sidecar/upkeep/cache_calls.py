"""Calls that the cache makes itself, through the pipeline like anybody's: held, paid and written down, each with a row of its own.

The tenant, service and node of the call that they are made for pay for them; the run does not, whose steps are its caller's own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final, Literal

from sidecar.call import Call
from sidecar.catalog import Model
from sidecar.engine import Engine
from sidecar.errors import ProviderContextExceeded, ProviderRejected, SidecarError
from sidecar.pipeline import run
from sidecar.policies import model_judge
from sidecar.policies.cache_rules import last_turn
from sidecar.request import Caller, EmbedRequest, GenerateRequest, Priority

_JUDGE_PROMPT: Final = "cache-audit"  # under which a judge's calls are found in the usage log
_JUDGE_S: Final = 30.0
_JUDGE_TOKENS: Final = 1_000  # room for models that think first; two words are asked for
_MOST_JUDGED: Final = 16  # at once


class QuestionVectors:
    """The vector of a call's question by `cache.embedding`, or None: it must not fail the call. A text embedded before costs nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._model = engine.catalog.model(engine.settings.cache.embedding, embedding=True)

    async def __call__(self, call: Call, question: str) -> Sequence[float] | None:
        engine = self._engine
        now = engine.clock_ns() / 1e9
        deadline = min(call.deadline, now + engine.settings.cache.embedding_ms / 1000)
        caller = _caller(call, call.request.caller.priority, user=call.user, plan=call.plan)
        request = EmbedRequest(caller=caller, inputs=(question,), model=self._model.id, cache_mode="default")
        inner = _call(call, request, now, deadline)
        try:
            await run(engine, inner)
        except SidecarError:
            return None  # it has a log line of its own, and the question is asked without
        if inner.vectors is None or not _is_by(inner, self._model):
            return None  # another space
        return inner.vectors.vectors[0]


class ModelJudge:
    """Asks `cache.audit.judge` whether two answers say the same, beside the calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._model = engine.catalog.model(engine.settings.cache.audit.judge)
        self.name = self._model.id  # of the one that is asked, which may have taken the place of a retired one
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, call: Call, fresh: str, remembered: str, tell: Callable[[str | None], None]) -> None:
        if max(len(fresh), len(remembered)) > model_judge.LONGEST:
            tell("length")
        elif len(self._tasks) >= _MOST_JUDGED:
            tell(None)
        else:
            task = asyncio.ensure_future(self._judge(call, fresh, remembered, tell))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _judge(self, call: Call, fresh: str, remembered: str, tell: Callable[[str | None], None]) -> None:
        engine = self._engine
        now = engine.clock_ns() / 1e9
        code = model_judge.code_of(engine.random())
        request = GenerateRequest(
            caller=_caller(call, "optional"),
            system=model_judge.instruction(code),
            prompt=model_judge.message(last_turn(call), remembered, fresh),
            model=self._model.id,
            temperature=0.0 if "sampling" in self._model.capabilities else None,
            max_output_tokens=_JUDGE_TOKENS,
            cache_mode="bypass",
            prompt_name=_JUDGE_PROMPT,
            prompt_version=str(model_judge.FORM),
        )
        inner = _call(call, request, now, now + _JUDGE_S)
        try:
            await run(engine, inner)
        except (ProviderRejected, ProviderContextExceeded):  # for what the answers hold
            tell("unclear")
        except SidecarError:
            tell(None)
        else:
            tell(self._verdict(inner, code))

    def _verdict(self, inner: Call, code: str) -> str | None:
        if not _is_by(inner, self._model) or inner.answer is None:
            return None
        return model_judge.verdict(inner.answer.text, code) if inner.answer.finish == "stop" else "unclear"

    async def close(self) -> None:
        """What is not judged yet does not count."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _caller(call: Call, priority: Priority, *, user: str = "", plan: str = "") -> Caller:
    return Caller(service=call.service, node=call.node_name, tenant=call.tenant, user=user, plan=plan, priority=priority)


def _call(call: Call, request: EmbedRequest | GenerateRequest, now: float, deadline: float) -> Call:
    operation: Literal["embed", "generate"] = "embed" if isinstance(request, EmbedRequest) else "generate"
    metadata = {"traceparent": call.metadata["traceparent"]} if "traceparent" in call.metadata else {}
    return Call(id=os.urandom(16).hex(), operation=operation, request=request, metadata=metadata, arrived=now, deadline=deadline)


def _is_by(inner: Call, model: Model) -> bool:
    """It was answered by this one, not by a fallback."""
    served = inner.served
    return served is not None and (served.model.provider, served.model.name) == (model.provider, model.name)
