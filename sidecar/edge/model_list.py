"""The models that can be called, as the APIs of OpenAI and Anthropic list them: both under /v1/models, told apart by Anthropic's header."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from sidecar.catalog import Model
from sidecar.edge import anthropic_reply, openai_reply
from sidecar.edge.dialect import model_of
from sidecar.edge.http import Door
from sidecar.edge.http_errors import Failure

_POLICY = "auto"


def routes(app: web.Application, door: Door) -> None:
    """/v1/models and /v1/models/{name}."""

    def known() -> list[Model]:
        connected = door.engine.connected
        return sorted((m for m in door.engine.catalog.models.values() if m.provider in connected), key=lambda m: (m.provider, m.id))

    async def listing(request: web.Request) -> web.StreamResponse:
        found: list[Model | None] = [None, *known()]
        if _is_anthropics(request):
            data = [_anthropic(one) for one in found]
            return door.answer({"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})
        return door.answer({"object": "list", "data": [_openai(one) for one in found]})

    async def one(request: web.Request) -> web.StreamResponse:
        name = model_of(request.match_info["name"])
        model = door.engine.catalog.model(name) if name else None
        return door.answer(_anthropic(model) if _is_anthropics(request) else _openai(model))

    def failed(failure: Failure, request: web.Request) -> web.Response:
        if _is_anthropics(request):
            return anthropic_reply.failed(failure, request, wall_ns=door.engine.wall_ns)
        return openai_reply.failed(failure, request)

    for path, handler in (("/v1/models", listing), ("/v1/models/{name:.+}", one)):
        resource = app.router.add_get(path, handler).resource
        assert resource is not None  # noqa: S101  (a route that was just added has one)
        door.shapes[resource.canonical] = failed


def _is_anthropics(request: web.Request) -> bool:
    return "anthropic-version" in request.headers


def _openai(model: Model | None) -> dict[str, Any]:
    """None: the policy's choice. `created` is the day on which the model's price was read: when it was made is not known."""
    if model is None:
        return {"id": _POLICY, "object": "model", "created": 0, "owned_by": "sidecar"}
    return {"id": model.id, "object": "model", "created": int(_known_since(model).timestamp()), "owned_by": model.provider}


def _anthropic(model: Model | None) -> dict[str, Any]:
    if model is None:
        return {"type": "model", "id": _POLICY, "display_name": "the policy's choice", "created_at": "1970-01-01T00:00:00Z"}
    since = _known_since(model).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model.id, "display_name": model.id, "created_at": since}


def _known_since(model: Model) -> datetime:
    if model.as_of is None:
        return datetime.fromtimestamp(0, UTC)
    return datetime(model.as_of.year, model.as_of.month, model.as_of.day, tzinfo=UTC)
