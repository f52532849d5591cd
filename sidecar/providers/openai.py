"""OpenAI, through the lean path of its own SDK: the SDK has the key, the addresses, its headers and the pool, we write and read the bytes.

Calls go through the SDK's HTTP client. What lies above it costs a call as much as all the rest of the sidecar, and its typed methods three
times as much, ten times per streamed chunk. The SDK is imported only by `connect`, in a thread, and rehearses one call and one stream
there against an answer of our own, so that the first real call is not the slow one.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sidecar.call import EmbedAsk, Emit, GenerateAsk, Vectors
from sidecar.errors import ProviderAuthFailed, ProviderError, ProviderGarbled, ProviderUnavailable, SettingsError
from sidecar.providers import openai_request
from sidecar.providers.bounded import event_hooks
from sidecar.providers.http import head, is_no_stream, scrubbed, transport_error
from sidecar.providers.listing import require_list
from sidecar.providers.openai_failure import failure
from sidecar.providers.openai_reply import Reader, reply, vectors
from sidecar.providers.reading import AnswerStream, emit_filtered, emit_whole
from sidecar.providers.sse import Events
from sidecar.providers.words import ContentFiltered

if TYPE_CHECKING:
    import httpx2
    from httpx2 import Response
    from openai import AsyncOpenAI

    from sidecar.settings.routing import ProviderSettings

    Send = Callable[[str, bytes | None, bool], Awaitable[Response]]  # path, body (None: a GET), is it a stream

__all__ = ["EXCEPTIONS", "connect", "embedding", "failure", "reader", "reply", "request", "translated", "vectors"]

reader = Reader

_BASE_URL = "https://api.openai.com/v1"
_PATHS = ("/chat/completions", "/embeddings", "/models")
_KEEP_ALIVE_S = 75.0
_STREAM_OPTIONS = {"include_usage": True, "include_obfuscation": False}

# What each of the SDK's exceptions means, by name, so that nothing is imported for it. None: it is read from the answer the exception
# carries, or from the failure below it. A test holds this table against every exception class of the SDK.
EXCEPTIONS: Mapping[str, type[ProviderError] | None] = {
    "OpenAIError": ProviderUnavailable,
    "APIError": ProviderUnavailable,
    "APIStatusError": None,
    "BadRequestError": None,
    "AuthenticationError": None,
    "OAuthError": None,
    "PermissionDeniedError": None,
    "NotFoundError": None,
    "ConflictError": None,
    "UnprocessableEntityError": None,
    "RateLimitError": None,
    "InternalServerError": None,
    "APIConnectionError": None,
    "APITimeoutError": None,
    "APIResponseValidationError": ProviderGarbled,
    "SubjectTokenProviderError": ProviderAuthFailed,
    # Those of calls that are never made here: parsing helpers, web sockets, web hooks.
    "LengthFinishReasonError": ProviderGarbled,
    "ContentFilterFinishReasonError": ProviderGarbled,
    "WebSocketConnectionClosedError": ProviderUnavailable,
    "WebSocketQueueFullError": ProviderUnavailable,
    "InvalidWebhookSignatureError": ProviderGarbled,
}


def request(ask: GenerateAsk) -> dict[str, Any]:
    # Reasoning models refuse `max_tokens`; `include_obfuscation` pads every chunk for nothing on an encrypted line to one's own pod.
    return openai_request.request(ask, limit_name="max_completion_tokens", stream_options=_STREAM_OPTIONS)


def embedding(ask: EmbedAsk) -> dict[str, Any]:
    return openai_request.embedding(ask, encoding_format="base64")


def translated(error: Exception, whose: str, *, begun: bool = False, key: str | None = None) -> ProviderError:
    """Our error for one of the SDK's or of the transports below it; StreamCut for a connection lost once a stream has `begun`.

    The SDK calls a lost connection a timeout (its aiohttp transport mislabels it), so the failure below decides. An exception of
    neither is a defect of the sidecar and is raised again as it is.
    """
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] == "openai" and kind.__name__ in EXCEPTIONS:
            meaning = EXCEPTIONS[kind.__name__]
            break
    else:
        return transport_error(error, whose, begun=begun, key=key)
    if meaning is not None:
        return meaning(scrubbed(f"{whose}: {type(error).__name__}: {error}", key))
    response: Response | None = getattr(error, "response", None)
    if response is not None:
        return failure(response.status_code, response.headers, response.content, whose=whose, key=key)
    if isinstance(error.__cause__, Exception):
        return transport_error(error.__cause__, whose, begun=begun, key=key)
    return ProviderUnavailable(scrubbed(f"{whose}: {type(error).__name__}: {error}", key))


async def connect(settings: ProviderSettings) -> OpenAI:
    """The provider, warm, without a word over the network. Raises SettingsError without a key, the SDK or its aiohttp transport."""
    where = f"provider {settings.name}"
    if not settings.api_key:
        raise SettingsError(where, "api_key", "not set, expected a key of OpenAI's (OPENAI_API_KEY)")
    try:
        sdk = await asyncio.to_thread(_import)
    except ImportError as error:
        raise SettingsError(where, "", f"needs the package {error.name}: pip install 'llm-sidecar[openai]'") from error
    try:
        client, http_client = await asyncio.to_thread(_client, sdk, settings)
    except RuntimeError as error:
        raise SettingsError(where, "", f"needs the SDK's aiohttp transport: pip install 'llm-sidecar[openai]' ({error})") from error
    return OpenAI(settings.name, client, _sender(client, http_client), settings.api_key)


class OpenAI:
    """OpenAI by its SDK. See `Provider` for what each method promises."""

    features = openai_request.FEATURES

    def __init__(self, name: str, client: AsyncOpenAI, send: Send, key: str) -> None:
        self.name = name
        self._client = client
        self._key = key
        self._send = send

    async def generate(self, ask: GenerateAsk, emit: Emit) -> None:
        whose = f"{self.name}/{ask.model}"
        body = openai_request.encode(request(ask))
        try:
            if ask.stream:
                await self._stream("/chat/completions", body, whose, AnswerStream(Events(), reader(whose, self._key), emit, whose))
            else:
                response = await self._post("/chat/completions", body, whose)
                await emit_whole(reply(response.content, head(response.headers, self._key), whose, key=self._key), emit, whose)
        except ContentFiltered as filtered:
            await emit_filtered(filtered, emit)

    async def embed(self, ask: EmbedAsk) -> Vectors:
        whose = f"{self.name}/{ask.model}"
        response = await self._post("/embeddings", openai_request.encode(embedding(ask)), whose)
        return vectors(
            response.content, head(response.headers, self._key), whose, key=self._key, count=len(ask.inputs), dimensions=ask.dimensions
        )

    async def check(self) -> None:
        response = await self._post("/models", None, self.name)
        require_list(response.content, "data", self.name)

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, path: str, body: bytes | None, whose: str) -> Response:
        try:
            response = await self._send(path, body, False)
        except Exception as error:
            raise translated(error, whose, key=self._key) from error
        if response.status_code >= 300:
            raise failure(response.status_code, response.headers, response.content, whose=whose, key=self._key)
        return response

    async def _stream(self, path: str, body: bytes, whose: str, stream: AnswerStream) -> None:
        try:
            response = await self._send(path, body, True)
        except Exception as error:
            raise translated(error, whose, key=self._key) from error
        try:
            if response.status_code >= 300 or is_no_stream(response.headers.get("content-type", "")):
                raise await self._no_stream(response, whose)
            # The bytes were asked for uncompressed, which not every proxy on the way heeds.
            pieces = response.aiter_bytes() if "content-encoding" in response.headers else response.aiter_raw()
            broken = partial(translated, whose=whose, key=self._key)
            await stream.read_all(partial(anext, pieces, b""), head(response.headers, self._key), broken)
        finally:
            await response.aclose()

    async def _no_stream(self, response: Response, whose: str) -> ProviderError:
        try:
            body = await response.aread()
        except Exception as error:
            if response.status_code < 300:
                return translated(error, whose, key=self._key)
            body = b""  # an error whose words were cut off: its status is known
        return failure(response.status_code, response.headers, body, whose=whose, key=self._key)


def _import() -> ModuleType:
    sdk = importlib.import_module("openai")
    asyncio.run(_rehearsed(sdk))
    return sdk


def _client(sdk: ModuleType, settings: ProviderSettings) -> tuple[AsyncOpenAI, httpx2.AsyncClient]:
    httpx2 = importlib.import_module("httpx2")
    connect_s = settings.connect_timeout_ms / 1000
    http_client = sdk.DefaultAioHttpClient(
        # 0 is aiohttp's word for no limit: nothing waits unseen for a connection. `pool` spans name lookup, TCP and TLS there.
        limits=httpx2.Limits(max_connections=0, keepalive_expiry=_KEEP_ALIVE_S),
        follow_redirects=False,
        event_hooks=event_hooks(httpx2),
    )
    client: AsyncOpenAI = sdk.AsyncOpenAI(
        api_key=settings.api_key,
        base_url=settings.base_url or _BASE_URL,
        timeout=httpx2.Timeout(connect=connect_s, pool=connect_s, read=None, write=None),
        max_retries=0,
        default_headers={"Accept-Encoding": "identity", **settings.headers},
        http_client=http_client,
    )
    return client, http_client


def _sender(client: AsyncOpenAI, http_client: httpx2.AsyncClient) -> Send:
    """Posts a body to a path; a stream is answered as soon as its headers are there. What goes with every call is put together once."""
    httpx2 = importlib.import_module("httpx2")
    headers = httpx2.Headers(client.auth_headers)
    # What is not set is no text but a mark of the SDK's.
    headers.update({name: value for name, value in client.default_headers.items() if isinstance(value, str)})
    urls = {path: httpx2.URL(f"{str(client.base_url).rstrip('/')}{path}") for path in _PATHS}
    extensions = {"timeout": client.timeout.as_dict()} if isinstance(client.timeout, httpx2.Timeout) else {}

    async def send(path: str, body: bytes | None, is_stream: bool) -> Response:
        request = httpx2.Request("GET" if body is None else "POST", urls[path], headers=headers, content=body, extensions=extensions)
        return await http_client.send(request, stream=is_stream)

    return send


async def _rehearsed(sdk: ModuleType) -> None:
    """One call and one stream through the whole SDK, answered here: what it builds once, for every client, is built."""
    httpx2 = importlib.import_module("httpx2")
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, content=b"{}"))
    async with httpx2.AsyncClient(transport=answer) as transport:
        client = sdk.AsyncOpenAI(api_key="rehearsal", base_url=_BASE_URL, max_retries=0, http_client=transport)
        for is_stream in (False, True):
            response = await _sender(client, transport)("/chat/completions", b"{}", is_stream)
            await response.aread()
