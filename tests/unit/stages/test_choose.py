"""Who could answer: what fits, what certainly does not, and how much answer a prompt leaves room for."""

import pytest

from sidecar.errors import NoCandidate, PromptTooLong, UnsupportedFeature
from sidecar.pipeline import plan
from sidecar.request import EmbedRequest, GenerateRequest, ResponseFormat
from tests.unit.fakes import Bench, FakeProvider, caller


def bench(context_tokens=1_000, tokenizer=""):
    """An own server with one model in settings; its row names a tokenizer or, like most, does not."""
    row = {"SIDECAR_MODELS__OURS__TOKENIZER": tokenizer} if tokenizer else {}
    made = Bench(
        SIDECAR_PROVIDERS__VLLM__BASE_URL="http://127.0.0.1:1/v1",
        SIDECAR_MODELS__OURS__PROVIDER="vllm",
        SIDECAR_MODELS__OURS__CONTEXT_TOKENS=str(context_tokens),
        SIDECAR_NODES__FLOW__ONE__PRIMARY="ours",
        SIDECAR_NODES__FLOW__ONE__FALLBACK_ALLOWED="false",
        SIDECAR_PROFILE__NAME="local",
        **row,
    )
    made.engine.providers["vllm"] = FakeProvider("vllm")
    return made


def chosen(made, request):
    call = made.call(request)
    plan(made.engine, call)
    return call.candidates[0]


def ask(prompt, **fields):
    return GenerateRequest(prompt=prompt, caller=caller("flow.one"), **fields)


@pytest.mark.parametrize(("tokenizer", "surplus"), [("", 3.5), ("llama", 2.5), ("claude", 1.5), ("gemini", 1.5)])
def test_an_estimate_refuses_only_what_is_over_beyond_its_doubt(tokenizer, surplus):
    made = bench(1_000, tokenizer)

    def grow():
        for words in range(100, 4_000, 100):
            yield chosen(made, ask("word " * words))

    taken = []
    with pytest.raises(PromptTooLong, match="ours takes in 1000 tokens") as caught:
        taken.extend(grow())
    assert caught.value.field == "prompt"
    assert 1_000 * surplus * 0.8 < taken[-1].input_tokens < 1_000 * surplus
    assert min(candidate.max_output_tokens for candidate in taken) >= 250  # the estimate alone takes no answer away


def test_an_exact_count_refuses_to_the_token():
    made = bench(1_000, "o200k_base")
    fits, full = "word " * 991 + "word", "word " * 992 + "word"
    assert (chosen(made, ask(fits)).input_tokens, chosen(made, ask(fits)).max_output_tokens) == (999, 1)
    with pytest.raises(PromptTooLong, match="ours takes in 1000 tokens and the prompt has more"):
        chosen(made, ask(full))


def test_a_hostile_prompt_is_counted_no_further_than_the_context(monkeypatch):
    from sidecar.counting import encodings

    asked = []

    class Counter:
        def count(self, text):
            raise AssertionError("counted to its end")

        def count_at_most(self, text, limit):
            asked.append(limit)  # and no number: it is over

    monkeypatch.setattr(encodings, "_opened", lambda encoding: Counter())
    encodings.counter.cache_clear()
    try:
        for tokenizer, limit in (("o200k_base", 1_000), ("cl100k_base", 1_000), ("claude", 1_500), ("", 3_500)):
            for request in (ask("x" * 4_000_000), EmbedRequest(inputs=("x" * 4_000_000,), caller=caller("flow.one"), model="ours")):
                made = bench(1_000, tokenizer)
                with pytest.raises(PromptTooLong, match="more"):
                    chosen(made, request)
                assert asked.pop() == limit
    finally:
        encodings.counter.cache_clear()


def test_each_input_has_the_context_for_itself():
    made = bench(1_000, "cl100k_base")
    text = "word " * 899 + "word"
    assert chosen(made, EmbedRequest(inputs=(text,) * 20 + ("x",), caller=caller("flow.one"), model="ours")).input_tokens == 900 * 20 + 1
    with pytest.raises(PromptTooLong, match="one of the inputs has more") as caught:
        chosen(made, EmbedRequest(inputs=("a", text * 2), caller=caller("flow.one"), model="ours"))
    assert caught.value.field == "inputs"


