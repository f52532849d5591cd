"""`sidecar cache`: two questions held against each other, a running sidecar's cache looked into, answers taken back."""

from __future__ import annotations

import asyncio
import sys

import pytest

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2


async def command(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "cache", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("asked", "stored", "status", "told"),
    [
        ("How do I reset my password?", "how do i reset my password", 0, "the same: score 1.0000"),
        ("enable 2FA", "disable 2FA", 1, "veto: "),
        ("", "", 0, "the same"),
    ],
)
async def test_two_questions_are_held_against_each_other(asked, stored, status, told):
    got, out, err = await command("try", asked, stored)
    assert (got, err) == (status, "")
    assert told in out


async def test_a_running_cache_is_looked_into_and_answers_are_taken_back(start_sidecar):
    one = await start_sidecar('[nodes.flow.chain.cache]\nmode = "default"\nsemantic = "shadow"\nttl_ms = 3600000\n')
    request = pb.GenerateRequest(prompt="How do I reset my password?", temperature=0.0, caller=pb.Caller(node="flow.chain", tenant="acme"))
    policy = pb.CachePolicy(mode=pb.CachePolicy.MODE_DEFAULT)
    made = await one.llm.Generate(pb.GenerateRequest(prompt=request.prompt, caller=request.caller, cache=policy))
    target = ("--target", one.target)
    explained = await one.ops.Explain(
        ops_pb2.ExplainRequest(generate=pb.GenerateRequest(prompt=request.prompt, caller=request.caller, cache=policy))
    )
    assert explained.cache == f"exact: call {made.id} asked the same"
    status, out, err = await command("lookup", "how do i reset my password", "--tenant", "acme", "--node", "flow.chain", *target)
    assert (status, err) == (0, "")
    assert "none: neither the call nor its node" in out  # lively, by the model's own default
    status, out, _ = await command("invalidate", "--tenant", "acme", "--older-than", "1h", *target)
    assert (status, out.splitlines()[0]) == (0, "gone: 0 answers and 0 vectors in memory, 0 answers in the file, 0 in Redis")
    status, out, _ = await command("invalidate", "--tenant", "acme", *target)
    assert out.startswith("gone: 1 answers")
    status, out, err = await command("invalidate", *target)
    assert (status, out) == (1, "")
    assert "INVALID_ARGUMENT INVALID_REQUEST: everything is not set" in err


async def test_mistakes_in_arguments_are_told_in_one_line():
    status, _, err = await command("invalidate", "--older-than", "soon")
    assert status == 2
    assert "'soon' is no age; expected a number with s, m, h or d, like 12h" in err
    status, _, err = await command("invalidate", "--everything", "--target", "127.0.0.1:1")
    assert status == 1
    assert "no sidecar answers at 127.0.0.1:1" in err
