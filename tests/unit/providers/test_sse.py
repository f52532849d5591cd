"""Cutting streams: any cut of the bytes gives the same messages, the work is linear, what has no end is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ProviderGarbled
from sidecar.providers.sse import MOST_BYTES, Events, Lines


def events(*pieces: bytes) -> list[bytes]:
    cut = Events()
    found = [event for piece in pieces for event in cut.feed(piece)]
    return found + cut.end()


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b'data: {"a":1}\n\n', [b'{"a":1}']),
        (b'data: {"a":1}\r\n\r\ndata: 2\r\n\r\n', [b'{"a":1}', b"2"]),
        (b"data: 1\r\rdata: 2\r\r", [b"1", b"2"]),
        (b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\n\rdata: 4\n\r", [b"1", b"2", b"3", b"4"]),
        (b"data:1\n\ndata:  2   \n\n", [b"1", b"2"]),
        (b'data: {"a":\ndata:  1}\n\n', [b'{"a":\n 1}']),
        (b": a comment\n\nevent: x\nid: 7\nretry: 10\ndata: 1\n\n:\n\n", [b"1"]),
        (b"event: ping\n\ndata:\n\ndata\n\ndatum: 1\n\n", []),
        (b"\xef\xbb\xbfdata: 1\n\n", [b"1"]),
        (b"\n\n\ndata: 1\n\n\n\n\ndata: 2\n\n", [b"1", b"2"]),
        ("data: Grüß ☂\n\n".encode(), ["Grüß ☂".encode()]),
        (b"data: 1\n\ndata: 2", [b"1", b"2"]),
        (b"data: 1\n\ndata: 2\n", [b"1", b"2"]),
        (b"", []),
    ],
)
def test_events(stream: bytes, found: list[bytes]) -> None:
    assert events(stream) == found
    assert events(*(stream[at : at + 1] for at in range(len(stream)))) == found


def test_an_event_is_given_as_soon_as_its_blank_line_came() -> None:
    cut = Events()
    assert cut.feed(b"data: 1\n") == []
    assert cut.feed(b"\n") == [b"1"]
    assert cut.feed(b"data: 2\r") == []
    assert cut.feed(b"\n\r") == [b"2"]  # the LF that may follow belongs to this line end
    assert cut.feed(b"\ndata: 3\n\n") == [b"3"]
    assert cut.end() == []


LINE = st.sampled_from([b"data: {}", b"data:\xc3\xa4", b"data: x  ", b": c", b"event: e", b"", b"", b"data", b"junk"])
NEWLINE = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(LINE, NEWLINE)), st.data())
def test_it_does_not_matter_where_a_stream_is_cut(lines: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    stream = b"".join(line + newline for line, newline in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    # An event is what lies between empty lines, by the plainest reading there is.
    plain: list[list[bytes]] = [[]]
    for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if not line:
            plain.append([])
        elif line.startswith(b"data:"):
            plain[-1].append(line[5:].removeprefix(b" "))
    expected = [payload for event in plain if (payload := b"\n".join(event).strip())]
    assert events(*pieces) == expected


@pytest.mark.timeout(60)
@pytest.mark.parametrize("cut", [Events(), Lines()], ids=["events", "lines"])
def test_a_long_message_in_small_pieces_is_joined_once(cut: Events | Lines) -> None:
    # Joined anew for each piece this would move two terabytes, which the time limit of the test does not allow.
    piece = b"0123456789abcdef"
    cut.feed(b"data: ")
    for _ in range(500_000):
        cut.feed(piece)
    [message] = cut.feed(b"\n\n")
    assert len(message.removeprefix(b"data: ")) == 8_000_000


@pytest.mark.parametrize("cut", [Events(), Lines()], ids=["events", "lines"])
def test_a_message_without_end_is_refused(cut: Events | Lines) -> None:
    piece = b"x" * (1024 * 1024)
    for _ in range(MOST_BYTES // len(piece)):
        cut.feed(piece)
    with pytest.raises(ProviderGarbled, match=f"larger than {MOST_BYTES} bytes"):
        cut.feed(b"x")


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\r\n\r\n  {"b":2} \n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
        ("Grüß ☂\n".encode(), ["Grüß ☂".encode()]),
        (b"\n\n", []),
        (b"", []),
    ],
)
def test_lines(stream: bytes, found: list[bytes]) -> None:
    for size in (1, 3, max(1, len(stream))):
        cut = Lines()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [line for piece in pieces for line in cut.feed(piece)] + cut.end() == found
