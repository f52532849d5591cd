"""Frames between a call and its readers: order, bounds, coming back. A real aiohttp server writes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from sidecar.edge.http_errors import StreamGone
from sidecar.edge.sse import Frames
from sidecar.errors import ProviderUnavailable, SidecarError
from sidecar.settings.doors import Http

Serve = Callable[..., Any]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """`serve(frames, after)` is the response of a reader of these frames, and `seen` what it raised."""
    runners: list[web.AppRunner] = []
    async with aiohttp.ClientSession() as session:

        async def one(frames: Frames, after: int = 0) -> tuple[aiohttp.ClientResponse, list[BaseException]]:
            raised: list[BaseException] = []

            async def handle(request: web.Request) -> web.StreamResponse:
                try:
                    return await frames.write_to(request, b"first\n", after)
                except SidecarError as error:
                    raised.append(error)
                    raise web.HTTPServiceUnavailable from None

            app = web.Application()
            app.router.add_get("/", handle)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return await session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/"), raised

        yield one
    for runner in runners:
        await runner.cleanup()


async def test_all_frames_come_in_order_after_the_preface(serve: Serve) -> None:
    frames = Frames(Http())
    frames.headers["x-extra"] = "1"
    await frames.put(b"a\n", b"b\n")
    response, _ = await serve(frames)
    await frames.put(b"c\n")
    frames.end([b"d\n"])
    assert await response.text() == "first\na\nb\nc\nd\n"
    assert (response.headers["x-extra"], response.headers["x-accel-buffering"]) == ("1", "no")
    assert frames.size == 0  # nothing is kept for nobody


async def test_put_waits_for_a_reader(serve: Serve) -> None:
    frames = Frames(Http())
    putting = asyncio.ensure_future(frames.put(b"x" * 100_000))
    await asyncio.sleep(0)
    assert not putting.done()
    response, _ = await serve(frames)
    await asyncio.wait_for(putting, 5)
    frames.end()
    assert len(await response.read()) == 100_006


async def test_the_end_waits_for_nobody(serve: Serve) -> None:
    frames = Frames(Http())
    putting = asyncio.ensure_future(frames.put(b"x" * 100_000))
    await asyncio.sleep(0)
    frames.end([b"end"])
    response, _ = await serve(frames)
    assert (await response.read()).endswith(b"xend")
    await asyncio.wait_for(putting, 5)


async def test_failure_before_anything_is_raised_and_later_is_a_frame(serve: Serve) -> None:
    early = Frames(Http())
    early.end([b"error"], ProviderUnavailable("gone"))
    response, raised = await serve(early)
    assert (response.status, type(raised[0])) == (503, ProviderUnavailable)
    late = Frames(Http())
    await late.put(b"a\n")
    late.end([b"error"], ProviderUnavailable("gone"))
    response, raised = await serve(late)
    assert (await response.text(), raised) == ("first\na\nerror", [])


async def test_failure_after_a_sign_of_life_is_a_frame(serve: Serve) -> None:
    frames = Frames(Http(heartbeat_ms=20))
    response, raised = await serve(frames)  # it has begun, by a heartbeat
    frames.end([b"error"], ProviderUnavailable("gone"))
    assert (await response.text()).startswith("first\n:\n\n")
    assert (await response.text()).endswith("error")
    assert raised == []


async def test_a_reader_begins_where_another_ended(serve: Serve) -> None:
    frames = Frames(Http(), keep_bytes=1_000)
    await frames.put(*(b"%d\n" % number for number in range(1, 11)))
    frames.end()
    for after in (0, 4, 10):
        response, _ = await serve(frames, after)
        assert await response.text() == "first\n" + "".join(f"{n}\n" for n in range(after + 1, 11))


async def test_what_is_no_longer_kept_is_not_passed_over(serve: Serve) -> None:
    frames = Frames(Http(), keep_bytes=10)
    await frames.put(*(b"%04d\n" % number for number in range(1, 11)))
    frames.end()
    response, _ = await serve(frames)
    assert len(await response.text()) == len("first\n") + 50
    assert frames.size <= 10
    response, raised = await serve(frames, 3)
    assert (response.status, type(raised[0])) == (503, StreamGone)
    response, _ = await serve(frames, 8)
    assert await response.text() == "first\n0009\n0010\n"


async def test_a_second_reader_takes_the_firsts_place(serve: Serve) -> None:
    frames = Frames(Http(), keep_bytes=1_000)
    await frames.put(b"a\n")
    first, _ = await serve(frames)
    second, _ = await serve(frames)
    await frames.put(b"b\n")
    frames.end()
    assert await second.text() == "first\na\nb\n"
    with pytest.raises(aiohttp.ClientError):
        await first.text()
