"""OpenAI's frame against counts that its API returned (published with github.com/hmarr/openai-chat-tokens, or in its documents)."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.counting import Size, count_embed, count_generate, count_text
from sidecar.counting.encodings import counter, once
from sidecar.counting.openai import namespace
from sidecar.request import Image, Message, ResponseFormat, Text, Tool, ToolCall, ToolResult


def said(role: Any, *texts: str) -> Message:
    return Message(role, tuple(map(Text, texts)))


def tokens(*messages: Message, tools: tuple[Tool, ...] = (), wanted: ResponseFormat | None = None, model: str = "gpt-3.5-turbo") -> int:
    return count_generate("cl100k_base" if model == "gpt-3.5-turbo" else "o200k_base", model, messages, tools, wanted).tokens


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


HELLO = said("user", "hello")


@pytest.mark.parametrize(
    ("messages", "counted"),
    [
        ([HELLO], 8),
        ([said("user", "hello world")], 9),
        ([said("system", "hello:")], 9),
        ([said("system", "# Important: you're the best robot"), said("user", "hello robot"), said("assistant", "hello world")], 27),
    ],
)
def test_text_is_counted_as_the_api_counts_it(messages: list[Message], counted: int) -> None:
    assert count_generate("cl100k_base", "gpt-3.5-turbo", messages, (), None) == Size(counted, False, "cl100k_base")


def test_models_that_reason_are_primed_one_token_shorter() -> None:
    assert tokens(HELLO, model="gpt-4o") - tokens(HELLO, model="gpt-5-nano") == 1


STRING = {"type": "string"}
ABC = {"type": "string", "enum": ["a", "b", "c"]}
NESTED = schema(foo=schema(bar=ABC, baz={"type": "boolean"}))


@pytest.mark.parametrize(
    ("tool", "counted"),
    [
        (Tool("foo", "", schema()), 31),
        (Tool("foo", "Do a foo", schema()), 36),
        (Tool("bing_bong", "Do a bing bong", schema(foo=STRING)), 49),
        (Tool("bing_bong", "Do a bing bong", schema(foo=STRING, bar={"type": "number", "description": "A number"})), 57),
        (Tool("bing_bong", "Do a bing bong", NESTED), 68),
    ],
)
def test_functions_are_counted_as_the_api_counts_them(tool: Tool, counted: int) -> None:
    assert count_generate("cl100k_base", "gpt-3.5-turbo", [HELLO], [tool], None) == Size(counted, True, "cl100k_base")


@pytest.mark.parametrize(("system", "counted"), [(["Hello"], 35), (["Hello:"], 35), (["Hello:", "Hello"], 40)])
def test_functions_share_the_first_system_message(system: list[str], counted: int) -> None:
    messages = [said("system", text) for text in system]
    assert tokens(*messages, said("user", "Hi there"), tools=(Tool("do_stuff", "", schema()),)) == counted


def test_functions_become_typescript() -> None:
    parameters = {
        "type": "object",
        "required": ["place", "days"],
        "properties": {
            "place": {"type": "string", "description": "Town or postcode"},
            "days": {"type": "integer", "minimum": 1},
            "unit": {"enum": ["C", "F"]},
            "stops": {"type": "array", "items": {"type": "object", "properties": {"name": STRING}}},
            "note": {"anyOf": [STRING, {"type": "null"}]},
            "tag": {"type": ["string", "null"]},
            "rest": {},
            "any": True,
            "ref": {"$ref": "#/$defs/x"},
        },
    }
    assert namespace([Tool("forecast", "Weather ahead", parameters), Tool("stop")]) == (
        "namespace functions {\n\n"
        "// Weather ahead\n"
        "type forecast = (_: {\n"
        "// Town or postcode\n"
        "place: string,\n"
        "// minimum: 1\n"
        "days: number,\n"
        'unit?: "C" | "F",\n'
        "stops?: {\n  name?: string,\n}[],\n"
        "note?: string | null,\n"
        "tag?: string | null,\n"
        "rest?: any,\n"
        "any?: any,\n"
        'ref?: {"$ref":"#/$defs/x"},\n'
        "}) => any;\n\n"
        "type stop = () => any;\n\n"
        "} // namespace functions"
    )


def test_one_tool_call_and_its_result() -> None:
    """A published exchange: 40 prompt tokens (community.openai.com/t/538914). Never below it, and little above."""
    call = Message("assistant", (ToolCall("a", "calculator", '{"a":2, "b":2}'),))
    result = Message("tool", (ToolResult("a", "calculator", "4"),))
    assert 40 <= tokens(said("user", "How much is 2 plus 2?"), call, result) <= 42


@pytest.mark.parametrize(("calls", "counted"), [(2, 89), (3, 114)])
def test_several_tool_calls_at_once(calls: int, counted: int) -> None:
    """The same exchange with the pair repeated: the wrapper around parallel calls is dear."""
    call = Message("assistant", tuple(ToolCall(str(i), "calculator", '{"a":2, "b":2}') for i in range(calls)))
    results = [Message("tool", (ToolResult(str(i), "calculator", "4"),)) for i in range(calls)]
    assert counted <= tokens(said("user", "How much is 2 plus 2?"), call, *results) <= counted * 1.1


def test_a_schema_is_added_and_estimated() -> None:
    wanted = ResponseFormat("json_schema", "answer", schema(name=STRING), True)
    size = count_generate("o200k_base", "gpt-4o", [HELLO], (), wanted)
    assert size.estimated
    assert size.tokens > tokens(HELLO, model="gpt-4o") + counter("o200k_base")('{"name":{"type":"string"}}')
    assert count_generate("o200k_base", "gpt-4o", [HELLO], (), ResponseFormat("json_object")) == Size(8, False, "o200k_base")


def test_an_image_is_added_and_estimated() -> None:
    message = Message("user", (Text("hello"), Image(url="https://example.org/a.png", detail="low")))
    assert count_generate("o200k_base", "gpt-4o", [message], (), None) == Size(8 + 85, True, "o200k_base")


def test_special_tokens_in_a_text_are_text() -> None:
    assert count_text("o200k_base", "<|endoftext|>") > 1


def test_embeddings_are_the_sum_of_their_texts() -> None:
    assert count_embed("cl100k_base", ["hello world", "hello", "hello"]) == Size(4, False, "cl100k_base")
    assert count_embed("cl100k_base", []) == Size(0, False, "cl100k_base")


def test_a_text_that_comes_again_is_not_counted_again() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text)

    remembered = once(count)
    assert [remembered(t) for t in ("abc", "", "abc", "")] == [3, 0, 3, 0]
    assert counted == ["abc", ""]


def test_the_tables_are_opened_once() -> None:
    assert counter("o200k_base") is counter("o200k_base")
