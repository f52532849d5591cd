"""Who could answer: what fits, what certainly does not, and how much answer a prompt leaves room for."""

import pytest

from sidecar.call import EmbedRequest, GenerateRequest
from sidecar.errors import PromptTooLong, UnsupportedFeature
from sidecar.pipeline import plan
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
