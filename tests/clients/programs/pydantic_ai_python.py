"""pydantic-ai, as its users use it: only the address and the key are other ones. usage: pydantic_ai_python.py ADDRESS"""

from __future__ import annotations

import asyncio
import base64
import sys
from typing import Any

from openai import APIError, AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from speaking import PNG, listen, say


class Weather(BaseModel):
    city: str
    degrees: int


def agent(model: str, **more: Any) -> Agent[None, Any]:
    client = AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
    return Agent(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)), **more)


def text(model: str) -> None:
    reply = agent(model).run_sync("Hi", model_settings={"temperature": 0.5, "max_tokens": 77, "stop_sequences": ["END"], "seed": 7})
    say(text=reply.output, tokens=[reply.usage.input_tokens, reply.usage.output_tokens])


async def _stream(model: str, most: int) -> None:
    async with agent(model).run_stream("Hi") as reply:
        async for piece in reply.stream_text(delta=True, debounce_by=None):
            say(piece=piece)
            most -= 1
            if not most:
                return
        say(tokens=[reply.usage.input_tokens, reply.usage.output_tokens])


def stream(model: str) -> None:
    asyncio.run(_stream(model, 1_000))


def cancel(model: str) -> None:
    asyncio.run(_stream(model, 1))


def tools(model: str) -> None:
    able = agent(model)

    @able.tool_plain
    def weather(city: str) -> dict[str, str]:
        """Tells the weather."""
        say(tools=[["weather", {"city": city}]])
        return {"sky": "grey"}

    say(text=able.run_sync("Weather?").output)


def image(model: str) -> None:
    say(text=agent(model).run_sync(["What is it?", BinaryContent(base64.b64decode(PNG), media_type="image/png")]).output)


def schema(model: str) -> None:
    say(found=agent(model, output_type=NativeOutput(Weather, strict=True)).run_sync("Weather?").output.model_dump())


def unknown_model(_: str) -> None:
    agent("no-such-model").run_sync("Hi")


def wrong(model: str) -> None:
    agent(model).run_sync("Hi", model_settings={"logit_bias": {"50256": -100}})


def described(error: Exception) -> dict[str, Any]:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    cause = error if isinstance(error, APIError) else error.__cause__
    body: Any = error.body if isinstance(error, ModelHTTPError) else getattr(cause, "body", None)
    body = body if isinstance(body, dict) else {}
    response = getattr(cause, "response", None)
    return {
        "status": getattr(error, "status_code", None),
        "code": body.get("code"),
        "param": body.get("param"),
        "retry_after": response.headers.get("retry-after") if response is not None else None,
        "reason": body.get("sidecar", {}).get("reason"),
        "partial": body.get("sidecar", {}).get("partial", {}).get("text"),
    }


CASES = {
    "text": text, "stream": stream, "tools": tools, "image": image, "schema": schema, "unknown_model": unknown_model, "wrong": wrong,
    "overloaded": text, "broken": stream, "cancel": cancel,
}  # fmt: skip
listen(CASES, described)
