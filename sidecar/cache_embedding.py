"""Vectors of questions, so that more similar ones are found: made through the pipeline like anybody's, paid and written down."""

from __future__ import annotations

import os
from collections.abc import Sequence

from msgspec.structs import replace

from sidecar.call import Call, EmbedRequest
from sidecar.engine import Engine
from sidecar.errors import SettingsError, SidecarError, UnknownModel
from sidecar.pipeline import run
from sidecar.settings.reading import shown


class QuestionVectors:
    """The vector of a call's question by `cache.embedding`, at the cost of the call's own tenant, or None: it must not fail the call.

    It is a call of its own, with a row of its own in the usage log, for the same caller; a text that was embedded before costs nothing.
    """

    def __init__(self, engine: Engine) -> None:
        """Raises SettingsError where `cache.embedding` is no model that makes vectors."""
        settings = engine.settings
        where = settings.origin("cache", "embedding")
        self._engine = engine
        try:
            self._model = engine.catalog.model(settings.cache.embedding, embedding=True)
        except UnknownModel as error:
            raise SettingsError(where, "", error.message) from None
        if "embed" not in self._model.capabilities:
            raise SettingsError(where, "", f"found {shown(settings.cache.embedding)}, expected a model that makes embeddings")
        self._wait_s = engine.settings.cache.embedding_ms / 1000

    async def __call__(self, call: Call, question: str) -> Sequence[float] | None:
        now = self._engine.clock_ns() / 1e9
        caller = replace(call.request.caller, service=call.service, node=call.node_name, tenant=call.tenant, user=call.user, run_plan=None)
        inner = Call(
            id=os.urandom(16).hex(),
            operation="embed",
            request=EmbedRequest(caller=caller, inputs=(question,), model=self._model.id, cache_mode="default"),
            metadata=call.metadata,
            arrived=now,
            deadline=min(call.deadline, now + self._wait_s),
        )
        try:
            await run(self._engine, inner)
        except SidecarError:
            return None  # it has a log line of its own, and the question is asked without
        served = inner.served
        if (
            inner.vectors is None
            or served is None
            or (served.model.provider, served.model.name) != (self._model.provider, self._model.name)
        ):
            return None  # another space
        return inner.vectors.vectors[0]
