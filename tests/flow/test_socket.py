"""The Unix socket: who listens there stays, what a dead process left is no hindrance, and what cannot be is told in one line."""

from __future__ import annotations

import asyncio
import os
import stat

import grpc
import pytest

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc
from tests.fakes.running import free_port, spawn


async def answer(path) -> str:
    async with grpc.aio.insecure_channel(f"unix:{path}", (("grpc.use_local_subchannel_pool", 1),)) as channel:
        asked = pb.GenerateRequest(prompt="hi", model="echo/echo")
        return (await llm_pb2_grpc.LLMServiceStub(channel).Generate(asked, timeout=5)).text


async def refused(folder, path) -> str:
    """Try to start a sidecar on this socket. Returns all that it said."""
    settings = folder / "refused.toml"
    settings.write_text(f'[server]\nlisten = "127.0.0.1:{free_port()}"\nops_listen = "127.0.0.1:{free_port()}"\nsocket = "{path}"\n')
    process = await spawn(settings, folder / "stderr")
    assert await asyncio.wait_for(process.wait(), 20) == 1
    said = (folder / "stderr").read_text()
    assert said.count("\n") == 1, said
    assert said.startswith("sidecar: ")
    assert str(path) in said
    assert "server.socket" in said
    return said


async def test_second_sidecar_leaves_the_first_its_socket(start_sidecar, tmp_path):
    path = tmp_path / "s.sock"
    await start_sidecar(server=f'socket = "{path}"')
    assert "another process" in await refused(tmp_path, path)
    assert await answer(path) == "hi"


async def test_socket_of_a_dead_process_is_taken_over(start_sidecar, tmp_path):
    path = tmp_path / "s.sock"
    first = await start_sidecar(server=f'socket = "{path}"')
    first.process.kill()
    await first.process.wait()
    assert path.is_socket()
    await start_sidecar(server=f'socket = "{path}"')
    assert await answer(path) == "hi"


async def test_any_user_of_the_pod_may_connect(start_sidecar, tmp_path):
    path = tmp_path / "s.sock"
    sidecar = await start_sidecar(server=f'socket = "{path}"')
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert await sidecar.stop() == 0
    assert not path.exists()


async def test_file_that_is_no_socket_stays(tmp_path):
    path = tmp_path / "s.sock"
    path.write_text("precious")
    assert "no socket" in await refused(tmp_path, path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", ["missing", "file", "read-only"])
async def test_folder_that_cannot_be(tmp_path, kind):
    folder = tmp_path / kind
    if kind == "file":
        folder.write_text("")
    if kind == "read-only":
        folder.mkdir(mode=0o555)
        if os.access(folder, os.W_OK):
            pytest.skip("root may write everywhere")
    assert f"the folder {folder}:" in await refused(tmp_path, folder / "s.sock")
