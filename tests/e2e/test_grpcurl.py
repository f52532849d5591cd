"""The sidecar as an operator calls it: the real grpcurl, which knows nothing but what reflection tells it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, NamedTuple

import pytest

from tests.fakes.running import ROOT
from tests.fakes.script import Say

GRPCURL = ROOT / ".tools" / "bin" / "grpcurl"

pytestmark = pytest.mark.skipif(not GRPCURL.exists(), reason="NOTHING IS TESTED WITH grpcurl: run tools/get_grpcurl.sh (it needs Go)")


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def grpcurl(target: str, *words: str, data: dict[str, Any] | str | None = None) -> Said:
    text = data if isinstance(data, str) or data is None else json.dumps(data)
    flags = () if text is None else ("-d", text)
    process = await asyncio.create_subprocess_exec(
        str(GRPCURL), "-plaintext", "-max-time", "20", *flags, target, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    out, err = await process.communicate()
    return Said(process.returncode or 0, out.decode(), err.decode())


async def test_list_and_describe(sidecar):
    listed = await grpcurl(sidecar.target, "list")
    assert {"grpc.health.v1.Health", "sidecar.v1.LLMService", "sidecar.v1.OpsService"} <= set(listed.out.split())
    methods = await grpcurl(sidecar.target, "list", "sidecar.v1.LLMService")
    assert sorted(line.rpartition(".")[2] for line in methods.out.split()) == ["CountTokens", "Embed", "Generate", "Stream"]
    described = await grpcurl(sidecar.target, "describe", "sidecar.v1.GenerateRequest")
    assert "optional double temperature = 6" in described.out


async def test_health(sidecar):
    assert (await grpcurl(sidecar.target, "grpc.health.v1.Health/Check")).json == {"status": "SERVING"}
    assert (await grpcurl(sidecar.target, "grpc.health.v1.Health/Check", data={"service": "sidecar.v1.LLMService"})).json[
        "status"
    ] == "SERVING"


async def test_one_line_question(sidecar, upstream, fresh):
    model = fresh("openai")
    said = await grpcurl(sidecar.target, "sidecar.v1.LLMService/Generate", data={"prompt": "Hi", "model": model})
    assert said.status == 0, said.err
    assert said.json["text"] == "Hello, world!"
    assert said.json["finish_reason"] == "FINISH_REASON_STOP"
    assert said.json["cost"]["nano_usd"] == "39000"


async def test_stream(sidecar, upstream, fresh):
    model = fresh("anthropic")
    upstream.on(model, Say(delay_ms=20))
    said = await grpcurl(sidecar.target, "sidecar.v1.LLMService/Stream", data={"prompt": "Hi", "model": model})
    decoder, events, rest = json.JSONDecoder(), [], said.out.lstrip()
    while rest:
        event, end = decoder.raw_decode(rest)
        events.append(event)
        rest = rest[end:].lstrip()
    assert next(iter(events[0])) == "start"
    assert "".join(event.get("text_delta", "") for event in events) == "Hello, world!"
    assert events[-1]["end"]["provider"] == "anthropic"


async def test_status_and_explain(sidecar):
    status = (await grpcurl(sidecar.target, "sidecar.v1.OpsService/GetStatus")).json
    assert {p["name"] for p in status["providers"]} >= {"openai", "anthropic", "google", "ollama", "compatible", "echo"}
    assert "000000" not in json.dumps(status)  # no part of a key
    explained = (
        await grpcurl(sidecar.target, "sidecar.v1.OpsService/Explain", data={"generate": {"prompt": "Hi", "model": "gpt-4o"}})
    ).json
    assert explained["candidates"][0]["model"] == "gpt-4o"
    assert int(explained["max_cost"]["nano_usd"]) > 0


async def test_failure_shows_its_details(sidecar):
    said = await grpcurl(sidecar.target, "sidecar.v1.LLMService/Generate", data={"prompt": "Hi", "model": "gpt-4oo"})
    assert said.status != 0
    assert "InvalidArgument" in said.err
    assert "UNKNOWN_MODEL" in said.err  # ErrorInfo, decoded
    assert "gpt-4o" in said.err


@pytest.mark.parametrize(
    "wrong",
    [
        '{"prompt": 5}',
        '{"prompt": "Hi", "maxOutputTokens": "many"}',
        '{"prompt": "Hi", "maxOutputTokens": 1e30}',
        '{"prompt": "Hi", "temperature": "hot"}',
        '{"prompt": "Hi", "messages": "hello"}',
        '{"prompt": "Hi", "tools": [7]}',
        '{"prompt": "Hi", "onCut": "PERHAPS"}',
        '{"propmt": "Hi"}',
        '{"prompt": ',
    ],
)
async def test_wrong_field_types_never_reach_the_server(sidecar, wrong):
    """grpcurl itself refuses them, by the types that reflection tells: the contract is what a caller's tools hold on to."""
    said = await grpcurl(sidecar.target, "sidecar.v1.LLMService/Generate", data=wrong)
    assert said.status != 0
    assert "error getting request data" in said.err
    assert (await grpcurl(sidecar.target, "sidecar.v1.LLMService/Generate", data={"prompt": "Hi", "model": "echo/echo"})).json[
        "text"
    ] == "Hi"


async def test_wrong_field_types_that_do_reach_the_server(sidecar):
    """A number where the contract has an enum is valid on the wire: the server is the one to refuse it."""
    data = {"messages": [{"role": 77, "parts": [{"text": "Hi"}]}], "model": "echo/echo"}
    said = await grpcurl(sidecar.target, "sidecar.v1.LLMService/Generate", data=data)
    assert "InvalidArgument" in said.err
    assert "messages[0].role is 77" in said.err


async def test_budgets_by_hand(sidecar):
    """As the README shows it."""
    account = {"account": "tenant:by-hand:day"}
    set_ = await grpcurl(sidecar.target, "sidecar.v1.OpsService/SetBudget", data=account | {"limitNanoUsd": 5_000_000_000})
    assert set_.json["budget"]["limit_nano_usd"] == "5000000000"
    assert (await grpcurl(sidecar.target, "sidecar.v1.OpsService/FreezeTenant", data={"tenant": "by-hand"})).status == 0
    refused = await grpcurl(
        sidecar.target, "sidecar.v1.LLMService/Generate", data={"prompt": "hi", "model": "echo/echo", "caller": {"tenant": "by-hand"}}
    )
    assert "ResourceExhausted" in refused.err
    assert "is frozen: nothing may be spent on it" in refused.err
    assert (await grpcurl(sidecar.target, "sidecar.v1.OpsService/ListReservations")).json == {}
