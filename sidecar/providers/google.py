"""Google's Gemini through its official SDK's lean path: the SDK addresses and authenticates a request, our own client carries it.

The SDK's transport is left out because of what it does: it sends a request a second time when a connection breaks (billed twice), has
one limit of time for a whole stream and none for connecting, and decodes and encodes each chunk again (4.0 instead of 1.5 ms of CPU per
100 chunks). What is used of it beyond its public names is `_api_client._build_request`; a contract test walks it. The API version
is the SDK's own, or the one a base URL ends in (`https://generativelanguage.googleapis.com/v1beta`).
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace
from yarl import URL

from sidecar.call import Chunk, EmbedAsk, Emit, GenerateAsk, Usage, Vectors
from sidecar.errors import ProviderAuthFailed, ProviderError, ProviderGarbled, ProviderRejected, ProviderUnavailable, SettingsError
from sidecar.providers import Provider
from sidecar.providers.google_wire import FEATURES, chunk, embed_request, failure, model_path, reply, request, vectors
from sidecar.providers.http import Client, scrubbed
from sidecar.providers.listing import require_list
from sidecar.providers.reading import AnswerStream, check_vectors, emit_whole
from sidecar.providers.sse import Events
from sidecar.providers.tool_calls import WholeCalls

if TYPE_CHECKING:
    from google.genai import Client as Sdk

    from sidecar.settings.routing import ProviderSettings

__all__ = ["FEATURES", "chunk", "connect", "embed_request", "failure", "reply", "request", "vectors"]

_MOST_INPUTS: Final = 100  # of one batchEmbedContents; more are asked for in several, one after the other
_VERSION: Final = re.compile(r"/(v\d+(?:alpha|beta)?\d*)$")

# The SDK's exceptions, by name, so that nothing is imported for it. A test holds it against every class of the SDK.
EXCEPTIONS: Final[dict[str, type[ProviderError]]] = {
    "APIError": ProviderUnavailable,
    "ClientError": ProviderRejected,
    "ServerError": ProviderUnavailable,
    "EphemeralTokenAPIKeyError": ProviderAuthFailed,
    "UnknownApiResponseError": ProviderGarbled,
    "UnknownFunctionCallArgumentError": ProviderRejected,
    "UnsupportedFunctionError": ProviderRejected,
    "FunctionInvocationError": ProviderRejected,
    "ContinuationInterruptedError": ProviderUnavailable,
}


async def connect(settings: ProviderSettings) -> Provider:
    """A client with its SDK imported, in a thread and without network. Raises SettingsError."""
    if settings.api_key is None and settings.base_url is None:
        raise SettingsError("GOOGLE_API_KEY", "", f"not set, and provider {settings.name} has no base_url of its own; set one of them")
    try:
        sdk = await asyncio.to_thread(_sdk, settings)
        built = sdk._api_client._build_request("post", "models/none:generateContent", {})
    except ValueError as error:
        raise SettingsError("GOOGLE_API_KEY", "", f"the SDK does not take it: {scrubbed(str(error), settings.api_key)}") from error
    client = Client(
        built.url.partition("/models/")[0],
        name=settings.name,
        headers=built.headers,
        connect_timeout_ms=settings.connect_timeout_ms,
        failure=failure,
        key=settings.api_key,
    )
    return Google(settings.name, sdk, client, settings.api_key)


def _sdk(settings: ProviderSettings) -> Sdk:
    try:
        from google import genai
        from google.genai.types import HttpOptions, HttpRetryOptions
    except ImportError as error:
        raise SettingsError("python", "", "the package google-genai is not installed; install llm-sidecar[google]") from error
    base_url = settings.base_url.rstrip("/") if settings.base_url else None
    version = _VERSION.search(base_url or "")
    options = HttpOptions(
        base_url=_VERSION.sub("", base_url) if base_url else None,
        api_version=version[1] if version else None,
        headers=dict(settings.headers),
        retry_options=HttpRetryOptions(attempts=1),
    )
    return genai.Client(api_key=settings.api_key or "none", vertexai=False, http_options=options)


class WholeStream:
    """One streamed answer: its calls counted through, and its id, which every event repeats, told once."""

    def __init__(self) -> None:
        self._calls = WholeCalls()
        self._named = False

    def __call__(self, read: Chunk) -> Chunk:
        if read.head is not None:
            if self._named:
                read = replace(read, head=None)
            self._named = True
        return self._calls(read)


class Google:
    """One key for the Gemini API."""

    features = FEATURES

    def __init__(self, name: str, sdk: Sdk, client: Client, key: str | None) -> None:
        self.name = name
        self._sdk = sdk
        self._client = client
        self._key = key
        self._addresses: dict[tuple[str, str], URL] = {}  # one per model of the catalogue and way to call it

    async def generate(self, ask: GenerateAsk, emit: Emit) -> None:
        body = msgspec.json.encode(request(ask))
        whose = f"{self.name}/{ask.model}"
        if ask.stream:
            stream = AnswerStream(Events(), partial(chunk, whose=whose, key=self._key), emit, whose, WholeStream())
            await self._client.stream(self._address(ask.model, "streamGenerateContent?alt=sse", whose), body, whose, stream)
        else:
            data, said = await self._client.post(self._address(ask.model, "generateContent", whose), body, whose)
            answer = reply(data, whose, self._key)
            whole = replace(answer, head=replace(said, request_id=said.request_id or (answer.head.request_id if answer.head else "")))
            await emit_whole(whole, emit, whose)

    async def embed(self, ask: EmbedAsk) -> Vectors:
        whose = f"{self.name}/{ask.model}"
        address = self._address(ask.model, "batchEmbedContents", whose)
        found: list[Vectors] = []
        for start in range(0, len(ask.inputs), _MOST_INPUTS):
            part = replace(ask, inputs=ask.inputs[start : start + _MOST_INPUTS])
            data, said = await self._client.post(address, msgspec.json.encode(embed_request(part)), whose)
            found.append(replace(check_vectors(vectors(data, whose, self._key), len(part.inputs), part.dimensions, whose), head=said))
        if len(found) == 1:
            return found[0]
        counts = [one.usage.input_tokens for one in found]
        total = None if None in counts else sum(count or 0 for count in counts)
        joined = [vector for one in found for vector in one.vectors]
        return Vectors(vectors=joined, usage=Usage(input_tokens=total, output_tokens=0), head=found[-1].head if found else None)

    async def check(self) -> None:
        built = self._sdk._api_client._build_request("get", "models?pageSize=1", {})
        data, _ = await self._client.get(URL(built.url), self.name)
        require_list(data, "models", self.name)

    async def close(self) -> None:
        await self._client.close()
        await self._sdk.aio.aclose()
        self._sdk.close()

    def _address(self, model: str, method: str, whose: str) -> URL:
        if (known := self._addresses.get((model, method))) is not None:
            return known
        try:
            built = self._sdk._api_client._build_request("post", f"{model_path(model)}:{method}", {})
        except Exception as error:
            kind = next((EXCEPTIONS[base.__name__] for base in type(error).__mro__ if base.__name__ in EXCEPTIONS), None)
            if kind is None:
                raise
            raise kind(f"{whose}: {type(error).__name__}: {scrubbed(str(error), self._key)}") from error
        address = self._addresses[model, method] = URL(built.url)
        return address
