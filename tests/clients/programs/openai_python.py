"""openai for Python, as its users use it: only the address and the key are other ones. usage: openai_python.py ADDRESS"""

from __future__ import annotations

import sys
from typing import Any

from openai import APIError, OpenAI
from pydantic import BaseModel
from speaking import PNG, WEATHER, listen, say

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": WEATHER}}]


class Weather(BaseModel):
    city: str
    degrees: int


def asked(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def text(model: str) -> None:
    reply = client.chat.completions.create(
        model=model, messages=asked("Hi"), temperature=0.5, max_completion_tokens=77, stop=["END"], seed=7
    )
    assert reply.usage is not None
    say(
        text=reply.choices[0].message.content,
        finish=reply.choices[0].finish_reason,
        tokens=[reply.usage.prompt_tokens, reply.usage.completion_tokens],
        cost=reply.sidecar["cost"]["nano_usd"],  # type: ignore[attr-defined]
        id=reply._request_id,
    )


def stream(model: str) -> None:
    with client.chat.completions.create(model=model, messages=asked("Hi"), stream=True, stream_options={"include_usage": True}) as chunks:
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                say(piece=chunk.choices[0].delta.content)
            if chunk.usage is not None:
                say(tokens=[chunk.usage.prompt_tokens, chunk.usage.completion_tokens], cost=chunk.sidecar["cost"]["nano_usd"])  # type: ignore[attr-defined]


def tools(model: str) -> None:
    messages = asked("Weather?")
    message = client.chat.completions.create(model=model, messages=messages, tools=TOOLS).choices[0].message
    assert message.tool_calls
    say(tools=[[c.function.name, c.function.arguments] for c in message.tool_calls if c.type == "function"])
    messages.append(message)  # as it came, with every field that the SDK put there
    messages += [{"role": "tool", "tool_call_id": c.id, "content": '{"sky": "grey"}'} for c in message.tool_calls]
    say(text=client.chat.completions.create(model=model, messages=messages, tools=TOOLS).choices[0].message.content)


def tools_streamed(model: str) -> None:
    with client.chat.completions.stream(model=model, messages=asked("Weather?"), tools=TOOLS) as events:
        for event in events:
            if event.type == "tool_calls.function.arguments.delta":
                say(piece=event.arguments_delta)
        message = events.get_final_completion().choices[0].message
    assert message.tool_calls
    say(tools=[[c.function.name, c.function.arguments] for c in message.tool_calls])


def image(model: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    say(text=client.chat.completions.create(model=model, messages=messages).choices[0].message.content)


def schema(model: str) -> None:
    found = client.chat.completions.parse(model=model, messages=asked("Weather?"), response_format=Weather).choices[0].message.parsed
    assert found is not None
    say(found=found.model_dump())


def embeddings(model: str) -> None:
    reply = client.embeddings.create(model=model, input=["one", "two"], dimensions=4)  # the SDK asks for base64 by itself
    plain = client.embeddings.create(model=model, input="one", dimensions=4, encoding_format="float")
    say(vectors=[one.embedding for one in reply.data], plain=plain.data[0].embedding, tokens=reply.usage.prompt_tokens)


def models(model: str) -> None:
    say(models=[one.id for one in client.models.list()], one=client.models.retrieve(model).id)


def unknown_model(_: str) -> None:
    client.chat.completions.create(model="no-such-model", messages=asked("Hi"))


def wrong(model: str) -> None:
    client.chat.completions.create(model=model, messages=asked("Hi"), logprobs=True)


def cancel(model: str) -> None:
    with client.chat.completions.create(model=model, messages=asked("Hi"), stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices[0].delta.content:
                say(piece=chunk.choices[0].delta.content)
                break


def described(error: Exception) -> dict[str, Any]:
    if not isinstance(error, APIError):
        return {"message": str(error)}
    response = getattr(error, "response", None)
    headers = response.headers if response is not None else {}
    body: Any = error.body if isinstance(error.body, dict) else {}
    return {
        "status": getattr(error, "status_code", None),
        "code": error.code,
        "param": error.param,
        "retry_after": headers.get("retry-after"),
        "reason": body.get("sidecar", {}).get("reason"),
        "partial": body.get("sidecar", {}).get("partial", {}).get("text"),
    }


CASES = {
    "text": text, "stream": stream, "tools": tools, "tools_streamed": tools_streamed, "image": image, "schema": schema,
    "embeddings": embeddings, "models": models, "unknown_model": unknown_model, "wrong": wrong, "overloaded": text, "broken": stream,
    "cancel": cancel,
}  # fmt: skip
listen(CASES, described)
