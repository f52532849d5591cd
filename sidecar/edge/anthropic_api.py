"""Anthropic's HTTP API in front of the pipeline: messages, and how many tokens they have.

Any client of Anthropic's works with `base_url="http://127.0.0.1:8080"`; its key (`x-api-key`) is a token of the sidecar's own, where those
are needed. `model` is a name of the catalogue, or `auto` (also `sidecar`, or nothing) for the policy's choice.
"""

from __future__ import annotations

from functools import partial

from aiohttp import web

from sidecar.edge.anthropic_reply import MessageEvents, failed, message, reply_headers
from sidecar.edge.anthropic_request import messages
from sidecar.edge.dialect import may_pass, rename, stream
from sidecar.edge.http import Door
from sidecar.edge.sse import Frames
from sidecar.errors import RequestError


def routes(app: web.Application, door: Door) -> None:
    """/v1/messages and /v1/messages/count_tokens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = messages(await door.body(request), may_pass=may_pass(door))
        try:
            if asked.is_streamed:
                frames = Frames(door.engine.settings.http)
                events = MessageEvents(door, frames, shows_thinking=asked.shows_thinking)
                return await stream(door, request, asked.request, frames, events, asked.names, asked.notices)
            call = door.call(request, "generate", asked.request)
            call.notices.extend(asked.notices)
            await door.run(call)
        except RequestError as error:
            rename(error, asked.names)
            raise
        return door.answer(message(call, shows_thinking=asked.shows_thinking), headers=reply_headers(door, call, is_over=True))

    async def count_tokens(request: web.Request) -> web.StreamResponse:
        asked = messages(await door.body(request), may_pass=may_pass(door), counts_only=True)
        try:
            call = door.call(request, "count_tokens", asked.request)
            door.plan(call)
        except RequestError as error:
            rename(error, asked.names)
            raise
        best = call.candidates[0]
        body = {"input_tokens": best.input_tokens, "sidecar": {"model": best.model.id, "estimated": best.estimated}}
        return door.answer(body, headers={"request-id": call.id, "x-sidecar-id": call.id})

    for path, handler in (("/v1/messages", answer), ("/v1/messages/count_tokens", count_tokens)):
        app.router.add_post(path, handler)
        door.shapes[path] = partial(failed, wall_ns=door.engine.wall_ns)
