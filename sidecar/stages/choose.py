"""Who could answer, best first."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from sidecar.billing import images, may_write
from sidecar.call import Call, Candidate, Feature, Skipped
from sidecar.catalog import Model
from sidecar.counting import Size
from sidecar.engine import Engine
from sidecar.errors import BudgetExceeded, NoCandidate, NotAllowed, PromptTooLong, UnsupportedFeature
from sidecar.policies.complexity import estimate
from sidecar.policies.endpoints import in_order
from sidecar.policies.models import Choice, Preference
from sidecar.request import Complexity, EmbedRequest

_DEFAULT_OUTPUT_TOKENS = 4096  # as most rows of the portfolio
_LEAST_OUTPUT_TOKENS = 1024  # of an answer's limit, an estimate of the prompt does not take these: it may be far above the truth

# Needs that a provider's wire carries without the model having a say.
_WIRE_FEATURES: frozenset[Feature] = frozenset({"system", "image_url", "stop", "seed", "tool_choice"})


def choose(engine: Engine, call: Call) -> None:
    """Order the models that may answer, leave out those that cannot, and say why for each.

    A model stands there once for each of its provider's endpoints: by weight and by lot, those whose breaker is open last. What is set
    aside goes behind all others. Writes complexity, candidates and skipped. Raises UnknownModel (a name that nobody knows),
    UnsupportedFeature or PromptTooLong (every candidate lacks something that the request needs), BudgetExceeded (every candidate could
    cost more than one call may), NoCandidate (nobody configured serves this node).
    """
    assert call.size is not None  # noqa: S101  (count has run)
    is_throttled = not isinstance(call.request, EmbedRequest) and engine.dear_calls.is_throttled(call, engine.clock_ns())
    preferred = _preference(engine, call, is_throttled=is_throttled)
    skipped = list(preferred.skipped)
    candidates: list[Candidate] = []
    lacking: str = ""
    too_long: str = ""
    too_dear: Candidate | None = None
    most_nano_usd = engine.settings.limits.call_halt_nano_usd
    for choice in preferred.choices:
        model = choice.model
        name = f"{model.provider}#{choice.endpoints[0][0]}" if choice.endpoints else model.provider
        provider = engine.providers[name]
        lacking_here = _lacking(call, model, provider.features)
        if lacking_here:
            lacking = lacking_here
            skipped.append(Skipped(model.id, lacking))
            continue
        size = call.size(model)
        if size.over:
            too_long = _too_long(call, model, size)
            skipped.append(Skipped(model.id, too_long))
            continue
        tokens, estimated, most = size.tokens, size.estimated, _most_output(engine, call, model, size)
        writes = _writes(engine, call, model, tokens)
        candidate = Candidate(
            model,
            provider,
            choice.reason,
            tokens,
            estimated,
            most,
            model.prices.most(tokens, most, images(call) if model.prices.image else 0, writes=writes),
            fallback=choice.fallback,
            writes=writes,
        )
        if candidate.max_nano_usd > most_nano_usd:
            too_dear = candidate
            skipped.append(Skipped(model.id, f"it could cost {candidate.max_nano_usd / 1e9:.6f} USD, more than limits.call_halt_usd"))
            continue
        if choice.endpoints:
            candidates += _at_endpoints(engine, call, candidate, choice)
        else:
            candidates.append(candidate)
        if preferred.is_single:
            break
    call.skipped = tuple(skipped)
    if not candidates:
        _refuse(call, lacking, too_long, too_dear, most_nano_usd)
    if is_throttled:
        candidates = _cheapest_first(call, candidates)
    call.candidates = tuple(engine.endpoints.behind(candidates, engine.clock_ns()))
    call.notices.extend(preferred.notices)


def _preference(engine: Engine, call: Call, *, is_throttled: bool) -> Preference:
    """Ask the policy with what is known of this call, and note a complexity that chose something. What is throttled wants a cheap one."""
    request = call.request
    complexity: Complexity = ""
    preferred = ""
    plan = engine.settings.plans.get(call.plan) if call.plan else None
    embed = isinstance(request, EmbedRequest) or "embed" in call.needs
    if not embed:
        complexity = "low" if is_throttled else _complexity(call)
        if plan is not None and plan.preferred and call.user:
            preferred = engine.user_preferences.of(call.tenant, call.user)
    found = engine.preferences.of(
        call.service,
        call.node_name,
        _requested(engine, call),
        embed=embed,
        plan=call.plan if plan is not None else "",
        preferred=preferred,
        complexity=complexity,
    )
    if complexity and not is_throttled and any(choice.wish == "complexity" for choice in found.choices):
        call.complexity = complexity
    return found


def _requested(engine: Engine, call: Call) -> str:
    """The request's own choice, or that of the plan of its run. Raises NotAllowed where they differ."""
    asked = call.request.model
    share = engine.budgets.runs.share(call) if call.run else None
    if share is None or not share.model:
        return asked
    if asked and engine.catalog.model(asked).id != engine.catalog.model(share.model).id:
        why = f"model is {asked}, and the plan of run {call.run} gives agent {call.agent} {share.model}; leave it out"
        raise NotAllowed(why, field="model")
    return share.model


