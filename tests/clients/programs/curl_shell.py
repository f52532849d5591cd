"""curl, with the lines that a person would type, and its output read as it comes. usage: curl_shell.py ADDRESS"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from speaking import PNG, WEATHER, listen, say

ADDRESS = sys.argv[1]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}}, "required": ["city", "degrees"]}


class Failed(Exception):
    def __init__(self, status: int, error: dict[str, Any], headers: dict[str, str]) -> None:
        super().__init__(error.get("message"))
        self.status, self.error, self.headers = status, error, headers


def curl(path: str, body: dict[str, Any] | None) -> subprocess.Popen[str]:
    given = [] if body is None else ["-H", "content-type: application/json", "-d", json.dumps(body)]
    return subprocess.Popen(["curl", "-sS", "-N", "-i", *given, f"{ADDRESS}/v1/{path}"], stdout=subprocess.PIPE, text=True)


def head(process: subprocess.Popen[str]) -> tuple[int, dict[str, str]]:
    assert process.stdout is not None
    status = int(process.stdout.readline().split()[1])
    headers = {}
    while line := process.stdout.readline().strip():
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return status, headers


def whole(path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    process = curl(path, body)
    status, headers = head(process)
    assert process.stdout is not None
    said: dict[str, Any] = json.loads(process.stdout.read())
    if status != 200:
        raise Failed(status, said["error"], headers)
    return said


def asked(model: str, text: str = "Hi", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def text(model: str) -> None:
    reply = whole("chat/completions", asked(model, temperature=0.5, max_tokens=77, stop=["END"], seed=7))
    usage = reply["usage"]
    say(
        text=reply["choices"][0]["message"]["content"],
        finish=reply["choices"][0]["finish_reason"],
        tokens=[usage["prompt_tokens"], usage["completion_tokens"]],
        cost=reply["sidecar"]["cost"]["nano_usd"],
    )


def _stream(body: dict[str, Any], most: int) -> None:
    process = curl("chat/completions", body)
    head(process)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if not line.startswith("data: "):
            continue
        last = line.removeprefix("data: ").strip()
        if last == "[DONE]":
            break
        event = json.loads(last)
        if "error" in event:
            process.wait()
            raise Failed(0, event["error"], {})
        for choice in event["choices"]:
            if choice["delta"].get("content"):
                say(piece=choice["delta"]["content"])
                most -= 1
        if event.get("usage"):
            say(tokens=[event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"]])
        if not most:
            process.kill()
            process.wait()
            return
    assert (process.wait(), last) == (0, "[DONE]")


def stream(model: str) -> None:
    _stream(asked(model, stream=True, stream_options={"include_usage": True}), 1_000)


def cancel(model: str) -> None:
    _stream(asked(model, stream=True), 1)


def tools(model: str) -> None:
    body = asked(model, "Weather?", tools=TOOLS)
    message = whole("chat/completions", body)["choices"][0]["message"]
    say(tools=[[c["function"]["name"], c["function"]["arguments"]] for c in message["tool_calls"]])
    body["messages"] += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": '{"sky": "grey"}'}]
    say(text=whole("chat/completions", body)["choices"][0]["message"]["content"])


def image(model: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    body = {"model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]}
    say(text=whole("chat/completions", body)["choices"][0]["message"]["content"])


def schema(model: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    say(found=json.loads(whole("chat/completions", asked(model, response_format=wanted))["choices"][0]["message"]["content"]))


def embeddings(model: str) -> None:
    reply = whole("embeddings", {"model": model, "input": ["one", "two"], "dimensions": 4})
    say(vectors=[one["embedding"] for one in reply["data"]], plain=reply["data"][0]["embedding"], tokens=reply["usage"]["prompt_tokens"])


def models(model: str) -> None:
    say(models=[one["id"] for one in whole("models", None)["data"]], one=whole(f"models/{model}", None)["id"])


def unknown_model(_: str) -> None:
    whole("chat/completions", asked("no-such-model"))


def wrong(model: str) -> None:
    whole("chat/completions", asked(model, logprobs=True))


def described(error: Exception) -> dict[str, Any]:
    if not isinstance(error, Failed):
        return {"message": repr(error)}
    own = error.error.get("sidecar", {})
    return {
        "status": error.status,
        "code": error.error["code"],
        "param": error.error["param"],
        "retry_after": error.headers.get("retry-after"),
        "reason": own.get("reason"),
        "partial": own.get("partial", {}).get("text"),
    }


CASES = {
    "text": text, "stream": stream, "tools": tools, "image": image, "schema": schema, "embeddings": embeddings, "models": models,
    "unknown_model": unknown_model, "wrong": wrong, "overloaded": text, "broken": stream, "cancel": cancel,
}  # fmt: skip
listen(CASES, described)
