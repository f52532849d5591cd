"""Make the committed vocabularies from OpenAI's published `.tiktoken` files.

    python rust_core/tools/make_vocabulary.py FOLDER

FOLDER holds the two files, under any name: they are known by their sha256, which is the one tiktoken itself asks for. A folder filled by
tiktoken (`TIKTOKEN_CACHE_DIR`) will do, so will the `tokenizers` folder inside litellm's wheel.

A `.tokens` file is the vocabulary without base64 and without ranks: the number of tokens (u32, little endian), the length of each token
in the order of rank (one byte each), then all tokens' bytes joined. `rust_core/build.rs` turns it into the tables inside the extension.
"""

import base64
import hashlib
import struct
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
SHA256 = {
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": "o200k_base",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": "cl100k_base",
}


def pack(published: bytes) -> bytes:
    """Return the `.tokens` form of a `.tiktoken` file; ValueError when its ranks are not 0, 1, 2, … in order."""
    tokens = []
    for number, line in enumerate(published.splitlines()):
        token, rank = line.split()
        if int(rank) != number:
            raise ValueError(f"line {number + 1}: rank {int(rank)}, expected {number}")
        tokens.append(base64.b64decode(token))
    return struct.pack("<I", len(tokens)) + bytes(map(len, tokens)) + b"".join(tokens)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    missing = dict(SHA256)
    for path in sorted(Path(sys.argv[1]).iterdir()):
        published = path.read_bytes() if path.is_file() else b""
        name = missing.pop(hashlib.sha256(published).hexdigest(), None)
        if name:
            (DATA / f"{name}.tokens").write_bytes(pack(published))
            print(f"{name}: made from {path.name}")  # noqa: T201
    for digest, name in missing.items():
        print(f"{name}: no file in {sys.argv[1]} has the sha256 {digest}", file=sys.stderr)  # noqa: T201
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
