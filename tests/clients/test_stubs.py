"""The examples in other languages: stubs generated from the contract as their page says, and programs that use them, as they stand."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients import installing
from tests.clients.table import SPEAKERS, Table
from tests.fakes.running import ROOT, Sidecar, serving

TOOLS = {
    "go": (("go",), "Go 1.25 or newer (Debian: apt-get install golang-go)"),
    "node": (("node", "npm"), "Node 20 or newer (Debian: apt-get install nodejs npm)"),
    "java": (("javac", "mvn"), "Java 17 and Maven (Debian: apt-get install default-jdk-headless maven)"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def echo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """A sidecar as `make run` starts it: without a key its echo answers."""
    async with serving(tmp_path_factory.mktemp("echo"), "") as running:
        yield running


@pytest.mark.parametrize("language", SPEAKERS)
async def test_the_example(language: str, echo: Sidecar, table: Table) -> None:
    tools, where = TOOLS[language]
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        assert os.environ.get("CI") != "true", f"{absent[0]} is missing: {where}"
        pytest.skip(f"NOT TESTED FROM {language}: {absent[0]} is missing: install {where}")
    program, folder = await asyncio.to_thread(installing.example, language)

    status, said = await _run(folder, *program, echo.target)
    speaker = SPEAKERS[language]
    assert said[:-1] == [
        f"generate: hello from {speaker} (echo, 0 nano-USD)",
        "embed: 2 vectors of 64 numbers",
        "piece: hello",
        "piece:  from",
        f"piece:  {speaker}",
    ]
    assert said[-1].endswith("STOP, 0 nano-USD")
    assert status == 0

    status, said = await _run(folder, *program, echo.target, "cut")
    assert said[2] == "piece: hello"
    assert said[3].lower().replace("_", "") == "failed: dataloss"
    assert {"reason: STREAM_CUT, retryable: true", "instead: sql_direct_input, HTTP status 503", 'partial: "hello", 0 nano-USD'} <= set(
        said
    )
    assert status == 1
    table.languages.add(language)


async def _run(folder: Path, *command: str) -> tuple[int | None, list[str]]:
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode().splitlines()


async def test_every_example_is_told_of() -> None:
    page = (ROOT / "deploy" / "examples" / "README.md").read_text()
    folders = {path.name for path in (ROOT / "deploy" / "examples").iterdir() if path.is_dir()}
    assert folders == set(SPEAKERS)
    assert all(f"`{name}/`" in page for name in folders)
