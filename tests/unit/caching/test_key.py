"""What makes two calls the same question."""

from __future__ import annotations

import pytest

from sidecar.pipeline import plan
from sidecar.policies.cache_keys import key_of
from sidecar.policies.cache_rules import has_time_words
from sidecar.request import Image, Message, Text
from tests.unit.caching.parts import ask
from tests.unit.fakes import Bench


def key(bench, request, scope="tenant", version=""):
    call = bench.call(request)
    plan(bench.engine, call)
    return key_of(call, scope, version)


def test_composed_and_decomposed_letters_ask_the_same_and_look_alikes_do_not():
    bench = Bench()
    digests = {
        text: key(bench, ask(text)).digest
        for text in (
            "caf\u00e9",
            "cafe\u0301",
            "cafe",
            "c\u0430f\u00e9",
            "caf\u00e9 ",
            "ca\u200bf\u00e9",
            "CAF\u00c9",
            "\uff43\uff41\uff46\u00e9",
        )
    }
    assert digests["caf\u00e9"] == digests["cafe\u0301"]
    assert len(set(digests.values())) == len(digests) - 1
    assert key(bench, ask("\u1112\u1161\u11ab")).digest == key(bench, ask("한")).digest


def test_no_text_can_pass_for_another_field():
    bench = Bench()
    imitation = '"],["acme","tenant","kim"'
    asked = [
        ask("x", tenant="a"),
        ask('x","a'),
        ask(imitation),
        ask("x", system="y"),
        ask("yx"),
        ask('y"}]},{"role":"user","parts":[{"text":"x'),
        ask("", messages=(Message("user", (Text("x"), Text("y"))),)),
        ask("", messages=(Message("user", (Text("xy"),)),)),
        ask("", messages=(Message("user", (Text('x","y'),)),)),
        ask("", messages=(Message("user", (Text("x\ny"),)),)),
        ask("x\n\u0301y"),
        ask("x\\n\u0301y"),
    ]
    digests = [key(bench, one).digest for one in asked]
    assert len(set(digests)) == len(digests)


def test_partition_is_all_but_the_last_user_turn():
    bench = Bench()
    first, second = key(bench, ask("one")), key(bench, ask("two"))
    assert first.partition == second.partition
    assert first.digest != second.digest
    assert first.question == "one"
    for other in (
        ask("one", tenant="b"),
        ask("one", system="s"),
        ask("one", temperature=0.5),
        ask("one", seed=1),
        ask("one", model="gpt-4o"),
    ):
        assert key(bench, other).partition != first.partition
    picture = Message("user", (Text("one"), Image(url="https://a/b.png")))
    assert not key(bench, ask("", messages=(picture,))).is_similar
    assert key(bench, ask("one"), "user").partition != first.partition
    assert key(bench, ask("one"), version="2").partition != first.partition


def test_pictures_are_part_of_the_question():
    bench = Bench()

    def picture(data, text="What is it?"):
        turn = Message("user", (Text(text), Image(data=data, mime_type="image/png")))
        return key(bench, ask("", messages=(turn,)))

    assert picture(b"a" * 1_000_000) == picture(b"a" * 1_000_000)
    assert picture(b"a").partition != picture(b"b").partition
    assert picture(b"a").partition == picture(b"a", "What else is it?").partition
    assert picture(b"a").digest != picture(b"a", "What else is it?").digest


@pytest.mark.parametrize(
    "text",
    [
        "what is it today?",
        "the LATEST figures",
        "in the last 5 days",
        "over the past days",
        "지금 몇 시야",
        "오늘의 매출",
        "sales this  week".replace("  ", " "),
    ],
)
def test_time_words(text):
    assert has_time_words(text)
    assert has_time_words("x" * 1_000_000 + " " + text)


@pytest.mark.parametrize("text", ["", "nowhere known", "presently", "What is the snow like?", "🎉🎉🎉"])
def test_no_time_words(text):
    assert not has_time_words(text)
