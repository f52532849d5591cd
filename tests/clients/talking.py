"""The programs of real clients, each a process of its own that a test asks for one case after the other."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.clients import installing

PROGRAMS = Path(__file__).parent / "programs"


class Kind(NamedTuple):
    """One client: how the table names it, its program, and whose API it speaks."""

    title: str
    program: str
    package: str
    api: str  # openai or anthropic

    @property
    def is_node(self) -> bool:
        return self.program.endswith(".mjs")


KINDS = {
    "openai-python": Kind("openai (Python) " + installing.PYTHON["openai"][0].partition("==")[2], "openai_python.py", "openai", "openai"),
    "openai-node": Kind("openai (Node) " + installing.NODE["openai"][0].rpartition("@")[2], "openai_node.mjs", "openai", "openai"),
    "anthropic-python": Kind(
        "anthropic (Python) " + installing.PYTHON["anthropic"][0].partition("==")[2], "anthropic_python.py", "anthropic", "anthropic"
    ),
    "anthropic-node": Kind(
        "@anthropic-ai/sdk (Node) " + installing.NODE["anthropic"][0].rpartition("@")[2], "anthropic_node.mjs", "anthropic", "anthropic"
    ),
    "langchain": Kind(
        "langchain-openai " + installing.PYTHON["langchain"][0].partition("==")[2], "langchain_python.py", "langchain", "openai"
    ),
    "pydantic-ai": Kind(
        "pydantic-ai " + installing.PYTHON["pydantic-ai"][0].partition("==")[2], "pydantic_ai_python.py", "pydantic-ai", "openai"
    ),
    "curl": Kind("curl", "curl_shell.py", "", "openai"),
}


def missing(kind: Kind) -> str:
    """The tool that this machine lacks for the client; "": none."""
    wanted = ("node", "npm") if kind.is_node else ("curl",) if not kind.package else ()
    return next((tool for tool in wanted if shutil.which(tool) is None), "")


class Client:
    """One running program."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.kind = KINDS[name]
        self._process = process

    @classmethod
    async def start(cls, name: str, address: str) -> Self:
        """Install the client, if it is not there yet, and start its program."""
        kind = KINDS[name]
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROGRAMS), "PYTHONWARNINGS": "ignore"}
        environ["TIKTOKEN_CACHE_DIR"] = str(await asyncio.to_thread(installing.vocabulary))
        if kind.is_node:
            folder = await asyncio.to_thread(installing.node, kind.package)
            for file in (kind.program, "speaking.mjs"):  # Node looks for packages beside the program
                await asyncio.to_thread(shutil.copy, PROGRAMS / file, folder / file)
            command = ["node", str(folder / kind.program)]
        else:
            python = await asyncio.to_thread(installing.python, kind.package) if kind.package else Path(sys.executable)
            command = [str(python), str(PROGRAMS / kind.program)]
        process = await asyncio.create_subprocess_exec(
            *command, address, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environ
        )
        return cls(name, process)

    async def facts(self, case: str, model: str) -> AsyncIterator[dict[str, Any]]:
        """What the program sees in one case, as it sees it; the last is `done` or `error`. Raises TimeoutError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([case, model]).encode() + b"\n")
        while True:
            line = await asyncio.wait_for(self._process.stdout.readline(), 30)
            assert line, f"the program of {self.name} ended"
            found: dict[str, Any] = json.loads(line)
            yield found
            if found.keys() & {"done", "error"}:
                return

    async def sees(self, case: str, model: str) -> dict[str, Any]:
        """All that it sees in one case, together; pieces as a list. A failure is its `error`."""
        seen: dict[str, Any] = {"pieces": []}
        async for facts in self.facts(case, model):
            if "piece" in facts:
                seen["pieces"].append(facts["piece"])
            seen |= facts
        return seen

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
