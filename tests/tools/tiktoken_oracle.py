"""tiktoken, made from this repository's own vocabularies: the oracle that the token counter is held against, without a download."""

import base64
import functools
import struct
from pathlib import Path
from typing import Literal

import tiktoken

DATA = Path(__file__).resolve().parent.parent.parent / "rust_core" / "data"

Name = Literal["cl100k_base", "o200k_base"]

# As in tiktoken 0.14, tiktoken_ext/openai_public.py.
PATTERNS: dict[Name, str] = {
    "cl100k_base": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
    "o200k_base": "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        ]
    ),
}
# The sha256 of the published files, as tiktoken asks for them.
PUBLISHED_SHA256: dict[Name, str] = {
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
ENCODINGS = sorted(PATTERNS)


@functools.cache
def tokens(encoding: Name) -> list[bytes]:
    """Return a committed vocabulary in the order of rank (the form is described in rust_core/tools/make_vocabulary.py)."""
    packed = (DATA / f"{encoding}.tokens").read_bytes()
    (number,) = struct.unpack_from("<I", packed)
    start = 4 + number
    found = []
    for length in packed[4:start]:
        found.append(packed[start : start + length])
        start += length
    return found


def published(encoding: Name) -> bytes:
    """Return the vocabulary as OpenAI publishes it: base64 and rank, a token a line."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens(encoding)))


@functools.cache
def oracle(encoding: Name) -> tiktoken.Encoding:
    """Return tiktoken's encoding of this name; special tokens are left out, since only `encode_ordinary` is asked."""
    ranks = {token: rank for rank, token in enumerate(tokens(encoding))}
    return tiktoken.Encoding(encoding, pat_str=PATTERNS[encoding], mergeable_ranks=ranks, special_tokens={})
