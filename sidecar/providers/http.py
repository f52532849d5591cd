"""HTTP for the providers that have no SDK, and what all providers read from headers and lower exceptions alike.

`Client` is one pool of connections to one server. It has no limit of time but for connecting: first token, silence and total time
belong to the attempt stage, which cancels; a cancelled call closes its connection at once. It follows no redirects, since a prompt
and a key go where settings say and nowhere else.
"""

from __future__ import annotations

import io
import re
import select
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from sidecar.call import Head
from sidecar.errors import ProviderError, ProviderGarbled, ProviderRejected, ProviderTimeout, ProviderUnavailable, SettingsError, StreamCut

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from sidecar.providers.reading import AnswerStream

MOST_BYTES = 128 * 1024 * 1024  # of one unary answer: 2048 vectors of 3072 figures as text are 75 MB
MOST_ERROR_BYTES = 64 * 1024
_KEEP_ALIVE_S = 75.0
_LARGE_BODY_BYTES = 1024 * 1024  # above this a body is written in parts, so that the event loop is not held up
_NO_STREAM = ("text/html", "application/json", "application/xml", "text/xml")


class Failure(Protocol):
    """A provider's reading of an answer that is none: status, headers (names in lower case, or case ignored), body."""

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, *, whose: str, key: str | None) -> ProviderError: ...


class Client:
    """One pool of connections to one server, with headers that go with every request.

    `base_url` is http or https, with or without a closing slash; proxies are taken from the environment once, here. Must be made
    inside the running event loop. In the errors `whose` (provider and model) says who failed; `key` is struck out of them. Raises
    SettingsError for a base URL that is none.
    """

    def __init__(
        self, base_url: str, *, name: str, headers: Mapping[str, str], connect_timeout_ms: int, failure: Failure, key: str | None = None
    ) -> None:
        self._base_url = _checked(base_url, name)
        self._failure = failure
        self._key = key
        self._session = aiohttp.ClientSession(
            connector=_Pool(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            # `connect` spans name lookup, TCP and TLS. There is no waiting for a place in the pool: `limit=0` is no limit.
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_ms / 1000),
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity", **headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy(self._base_url),
        )

    def url(self, path: str) -> URL:
        """The address of `path` below the base URL; make it once, since parsing costs more than the rest of a call's set-up."""
        return URL(f"{self._base_url}/{path.lstrip('/')}")

    async def post(self, url: URL, body: bytes, whose: str) -> tuple[bytes, Head]:
        """The whole answer. Raises ProviderError of the class the answer or the connection's failure means."""
        return await self._whole("POST", url, body, whose)

    async def get(self, url: URL, whose: str) -> tuple[bytes, Head]:
        """The whole answer to a GET. Raises as `post` does."""
        return await self._whole("GET", url, None, whose)

    async def _whole(self, method: str, url: URL, body: bytes | None, whose: str) -> tuple[bytes, Head]:
        response = await self._open(method, url, body, whose)
        try:
            data = await _whole(response.content, MOST_BYTES if response.status < 300 else MOST_ERROR_BYTES)
        except Exception as error:
            if response.status < 300:
                raise transport_error(error, whose, key=self._key) from error
            data = b""  # an error whose words were cut off: its status is known
        finally:
            response.close()  # nothing is left to close when all was read
        if response.status >= 300:
            raise self._failure(response.status, response.headers, data, whose=whose, key=self._key)
        return data, head(response.headers, self._key)

    async def stream(self, url: URL, body: bytes, whose: str, stream: AnswerStream) -> None:
        """Has `stream` read the answer. Raises ProviderError as `post` does; StreamCut when the connection is lost after the first byte.

        What `stream` raises passes through as it is.
        """
        response = await self._open("POST", url, body, whose)
        content = response.content
        try:
            if response.status >= 300 or is_no_stream(response.headers.get("Content-Type", "")):
                try:
                    data = await _whole(content, MOST_ERROR_BYTES)
                except Exception as error:
                    if response.status < 300:
                        raise transport_error(error, whose, key=self._key) from error
                    data = b""
                raise self._failure(response.status, response.headers, data, whose=whose, key=self._key)
            await stream.read_all(content.readany, head(response.headers, self._key), partial(transport_error, whose=whose, key=self._key))
        finally:
            response.close()

    async def close(self) -> None:
        await self._session.close()

    async def _open(self, method: str, url: URL, body: bytes | None, whose: str) -> aiohttp.ClientResponse:
        data = body if body is None or len(body) < _LARGE_BODY_BYTES else io.BytesIO(body)
        try:
            return await self._session.request(method, url, data=data, allow_redirects=False)
        except Exception as error:
            raise transport_error(error, whose, key=self._key) from error


class _Pool(aiohttp.TCPConnector):
    """Gives out no connection that the server has hung up on, also when the event loop has not come to see it yet.

    llama.cpp closes after each stream without a word; a request written to such a connection would fail, and nobody could tell
    whether it was answered, so it could not be sent again here. On an idle connection nothing is owed: what can be read there is its
    end. (A server that hangs up later than that is an error still.) What is overridden is not public; a contract test walks it.
    """

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None and _readable(connection):
            connection.close()
        return connection


