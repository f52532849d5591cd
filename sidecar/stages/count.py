"""How large is it: prompt tokens."""

from __future__ import annotations

from sidecar.call import Call
from sidecar.catalog import Model
from sidecar.counting import Size, count_embed, count_generate
from sidecar.engine import Engine
from sidecar.request import EmbedRequest


def count(engine: Engine, call: Call) -> None:
    """Make the prompt countable: candidates count differently, and not every call comes to know its candidates.

    Writes size, which counts once per model, stops where the model's context ends, and remembers.
    """
    known: dict[str, Size] = {}
    request, messages, response_format = call.request, call.messages, call.response_format  # not the call: it holds `size`, a circle

    def size(model: Model) -> Size:
        # Models of one tokenizer differ in their frame around messages, and in how much they take in.
        key = f"{model.tokenizer} {model.name} {model.context_tokens}"
        found = known.get(key)
        if found is None:
            limit = model.context_tokens or None
            if isinstance(request, EmbedRequest):
                found = count_embed(model.tokenizer, request.inputs, limit)
            else:
                found = count_generate(model.tokenizer, model.name, messages, request.tools, response_format, limit)
            known[key] = found
        return found

    call.size = size
