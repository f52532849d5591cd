"""OpenAI's HTTP API in front of the pipeline: chat completions and embeddings.

Any client of OpenAI's works with `base_url="http://127.0.0.1:8080/v1"`. `model` is a name of the catalogue, or `auto` (also `sidecar`, or
nothing) for the policy's choice by service and node. Who asks is said by `x-sidecar-*` headers or by a token of the sidecar's own.
"""

from __future__ import annotations

from aiohttp import web

from sidecar.edge.dialect import may_pass, rename, stream
from sidecar.edge.http import Door
from sidecar.edge.openai_reply import Chunks, completion, embedding_list, failed, reply_headers
from sidecar.edge.openai_request import NAMES, chat, embeddings
from sidecar.edge.sse import Frames
from sidecar.errors import RequestError


def routes(app: web.Application, door: Door) -> None:
    """/v1/chat/completions and /v1/embeddings."""

    def now_s() -> int:
        return door.engine.wall_ns() // 1_000_000_000

    async def chat_completions(request: web.Request) -> web.StreamResponse:
        asked = chat(await door.body(request), may_pass=may_pass(door))
        names = (("^max_output_tokens$", asked.limit_name), *NAMES)
        try:
            if asked.is_streamed:
                frames = Frames(door.engine.settings.http)
                events = Chunks(door, frames, now_s(), with_usage=asked.with_usage)
                return await stream(door, request, asked.request, frames, events, names)
            call = door.call(request, "generate", asked.request)
            await door.run(call)
        except RequestError as error:
            rename(error, names)
            raise
        return door.answer(completion(call, now_s()), headers=reply_headers(door, call, is_over=True))

    async def embed(request: web.Request) -> web.StreamResponse:
        asked = embeddings(await door.body(request), may_pass=may_pass(door))
        try:
            call = door.call(request, "embed", asked.request)
            call.notices.extend(asked.notices)
            await door.run(call)
        except RequestError as error:
            rename(error, NAMES)
            raise
        return door.answer(embedding_list(call, asked.form), headers=reply_headers(door, call, is_over=True))

    for path, handler in (("/v1/chat/completions", chat_completions), ("/v1/embeddings", embed)):
        app.router.add_post(path, handler)
        door.shapes[path] = failed