def head(headers: Mapping[str, str], key: str | None) -> Head:
    """What a provider's headers say of the request and of its limits, names in lower case as OpenAI and Anthropic spell them.

    A request id that holds `key`, as some proxies send it back for debugging, is shown without it.
    """
    request_id = ""
    limits = {}
    for name, value in headers.items():
        low = name.lower()
        if "ratelimit-" in low:
            limits[low] = value
        elif low == "x-request-id" or low == "request-id":
            request_id = scrubbed(value, key, limit=200)
    return Head(request_id=request_id, limits=limits)


def is_no_stream(content_type: str) -> bool:
    """Is this a type of content that nobody sends a stream in?"""
    return content_type.lower().startswith(_NO_STREAM)


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """How long the provider asks to wait: `retry-after-ms`, else `retry-after` in seconds or as an HTTP date; None: it does not say.

    `headers` has names in lower case or ignores case. A date is measured against the answer's own `date`, so that clocks need not
    agree. Source: RFC 9110, 10.2.3.
    """
    wait_ms = _figure(headers.get("retry-after-ms", ""))
    if wait_ms is None:
        after = headers.get("retry-after", "").strip()
        wait_s = _figure(after)
        if wait_s is None:
            wait_s = _until(after, headers.get("date", ""))
        if wait_s is None:
            return None
        wait_ms = wait_s * 1000
    return max(0, round(wait_ms))


def scrubbed(text: str, key: str | None = None, limit: int = 300) -> str:
    """`text` on one line, cut to `limit` characters, without `key` or anything else that looks like a key or a masked one.

    OpenAI's 401 repeats parts of the key it was sent; others repeat all of it.
    """
    words = (text.replace(key, "[key]") if key else text).split(None, limit)[:limit]
    # Word by word, and a bounded part of each: whoever writes an error's text must not choose how long we look for keys in it.
    text = " ".join("[key]" if "***" in word[:limit] else word[: limit + 1] for word in words)
    text = _KEY.sub("[key]", text[: 2 * limit])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def transport_error(error: BaseException, whose: str, *, begun: bool = False, key: str | None = None) -> ProviderError:
    """What a failure below HTTP means: `TRANSPORT` by the nearest class, StreamCut for a connection lost once a stream has `begun`.

    An exception that is no transport's at all is the sidecar's own defect and is raised again as it is.
    """
    if isinstance(error, ProviderError):
        return error
    kind = TRANSPORT.get(_transport_name(error))
    if kind is None:
        raise error
    if begun and kind is ProviderUnavailable:
        kind = StreamCut
    detail = scrubbed(str(error), key)
    return kind(f"{whose}: {_SAID[kind]} ({type(error).__name__}{': ' if detail else ''}{detail})")