@pytest.mark.parametrize(("model", "fits", "most"), [("text-embedding-3-small", 1536, 1536), ("gemini-embedding-001", 1536, 3072)])
def test_dimensions_above_the_models_own_are_refused(model, fits, most):
    made = Bench(GOOGLE_API_KEY="k", SIDECAR_PROFILE__NAME="local", SIDECAR_PROFILE__EMBEDDING_FALLBACKS=",")
    made.engine.providers["google"] = FakeProvider("google")
    assert chosen(made, EmbedRequest(inputs=("a",), model=model, dimensions=fits)).model.id == model
    with pytest.raises(UnsupportedFeature, match=f"{model} gives at most {most} dimensions, not 4000") as caught:
        chosen(made, EmbedRequest(inputs=("a",), model=model, dimensions=4000))
    assert caught.value.field == "dimensions"


# --- plans, wishes and endpoints ---

TWO = {
    "OPENAI_API_KEY": "",
    "SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__EU__API_KEY": "k1",
    "SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__US__API_KEY": "k2",
}
SECOND = 1_000_000_000


def with_endpoints(**environ):
    made = Bench(**{**TWO, **environ})
    del made.engine.providers["openai"]
    for name in ("openai#eu", "openai#us"):
        made.engine.providers[name] = FakeProvider(name)
    return made


def planned(made, **fields):
    call = made.call(**fields)
    plan(made.engine, call)
    return call


def targets(call):
    return [candidate.target for candidate in call.candidates]


CLAUDE = "anthropic/claude-sonnet-4-6"


def test_a_model_stands_there_once_for_each_endpoint():
    made = with_endpoints()
    orders = {tuple(targets(planned(made))) for _ in range(200)}
    assert orders == {
        ("openai#eu/gpt-4o", "openai#us/gpt-4o", CLAUDE),
        ("openai#us/gpt-4o", "openai#eu/gpt-4o", CLAUDE),
    }
    call = planned(made)
    assert [(c.provider.name, c.fallback) for c in call.candidates] == [
        (f"openai#{call.candidates[0].endpoint}", False),
        (f"openai#{call.candidates[1].endpoint}", False),
        ("anthropic", True),
    ]


def test_an_endpoint_with_an_open_breaker_comes_after_its_like_and_before_other_models():
    made = with_endpoints()
    assert "openai#eu/gpt-4o" in targets(planned(made))
    assert made.engine.breakers.listing(0) == []  # looking makes none
    made.engine.breakers.of("core", "openai#eu/gpt-4o").force("open")
    assert {tuple(targets(planned(made))) for _ in range(50)} == {("openai#us/gpt-4o", "openai#eu/gpt-4o", CLAUDE)}
    oracle = {targets(planned(made, caller=caller("oracle.sql_generation")))[0] for _ in range(50)}
    assert oracle == {"openai#eu/gpt-4o", "openai#us/gpt-4o"}  # another service's breaker is another one


def test_what_is_set_aside_goes_behind_all_others_and_is_not_dropped():
    made = with_endpoints()
    now_ns = made.engine.clock_ns()
    made.engine.endpoints.set_aside("openai#us", now_ns + 100 * SECOND, "PROVIDER_AUTH_FAILED")
    call = planned(made)
    assert targets(call) == ["openai#eu/gpt-4o", CLAUDE, "openai#us/gpt-4o"]
    assert call.candidates[2].reason.startswith("primary of core.react_agent; set aside for ")
    assert call.candidates[2].reason.endswith(" s more: PROVIDER_AUTH_FAILED")
    made.engine.endpoints.set_aside("openai#eu/gpt-4o", now_ns + 100 * SECOND, "PROVIDER_QUOTA_EXHAUSTED")
    call = planned(made)
    assert targets(call)[0] == CLAUDE
    assert call.candidates[0].fallback
    single = planned(made, caller=caller("core.document_structuring"))
    assert sorted(targets(single)) == ["openai#eu/gpt-4o", "openai#us/gpt-4o"]  # nobody else may answer: they are asked


