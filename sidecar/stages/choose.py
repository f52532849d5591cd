"""Who could answer, best first."""

from __future__ import annotations

from sidecar.call import Call, Candidate, EmbedRequest, Skipped
from sidecar.catalog import Model
from sidecar.engine import WIRE_FEATURES, Engine
from sidecar.errors import NoCandidate, PromptTooLong, UnsupportedFeature

_DEFAULT_OUTPUT_TOKENS = 4096  # as most rows of the portfolio


def choose(engine: Engine, call: Call) -> None:
    """Order the models that may answer, leave out those that cannot, and say why for each.

    Writes candidates and skipped. Raises UnknownModel (a name that nobody knows), UnsupportedFeature or PromptTooLong (every
    candidate lacks something that the request needs), NoCandidate (nobody configured serves this node).
    """
    assert call.size is not None  # noqa: S101  (count has run)
    preferred = engine.preferences.of(
        call.service, call.node_name, call.request.model, embed=call.operation == "embed" or "embed" in call.needs
    )
    skipped = list(preferred.skipped)
    candidates: list[Candidate] = []
    lacking: str = ""
    too_long: str = ""
    for choice in preferred.choices:
        model = choice.model
        provider = engine.providers[model.provider]
        lack = call.needs - provider.features | (call.needs - WIRE_FEATURES - model.capabilities)
        if lack:
            lacking = f"{model.id} cannot do {', '.join(sorted(lack))}"
            skipped.append(Skipped(model.id, lacking))
            continue
        tokens, estimated = call.size(model)
        most = _most_output(call, model)
        room = model.context_tokens
        # The output limit is a ceiling, not a wish: it shrinks to what the prompt leaves, and only an explicit one is held to.
        if room and tokens >= room:
            too_long = f"{model.id} takes in {room} tokens and the prompt has {'about ' if estimated else ''}{tokens}"
            skipped.append(Skipped(model.id, too_long))
            continue
        if room:
            most = min(most, room - tokens)
        candidates.append(
            Candidate(
                model,
                provider,
                choice.reason,
                tokens,
                estimated,
                most,
                model.prices.most(tokens, most),
                fallback=choice.fallback,
            )
        )
    call.skipped = tuple(skipped)
    if not candidates:
        _refuse(call, lacking, too_long)
    call.candidates = tuple(candidates)
    call.notices.extend(preferred.notices)


def _most_output(call: Call, model: Model) -> int:
    request = call.request
    if isinstance(request, EmbedRequest):
        return 0
    most = request.max_output_tokens
    limit = model.max_output_tokens
    if most is None:
        most = (call.node.max_output_tokens if call.node is not None else None) or _DEFAULT_OUTPUT_TOKENS
        return min(most, limit) if limit else most
    if limit and most > limit:
        call.notices.append(f"max_output_tokens {most} is more than {model.id} can give; it was lowered to {limit}")
        return limit
    return most


def _refuse(call: Call, lacking: str, too_long: str) -> None:
    """Say the most useful thing: what the request asks too much of, before what the deployment lacks."""
    if too_long:
        field = "inputs" if isinstance(call.request, EmbedRequest) else "prompt"
        raise PromptTooLong(f"the prompt fits no candidate: {too_long}; shorten it", field=field)
    if lacking:
        field = next((_FIELDS[need] for need in sorted(call.needs) if need in _FIELDS and need in lacking), "model")
        raise UnsupportedFeature(f"no candidate can do what {field} asks: {lacking}; drop it or name a model that can", field=field)
    where = f"{call.service}.{call.node_name}" if call.node_name else "this call"
    reasons = "; ".join(f"{s.model}: {s.reason}" for s in call.skipped) or "no model is set for it"
    raise NoCandidate(f"no configured provider serves {where} ({reasons}); configure one of them or set another model for it")


_FIELDS = {
    "image": "messages",
    "image_url": "messages",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "strict_tools": "tools",
    "json_object": "response_format.json_object",
    "json_schema": "response_format.json_schema",
    "strict_schema": "response_format.json_schema.strict",
    "stop": "stop",
    "seed": "seed",
    "sampling": "temperature",
    "dimensions": "dimensions",
    "embed": "model",
    "generate": "model",
}
