"""What an attempt used: the provider's own figures, and ours where it gave none."""

from __future__ import annotations

from sidecar.answer import Answer
from sidecar.call import Call, Candidate, EmbedRequest, Usage, Vectors
from sidecar.counting import count_text
from sidecar.errors import SidecarError, StreamCut

NOTHING = Usage(0, 0, 0, 0, 0, 0)


def billed(
    call: Call, candidate: Candidate, answer: Answer, vectors: Vectors | None, outcome: SidecarError | None, *, ended: bool
) -> tuple[Usage, bool]:
    """Usage of one attempt with every field filled in, and whether any of it is our estimate.

    A failure that the provider answered with an error, or never answered, costs nothing. An answer that broke off, was cut by the
    caller or by the deadline, is taken to cost its prompt and what came of it: providers bill for that.
    """
    if isinstance(call.request, EmbedRequest):
        said = vectors.usage if vectors is not None else None
        if outcome is not None:
            return NOTHING, False
    else:
        said = answer.usage
        if outcome is not None and not answer.begun() and not isinstance(outcome, StreamCut):
            return NOTHING, False
    estimated = said is None or said.input_tokens is None
    if said is None:
        said = Usage()
    input_tokens = candidate.input_tokens if said.input_tokens is None else said.input_tokens
    output, reasoning = said.output_tokens or 0, said.reasoning_tokens or 0
    # The provider's word on its output is complete only if the answer came to its end.
    complete = ended if isinstance(call.request, EmbedRequest) else answer.finish is not None and said.output_tokens is not None
    if not complete:
        estimated = True
        tokenizer, model = candidate.model.tokenizer, candidate.model.name
        calls = "".join(c.name + c.arguments for c in answer.tool_calls)
        output = max(output, count_text(tokenizer, answer.text, model) + count_text(tokenizer, calls, model))
        reasoning = max(reasoning, count_text(tokenizer, answer.reasoning, model))
    cached, written, hourly = said.cached_input_tokens or 0, said.cache_write_tokens or 0, said.cache_write_1h_tokens or 0
    return Usage(input_tokens, cached, written, hourly, output, reasoning), estimated


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
