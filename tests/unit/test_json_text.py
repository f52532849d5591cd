"""JSON of others, nested deeper than the stack: each reader says so in its own words, and none falls over."""

from __future__ import annotations

import pytest

from sidecar import schemas
from sidecar.answer import Answer
from sidecar.call import Chunk, ToolDelta
from sidecar.edge.wire import generate_request
from sidecar.errors import InvalidRequest, ProviderGarbled, SchemaViolated
from sidecar.json_text import UNREADABLE
from sidecar.v1 import llm_pb2 as pb

DEEP = '{"a":' * 100_000


def test_a_tool_schema() -> None:
    with pytest.raises(InvalidRequest, match=r"tools\[0\]\.parameters is no JSON"):
        generate_request(pb.GenerateRequest(tools=[pb.Tool(name="f", parameters=DEEP)]))


def test_a_strict_answer() -> None:
    with pytest.raises(SchemaViolated, match="is no JSON"):
        schemas.require_fit(DEEP, {"type": "object"}, "m")


def test_the_arguments_of_a_tool_call() -> None:
    answer = Answer()
    answer.add(Chunk(tool_calls=(ToolDelta(0, "1", "f", DEEP),), finish="tool_calls", last=True))
    with pytest.raises(ProviderGarbled, match="'f' are no JSON"):
        answer.prove("test", may_be_empty=False)


def test_text_that_is_parsed() -> None:
    with pytest.raises(UNREADABLE):
        schemas.parse(DEEP)
