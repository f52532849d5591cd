"""Makes `rust_core/data/verify/wordnet.txt` and `common.bloom`: what the verifier knows of English at large.

    python tools/verifier/make_wordnet.py WORDNET_DICT SCOWL_FOLDER

From WordNet 3.0 (Princeton University; free for any use with its notice, which the file carries): synonyms among the first senses of
common words, nouns made of verbs, and opposites. From SCOWL (Kevin Atkinson; free for any use with its notice): which words are common,
in three bands. Both are packages of Debian (`wordnet-base`, `scowl`); only whoever makes the files anew needs them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "rust_core/data/verify"
MOST_SENSE = 2
"""Of a word's senses, the most frequent ones: rare senses make synonyms of words that nobody would exchange."""
BANDS = (("10",), ("20",), ("35", "40"))
BITS_PER_WORD = 12
HASHES = 8
KINDS = ("noun", "verb", "adj", "adv")
NOTICE = """\
# Made by tools/verifier/make_wordnet.py from WordNet 3.0: synonyms, derived nouns and opposites among common words.
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Permission to use, copy, modify and distribute this software
# and database and its documentation for any purpose and without fee or royalty is hereby granted, provided that you agree to comply
# with this notice and keep it on all copies. It is provided "as is", without representations or warranties of any kind. The name of
# Princeton University may not be used in advertising or publicity pertaining to distribution of the database.
"""


def hash64(text: bytes) -> int:
    """`verify::hash` of the Rust core: FNV-1a, then splitmix64's finish."""
    mask = 2**64 - 1
    found = 0xCBF29CE484222325
    for byte in text:
        found = (found ^ byte) * 0x100000001B3 & mask
    found = (found ^ found >> 30) * 0xBF58476D1CE4E5B9 & mask
    found = (found ^ found >> 27) * 0x94D049BB133111EB & mask
    return found ^ found >> 31


def words_of(scowl: Path, size: str) -> set[str]:
    found = set()
    for kind in ("english-words", "american-words", "british-words", "english-upper", "english-contractions"):
        path = scowl / f"{kind}.{size}"
        if path.exists():
            found |= {word.strip().lower() for word in path.read_text("latin-1").splitlines()}
    return {word for word in found if word.isascii() and len(word) > 1}


def bloom(words: set[str], size: int) -> bytes:
    bits = bytearray(size)
    for word in words:
        hashed = hash64(word.encode())
        first, step = hashed & 0xFFFFFFFF, hashed >> 32 | 1
        for turn in range(HASHES):
            bit = (first + turn * step) % (size * 8)
            bits[bit // 8] |= 1 << bit % 8
    return bytes(bits)


def read_wordnet(folder: Path, common: set[str]) -> tuple[list[list[str]], list[tuple[str, str]]]:
    numbers: dict[tuple[str, str, str], int] = {}
    for kind in KINDS:
        for line in (folder / f"index.{kind}").read_text().splitlines():
            if not line.startswith(" "):
                fields = line.split()
                offsets = fields[-int(fields[2]) :]  # most frequent sense first
                numbers |= {(fields[0], kind, offset): at for at, offset in enumerate(offsets, 1)}
    synsets: dict[tuple[str, str], list[str]] = {}
    pointers = []
    for kind in KINDS:
        for line in (folder / f"data.{kind}").read_text().splitlines():
            if line.startswith(" "):
                continue
            fields = line.split(" | ")[0].split()
            offset, letter = fields[0], fields[2]
            count = int(fields[3], 16)
            lemmas = [fields[4 + 2 * at].split("(")[0].lower() for at in range(count)]
            synsets[offset, kind] = lemmas
            at = 4 + 2 * count
            for _ in range(int(fields[at])):
                symbol, target, target_letter, ends = fields[at + 1 : at + 5]
                if symbol in "!+&":
                    pointers.append((symbol, (offset, kind), (target, target_letter), int(ends[:2], 16), int(ends[2:], 16)))
                at += 4
    kinds = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}

    def usual(lemma: str, synset: tuple[str, str], most: int = MOST_SENSE) -> bool:
        return numbers.get((lemma, synset[1], synset[0]), 99) <= most and all(part in common for part in lemma.split("_"))

    groups = []
    for synset, lemmas in synsets.items():
        # No phrases: they hide the words that they are made of.
        kept = [lemma for lemma in lemmas if usual(lemma, synset) and lemma.isalpha()]
        if len(kept) > 1:
            groups.append(kept)
    apart = set()
    for symbol, synset, (target, letter), here, there in pointers:
        other = (target, kinds[letter])
        if symbol == "&":
            here = there = 1
        if here == 0 or there == 0 or other not in synsets:
            continue
        pair = synsets[synset][here - 1], synsets[other][there - 1]
        if not all("_" not in word and word.isalpha() for word in pair) or pair[0] == pair[1]:
            continue
        if symbol == "!" and usual(pair[0], synset, 4) and usual(pair[1], other, 4):
            apart.add(tuple(sorted(pair)))
        most = {"&": 1, "+": 3}.get(symbol, 0)
        derived = symbol == "&" or pair[0][:4] == pair[1][:4]
        if most and derived and usual(pair[0], synset, most) and usual(pair[1], other, most):
            groups.append(sorted(pair))
    return groups, sorted(apart)


def main() -> None:
    wordnet, scowl = Path(sys.argv[1]), Path(sys.argv[2])
    bands: list[set[str]] = []
    for sizes in BANDS:
        band = set().union(*(words_of(scowl, size) for size in sizes))
        bands.append(band.difference(*bands) if bands else band)
    filters = [bloom(band, len(band) * BITS_PER_WORD // 8 + 1) for band in bands]
    (DATA / "common.bloom").write_bytes(b"".join(len(found).to_bytes(4, "little") + found for found in filters))
    groups, apart = read_wordnet(wordnet, bands[0] | bands[1])
    distinct = sorted({",".join(sorted(set(group))) for group in groups})
    uses: dict[str, int] = defaultdict(int)
    for group in distinct:
        for word in group.split(","):
            uses[word] += 1
    lines = [NOTICE + "[same]", *distinct, "[apart]", *(f"{a}|{b}" for a, b in apart)]
    (DATA / "wordnet.txt").write_text("\n".join(lines) + "\n")
    print(
        [len(band) for band in bands],
        sum(map(len, filters)),
        "bytes;",
        len(distinct),
        "groups,",
        len(apart),
        "opposites,",
        max(uses.values()),
    )


if __name__ == "__main__":
    main()
