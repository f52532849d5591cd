"""Anthropic through its official SDK's lean path: `AsyncAnthropic.post` with bytes in and bytes out, over aiohttp.

The SDK is the I/O layer (authentication, base URL, proxies, pool, error classes) and nothing more: its typed methods cost 2-3 x per
call and 10 x per streamed chunk, its retries are off and it has no limit of time but for connecting. It is imported in `connect` only.

Newer API versions, which the SDK asks for by default, refuse `temperature`, `top_p` and `top_k`; a request that has one of them is
sent under version 2023-06-01, where they are valid.

Extended thinking switched on by `provider_options` works for one turn only: Anthropic refuses (400) a tool result whose assistant turn
does not begin with its signed thinking block, which our conversation has no place for.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from sidecar.call import Chunk, EmbedAsk, Emit, GenerateAsk, Head, ToolDelta, Vectors
from sidecar.errors import (
    ProviderAuthFailed,
    ProviderError,
    ProviderGarbled,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    SettingsError,
)
from sidecar.providers import Provider
from sidecar.providers.anthropic_wire import FEATURES, chunk, embed_request, failure, reply, request
from sidecar.providers.bounded import event_hooks
from sidecar.providers.http import head, scrubbed, transport_error
from sidecar.providers.listing import require_list
from sidecar.providers.reading import AnswerStream, emit_filtered, emit_whole
from sidecar.providers.sse import Events
from sidecar.providers.words import ContentFiltered

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic

    from sidecar.settings.routing import ProviderSettings

__all__ = ["FEATURES", "chunk", "connect", "embed_request", "failure", "reply", "request"]

_PATH: Final = "/v1/messages"
_MODELS_PATH: Final = "/v1/models"
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_SAMPLING_VERSION: Final = {"anthropic-version": "2023-06-01"}
_KEEP_ALIVE_S: Final = 75.0


async def connect(settings: ProviderSettings) -> Provider:
    """A client with its SDK imported and its path of calls walked once, all in a thread and without network. Raises SettingsError."""
    if settings.api_key is None and settings.base_url is None:
        raise SettingsError("ANTHROPIC_API_KEY", "", f"not set, and provider {settings.name} has no base_url of its own; set one of them")
    client = await asyncio.to_thread(_client, settings)
    return Anthropic(settings.name, client, settings.api_key)


def _client(settings: ProviderSettings) -> AsyncAnthropic:
    try:
        import anthropic
        import httpx2
    except ImportError as error:
        raise SettingsError("python", "", "the package anthropic is not installed; install llm-sidecar[anthropic]") from error
    wait_s = settings.connect_timeout_ms / 1000
    pool = anthropic.DefaultAioHttpClient(
        timeout=httpx2.Timeout(None, connect=wait_s, pool=wait_s),
        # 0 is aiohttp's "no limit"; None would be its default of 100.
        limits=httpx2.Limits(max_connections=0, keepalive_expiry=_KEEP_ALIVE_S),
        follow_redirects=False,
        event_hooks=event_hooks(httpx2),
    )
    client = anthropic.AsyncAnthropic(
        api_key=settings.api_key or "none",
        # The SDK adds /v1 itself.
        base_url=settings.base_url.rstrip("/").removesuffix("/v1") if settings.base_url else None,
        default_headers={"Accept-Encoding": "identity", **settings.headers},
        max_retries=0,
        timeout=httpx2.Timeout(None, connect=wait_s, pool=wait_s),
        http_client=pool,
        open_telemetry=False,
    )
    asyncio.run(_walk(client))
    return client


async def _walk(client: AsyncAnthropic) -> None:
    """One call that ends inside the process: the first costs what a hundred later ones cost, and nobody should wait for it."""
    import httpx2

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, content=b"{}"))) as nowhere:
        await client.with_options(http_client=nowhere).post(_PATH, cast_to=httpx2.Response, content=b"{}")


class Anthropic:
    """One account at Anthropic, or one server that speaks its Messages API."""

    features = FEATURES

    def __init__(self, name: str, client: AsyncAnthropic, key: str | None) -> None:
        import httpx2

        self.name = name
        self._client = client
        self._key = key
        self._cast_to = httpx2.Response

    async def generate(self, ask: GenerateAsk, emit: Emit) -> None:
        body = request(ask)
        whose = f"{self.name}/{ask.model}"
        try:
            response = await self._post(body, ask.stream, whose)
            try:
                said = head(response.headers, self._key)
                if not ask.stream:
                    return await emit_whole(replace(reply(response.content, whose, self._key), head=said), emit, whose)
                stream = AnswerStream(Events(), partial(chunk, whose=whose, key=self._key), emit, whose, StreamedCalls())
                await self._read(response, stream, said, whose)
            finally:
                await response.aclose()
        except ContentFiltered as filtered:
            await emit_filtered(filtered, emit)

    async def _post(self, body: dict[str, Any], stream: bool, whose: str) -> httpx2.Response:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream" if stream else "application/json"}
        if any(name in body for name in _SAMPLING):
            headers |= _SAMPLING_VERSION
        try:
            return await self._client.post(
                _PATH, cast_to=self._cast_to, content=msgspec.json.encode(body), options={"headers": headers}, stream=stream
            )
        except Exception as error:
            raise self.meant(error, whose) from error

    async def _read(self, response: httpx2.Response, stream: AnswerStream, said: Head, whose: str) -> None:
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            try:
                body = await response.aread()
            except Exception as error:
                raise transport_error(error, whose, key=self._key) from error
            raise failure(response.status_code, response.headers, body, whose=whose, key=self._key)
        # The bytes were asked for uncompressed, which not every proxy on the way heeds.
        pieces = response.aiter_bytes() if "content-encoding" in response.headers else response.aiter_raw()
        await stream.read_all(partial(anext, pieces, b""), said, partial(transport_error, whose=whose, key=self._key))

    def meant(self, error: Exception, whose: str) -> ProviderError:
        import anthropic

        if isinstance(error, anthropic.APIStatusError):
            response = error.response
            return failure(response.status_code, response.headers, response.content, whose=whose, key=self._key)
        # Around a transport's exception the SDK puts one of its own, which says less.
        lower = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else None
        try:
            return transport_error(lower or error, whose, key=self._key)
        except Exception:
            kind = next((EXCEPTIONS[base.__name__] for base in type(error).__mro__ if base.__name__ in EXCEPTIONS), None)
            if kind is None:
                raise
            return kind(f"{whose}: {type(error).__name__}: {scrubbed(str(error), self._key)}")

    async def embed(self, ask: EmbedAsk) -> Vectors:
        raise ProviderRejected(f"{self.name} has no embeddings; choose an embedding model of another provider")

    async def check(self) -> None:
        try:
            response = await self._client.get(_MODELS_PATH, cast_to=self._cast_to, options={"params": {"limit": 1}})
        except Exception as error:
            raise self.meant(error, self.name) from error
        require_list(response.content, "data", self.name)

    async def close(self) -> None:
        await self._client.close()


# The SDK's exceptions that are neither a status (`failure` reads those) nor the shell of a transport's, by name: nothing is imported
# for it. A test holds it against every class of the SDK.
EXCEPTIONS: Final[dict[str, type[ProviderError]]] = {
    "AnthropicError": ProviderUnavailable,
    "APIError": ProviderUnavailable,
    "APIConnectionError": ProviderUnavailable,
    "APITimeoutError": ProviderTimeout,
    "APIResponseValidationError": ProviderGarbled,
    "APIWebhookValidationError": ProviderGarbled,
    "RetryableError": ProviderUnavailable,
    "CredentialsError": ProviderAuthFailed,
    "IdentityTokenFileError": ProviderAuthFailed,
    "WorkloadIdentityError": ProviderAuthFailed,
    "StreamAlreadyConsumed": ProviderGarbled,
}


class StreamedCalls:
    """The tool calls of one stream: what chunk by chunk cannot be known.

    A tool without parameters gets no piece at all, where JSON text of an object is owed; pieces for blocks that are no tool of ours
    (the provider's own tools) look like pieces of a call.
    """

    def __init__(self) -> None:
        self._has_arguments: dict[int, bool] = {}

    def __call__(self, read: Chunk) -> Chunk:
        if read.tool_calls:
            return replace(read, tool_calls=tuple(call for call in read.tool_calls if self._is_ours(call)))
        if read.finish is not None:
            bare = tuple(ToolDelta(index=i, arguments="{}") for i, has in self._has_arguments.items() if not has)
            return replace(read, tool_calls=bare) if bare else read
        return read

    def _is_ours(self, call: ToolDelta) -> bool:
        if call.name:
            self._has_arguments[call.index] = bool(call.arguments)
            return True
        if call.index not in self._has_arguments:
            return False
        self._has_arguments[call.index] |= bool(call.arguments)
        return True
