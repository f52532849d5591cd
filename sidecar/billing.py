"""What an attempt used: the provider's own figures, and ours where it gave none."""

from __future__ import annotations

import msgspec

from sidecar.answer import Answer
from sidecar.call import NOTHING, Call, Candidate, Usage, Vectors
from sidecar.counting import count_text
from sidecar.errors import SidecarError, StreamCut
from sidecar.request import EmbedRequest, Image

_FAR_ABOVE = 4  # times what a model can take in or put out: no figure
_LEAST_FAR_ABOVE = 10_000  # tokens: of small models a few too many are no sign of nonsense
_FIELDS = Usage.__struct_fields__


def billed(
    call: Call, candidate: Candidate, answer: Answer, vectors: Vectors | None, outcome: SidecarError | None, *, ended: bool
) -> tuple[Usage, bool, str]:
    """Usage of one attempt with every field filled in, whether any of it is our estimate, and what was wrong with the provider's figures.

    A failure that the provider answered with an error, or never answered, costs nothing. An answer that broke off, was cut by the
    caller or by the deadline, is taken to cost its prompt and what came of it: providers bill for that. Figures that cannot be true
    (below zero, far above what the model can take in or put out, nothing at all for a prompt or a text) are ours instead.
    """
    if isinstance(call.request, EmbedRequest):
        said = vectors.usage if vectors is not None else None
        if outcome is not None:
            return NOTHING, False, ""
    else:
        said = answer.usage
        if outcome is not None and not answer.begun() and not isinstance(outcome, StreamCut):
            return NOTHING, False, ""
    problem = ""
    if said is None or (problem := _absurd(said, candidate)):
        said = Usage()
    given = (said.input_tokens or 0) + (said.cached_input_tokens or 0) + (said.cache_write_tokens or 0)
    estimated = said.input_tokens is None or (not given and candidate.input_tokens > 0)
    input_tokens = candidate.input_tokens if estimated else said.input_tokens or 0
    output, reasoning = said.output_tokens or 0, said.reasoning_tokens or 0
    # The provider's word on its output is complete only if the answer came to its end.
    complete = ended if isinstance(call.request, EmbedRequest) else answer.finish is not None and said.output_tokens is not None
    if not complete or (answer.begun() and not output + reasoning):
        estimated = True
        tokenizer, model = candidate.model.tokenizer, candidate.model.name
        calls = "".join(c.name + c.arguments for c in answer.tool_calls)
        output = max(output, count_text(tokenizer, answer.text, model) + count_text(tokenizer, calls, model))
        reasoning = max(reasoning, count_text(tokenizer, answer.reasoning, model))
    cached, hourly = said.cached_input_tokens or 0, said.cache_write_1h_tokens or 0
    written = max(said.cache_write_tokens or 0, hourly)
    return Usage(input_tokens, cached, written, hourly, output, reasoning), estimated, problem


def _absurd(said: Usage, candidate: Candidate) -> str:
    """Why a provider's figures cannot be true, "" if they can. The bounds are far out: what is merely surprising is billed, and posted."""
    negative = next((name for name in _FIELDS if (getattr(said, name) or 0) < 0), "")
    if negative:
        return f"{negative} {getattr(said, negative)}"
    model = candidate.model
    given = (said.input_tokens or 0) + (said.cached_input_tokens or 0) + (said.cache_write_tokens or 0)
    most = max(_FAR_ABOVE * max(model.context_tokens, candidate.input_tokens), _LEAST_FAR_ABOVE)
    if given > most:
        return f"{given} input tokens, where {model.id} takes in {model.context_tokens}"
    written = (said.output_tokens or 0) + (said.reasoning_tokens or 0)
    most = max(_FAR_ABOVE * max(model.max_output_tokens, candidate.max_output_tokens), _LEAST_FAR_ABOVE)
    if written > most:
        return f"{written} output tokens, where {model.id} puts out at most {model.max_output_tokens}"
    return ""


def images(call: Call) -> int:
    """Pictures in the prompt, for models that charge for each."""
    return sum(isinstance(part, Image) for message in call.messages for part in message.parts)


def may_write(call: Call) -> bool:
    """Does the call ask its provider to keep the prompt for later calls? Only its own options can."""
    options = call.request.provider_options
    return bool(options) and b'"cache_control"' in msgspec.json.encode(options, enc_hook=repr)


def total(usages: list[Usage]) -> Usage:
    """The sum over attempts; every field is filled in."""
    if len(usages) == 1:
        return usages[0]
    return Usage(
        sum(u.input_tokens or 0 for u in usages),
        sum(u.cached_input_tokens or 0 for u in usages),
        sum(u.cache_write_tokens or 0 for u in usages),
        sum(u.cache_write_1h_tokens or 0 for u in usages),
        sum(u.output_tokens or 0 for u in usages),
        sum(u.reasoning_tokens or 0 for u in usages),
    )


def tokens(usage: Usage) -> int:
    return (
        (usage.input_tokens or 0)
        + (usage.cached_input_tokens or 0)
        + (usage.cache_write_tokens or 0)
        + (usage.output_tokens or 0)
        + (usage.reasoning_tokens or 0)
    )