# By name, so that nothing is imported for it. httpx2 is what the SDKs put above aiohttp. A test holds this table against every
# exception class of both.
TRANSPORT: Mapping[str, type[ProviderError]] = {
    "aiohttp.ClientError": ProviderUnavailable,
    "aiohttp.ClientResponseError": ProviderGarbled,  # the answer is no HTTP
    "aiohttp.ContentTypeError": ProviderGarbled,
    "aiohttp.WSServerHandshakeError": ProviderGarbled,
    "aiohttp.ClientHttpProxyError": ProviderUnavailable,
    "aiohttp.TooManyRedirects": ProviderGarbled,
    "aiohttp.ClientConnectionError": ProviderUnavailable,
    "aiohttp.ClientConnectionResetError": ProviderUnavailable,
    "aiohttp.ClientOSError": ProviderUnavailable,
    "aiohttp.ClientConnectorError": ProviderUnavailable,
    "aiohttp.ClientConnectorDNSError": ProviderUnavailable,
    "aiohttp.ClientProxyConnectionError": ProviderUnavailable,
    "aiohttp.UnixClientConnectorError": ProviderUnavailable,
    "aiohttp.ServerConnectionError": ProviderUnavailable,
    "aiohttp.ServerDisconnectedError": ProviderUnavailable,
    "aiohttp.ServerTimeoutError": ProviderTimeout,
    "aiohttp.ConnectionTimeoutError": ProviderTimeout,
    "aiohttp.SocketTimeoutError": ProviderTimeout,
    "aiohttp.ServerFingerprintMismatch": ProviderUnavailable,
    "aiohttp.ClientPayloadError": ProviderUnavailable,  # the body ended too early
    "aiohttp.UploadAbortedError": ProviderUnavailable,
    "aiohttp.InvalidURL": ProviderRejected,
    "aiohttp.InvalidUrlClientError": ProviderRejected,
    "aiohttp.RedirectClientError": ProviderGarbled,
    "aiohttp.NonHttpUrlClientError": ProviderRejected,
    "aiohttp.InvalidUrlRedirectClientError": ProviderGarbled,
    "aiohttp.NonHttpUrlRedirectClientError": ProviderGarbled,
    "aiohttp.ClientSSLError": ProviderUnavailable,
    "aiohttp.ClientConnectorSSLError": ProviderUnavailable,
    "aiohttp.ClientConnectorCertificateError": ProviderUnavailable,
    "aiohttp.HttpProcessingError": ProviderGarbled,
    "aiohttp.WSMessageTypeError": ProviderGarbled,
    "httpx2.HTTPError": ProviderUnavailable,
    "httpx2.RequestError": ProviderUnavailable,
    "httpx2.TransportError": ProviderUnavailable,
    "httpx2.TimeoutException": ProviderTimeout,
    "httpx2.ConnectTimeout": ProviderTimeout,
    "httpx2.ReadTimeout": ProviderTimeout,
    "httpx2.WriteTimeout": ProviderTimeout,
    "httpx2.PoolTimeout": ProviderTimeout,
    "httpx2.NetworkError": ProviderUnavailable,
    "httpx2.ConnectError": ProviderUnavailable,
    "httpx2.ReadError": ProviderUnavailable,
    "httpx2.WriteError": ProviderUnavailable,
    "httpx2.CloseError": ProviderUnavailable,
    "httpx2.ProxyError": ProviderUnavailable,
    "httpx2.UnsupportedProtocol": ProviderRejected,
    "httpx2.ProtocolError": ProviderUnavailable,
    "httpx2.LocalProtocolError": ProviderRejected,
    "httpx2.RemoteProtocolError": ProviderUnavailable,
    "httpx2.DecodingError": ProviderGarbled,
    "httpx2.TooManyRedirects": ProviderGarbled,
    "httpx2.HTTPStatusError": ProviderUnavailable,
    "httpx2.InvalidURL": ProviderRejected,
    "httpx2.CookieConflict": ProviderGarbled,
    "httpx2.SSEError": ProviderGarbled,
    "httpx2.StreamError": ProviderUnavailable,
    "httpx2.StreamConsumed": ProviderUnavailable,
    "httpx2.StreamClosed": ProviderUnavailable,
    "httpx2.ResponseNotRead": ProviderUnavailable,
    "httpx2.RequestNotRead": ProviderUnavailable,
    "anyio.EndOfStream": ProviderUnavailable,
    "builtins.TimeoutError": ProviderTimeout,
    "ssl.SSLError": ProviderUnavailable,
    "builtins.OSError": ProviderUnavailable,
}

_SAID: Mapping[type[ProviderError], str] = {
    ProviderUnavailable: "could not be reached, or hung up before its answer was whole",
    ProviderTimeout: "did not answer in time",
    ProviderGarbled: "answered with something that is no HTTP",
    ProviderRejected: "cannot be asked at this address; is its base URL right?",
    StreamCut: "hung up in the middle of its answer",
}

_KEY = re.compile(r"\b(?:sk|rk|pk|key|gsk|xai)-[\w\-*.]{6,}|\bAIza[\w\-*]{8,}|(?i:\bbearer\s+)\S+")


def _transport_name(error: BaseException) -> str:
    # aiohttp's "connection lost" reaches httpx2 as a ConnectTimeout, and the SDKs call that a timeout: the cause knows better.
    name = _name_in_table(error)
    if name.startswith("httpx2.") and error.__cause__ is not None:
        return _name_in_table(error.__cause__) or name
    return name


def _name_in_table(error: BaseException) -> str:
    for kind in type(error).__mro__:
        name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        if name in TRANSPORT:
            return name
    return ""


def _readable(connection: Connection) -> bool:
    socket = None if connection.transport is None else connection.transport.get_extra_info("socket")
    if socket is None:
        return False
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _whole(content: aiohttp.StreamReader, limit: int) -> bytes:
    data = await content.readany()
    if content.at_eof():
        return data
    parts = [data]
    size = len(data)
    while data := await content.readany():
        parts.append(data)
        size += len(data)
        if size > limit:
            if limit == MOST_BYTES:
                raise ProviderGarbled(f"the answer is larger than {limit} bytes and has no end yet")
            break
    return b"".join(parts)


def _checked(base_url: str, name: str) -> str:
    try:
        parts = urlsplit(base_url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        shown = re.sub(r"//[^/@]*@", "//[password]@", base_url)
        raise SettingsError(f"provider {name}", "base_url", f"found {shown!r}, expected http://host:port/path or https://host/path")
    return base_url.rstrip("/")


def _proxy(base_url: str) -> str | None:
    parts = urlsplit(base_url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxy = getproxies().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _figure(text: str) -> float | None:
    try:
        figure = float(text)
    except ValueError:
        return None
    return figure if 0 <= figure < 1e12 else None


def _until(text: str, now: str) -> float | None:
    try:
        then_s = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    try:
        now_s = parsedate_to_datetime(now).timestamp()
    except ValueError:
        now_s = time.time()
    return max(0.0, then_s - now_s)
