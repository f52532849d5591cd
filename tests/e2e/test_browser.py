"""The example page in a real browser: pieces arrive one by one, and a page that is closed stops the provider."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, async_playwright

from tests.fakes.running import ROOT
from tests.fakes.script import Fail, Say

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: tools/get_programs.sh installs it on Debian, as root")


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        await opened.close()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def site() -> AsyncIterator[str]:
    """The origin of a web site that has the page: another one than the sidecar's."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=(ROOT / "deploy/examples/stream.html").read_text(), content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def sidecar(start_sidecar, site):
    return await start_sidecar(http=f'allowed_origins = ["{site}"]')


@pytest_asyncio.fixture(loop_scope="session")
async def opened(browser, site, sidecar):
    page = await browser.new_page()
    await page.goto(f"{site}/?sidecar={sidecar.http_url}&model=compatible-default")
    yield page
    await page.close()


async def test_pieces_arrive_one_by_one(opened, upstream):
    gate = asyncio.Event()
    upstream.on("compatible-default", Say(pieces=("Once ", "upon ", "a ", "time."), gate=gate, hold_after=2))
    await opened.click("text=Ask")
    await opened.wait_for_function("document.getElementById('answer').textContent === 'Once upon '")
    gate.set()  # until here the provider had said no more
    await opened.wait_for_function("document.getElementById('status').textContent.includes('7 tokens')")
    assert await opened.text_content("#answer") == "Once upon a time."
    assert "0.000039 USD" in await opened.text_content("#status")


@pytest.mark.parametrize("way", ["page closed", "page left", "stopped"])
async def test_page_that_goes_stops_the_provider(opened, upstream, sidecar, way):
    upstream.on("compatible-default", Say(pieces=(" word",) * 3000, delay_ms=10))
    await opened.click("text=Ask")
    await opened.wait_for_function("document.getElementById('answer').textContent.startsWith(' word word')")
    exchange = upstream.asked("compatible-default")[-1]
    match way:
        case "page closed":
            await opened.close()
        case "page left":
            await opened.goto("about:blank")
        case "stopped":
            await opened.click("text=Stop")
    await exchange.hung_up()
    await sidecar.until_idle()
    upstream.on("compatible-default", Say())


async def test_failures_are_told_on_the_page(opened, upstream):
    upstream.on("compatible-default", Fail(401, "no"))
    await opened.click("text=Ask")
    await opened.wait_for_function("document.getElementById('status').textContent.startsWith('PROVIDER_AUTH_FAILED')")
    upstream.on("compatible-default", Say(cut="reset", cut_after=1))
    await opened.click("text=Ask")
    await opened.wait_for_function("document.getElementById('status').textContent.startsWith('STREAM_CUT')")
    upstream.on("compatible-default", Say())


async def test_page_of_another_origin_hears_nothing(browser, start_sidecar, site, upstream):
    stranger = await start_sidecar()
    page = await browser.new_page()
    await page.goto(f"{site}/?sidecar={stranger.http_url}&model=compatible-default")
    before = len(upstream.asked("compatible-default"))
    await page.click("text=Ask")
    await page.wait_for_function("document.getElementById('status').textContent.includes('Failed to fetch')")
    assert len(upstream.asked("compatible-default")) == before
    await page.close()
