"""One gRPC call written by hand, for what every decent gRPC client refuses to send: bytes that are no text, a deadline of nothing.

HTTP/2 (RFC 9113) and HPACK (RFC 7541) as far as needed: literal headers without Huffman coding. The answer's header blocks are handed back
raw; gRPC's C core writes its values as plain bytes, so that they can be searched.
"""

from __future__ import annotations

import asyncio
import struct

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    assert len(name) < 127
    assert len(value) < 127
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


async def call(target: str, method: str, message: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    """POST one message to `/sidecar.v1...`; returns the bytes of all header blocks of the answer, the trailers last."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    block = b"".join(
        _literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", target.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *headers,
        )
    )
    body = b"\0" + struct.pack(">I", len(message)) + message
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
    writer.write(_frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, body))
    try:
        async with asyncio.timeout(10):
            return await _answer(reader, writer)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    blocks = b""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
        kind, flags = head[3], head[4]
        if kind == _SETTINGS and not flags & _ACK:
            writer.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS:
            blocks += payload
        if kind in (_RESET, _GOAWAY):
            return blocks + b"reset or goaway " + payload
        if kind in (_HEADERS, _DATA) and flags & _END_STREAM:
            return blocks
