"""Behind a real nginx with the example's settings: pieces come one by one, and a client that goes stops the provider."""

from __future__ import annotations

import asyncio
import shutil

import aiohttp
import pytest
import pytest_asyncio

from tests.fakes.running import ROOT, free_port
from tests.fakes.script import Say
from tests.flow.events import events

NGINX = shutil.which("nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx: tools/get_programs.sh installs it on Debian, as root")


@pytest_asyncio.fixture(loop_scope="session")
async def proxied(start_sidecar, tmp_path):
    """A sidecar with nginx in front of its HTTP door."""
    sidecar = await start_sidecar()
    port = free_port()
    example = (ROOT / "deploy/examples/nginx.conf").read_text()
    conf = example.replace("127.0.0.1:8080", sidecar.http_url.removeprefix("http://")).replace("127.0.0.1:8081", f"127.0.0.1:{port}")
    head = f"daemon off;\nmaster_process off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/errors;\n"
    conf = head + conf.replace("http {", f"http {{\n  access_log off;\n  client_body_temp_path {tmp_path}/body;", 1)
    (tmp_path / "nginx.conf").write_text(conf)
    assert NGINX is not None
    nginx = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    sidecar.http_url = f"http://127.0.0.1:{port}"
    async with asyncio.timeout(10):
        while True:
            try:
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            except OSError:
                assert nginx.returncode is None, (tmp_path / "errors").read_text()
                await asyncio.sleep(0.05)
    yield sidecar
    nginx.terminate()
    await nginx.wait()


async def test_pieces_come_when_they_are_there(proxied, upstream):
    gate = asyncio.Event()
    upstream.on("compatible-default", Say(gate=gate, hold_after=1))
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            gate.clear()
            asked = session.post(proxied.http_url + "/v1/stream", json={"prompt": "hi", "model": "compatible-default"})
            async with asked as response, asyncio.timeout(10):
                assert response.headers["server"].startswith("nginx")
                coming = events(response)
                while (event := await anext(coming)).kind != "text":
                    pass
                assert event.data == {"text": "Hello"}  # and the provider has said no more yet
                gate.set()
                assert [event.kind async for event in coming][-1] == "end"
    upstream.on("compatible-default", Say())


async def test_client_who_goes_stops_the_provider(proxied, upstream):
    upstream.on("compatible-default", Say(pieces=(" word",) * 1000, delay_ms=10))
    async with aiohttp.ClientSession() as session:
        response = await session.post(proxied.http_url + "/v1/stream", json={"prompt": "hi", "model": "compatible-default"})
        async for event in events(response):
            if event.kind == "text":
                break
        exchange = upstream.asked("compatible-default")[-1]
        response.close()
        await exchange.hung_up()
    await proxied.until_idle()
    upstream.on("compatible-default", Say())