def _complexity(call: Call) -> Complexity:
    """low, medium or high, as the request says or else the node's row; "": nobody wants to know."""
    request = call.request
    if isinstance(request, EmbedRequest):
        return ""
    said = request.complexity or (call.node.complexity if call.node is not None else "")
    if said != "estimate":
        return said
    is_strict = call.response_format is not None and call.response_format.strict
    return estimate(call.messages, has_tools=bool(request.tools), is_strict=is_strict)


def _writes(engine: Engine, call: Call, model: Model, tokens: int) -> Literal["", "5m", "1h"]:
    """For how long, at most, the prompt may be written to its provider's cache: a caller's own options may say an hour."""
    return "1h" if may_write(call) else "5m" if engine.prefixes.may_mark(call, model, tokens) else ""


def _at_endpoints(engine: Engine, call: Call, candidate: Candidate, choice: Choice) -> list[Candidate]:
    """The candidate at each endpoint of its provider, the one to ask first in front."""
    provider = candidate.model.provider
    spots = {name: replace(candidate, provider=engine.providers[f"{provider}#{name}"], endpoint=name) for name, _ in choice.endpoints}
    now_ns = engine.clock_ns()

    def is_open(name: str) -> bool:
        return engine.breakers.is_open(call.service, spots[name].target, now_ns)

    return [spots[name] for name in in_order(choice.endpoints, is_open, engine.random)]


def _lacking(call: Call, model: Model, features: frozenset[Feature]) -> str:
    """What the request needs and the model or its provider cannot do; "" if they can do it all."""
    lack = call.needs - features | (call.needs - _WIRE_FEATURES - model.capabilities)
    if lack:
        return f"{model.id} cannot do {', '.join(sorted(lack))}"
    asked = call.request.dimensions if isinstance(call.request, EmbedRequest) else None
    if asked is not None and model.max_dimensions is not None and asked > model.max_dimensions:
        return f"{model.id} gives at most {model.max_dimensions} dimensions, not {asked}"
    return ""


def _too_long(call: Call, model: Model, size: Size) -> str:
    what = "one of the inputs" if isinstance(call.request, EmbedRequest) else "the prompt"
    known = f"{'about ' if size.estimated else ''}{size.tokens}" if size.tokens > model.context_tokens else "more"
    return f"{model.id} takes in {model.context_tokens} tokens and {what} has {known}"


def _most_output(engine: Engine, call: Call, model: Model, size: Size) -> int:
    """The output limit for this model. It is a ceiling, not a wish: it shrinks to what the prompt leaves, down to 1."""
    request = call.request
    if isinstance(request, EmbedRequest):
        return 0
    most = request.max_output_tokens
    limit = model.max_output_tokens
    if most is None:
        most = (call.node.max_output_tokens if call.node is not None else None) or _DEFAULT_OUTPUT_TOKENS
        most = min(most, limit) if limit else most
        left = engine.budgets.runs.output_left(call) if call.run else None
        most = most if left is None else max(1, min(most, left))
    elif limit and most > limit:
        call.notices.append(f"max_output_tokens {most} is more than {model.id} can give; it was lowered to {limit}")
        most = limit
    if not model.context_tokens:
        return most
    least = min(_LEAST_OUTPUT_TOKENS, model.context_tokens // 4) if size.estimated else 1
    return min(most, max(model.context_tokens - size.tokens, least, 1))


def _cheapest_first(call: Call, candidates: list[Candidate]) -> list[Candidate]:
    """Of a node that has just been dear. Its calls are answered all the same, so that the others stay as fallbacks."""
    ordered = sorted(candidates, key=lambda candidate: candidate.max_nano_usd)  # stable: equals stay as they were
    first = ordered[0].model
    call.notices.append(f"calls like this have just been dear (limits.call_throttle_usd): {first.id} is asked first for a while")
    return [replace(candidate, fallback=candidate.model is not first) for candidate in ordered]


def _refuse(call: Call, lacking: str, too_long: str, too_dear: Candidate | None, most_nano_usd: int) -> None:
    """Say the most useful thing: what the request asks too much of, before what the deployment lacks."""
    if too_dear is not None:
        raise BudgetExceeded(
            f"a call may cost at most {most_nano_usd / 1e9:.6f} USD (limits.call_halt_usd), and this one could cost "
            f"{too_dear.max_nano_usd / 1e9:.6f} USD with {too_dear.model.id}: {too_dear.input_tokens} tokens in, up to "
            f"{too_dear.max_output_tokens} out; shorten the prompt, lower max_output_tokens, or name a cheaper model",
            account="call",
            unit="nano_usd",
            limit=most_nano_usd,
            used=0,
            asked=too_dear.max_nano_usd,
            resets_at_ns=None,
            retry_after_ms=None,
        )
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
