"""Hold the token counter against tiktoken on seeded random strings.

    python -m tests.tools.fuzz_tokens --strings 1000000 [--seed 1]

Each string is drawn from a few groups only, so that the characters which the patterns treat differently stand beside each other often.
"""

# ruff: noqa: SIM905 - lists of words read best as words.

import argparse
import itertools
import random
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator

from sidecar._core import TokenCounter
from tests.tools.tiktoken_oracle import ENCODINGS, oracle, tokens

Group = Callable[[random.Random], str]

APOSTROPHES = "' 's 'S 'ſ 'T 're 'rE 'Ve 'm 'll 'LL 'lL 'd 'K 'ſſ ’s '' 'l 'v".split(" ")
SPACES = [*" \t\n\r\v\f\x85\xa0\u1680\u2003\u2028\u202f\u3000", "  ", "   ", "\r\n", " \n "]
ALMOST_SPACES = [*"\x1c\x1f\u200b\u200d\u2060\ufeff\u180e\x00\x7f"]
BOUNDARIES = [*"\0\x7f\x80\xff\u0100\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0001ffff\U0010ffff"]
EMOJI = "😀 👩‍👩‍👧‍👦 👍🏽 🇰🇷 ❤️ \u200d \ufe0f 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🧑🏿‍🚀 ☺ 🏽".split(" ")
SYMBOLS = [*'/!-=_(){};"#$€…、。\\', "//", "--", "/\n", "<|endoftext|>", "<|im_start|>"]
WORDS = "don't I'm HTTPServer camelCase snake_case N'ſ'SHDxs ALLCAPS ßẞ ǅungla ªº ʰʷ Ⅷ x² ﬁn".split(" ")
SCRIPTS = "абвгдЖЩ αβγΩΣς ابتثج अआकखगि กขคงาี 中文汉字 かなカナー 한국어글 ԱԲաբ აბგႠႡ אבגד ꙀꙁꙂ 𝐀𝐚𝟎 𐐀𐐨 ᏣᎳꭰ".split(" ")


def by_category() -> dict[str, list[str]]:
    """Return every character that Python knows, by general category; surrogates are left out."""
    found: dict[str, list[str]] = {}
    for point in itertools.chain(range(0xD800), range(0xE000, 0x110000)):
        found.setdefault(unicodedata.category(chr(point)), []).append(chr(point))
    return found


def groups() -> list[Group]:
    """Return what strings are made of: each draws one short string."""
    categories = by_category()
    named = [categories[name] for name in sorted(categories)]
    texts = [token.decode("utf-8", "ignore") for encoding in ENCODINGS for token in tokens(encoding)[256:]]
    marks = categories["Mn"]
    fixed = [APOSTROPHES, SPACES, ALMOST_SPACES, BOUNDARIES, EMOJI, SYMBOLS, WORDS, marks]

    def one_of(choices: list[str]) -> Group:
        return lambda draw: draw.choice(choices)

    return [
        *map(one_of, fixed),
        *map(one_of, (list(script) for script in SCRIPTS)),
        lambda draw: draw.choice(draw.choice(named)),  # each category as likely as any other
        lambda draw: draw.choice(draw.choice(named)),
        lambda draw: draw.choice("abcdefghijklmnopqrstuvwxyz"),
        lambda draw: draw.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        lambda draw: str(draw.randrange(10 ** draw.randrange(1, 9))),
        lambda draw: draw.choice(texts),
        lambda draw: draw.choice(texts)[: draw.randrange(1, 9)],
        lambda draw: draw.choice(texts)[-draw.randrange(1, 9) :],
        lambda draw: draw.choice(draw.choice(fixed)) * draw.randrange(2, 12),
        lambda draw: draw.choice(texts)[:1] * draw.randrange(2, 160),
    ]


def strings(number: int, seed: int) -> Iterator[str]:
    """Yield so many strings, the same ones for the same seed."""
    draw = random.Random(seed)
    every = groups()
    for _ in range(number):
        some = draw.choices(every, k=draw.randrange(1, 5))
        yield "".join(draw.choice(some)(draw) for _ in range(draw.randrange(1, 24)))


def differences(texts: Iterator[str]) -> Iterator[str]:
    """Yield a line for each text that the counter and tiktoken count differently, or whose limit the counter sees wrongly."""
    pairs = [(TokenCounter(encoding), oracle(encoding)) for encoding in ENCODINGS]
    for text in texts:
        for counter, truth in pairs:
            expected = len(truth.encode_ordinary(text))
            found = counter.count(text), counter.count_at_most(text, expected), counter.count_at_most(text, max(expected - 1, 0))
            if found != (expected, expected, None if expected else 0):
                yield f"{counter.encoding}: {text!r} has {expected} tokens; count, and count_at_most that and one less: {found}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    found = 0
    for line in differences(strings(options.strings, options.seed)):
        found += 1
        if found <= 20:
            print(line)
    seconds = time.monotonic() - started
    print(f"{options.strings} strings, seed {options.seed}, {' and '.join(ENCODINGS)}: {found} differences in {seconds:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
