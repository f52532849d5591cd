"""`TokenCounter` against tiktoken, and on its own terms."""

import hashlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar._core import TokenCounter
from tests.tools.fuzz_tokens import differences, strings
from tests.tools.tiktoken_oracle import ENCODINGS, PUBLISHED_SHA256, Name, oracle, published

LONGEST_TOKEN_BYTES = 128


def corpus() -> dict[str, str]:
    """Return the sample texts: many languages, code, and what tokenizers stumble over."""
    text = (Path(__file__).parent / "corpus.txt").read_text(encoding="utf-8")
    return {name: sample for name, _, sample in (part.partition("\n") for part in text.split("=== ")[1:])}


CORPUS = corpus()

HOSTILE = {
    "one letter": "a" * 100_000,
    "capitals": "A" * 100_000,
    "dashes": "-" * 100_000,
    "spaces": " " * 100_000,
    "spaces, then a word": " " * 100_000 + "x",
    "newlines and spaces": " \n" * 50_000,
    "emoji joiners": "\u200d" * 33_000,
    "joined emoji": "👩\u200d👧\u200d" * 7_000,
    "mixed apostrophes": "'s’t'\u017f'LL'" * 8_000,
    "marks and capitals": "\u0301A" * 33_000,
    "slashes and newlines": "/\n" * 50_000,
    "digits": "7" * 100_000,
    "random letters": "".join(random.Random(2).choices("abcdefghijklmnopqrstuvwxyz", k=100_000)),
    "random bytes": random.Random(3).randbytes(100_000).decode("utf-8", "replace"),
    "random bytes as characters": random.Random(4).randbytes(100_000).decode("latin-1"),
}

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


@each_encoding
def test_the_vocabulary_is_the_published_one(encoding: Name) -> None:
    assert hashlib.sha256(published(encoding)).hexdigest() == PUBLISHED_SHA256[encoding]


@each_encoding
@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_counts_as_in_tiktoken(encoding: Name, name: str) -> None:
    sample, counter, truth = CORPUS[name], TokenCounter(encoding), oracle(encoding)
    for text in (sample, sample.strip(), sample.upper(), sample.lower(), sample[::-1], sample.replace(" ", "\u3000"), sample * 20):
        assert counter.count(text) == len(truth.encode_ordinary(text))


@each_encoding
def test_every_beginning_of_the_corpus_counts_as_in_tiktoken(encoding: Name) -> None:
    counter, truth = TokenCounter(encoding), oracle(encoding)
    for sample in CORPUS.values():
        for end in range(len(sample) + 1):
            assert counter.count(sample[:end]) == len(truth.encode_ordinary(sample[:end])), sample[:end]


@each_encoding
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_count_as_in_tiktoken(encoding: Name, name: str) -> None:
    assert TokenCounter(encoding).count(HOSTILE[name]) == len(oracle(encoding).encode_ordinary(HOSTILE[name]))


def test_fuzzed_strings_count_as_in_tiktoken() -> None:
    assert list(differences(strings(20_000, seed=3))) == []


def every_character() -> Iterator[str]:
    return (chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point <= 0xDFFF)


@each_encoding
def test_every_character_counts_as_in_tiktoken(encoding: Name) -> None:
    count, encode = TokenCounter(encoding).count, oracle(encoding).encode_ordinary
    assert [character for character in every_character() if count(character) != len(encode(character))] == []


@each_encoding
@pytest.mark.parametrize("context", ["a{0}b", " {0}", "{0}{0}", "A{0}'s{0}\n"], ids=repr)
def test_every_character_counts_as_in_tiktoken_among_others(encoding: Name, context: str) -> None:
    """64 characters a text, parted by newlines, because the calls are what costs."""
    count, encode = TokenCounter(encoding).count, oracle(encoding).encode_ordinary
    texts = [context.format(character) for character in every_character()]
    different = []
    for start in range(0, len(texts), 64):
        block = texts[start : start + 64]
        joined = "\n".join(block)
        if count(joined) != len(encode(joined)):
            different.append(next((text for text in block if count(text) != len(encode(text))), joined))
    assert different == []


@each_encoding
def test_lone_surrogates_count_as_in_tiktoken(encoding: Name) -> None:
    counter, truth = TokenCounter(encoding), oracle(encoding)
    for text in ("\ud800", "a\udfffb", "\ud83d\ude00", "\ude00\ud83d", "x" * 20_000 + "\ud83d"):
        expected = len(truth.encode_ordinary(text))
        assert (counter.count(text), counter.count_at_most(text, expected)) == (expected, expected)
        assert counter.count_at_most(text, expected - 1) is None


@each_encoding
def test_tokens_are_decoded_as_in_tiktoken(encoding: Name) -> None:
    counter, truth = TokenCounter(encoding), oracle(encoding)
    texts = [truth.encode_ordinary(text) for text in CORPUS.values()]
    assert counter.decode(texts) == [text.encode() for text in CORPUS.values()]
    cut = [tokens[len(tokens) // 2 :] for tokens in texts]
    assert counter.decode(cut) == [truth.decode_bytes(tokens) for tokens in cut]
    everything = range(100_256)  # both have so many ordinary tokens
    assert counter.decode([everything]) == [truth.decode_bytes(list(everything))]


def test_what_is_no_token_is_refused_with_its_place() -> None:
    counter = TokenCounter("cl100k_base")
    assert (counter.decode([]), counter.decode([[]])) == ([], [b""])
    for wrong in (100_257, 4_000_000_000):
        with pytest.raises(ValueError, match=rf"^\[1\]\[1\] is {wrong}; expected a token of cl100k_base$"):
            counter.decode([[0], [15_339, wrong]])
    for beyond in (-1, 1 << 32):
        with pytest.raises(OverflowError):
            counter.decode([[beyond]])


@each_encoding
def test_a_limit_is_met_exactly(encoding: Name) -> None:
    counter = TokenCounter(encoding)
    for text in [*CORPUS.values(), *HOSTILE.values()]:
        count = counter.count(text)
        assert counter.count_at_most(text, count) == count
        assert counter.count_at_most(text, count + 1) == count
        assert counter.count_at_most(text, sys.maxsize) == count
        assert counter.count_at_most(text, count - 1) is None
        assert counter.count_at_most(text, 0) is None
    assert (counter.count(""), counter.count_at_most("", 0)) == (0, 0)


@each_encoding
def test_no_token_is_longer_than_the_limit_relies_on(encoding: Name) -> None:
    """Texts longer than this for each allowed token are refused unread."""
    counter = TokenCounter(encoding)
    assert counter.count(" " * LONGEST_TOKEN_BYTES) == 1
    assert counter.count_at_most(" " * LONGEST_TOKEN_BYTES, 1) == 1
    assert counter.count_at_most(" " * (LONGEST_TOKEN_BYTES + 1), 1) is None


def test_an_unknown_encoding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'^encoding is "p50k_base"; expected one of o200k_base, cl100k_base$'):
        TokenCounter("p50k_base")  # type: ignore[arg-type]


def test_what_is_no_text_or_no_limit_is_refused() -> None:
    counter = TokenCounter("o200k_base")
    with pytest.raises(TypeError):
        counter.count(b"text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="limit: found '5', expected an int"):
        counter.count_at_most("text", "5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit: found -1, expected 0 to "):
        counter.count_at_most("text", -1)


@each_encoding
def test_a_counter_knows_its_encoding_and_cannot_be_changed(encoding: Name) -> None:
    counter = TokenCounter(encoding)
    assert counter.encoding == encoding
    with pytest.raises(AttributeError):
        counter.encoding = "cl100k_base"  # type: ignore[misc]
