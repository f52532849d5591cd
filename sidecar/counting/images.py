"""How many tokens an image is, by each provider's published formula, from the size its own header states.

Nothing is decoded: width and height stand in the first bytes of PNG, GIF and WebP, and in a JPEG's frame header. A header that
cannot be read, and an image given by address, count as the largest such image.
"""

from __future__ import annotations

from math import ceil

from sidecar.request import Image

# A JPEG's frame header comes after its metadata: a thumbnail and a colour profile take tens of kilobytes, seldom more.
_JPEG_SEARCH_BYTES = 1 << 20
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# Tokens of the image itself and of each 512-pixel tile ("Images and vision", OpenAI; the low detail is the image itself).
_OPENAI_TILES = (("gpt-4o-mini", 2833, 5667), ("gpt-5", 70, 140), ("o1", 75, 150), ("o3", 75, 150), ("", 85, 170))
# Tokens of each patch of 32 pixels, of which there are at most 1,536. Where the document and the bill differ, the larger.
_OPENAI_PATCHES = (("gpt-4.1-mini", 1.62), ("gpt-4.1-nano", 2.46), ("o4-mini", 1.72), ("gpt-5-mini", 1.62), ("gpt-5-nano", 2.46))
_MOST_TILES = 8  # 2048 x 768
_MOST_PATCHES = 1536
_WIDE = 1920, 1080  # where size and formula have no largest


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, or None where the header is none of PNG, GIF, WebP and JPEG, is cut short, or says 0."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        found = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    elif data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        found = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        found = _webp(data)
    elif data[:2] == b"\xff\xd8":
        found = _jpeg(data)
    else:
        found = 0, 0
    return found if min(found) > 0 else None


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    end = min(len(data), _JPEG_SEARCH_BYTES) - 9
    while at <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # filler, or a marker without a body
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return 0, 0


def openai(image: Image, model: str) -> int:
    """By tiles for the larger models, by patches for the newer small ones ("Images and vision", OpenAI).

    Tiles: fitted into 2048 x 2048, then the short side to 768 (never enlarged), then cut in squares of 512. `auto` is read as high.
    """
    for name, tokens_per_patch in _OPENAI_PATCHES:
        if model.startswith(name):
            return ceil(_patches(image) * tokens_per_patch)
    base, tile = next((b, t) for name, b, t in _OPENAI_TILES if model.startswith(name))
    if image.detail == "low":
        return base
    pixels = size(image.data)
    if pixels is None:
        return base + tile * _MOST_TILES
    width, height = _within(*pixels, longest=2048)
    scale = min(1.0, 768 / min(width, height))
    return base + tile * ceil(width * scale / 512) * ceil(height * scale / 512)


def _patches(image: Image) -> int:
    pixels = size(image.data)
    return min(_MOST_PATCHES, ceil(pixels[0] / 32) * ceil(pixels[1] / 32)) if pixels else _MOST_PATCHES


def claude(image: Image, longest: int, most: int) -> int:
    """Width x height / 750 after fitting the long side into `longest` pixels, `most` at the most ("Vision", Anthropic)."""
    pixels = size(image.data)
    if pixels is None:
        return most
    width, height = _within(*pixels, longest=longest)
    return min(most, ceil(width * height / 750))


def gemini(image: Image, model: str) -> int:
    """258 up to 384 x 384, else 258 for the whole and for each tile, whose side is the short side / 1.5.

    "Understand and count tokens", Google, which leaves the whole out; a recorded reply (7 x 258 for 540 x 360) has it. From
    Gemini 3 on, an image is up to 1,120 tokens by default, whatever its size ("Media resolution").
    """
    if not model.startswith(("gemini-1", "gemini-2")):
        return 1120
    width, height = size(image.data) or _WIDE
    if max(width, height) <= 384:
        return 258
    side = max(1, int(min(width, height) / 1.5))
    return 258 * (1 + min(24, ceil(width / side) * ceil(height / side)))


def open_model(image: Image) -> int:
    """The most that common open models make of it: 1,601 (Llama 3.2 Vision, one tile of four), or a token per 28 x 28 (Qwen VL)."""
    width, height = size(image.data) or (1568, 1568)
    return max(1601, min(16384, ceil(width / 28) * ceil(height / 28)))


def _within(width: float, height: float, longest: int) -> tuple[float, float]:
    scale = min(1.0, longest / max(width, height))
    return max(1.0, width * scale), max(1.0, height * scale)
