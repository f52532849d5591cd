"""anthropic for Python, as its users use it: only the address and the key are other ones. usage: anthropic_python.py ADDRESS"""

from __future__ import annotations

import sys
from typing import Any

from anthropic import Anthropic, APIError
from pydantic import BaseModel
from speaking import PNG, WEATHER, listen, say

client = Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
TOOLS: Any = [{"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER}]


class Weather(BaseModel):
    city: str
    degrees: int


def asked(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def tokens(usage: Any) -> list[int]:
    return [usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.output_tokens]


def text(model: str) -> None:
    reply = client.messages.create(
        model=model,
        max_tokens=77,
        system="Be brief.",
        messages=asked("Hi"),
        stop_sequences=["END"],
        extra_body={"temperature": 0.5},  # this SDK's own argument for it is gone
    )
    say(
        text="".join(block.text for block in reply.content if block.type == "text"),
        finish=reply.stop_reason,
        tokens=tokens(reply.usage),
        cost=reply.sidecar["cost"]["nano_usd"],  # type: ignore[attr-defined]
        id=reply._request_id,
    )


def stream(model: str) -> None:
    with client.messages.stream(model=model, max_tokens=100, messages=asked("Hi")) as events:
        for piece in events.text_stream:
            say(piece=piece)
        say(tokens=tokens(events.get_final_message().usage))


def tools(model: str) -> None:
    messages = asked("Weather?")
    reply = client.messages.create(model=model, max_tokens=100, messages=messages, tools=TOOLS)
    calls = [block for block in reply.content if block.type == "tool_use"]
    say(tools=[[call.name, call.input] for call in calls])
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": '{"sky": "grey"}'} for call in calls]
    messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [*results, {"type": "text", "text": "And?"}]}]
    after = client.messages.create(model=model, max_tokens=100, messages=messages, tools=TOOLS)
    say(text=after.content[0].text)  # type: ignore[union-attr]


def tools_streamed(model: str) -> None:
    with client.messages.stream(model=model, max_tokens=100, messages=asked("Weather?"), tools=TOOLS) as events:
        for event in events:
            if event.type == "input_json":
                say(piece=event.partial_json)
        message = events.get_final_message()
    say(tools=[[block.name, block.input] for block in message.content if block.type == "tool_use"])


def image(model: str) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    messages: Any = [{"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}]
    say(text=client.messages.create(model=model, max_tokens=100, messages=messages).content[0].text)  # type: ignore[union-attr]


def schema(model: str) -> None:
    reply = client.messages.parse(model=model, max_tokens=100, messages=asked("Weather?"), output_format=Weather)
    found = reply.parsed_output
    assert found is not None
    say(found=found.model_dump())


def models(model: str) -> None:
    say(models=[one.id for one in client.models.list()], one=client.models.retrieve(model).id)


def count(model: str) -> None:
    say(tokens=client.messages.count_tokens(model=model, messages=asked("Hi")).input_tokens)


def unknown_model(_: str) -> None:
    client.messages.create(model="no-such-model", max_tokens=10, messages=asked("Hi"))


def wrong(model: str) -> None:
    client.messages.create(model=model, max_tokens=10, messages=asked("Hi"), thinking={"type": "enabled", "budget_tokens": 1024})


def cancel(model: str) -> None:
    with client.messages.stream(model=model, max_tokens=100, messages=asked("Hi")) as events:
        for piece in events.text_stream:
            say(piece=piece)
            break


def described(error: Exception) -> dict[str, Any]:
    if not isinstance(error, APIError):
        return {"message": str(error)}
    response = getattr(error, "response", None)
    body: Any = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error", {})
    return {
        "status": getattr(error, "status_code", None),
        "code": inner.get("type"),
        "retry_after": response.headers.get("retry-after") if response is not None else None,
        "reason": inner.get("sidecar", {}).get("reason"),
        "partial": inner.get("sidecar", {}).get("partial", {}).get("text"),
    }


CASES = {
    "text": text, "stream": stream, "tools": tools, "tools_streamed": tools_streamed, "image": image, "schema": schema,
    "models": models, "count": count, "unknown_model": unknown_model, "wrong": wrong, "overloaded": text, "broken": stream,
    "cancel": cancel,
}  # fmt: skip
listen(CASES, described)
