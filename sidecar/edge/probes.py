"""The operations port: metrics and probes over plain HTTP, for Prometheus and the kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


def application(registry: CollectorRegistry, ready: Callable[[], bool]) -> web.Application:
    """/metrics, /healthz (the process lives), /readyz (it can answer: warmed up and not draining)."""

    async def metrics(_: web.Request) -> web.Response:
        # Rendering takes milliseconds once there are many series: not on the loop that streams run on.
        text = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(text="not ready\n", status=503)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app
