"""A failure arrives as what it is, however long what was produced or written is: gRPC replaces a status that outgrows its trailers."""

from __future__ import annotations

import grpc
import pytest

from sidecar.v1 import llm_pb2 as pb
from tests.fakes.script import Fail, Say, Tool
from tests.flow.reading import account, failed, stream_failed

LONG = 30_000


async def test_long_tool_call_that_is_cut(sidecar, upstream, fresh, tenant):
    model = fresh("openai")
    called = Tool("write", '{"text": "' + "a" * LONG + '"}', piece=1_000)
    upstream.on(model, Say(pieces=("Writing.",), tools=(called,), cut="no_end", finish="tool_calls"))
    request = pb.GenerateRequest(prompt="Write.", model=model, tools=[pb.Tool(name="write")], caller=pb.Caller(tenant=tenant))
    got = await stream_failed(sidecar.llm.Stream(request))
    assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_CUT")
    assert got.partial.text == "Writing."
    (told,) = got.partial.tool_calls
    (streamed,) = got.streamed.tools
    assert streamed.arguments == called.arguments
    assert len(told.arguments) > 1_000
    assert told.arguments.endswith("a…")
    assert called.arguments.startswith(told.arguments[:-1])
    assert got.partial.cost.nano_usd == (await account(sidecar, tenant)).used_nano_usd > 0


async def test_emoji_that_are_cut(sidecar, upstream, fresh, tenant):
    model = fresh("openai")
    upstream.on(model, Say(pieces=("🙂" * 1_024, "🙂" * 1_024, "end"), cut="close", cut_after=2))
    request = pb.GenerateRequest(prompt="Smile.", model=model, caller=pb.Caller(tenant=tenant))
    got = await stream_failed(sidecar.llm.Stream(request))
    assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_CUT")
    assert got.streamed.text == "🙂" * 2_048
    assert got.partial.text == "🙂" * 511 + "…"
    assert got.partial.cost.nano_usd == (await account(sidecar, tenant)).used_nano_usd > 0


async def test_long_words_of_a_provider(sidecar, upstream, fresh):
    model = fresh("openai")
    upstream.on(model, Fail(400, message="ü" * LONG, code="c" * 3_000, headers=(("x-request-id", "r" * 3_000),)))
    got = await failed(sidecar.llm.Generate(pb.GenerateRequest(prompt="hi", model=model)))
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROVIDER_REJECTED")
    assert len(got.message.encode()) <= 512
    assert got.partial.attempts[0].outcome == "PROVIDER_REJECTED"


def with_parts(*turns: tuple[int, pb.Part]) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="echo/echo", messages=[pb.Message(role=role, parts=[part]) for role, part in turns])


def with_options(model: str, name: str) -> pb.GenerateRequest:
    request = pb.GenerateRequest(prompt="hi", model=model)
    request.provider_options.update({name: True})
    return request


LONG_INPUTS = {
    "tool_call_id": lambda text: with_parts(
        (pb.ROLE_USER, pb.Part(text="hi")), (pb.ROLE_TOOL, pb.Part(tool_result=pb.ToolResult(tool_call_id=text)))
    ),
    "tool_choice.name": lambda text: pb.GenerateRequest(
        prompt="hi", tools=[pb.Tool(name="x")], tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_TOOL, name=text)
    ),
    "mime_type": lambda text: with_parts((pb.ROLE_USER, pb.Part(image=pb.Image(data=b"x", mime_type=text)))),
    "detail": lambda text: with_parts((pb.ROLE_USER, pb.Part(image=pb.Image(url="https://a/b.png", detail=text)))),
    "echo's option": lambda text: with_options("echo/echo", text),
    "model": lambda text: pb.GenerateRequest(prompt="hi", model=text),
}


@pytest.mark.parametrize("letter", ["a", "語", "🙂"], ids=ascii)
@pytest.mark.parametrize("field", LONG_INPUTS)
async def test_long_input_that_is_refused(sidecar, field, letter):
    got = await failed(sidecar.llm.Generate(LONG_INPUTS[field](letter * LONG)))
    assert got.code == grpc.StatusCode.INVALID_ARGUMENT
    assert got.reason in ("INVALID_REQUEST", "UNKNOWN_MODEL")
    assert got.field
    assert len(got.message.encode()) <= 512
    assert letter * 30 in got.message


async def test_longest_model_name_that_fails(sidecar, upstream):
    """A server that takes any name is asked for this one."""
    model = "m" * (256 - len("compatible/"))
    upstream.on(model, Fail(404))
    got = await failed(sidecar.llm.Generate(pb.GenerateRequest(prompt="hi", model=f"compatible/{model}")))
    assert got.reason == "PROVIDER_MODEL_UNKNOWN"
    assert got.facts["model"].startswith("compatible/mmm")
    assert got.partial.model == got.facts["model"]
