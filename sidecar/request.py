"""What callers ask: as a door read it, nothing checked and nothing filled in. Frozen: nobody changes a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from sidecar.policies.runs import RunPlan

Role = Literal["system", "user", "assistant", "tool"]


# Who goes first where there are more calls than places.
Priority = Literal["critical", "normal", "optional"]


# How hard a question is; "": nobody says.
Complexity = Literal["", "low", "medium", "high", "estimate"]


class Text(Struct, frozen=True, gc=False):
    text: str


class Image(Struct, frozen=True, gc=False):
    """Either `data` with its `mime_type`, or a `url`. `detail` is OpenAI's low | high | auto, empty: auto."""

    data: bytes = b""
    mime_type: str = ""
    url: str = ""
    detail: str = ""


class ToolCall(Struct, frozen=True, gc=False):
    """`arguments` is JSON text, exactly as the model wrote it; `signature` is opaque and goes back to the provider that gave it."""

    id: str
    name: str
    arguments: str
    signature: str = ""


class ToolResult(Struct, frozen=True, gc=False):
    tool_call_id: str
    name: str = ""  # Google wants the function's name; the check stage fills it from the call it answers
    content: str = ""
    is_error: bool = False


Part = Text | Image | ToolCall | ToolResult


class Message(Struct, frozen=True):
    role: Role
    parts: tuple[Part, ...]


class Tool(Struct, frozen=True):
    """`parameters` is a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {}
    strict: bool = False


class ToolChoice(Struct, frozen=True, gc=False):
    mode: Literal["auto", "none", "required", "tool"] = "auto"
    name: str = ""  # with mode `tool`


class ResponseFormat(Struct, frozen=True):
    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    schema: Mapping[str, Any] | None = None
    strict: bool = False


class Caller(Struct, frozen=True):
    service: str = ""
    node: str = ""
    tenant: str = ""
    user: str = ""
    plan: str = ""
    run: str = ""
    agent: str = ""
    step: int = 0
    tags: Mapping[str, str] = {}
    priority: Priority = "normal"
    run_plan: RunPlan | None = None  # of `run`, brought along by its first call; its own tenant and run say nothing


NOBODY = Caller()  # the caller of a request that names none; the same one always, so that it is known at a glance


class GenerateRequest(Struct, frozen=True):
    """As the door read it: nothing checked, nothing filled in. None: not set, which differs from zero."""

    caller: Caller = NOBODY
    prompt: str = ""
    system: str = ""
    messages: tuple[Message, ...] = ()
    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    cache_mode: str = ""  # default, bypass, refresh, only; "": the node's
    cache_max_age_ms: int | None = None
    on_cut: str = ""  # fail, restart, hold; no_restart: the node's, unless that is restart; "": the node's
    idempotency_key: str = ""
    prompt_name: str = ""
    prompt_version: str = ""
    provider_options: Mapping[str, Any] = {}
    complexity: Complexity = ""


class EmbedRequest(Struct, frozen=True):
    """`dimensions` None: the model's own length."""

    caller: Caller = NOBODY
    inputs: tuple[str, ...] = ()
    model: str = ""
    dimensions: int | None = None
    provider_options: Mapping[str, Any] = {}
    cache_mode: str = ""
    cache_max_age_ms: int | None = None
