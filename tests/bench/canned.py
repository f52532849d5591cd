"""A provider that is never the slow one: raw HTTP/1.1 with canned bytes in OpenAI's words: `python -m tests.bench.canned`.

The prompt says the pace: `pace-50ms` sends a piece every 50 ms, `pace-0ms` all of them at once, each in its own write. Every piece
carries the moment at which it was written, `<µs of time.monotonic()>`, so that whoever receives it knows its age. It does no more for a
request than to look for its end and its pace. Prints `serving` and its port.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
from base64 import b64encode

import uvloop

PIECES = 100
REPLY_BYTES = 1024
STAMP = re.compile(rb"<(\d{15})>")
_PACE = re.compile(rb"pace-(\d+)ms")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_USAGE = {"prompt_tokens": 60, "completion_tokens": 200, "total_tokens": 260}
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nx-request-id: req-canned\r\nx-ratelimit-remaining-requests: 9999\r\n"


def _whole(body: bytes) -> bytes:
    return _HEAD % b"application/json" + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _chat_reply() -> bytes:
    said = {
        "id": "chatcmpl-canned",
        "object": "chat.completion",
        "created": 1,
        "model": "canned",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
    size = len(json.dumps(said))
    said["choices"][0]["message"]["content"] = ("Say what happened. " * 60)[: REPLY_BYTES - size]  # type: ignore[index]
    return _whole(json.dumps(said).encode())


def _vectors_reply() -> bytes:
    vector = b64encode(struct.pack("<1536f", *(0.001,) * 1536)).decode()
    said = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": "canned",
        "usage": {"prompt_tokens": 60, "total_tokens": 60},
    }
    return _whole(json.dumps(said).encode())


def _event(choices: str, usage: str = "null") -> bytes:
    return (
        'data: {"id":"chatcmpl-canned","object":"chat.completion.chunk","created":1,"model":"canned","system_fingerprint":"fp_canned",'
        f'"choices":{choices},"usage":{usage}}}\n\n'
    ).encode()


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_CHAT = _chat_reply()
_VECTORS = _vectors_reply()
_STREAM_HEAD = _HEAD % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n"
# A stamp has a fixed width, so that a piece is two constants around it.
_PIECE = _chunked(_event('[{"index":0,"delta":{"content":" token <000000000000000>"},"finish_reason":null}]')).split(b"000000000000000")
_END = (
    _chunked(_event('[{"index":0,"delta":{},"finish_reason":"stop"}]'))
    + _chunked(_event("[]", json.dumps(_USAGE)) + b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Connection(asyncio.Protocol):
    """One connection; requests on it come one after the other."""

    def __init__(self) -> None:
        self._data = b""
        self._transport: asyncio.Transport
        self._talking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        if self._talking is not None:
            self._talking.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._data, 0, end)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._data) < whole:
            return
        request, self._data = self._data[:whole], self._data[whole:]
        if b"/embeddings " in request[:80]:
            self._transport.write(_VECTORS)
        elif b'"stream":true' in request:
            pace = _PACE.search(request)
            self._talking = asyncio.create_task(self._talk(int(pace[1]) / 1000 if pace else 0.0))
        else:
            self._transport.write(_CHAT)

    async def _talk(self, pause_s: float) -> None:
        """All pieces on an even beat: one that is late does not put off those after it."""
        loop = asyncio.get_running_loop()
        write = self._transport.write
        before, after = _PIECE
        write(_STREAM_HEAD)
        due = loop.time()
        for _ in range(PIECES):
            write(b"%s%015d%s" % (before, time.monotonic_ns() // 1000, after))
            due += pause_s
            await asyncio.sleep(max(0.0, due - loop.time()))
        write(_END)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=2048)
    print("serving", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
