"""Real requests of a recording in neutral form, each with the prompt tokens its provider counted.

A recording is a file `exchanges.jsonl` in the folder that LLM_RECORDINGS names: one HTTP exchange a line, with `provider`, `path`,
`request` (the body sent) and `body` (what came back, JSON or an event stream as text).

Left out, since no neutral request can carry what adds their tokens: extended thinking, thought signatures, PDFs, the providers' own
tools, Gemini's older `responseSchema`.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.request import Image, Message, Part, ResponseFormat, Role, Text, Tool, ToolCall, ToolResult

# What a request can carry that the neutral form cannot, and that adds tokens of its own.
_OUTSIDE = ("thinking", "images", "functions")


class Recorded(NamedTuple):
    id: str
    provider: str
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    wanted: ResponseFormat | None
    inputs: tuple[str, ...]  # to embed; the rest is empty then
    tokens: int

    @property
    def plain(self) -> bool:
        return not self.tools and self.wanted is None and all(isinstance(p, Text) for m in self.messages for p in m.parts)


def read(folder: str) -> list[Recorded]:
    """Each distinct request once."""
    found: dict[str, Recorded] = {}
    for line in Path(folder, "exchanges.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        body = row["body"] if isinstance(row["body"], str) else json.dumps(row["body"])
        request = row["request"]
        if row["status"] != 200 or not isinstance(request, dict) or any(request.get(key) for key in _OUTSIDE):
            continue
        recorded = _READERS[row["provider"]](row, request, body)
        if recorded is not None and recorded.tokens:
            found.setdefault(repr(recorded[1:]), recorded)
    return list(found.values())


def _last(body: str, *fields: str) -> int:
    """The sum over fields of the last value each has."""
    return sum(int(values[-1]) for f in fields if (values := re.findall(rf'"{f}": ?(\d+)', body)))


def _schema(row: dict[str, Any] | None) -> ResponseFormat | None:
    return ResponseFormat("json_schema", row.get("name", ""), row["schema"], bool(row.get("strict"))) if row else None


def _openai(row: dict[str, Any], request: dict[str, Any], body: str) -> Recorded:
    tokens = _last(body, "prompt_tokens")
    if "input" in request:
        inputs = [request["input"]] if isinstance(request["input"], str) else request["input"]
        return Recorded(row["id"], "openai", request["model"], (), (), None, tuple(inputs), tokens)
    names: dict[str, str] = {}
    messages = []
    for m in request["messages"]:
        parts: list[Part] = []
        content = m.get("content") or ""
        pieces: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for piece in pieces:
            if piece["type"] == "text":
                parts.append(Text(piece["text"]))
            else:
                parts.append(Image(url=piece["image_url"]["url"], detail=piece["image_url"].get("detail", "")))
        for call in m.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
            parts.append(ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]))
        if m["role"] == "tool":
            parts = [ToolResult(m["tool_call_id"], names[m["tool_call_id"]], content)]
        role: Role = "system" if m["role"] == "developer" else m["role"]
        messages.append(Message(role, tuple(p for p in parts if p != Text(""))))
    tools = [t["function"] for t in request.get("tools") or ()]
    wanted = (request.get("response_format") or {}).get("json_schema")
    return Recorded(row["id"], "openai", request["model"], tuple(messages), _tools(tools, "parameters"), _schema(wanted), (), tokens)


def _tools(rows: list[dict[str, Any]], schema: str) -> tuple[Tool, ...]:
    return tuple(Tool(t["name"], t.get("description") or "", t.get(schema) or {}) for t in rows)


def _anthropic(row: dict[str, Any], request: dict[str, Any], body: str) -> Recorded:
    tokens = _last(body, "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    names: dict[str, str] = {}
    system = request.get("system") or []
    messages = [Message("system", tuple(Text(s["text"]) for s in ([{"text": system}] if isinstance(system, str) else system)))]
    for m in request["messages"]:
        parts: list[Part] = []
        content = m["content"]
        for piece in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if piece["type"] == "text":
                parts.append(Text(piece["text"]))
            elif piece["type"] == "tool_use":
                names[piece["id"]] = piece["name"]
                parts.append(ToolCall(piece["id"], piece["name"], json.dumps(piece["input"], separators=(",", ":"))))
            elif piece["type"] == "tool_result":
                result = piece["content"] if isinstance(piece["content"], str) else json.dumps(piece["content"])
                parts.append(ToolResult(piece["tool_use_id"], names[piece["tool_use_id"]], result))
        messages.append(Message(m["role"], tuple(parts)))
    if not messages[0].parts:
        del messages[0]
    wanted = _schema(request.get("output_format"))
    tools = _tools(request.get("tools") or [], "input_schema")
    return Recorded(row["id"], "anthropic", request["model"], tuple(messages), tools, wanted, (), tokens)


def _google(row: dict[str, Any], request: dict[str, Any], body: str) -> Recorded | None:
    sent = json.dumps(request)
    if "application/pdf" in sent or '"responseSchema"' in sent or re.search(r'"thoughtSignature": "[^"]{100}', sent):  # no part of ours
        return None
    model = re.search(r"models/([^:]+):", row["path"])
    given = request.get("tools") or []
    given = [given] if isinstance(given, dict) else given
    tools = [d for t in given for d in t.get("functionDeclarations") or t.get("function_declarations") or [{"name": ""}]]
    if model is None or any(not t["name"] for t in tools):  # the provider's own tools add text we never see
        return None
    messages = []
    if "systemInstruction" in request:
        messages.append(Message("system", tuple(Text(p["text"]) for p in request["systemInstruction"]["parts"])))
    for content in request.get("contents") or ():
        parts: list[Part] = []
        for piece in content["parts"]:
            if "text" in piece:
                parts.append(Text(piece["text"]))
            elif "functionCall" in piece:
                call = piece["functionCall"]
                parts.append(ToolCall(call.get("id", ""), call["name"], json.dumps(call.get("args") or {}, separators=(",", ":"))))
            elif "functionResponse" in piece:
                answer = piece["functionResponse"]
                parts.append(ToolResult(answer.get("id", ""), answer["name"], json.dumps(answer["response"], separators=(",", ":"))))
                for inner in answer.get("parts") or ():
                    parts.append(_google_image(inner))
            else:
                parts.append(_google_image(piece))
        messages.append(Message("assistant" if content["role"] == "model" else "user", tuple(parts)))
    rows = [{**t, "schema": t.get("parameters_json_schema") or t.get("parametersJsonSchema") or t.get("parameters")} for t in tools]
    schema = (request.get("generationConfig") or {}).get("responseJsonSchema")
    wanted = ResponseFormat("json_schema", "", schema) if schema else None
    tokens = _last(body, "promptTokenCount") or _last(body, "totalTokens")
    return Recorded(row["id"], "google", model[1], tuple(messages), _tools(rows, "schema"), wanted, (), tokens)


def _google_image(piece: dict[str, Any]) -> Image:
    if "inlineData" in piece:
        data = piece["inlineData"]["data"]
        return Image(base64.urlsafe_b64decode(data + "=="), piece["inlineData"]["mimeType"])
    return Image(url="by reference")


def _ollama(row: dict[str, Any], request: dict[str, Any], body: str) -> Recorded:
    messages = []
    for m in request.get("messages") or [{"role": "user", "content": request.get("prompt", "")}]:
        parts: list[Part] = [Text(m["content"])]
        for call in m.get("tool_calls") or ():
            parts.append(ToolCall("", call["function"]["name"], json.dumps(call["function"]["arguments"], separators=(",", ":"))))
        messages.append(Message(m["role"], tuple(parts)))
    tokens = _last(body, "prompt_eval_count")
    return Recorded(row["id"], "ollama", request["model"], tuple(messages), (), None, (), tokens)


_READERS = {"openai": _openai, "anthropic": _anthropic, "google": _google, "ollama": _ollama}
