"""langchain-openai, as its users use it: only the address and the key are other ones. usage: langchain_python.py ADDRESS"""

from __future__ import annotations

import sys
from typing import Any

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import APIError
from pydantic import BaseModel, SecretStr
from speaking import PNG, listen, say

ADDRESS = f"{sys.argv[1]}/v1"


class Weather(BaseModel):
    """How the weather is."""

    city: str
    degrees: int


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return '{"sky": "grey"}'


def chat(model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=ADDRESS, api_key=SecretStr("none"), max_retries=0, **more)


def text(model: str) -> None:
    reply = chat(model, temperature=0.5, max_completion_tokens=77, stop_sequences=["END"], seed=7).invoke("Hi")
    assert reply.usage_metadata is not None
    usage = reply.usage_metadata
    say(text=reply.content, finish=reply.response_metadata["finish_reason"], tokens=[usage["input_tokens"], usage["output_tokens"]])


def stream(model: str) -> None:
    for chunk in chat(model, stream_usage=True).stream("Hi"):
        if chunk.content:
            say(piece=chunk.content)
        if chunk.usage_metadata is not None:
            say(tokens=[chunk.usage_metadata["input_tokens"], chunk.usage_metadata["output_tokens"]])


def tools(model: str) -> None:
    able = chat(model).bind_tools([weather])
    reply = able.invoke("Weather?")
    say(tools=[[call["name"], call["args"]] for call in reply.tool_calls])
    results = [ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in reply.tool_calls]
    say(text=able.invoke([HumanMessage("Weather?"), reply, *results]).content)


def tools_streamed(model: str) -> None:
    whole: AIMessageChunk | None = None
    for chunk in chat(model).bind_tools([weather]).stream("Weather?"):
        assert isinstance(chunk, AIMessageChunk)
        for piece in chunk.tool_call_chunks:
            say(piece=piece["args"])
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    say(tools=[[call["name"], call["args"]] for call in whole.tool_calls])


def image(model: str) -> None:
    picture: dict[str, Any] = {"type": "image", "base64": PNG, "mime_type": "image/png"}
    say(text=chat(model).invoke([HumanMessage([{"type": "text", "text": "What is it?"}, picture])]).content)


def schema(model: str) -> None:
    found: Any = chat(model).with_structured_output(Weather).invoke("Weather?")
    say(found=found.model_dump())


def embeddings(model: str) -> None:
    able = OpenAIEmbeddings(model=model, base_url=ADDRESS, api_key=SecretStr("none"), dimensions=4)
    say(vectors=able.embed_documents(["one", "two"]), plain=able.embed_query("one"))


def unknown_model(_: str) -> None:
    chat("no-such-model").invoke("Hi")


def wrong(model: str) -> None:
    chat(model, logprobs=True).invoke("Hi")


def cancel(model: str) -> None:
    chunks = chat(model).stream("Hi")
    for chunk in chunks:
        if chunk.content:
            say(piece=chunk.content)
            break
    chunks.close()  # type: ignore[attr-defined]


def described(error: Exception) -> dict[str, Any]:
    if not isinstance(error, APIError):
        return {"message": str(error)}
    response = getattr(error, "response", None)
    body: Any = error.body if isinstance(error.body, dict) else {}
    return {
        "status": getattr(error, "status_code", None),
        "code": error.code,
        "param": error.param,
        "retry_after": response.headers.get("retry-after") if response is not None else None,
        "reason": body.get("sidecar", {}).get("reason"),
        "partial": body.get("sidecar", {}).get("partial", {}).get("text"),
    }


CASES = {
    "text": text, "stream": stream, "tools": tools, "tools_streamed": tools_streamed, "image": image, "schema": schema,
    "embeddings": embeddings, "unknown_model": unknown_model, "wrong": wrong, "overloaded": text, "broken": stream, "cancel": cancel,
}  # fmt: skip
listen(CASES, described)
