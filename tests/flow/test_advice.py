"""What callers are told to do when nobody answers them: by service and node, in their language, and never for a fault of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import Sidecar, model_row, provider_tables, serving
from tests.fakes.script import Fail, Say
from tests.flow import raw_http2
from tests.flow.reading import failed, stream_failed

TABLES = """
[profile]
primary = "advice-dead"
fallbacks = []

[retries.unavailable]
retries = 0

[services.shop.degradation]
action = "show_catalogue"

[nodes.shop.search.degradation]
code = "NO_SEARCH"
message_ko = "검색어를 직접 입력해 주세요."
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alone(upstream, tmp_path_factory) -> AsyncIterator[Sidecar]:
    """A sidecar whose usual model always fails, so that nobody answers; no breaker opens."""
    upstream.on("advice-dead", Fail(500))
    services = ("core", "oracle", "vision", "synapse", "canvas", "shop")
    off = "".join(f"[services.{name}]\nbreaker_off = true\n" for name in services)
    tables = TABLES + off + provider_tables(upstream.url, "compatible") + model_row("advice-dead", "compatible")
    async with serving(tmp_path_factory.mktemp("alone"), tables) as running:
        yield running


def ask(model: str = "", **caller: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="hi", model=model, caller=pb.Caller(**caller))


def told(got) -> tuple[str, str, int, int]:
    assert got.facts["mode"] == "manual"
    return got.degradation.action, got.degradation.code, got.degradation.http_status, got.degradation.most_retries


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("core", ("restore_todo", "", 503, 0)),
        ("oracle", ("sql_direct_input", "LLM_UNAVAILABLE", 503, 0)),
        ("vision", ("manual_pivot_builder", "", 503, 0)),
        ("synapse", ("requeue", "", 503, 1)),
        ("weaver", ("skip", "", 503, 0)),
        ("canvas", ("retry_button", "", 503, 2)),
        ("", ("retry_later", "", 503, 1)),
        ("shop", ("show_catalogue", "", 503, 1)),
    ],
)
async def test_caller_is_told_what_to_do(alone, service, expected):
    asking = ask("advice-dead", service=service)
    korean = (("accept-language", "ko-KR,ko;q=0.9,en;q=0.8"),)
    unary = await failed(alone.llm.Generate(asking))
    streamed = await stream_failed(alone.llm.Stream(asking, metadata=korean))
    for got in (unary, streamed):
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE")
        assert told(got) == expected
        assert got.partial.attempts
    assert (unary.degradation.language, streamed.degradation.language) == ("en", "ko")
    assert unary.degradation.message.isascii()
    assert "AI" in streamed.degradation.message
    assert not streamed.degradation.message.isascii()


async def test_node_says_what_its_service_does_not(alone):
    got = await failed(alone.llm.Generate(ask("advice-dead", node="shop.search"), metadata=(("accept-language", "ko"),)))
    assert told(got) == ("show_catalogue", "NO_SEARCH", 503, 1)
    assert got.degradation.message == "검색어를 직접 입력해 주세요."


async def test_embedding_that_fails(alone):
    asking = pb.EmbedRequest(inputs=["hi"], model="advice-dead", caller=pb.Caller(node="oracle.embedding"))
    assert told(await failed(alone.llm.Embed(asking)))[0] == "sql_direct_input"


async def test_stream_that_breaks_after_its_first_piece(alone, upstream):
    upstream.on("advice-broken", Say(cut="reset", cut_after=2))
    got = await stream_failed(alone.llm.Stream(ask("compatible/advice-broken", service="synapse")))
    assert (got.code, got.reason) == (grpc.StatusCode.DATA_LOSS, "STREAM_CUT")
    assert told(got)[0] == "requeue"
    assert got.partial.text == got.streamed.text != ""


async def test_budget_that_is_used_up(tmp_path):
    async with serving(tmp_path, "[limits]\ntenant_day_tokens = 1\n", 'language = "ko"') as sidecar:
        got = await failed(sidecar.llm.Generate(ask("echo/echo", node="oracle.summary")))
        assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
        assert told(got) == ("sql_direct_input", "LLM_UNAVAILABLE", 503, 0)
        assert got.degradation.language == "ko"
        english = await failed(sidecar.llm.Generate(ask("echo/echo"), metadata=(("accept-language", "en"),)))
        assert (english.degradation.action, english.degradation.language) == ("retry_later", "en")


async def test_sidecar_that_is_stopping(start_sidecar):
    sidecar = await start_sidecar()
    await sidecar.ops.Drain(ops_pb2.DrainRequest())
    got = await failed(sidecar.llm.Generate(ask(service="core")))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert got.degradation.action == "retry_later"  # whose call it is has not been asked yet
    assert "mode" not in got.facts


async def test_requests_own_fault_has_no_advice(alone, upstream):
    upstream.on("picky", Fail(400))
    for asking in (ask("nobody-knows-it"), ask("advice-dead", node="a" * 300), pb.GenerateRequest(), ask("compatible/picky")):
        got = await failed(alone.llm.Generate(asking))
        assert got.code == grpc.StatusCode.INVALID_ARGUMENT
        assert got.degradation is None
        assert "mode" not in got.facts


@pytest.mark.parametrize("language", [b"ko\xff\xfe", b"caf\xc3\xa9"])
async def test_language_that_cannot_be_read_hinders_no_call(alone, language):
    message = ask("compatible/advice-well", service="core").SerializeToString()
    answer = await raw_http2.call(alone.target, "/sidecar.v1.LLMService/Generate", message, (b"accept-language", language))
    assert b"grpc-status\x010" in answer
