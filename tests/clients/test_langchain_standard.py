"""LangChain's own standard tests of chat models and embeddings, for langchain-openai in front of the sidecar."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from tests.clients import installing
from tests.clients.obedient import Obedient
from tests.clients.table import Table
from tests.clients.talking import PROGRAMS
from tests.conftest import usual_tables
from tests.fakes.running import model_row, serving

_LEAST = 40  # tests that have to pass, so that a version that collects none is noticed
_LOOP = ("-o", "asyncio_default_test_loop_scope=session", "-o", "asyncio_default_fixture_loop_scope=session", "-o", "asyncio_mode=auto")
# Nothing of this project is loaded there: neither its conftest.py nor its settings of pytest.
_ALONE = ("--noconftest", "-c", "/dev/null", "--rootdir", str(PROGRAMS), "-p", "no:cacheprovider")


async def test_standard_tests_of_langchain(tmp_path: Path, table: Table) -> None:
    python = await asyncio.to_thread(installing.python, "langchain")
    async with Obedient() as model:
        tables = usual_tables(model.url) + "".join(model_row(f"client-{i}", "compatible") for i in range(2))
        environ = {"PATH": os.environ["PATH"], "TIKTOKEN_CACHE_DIR": str(await asyncio.to_thread(installing.vocabulary))}
        # Of a way to ask for structured answers, LangChain asks that tools be not called in parallel: the played provider knows the word.
        async with serving(tmp_path, tables, http='unknown_parameters = "pass"') as sidecar:
            process = await asyncio.create_subprocess_exec(
                str(python), "-m", "pytest", "-q", "-rA", "--tb=short", *_ALONE, *_LOOP, str(PROGRAMS / "langchain_standard.py"),
                stdout=asyncio.subprocess.PIPE, env=environ | {"SIDECAR_ADDRESS": sidecar.http_url},
            )  # fmt: skip
            out, _ = await asyncio.wait_for(process.communicate(), 100)
    said = out.decode()
    assert process.returncode == 0, said[-6000:]
    passed = int(re.findall(r"(\d+) passed", said)[-1])
    assert passed >= _LEAST, said[-2000:]
    left_out = sorted(set(re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", said, re.MULTILINE)))
    refused = re.findall(r"^XFAIL \S+::(\w+) - (.*)$", said, re.MULTILINE)
    version = next(p for p in installing.PYTHON["langchain"] if p.startswith("langchain-tests"))
    table.notes.append(
        f"LangChain's own standard tests ({version}, chat models and embeddings; http.unknown_parameters is pass): {passed} pass.\n"
        + "".join(f"Not passed: `{name}`: {reason}.\n" for name, reason in refused)
        + f"Left out by themselves: {' '.join(left_out)}"
    )