def test_embeddings_go_to_endpoints_too():
    made = with_endpoints()
    call = planned(made, request=EmbedRequest(inputs=("a",), caller=caller("core.react_agent")))
    assert sorted(targets(call)) == ["openai#eu/text-embedding-3-small", "openai#us/text-embedding-3-small"]


def ids(call):
    return [candidate.model.id for candidate in call.candidates]


async def test_a_users_preference_goes_by_plan_tenant_and_user():
    made = Bench()
    await made.engine.user_preferences.set("acme", "ann", "claude-sonnet-4")

    def first(**who):
        return ids(planned(made, caller=caller("core.react_agent", **who)))[0]

    assert first(tenant="acme", user="ann", plan="premium") == "claude-sonnet-4-6"
    for other in (
        {"tenant": "acme", "user": "ann", "plan": "paid"},
        {"tenant": "acme", "user": "ann"},
        {"tenant": "acme", "user": "bob", "plan": "premium"},
        {"tenant": "other", "user": "ann", "plan": "premium"},
    ):
        assert first(**other) == "gpt-4o"
    embed = EmbedRequest(inputs=("a",), caller=caller("core.react_agent", tenant="acme", user="ann", plan="premium"))
    assert ids(planned(made, request=embed)) == ["text-embedding-3-small"]


def test_a_plan_limits_and_the_caller_is_told_what_it_took_away():
    made = Bench()
    call = planned(made, caller=caller("core.react_agent", plan="free"), model="claude-sonnet-4")
    assert ids(call) == ["gpt-4o-mini"]
    assert "claude-sonnet-4-6 was asked for and is not available: plan free does not allow it" in call.notices
    assert ("gpt-4o", "plan free does not allow it") in [(s.model, s.reason) for s in call.skipped]
    with pytest.raises(NoCandidate, match="gpt-4o-mini: provider openai has no key"):
        planned(Bench(OPENAI_API_KEY="", SIDECAR_PROFILE__NAME="local"), caller=caller("core.react_agent", plan="free"))


@pytest.mark.parametrize(
    ("said", "row", "prompt", "noted", "first"),
    [
        ("", "", "hello", "", "gpt-4o"),
        ("low", "", "hello", "low", "gpt-4o-mini"),
        ("high", "low", "hello", "high", "claude-sonnet-4-6"),  # the request before the row
        ("", "low", "hello", "low", "gpt-4o-mini"),
        ("", "estimate", "hello", "low", "gpt-4o-mini"),
        ("estimate", "high", "Why? def f(x): ...", "high", "claude-sonnet-4-6"),
        ("medium", "", "hello", "medium", "gpt-4o"),
    ],
)
def test_complexity_is_said_or_estimated_and_noted(said, row, prompt, noted, first):
    made = Bench(SIDECAR_NODES__CORE__REACT_AGENT__COMPLEXITY=row)
    call = planned(made, request=GenerateRequest(prompt=prompt, complexity=said, caller=caller("core.react_agent")))
    assert (call.complexity, ids(call)[0]) == (noted, first)


def test_a_complexity_that_chose_nothing_is_not_noted():
    made = Bench(SIDECAR_TIERS__CHEAP="gemini-2.5-flash", SIDECAR_PROFILE__NAME="local")  # and Google has no key
    call = planned(made, complexity="low")
    assert (call.complexity, ids(call)[0]) == ("", "gpt-4o")
    assert ("gemini-2.5-flash", "provider google has no key") in [(s.model, s.reason) for s in call.skipped]


def test_a_wish_that_cannot_do_it_leaves_a_node_without_fallback_its_own_model():
    made = Bench(SIDECAR_TIERS__CHEAP="claude-sonnet-4")
    asked = {"caller": caller("vision.nl_to_pivot"), "complexity": "low"}
    schema = ResponseFormat(kind="json_schema", name="n", schema={"type": "object"})
    assert ids(planned(made, **asked, response_format=schema)) == ["claude-sonnet-4-6"]
    call = planned(made, **asked)  # the node wants a JSON object, which Anthropic cannot promise without a schema
    assert ids(call) == ["gpt-4o"]
    assert ("claude-sonnet-4-6", "claude-sonnet-4-6 cannot do json_object") in [(s.model, s.reason) for s in call.skipped]
