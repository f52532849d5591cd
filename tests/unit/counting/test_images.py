"""Sizes from headers written here byte by byte, and token counts from the providers' own examples."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.counting import images
from sidecar.request import Image


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x06\x00\x00\x00"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00\x00\x00"


def webp(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def webp_lossy(width: int, height: int) -> bytes:
    return webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + b"\x00" * 8)


def webp_lossless(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\x00" * 8)


def webp_extended(width: int, height: int) -> bytes:
    return webp(b"VP8X", b"\x00" * 4 + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3])


def jpeg(width: int, height: int, frame: int = 0xC0, before: bytes = b"") -> bytes:
    start = b"\xff\xd8" + b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF" + b"\x00" * 10
    return start + before + bytes([0xFF, frame]) + struct.pack(">HBHH", 17, 8, height, width) + b"\x03" + b"\x00" * 12


EXIF = b"\xff\xe1" + struct.pack(">H", 60_000) + b"\xff\xc0" * 29_999  # a thumbnail has frame headers of its own
TABLES = b"\xff\xc4" + struct.pack(">H", 20) + b"\x00" * 18 + b"\xff\xff"  # C4 is no frame; a filler byte follows

WHOLE = {
    "png": png(640, 480),
    "gif": gif(640, 480),
    "webp lossy": webp_lossy(640, 480),
    "webp lossless": webp_lossless(640, 480),
    "webp extended": webp_extended(640, 480),
    "jpeg": jpeg(640, 480),
    "jpeg progressive": jpeg(640, 480, frame=0xC2),
    "jpeg with metadata": jpeg(640, 480, before=EXIF + TABLES),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())
def test_size_is_read_from_the_header(data: bytes) -> None:
    assert images.size(data) == (640, 480)


@pytest.mark.parametrize("data", [v for k, v in WHOLE.items() if "metadata" not in k], ids=[k for k in WHOLE if "metadata" not in k])
def test_a_header_cut_short_is_no_size_or_the_right_one(data: bytes) -> None:
    assert images.size(data[:9]) is None
    assert {images.size(data[:end]) for end in range(len(data))} <= {None, (640, 480)}


@pytest.mark.parametrize("data", [b"", b"BM" + b"\x01" * 60, png(0, 480), gif(640, 0), b"\xff\xd8" + b"\xff" * 100, jpeg(0, 0)])
def test_no_header_we_know_is_no_size(data: bytes) -> None:
    assert images.size(data) is None


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF87a", b"RIFF1234WEBPVP8L", b"RIFF1234WEBPVP8 ", b"\xff\xd8", b""]), st.binary())
def test_any_bytes_are_a_size_or_none(start: bytes, rest: bytes) -> None:
    found = images.size(start + rest)
    assert found is None or min(found) > 0


def test_a_jpeg_without_a_frame_is_given_up() -> None:
    """Four bytes a step, and not past the first megabyte."""
    endless = b"\xff\xd8" + (b"\xff\xe0\x00\x02" * 300_000) + jpeg(640, 480)[2:]
    assert images.size(endless) is None


@pytest.mark.parametrize(
    ("model", "width", "height", "detail", "tokens"),
    [
        ("gpt-4o", 1024, 1024, "high", 765),  # OpenAI's examples
        ("gpt-4o", 2048, 4096, "high", 1105),
        ("gpt-4o", 4096, 8192, "low", 85),
        ("gpt-4o", 512, 512, "", 255),
        ("gpt-4o", 513, 512, "auto", 425),
        ("gpt-4.1", 2400, 1800, "high", 765),
        ("gpt-4o-mini", 128, 64, "high", 8500),
        ("gpt-4o-mini", 128, 64, "low", 2833),
        ("o3", 128, 64, "high", 225),
        ("gpt-4.1-mini", 1024, 1024, "high", 1659),
        ("gpt-4.1-mini", 4000, 1474, "high", 2489),
        ("gpt-4.1-nano", 32, 32, "high", 3),
    ],
)
def test_openai(model: str, width: int, height: int, detail: str, tokens: int) -> None:
    assert images.openai(Image(png(width, height), "image/png", detail=detail), model) == tokens


@pytest.mark.parametrize(("model", "most"), [("gpt-4o", 1445), ("gpt-4o-mini", 48169), ("gpt-5", 1190), ("gpt-5-mini", 2489)])
def test_openai_unknown_size_is_the_largest(model: str, most: int) -> None:
    assert images.openai(Image(url="https://example.org/a.png"), model) == most
    assert images.openai(Image(b"broken", "image/png"), model) == most
    assert images.openai(Image(png(99_999, 37_000), "image/png"), model) <= most


@pytest.mark.parametrize(("width", "height", "tokens"), [(200, 200, 54), (1000, 1000, 1334), (1092, 1092, 1590), (8000, 8000, 1640)])
def test_claude(width: int, height: int, tokens: int) -> None:
    assert images.claude(Image(png(width, height)), longest=1568, most=1640) == tokens


def test_claude_unknown_size_is_the_largest() -> None:
    assert images.claude(Image(url="https://example.org/a.png"), longest=1568, most=1640) == 1640


@pytest.mark.parametrize(
    ("model", "width", "height", "tokens"),
    [
        ("gemini-2.0-flash", 384, 384, 258),
        ("gemini-2.0-flash", 540, 360, 1806),  # recorded
        ("gemini-2.5-flash", 960, 540, 1806),
        ("gemini-2.5-flash", 60_000, 1, 258 * 25),
        ("gemini-3-flash-preview", 64, 64, 1120),
    ],
)
def test_gemini(model: str, width: int, height: int, tokens: int) -> None:
    assert images.gemini(Image(png(width, height)), model) == tokens


def test_open_models() -> None:
    assert images.open_model(Image(png(64, 64))) == 1601
    assert images.open_model(Image(png(60_000, 60_000))) == 16384
    assert images.open_model(Image(url="https://example.org/a.png")) == 3136
