"""A real model behind a real server (llama.cpp's), called through the `compatible` provider: no fake between."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from tests.fakes.running import ROOT, model_row, start
from tests.flow.reading import failed, nano_usd, streamed, tokens

for part in ("gguf", "numpy", "xllamacpp"):
    pytest.importorskip(part, reason=f"NO REAL MODEL SERVER IS TESTED: the package {part} is missing (uv pip install {part})")

SCHEMA = '{"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"], "additionalProperties": false}'


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def local(tmp_path_factory):
    """The sidecar in front of the model server, which it knows as `local`."""
    from tests.fakes import tiny_gguf

    folder: Path = tmp_path_factory.mktemp("model")
    tiny_gguf.write(folder / "tiny.gguf")
    with (folder / "server.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.model_server", str(folder / "tiny.gguf"), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        url = (await asyncio.wait_for(server.stdout.readline(), 30)).decode().strip()
        assert url.startswith("http"), (folder / "server.log").read_text()
        tables = f'[providers.local]\nbase_url = "{url}/v1"\n' + model_row("tiny", "local", context_tokens=2048, max_output_tokens=512)
        tables += model_row("boastful", "local", name="tiny")  # said to take in more than it can
        running = await start(folder, tables)
        try:
            yield await running.until_serving()
        finally:
            assert await running.stop() == 0
    finally:
        server.kill()
        await server.wait()


def ask(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"prompt": "Once upon a time", "model": "tiny", "temperature": 0.0, "max_output_tokens": 24} | fields)


async def test_generate_and_stream_say_the_same(local):
    whole = await local.llm.Generate(ask(), timeout=60)
    got = await streamed(local.llm.Stream(ask(), timeout=60))
    assert whole.text == got.text != ""
    assert got.kinds.count("text_delta") > 1
    assert whole.finish_reason == got.end.finish_reason == pb.FINISH_REASON_LENGTH
    for answer in (whole, got.end):
        assert answer.provider == "local"
        assert answer.usage.output_tokens == 24
        assert sum(tokens(answer.usage)) > 24
        assert not answer.usage.estimated
        assert answer.cost.nano_usd == nano_usd(answer.usage)


async def test_system_and_turns(local):
    turns = [(pb.ROLE_USER, "who"), (pb.ROLE_ASSISTANT, "you"), (pb.ROLE_USER, "what")]
    messages = [pb.Message(role=role, parts=[pb.Part(text=text)]) for role, text in turns]
    long = await local.llm.Generate(ask(prompt="", system="be good", messages=messages), timeout=60)
    short = await local.llm.Generate(ask(prompt="what"), timeout=60)
    assert sum(tokens(long.usage)[:3]) > sum(tokens(short.usage)[:3])


async def test_schema_binds_a_model_that_talks_noise(local):
    form = pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(schema=SCHEMA))
    reply = await local.llm.Generate(ask(prompt="?", response_format=form, max_output_tokens=300), timeout=60)
    assert reply.finish_reason == pb.FINISH_REASON_STOP
    assert isinstance(json.loads(reply.text)["sure"], bool)


async def test_embed(local):
    reply = await local.llm.Embed(pb.EmbedRequest(inputs=["who are you", "who are you", "state of the world"], model="tiny"), timeout=60)
    one, same, other = (list(v.values) for v in reply.vectors)
    assert len(one) == 64
    assert one == pytest.approx(same, abs=1e-5)
    assert one != pytest.approx(other, abs=1e-2)
    assert reply.usage.input_tokens > 0


async def test_cancelled_stream_frees_the_server(local):
    stream = local.llm.Stream(ask(max_output_tokens=512))
    while (await stream.read()).WhichOneof("event") != "text_delta":
        pass
    stream.cancel()
    await local.until_idle()
    assert (await local.llm.Generate(ask(max_output_tokens=1), timeout=60)).text


async def test_what_the_server_refuses_is_told(local):
    got = await failed(local.llm.Generate(ask(model="boastful", prompt="word " * 5000), timeout=60))
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROVIDER_CONTEXT_EXCEEDED"), got
    assert [(a.provider, a.model) for a in got.partial.attempts] == [("local", "boastful")]
    assert got.partial.cost.nano_usd == 0
    picture = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(image=pb.Image(data=b"\x89PNG", mime_type="image/png"))])
    blind = await failed(local.llm.Generate(ask(model="boastful", prompt="", messages=[picture]), timeout=60))
    assert blind.partial.attempts[0].provider == "local"
    assert "image" in blind.message
