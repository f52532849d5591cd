"""The fake speaks the real wire: the providers' own SDKs understand it. Were it not so, every flow test would prove little."""

from __future__ import annotations

import json

import aiohttp
import anthropic
import openai
import pytest
from google import genai
from google.genai import errors, types

from tests.fakes.script import Fail, Say, Tokens, Tool, Vectors, vector_of
from tests.fakes.upstream import Upstream

TOOL = Tool("weather", '{"city": "Seoul", "days": 3}')
ANSWER = Say(pieces=("Look ", "ing"), tools=(TOOL,), finish="tool_calls", tokens=Tokens(input=10, cached=4, output=6, reasoning=2))


@pytest.fixture
async def upstream():
    async with Upstream() as upstream:
        yield upstream


async def test_openai_sdk_reads_answer_stream_vectors_and_error(upstream):
    upstream.on("m", ANSWER)
    upstream.on("broken", Fail(429, headers=(("Retry-After", "7"),)))
    async with openai.AsyncOpenAI(api_key="k", base_url=upstream.url + "/v1", max_retries=0) as client:
        asked = [{"role": "user", "content": "?"}]
        whole = await client.chat.completions.create(model="m", messages=asked)
        assert whole.choices[0].message.tool_calls[0].function.arguments == TOOL.arguments
        assert whole.usage.prompt_tokens == 14
        assert whole.usage.completion_tokens_details.reasoning_tokens == 2
        streamed = await client.chat.completions.create(model="m", messages=asked, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in streamed]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Look ing"
        assert chunks[-2].choices[0].finish_reason == "tool_calls"
        assert chunks[-1].usage.total_tokens == 22
        for form in ("float", "base64"):
            vectors = await client.embeddings.create(model="e", input=["a", "b"], encoding_format=form, dimensions=4)
            assert len(vectors.data) == 2
        assert (await client.embeddings.create(model="e", input=["a"])).data[0].embedding == vector_of("a", 8)
        with pytest.raises(openai.RateLimitError) as failed:
            await client.chat.completions.create(model="broken", messages=asked)
        assert failed.value.code == "rate_limit_exceeded"
        assert [m.id async for m in client.models.list()] == ["tiny"]


async def test_anthropic_sdk_reads_answer_stream_and_error(upstream):
    upstream.on("m", ANSWER)
    upstream.on("broken", Fail(529))
    async with anthropic.AsyncAnthropic(api_key="k", base_url=upstream.url, max_retries=0) as client:
        asked = {"max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}
        whole = await client.messages.create(model="m", **asked)
        assert [b.type for b in whole.content] == ["text", "tool_use"]
        assert whole.usage.cache_read_input_tokens == 4
        async with client.messages.stream(model="m", **asked) as stream:
            final = await stream.get_final_message()
        assert final.content[1].input == json.loads(TOOL.arguments)
        assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("tool_use", 10, 8)
        with pytest.raises(anthropic.APIStatusError) as failed:
            await client.messages.create(model="broken", **asked)
        assert failed.value.type == "overloaded_error"


async def test_google_sdk_reads_answer_stream_vectors_and_error(upstream):
    upstream.on("m", ANSWER)
    upstream.on("broken", Fail(404))
    client = genai.Client(
        api_key="k", http_options=types.HttpOptions(base_url=upstream.url, retry_options=types.HttpRetryOptions(attempts=1))
    )
    try:
        whole = await client.aio.models.generate_content(model="m", contents="?")
        assert whole.function_calls[0].args == json.loads(TOOL.arguments)
        assert (whole.usage_metadata.prompt_token_count, whole.usage_metadata.thoughts_token_count) == (14, 2)
        chunks = [c async for c in await client.aio.models.generate_content_stream(model="m", contents="?")]
        assert "".join(p.text or "" for c in chunks for p in c.candidates[0].content.parts) == "Look ing"
        assert chunks[-1].candidates[0].finish_reason == "STOP"
        vectors = await client.aio.models.embed_content(model="e", contents=["a", "b"])
        assert [v.values for v in vectors.embeddings] == [vector_of("a", 8), vector_of("b", 8)]
        with pytest.raises(errors.ClientError) as failed:
            await client.aio.models.generate_content(model="broken", contents="?")
        assert failed.value.status == "NOT_FOUND"
    finally:
        await client.aio.aclose()


async def test_ollama_lines_and_vectors(upstream):
    upstream.on("m", ANSWER)
    async with aiohttp.ClientSession(upstream.url) as client:
        async with client.post("/api/chat", json={"model": "m", "messages": [{"role": "user", "content": "?"}]}) as reply:
            lines = [json.loads(line) async for line in reply.content]
        assert "".join(line["message"]["content"] for line in lines) == "Look ing"
        assert [line["done"] for line in lines] == [False, False, False, True]
        assert lines[-1]["prompt_eval_count"] == 14
        async with client.post("/api/embed", json={"model": "e", "input": ["a", "b"]}) as reply:
            assert (await reply.json())["embeddings"][1] == vector_of("b", 8)
        async with client.get("/api/tags") as reply:
            assert (await reply.json())["models"]


@pytest.mark.parametrize("cut", ["reset", "close", "no_finish", "no_end"])
async def test_cut_streams_lack_their_end(upstream, cut):
    upstream.on("m", Say(cut=cut, cut_after=2))
    async with aiohttp.ClientSession(upstream.url) as client:
        reply = await client.post("/compatible/v1/chat/completions", json={"model": "m", "messages": [1], "stream": True})
        body = b""
        try:
            while data := await reply.content.readany():
                body += data
            was_reset = False
        except aiohttp.ClientError:
            was_reset = True
    assert was_reset == (cut == "reset")
    assert b"Hello" in body
    assert (b"[DONE]" in body) == (cut == "no_finish")
    assert (b'"stop"' in body) == (cut == "no_end")
    assert (b"world" in body) == (cut in ("no_finish", "no_end"))


async def test_it_notices_that_the_caller_hung_up(upstream):
    upstream.on("m", Say(delay_ms=20, pieces=("x",) * 500))
    async with aiohttp.ClientSession(upstream.url) as client:
        reply = await client.post("/compatible/v1/chat/completions", json={"model": "m", "messages": [1], "stream": True})
        await reply.content.readany()
        reply.close()
        exchange = await upstream.request("m")
        await exchange.ended(within_s=2)
    assert exchange.closed_at is not None


async def test_missing_key_is_refused_and_vectors_can_be_missing(upstream):
    upstream.on("e", Vectors(missing=1, backwards=True))
    async with aiohttp.ClientSession(upstream.url) as client:
        async with client.post("/v1/embeddings", json={"model": "e", "input": ["a"]}) as reply:
            assert reply.status == 401
        async with client.post("/compatible/v1/embeddings", json={"model": "e", "input": ["a", "b", "c"]}) as reply:
            assert [v["index"] for v in (await reply.json())["data"]] == [1, 0]
