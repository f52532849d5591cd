"""JSON schemas: is one valid, and does an answer fit it? jsonschema-rs does the work; it is imported at the first schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.json import decode, encode

from sidecar.errors import InvalidRequest, SchemaViolated
from sidecar.json_text import UNREADABLE

if TYPE_CHECKING:
    import jsonschema_rs


def parse(text: str) -> Any:
    """JSON text as Python values; an empty text is an empty object. Raises one of `json_text.UNREADABLE`."""
    return decode(text) if text.strip() else {}


def require_valid(schema: Mapping[str, Any] | None, field: str) -> None:
    """Refuse what is no JSON schema, naming the field and the place in it. Raises InvalidRequest."""
    if not schema:
        raise InvalidRequest(f"{field} is empty; expected the JSON text of a JSON schema", field=field)
    import jsonschema_rs

    try:
        _validator(encode(schema))
    except (ValueError, jsonschema_rs.ReferencingError) as error:  # the latter for a `$schema` that nobody knows
        raise InvalidRequest(f"{field} is no valid JSON schema: {_short(error)}", field=field) from None


def require_fit(answer: str, schema: Mapping[str, Any], model: str) -> None:
    """Refuse an answer that does not fit its schema, naming the place but not the content. Raises SchemaViolated."""
    try:
        value = decode(answer)
    except UNREADABLE:
        raise SchemaViolated(f"{model} was to answer by a strict schema, but its answer is no JSON") from None
    for error in _validator(encode(schema)).iter_errors(value):
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        rule = "/".join(str(step) for step in error.schema_path)
        raise SchemaViolated(f"{model} was to answer by a strict schema, but its answer{path or ' as a whole'} does not fit {rule}")


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    """Compiled once per schema: services send the same few with every call. References to elsewhere are not followed."""
    import jsonschema_rs

    def refuse(uri: str) -> Any:
        raise ValueError(f"reference to {uri}: a schema must be whole in itself")

    parsed = decode(schema)
    jsonschema_rs.meta.validate(parsed)
    return jsonschema_rs.validator_for(parsed, retriever=refuse)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
