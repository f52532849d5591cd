"""Any server that speaks OpenAI's format at a base URL: vLLM, LiteLLM, llama.cpp and their like.

There may be several, each with its own name; a key is optional. No SDK lies between: this is the light path, so its body is built and
encoded once and its answer decoded once, straight into typed values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.call import EmbedAsk, Emit, GenerateAsk, Vectors
from sidecar.errors import ProviderError, SettingsError
from sidecar.providers import openai_request
from sidecar.providers.http import Client
from sidecar.providers.listing import require_list
from sidecar.providers.openai_failure import failure
from sidecar.providers.openai_reply import Reader, reply, vectors
from sidecar.providers.reading import AnswerStream, emit_filtered, emit_whole
from sidecar.providers.sse import Events
from sidecar.providers.words import ContentFiltered

if TYPE_CHECKING:
    from sidecar.settings.routing import ProviderSettings

__all__ = ["connect", "embedding", "failure", "reader", "reply", "request", "vectors"]

reader = Reader

_STREAM_OPTIONS = {"include_usage": True}


def request(ask: GenerateAsk) -> dict[str, Any]:
    # `max_tokens` is the name all of these servers know.
    return openai_request.request(ask, limit_name="max_tokens", stream_options=_STREAM_OPTIONS)


def embedding(ask: EmbedAsk) -> dict[str, Any]:
    # Not all of them know base64, and those who do not fail.
    return openai_request.embedding(ask, encoding_format=None)


async def connect(settings: ProviderSettings) -> Compatible:
    """The provider, without a word over the network. Raises SettingsError for a base URL that is missing or none."""
    if not settings.base_url:
        expected = "not set, expected where the server listens, like http://localhost:8000/v1"
        raise SettingsError(f"provider {settings.name}", "base_url", expected)
    headers = dict(settings.headers)
    if settings.api_key:
        headers.setdefault("Authorization", f"Bearer {settings.api_key}")
    client = Client(
        settings.base_url,
        name=settings.name,
        headers=headers,
        connect_timeout_ms=settings.connect_timeout_ms,
        failure=failure,
        key=settings.api_key,
    )
    return Compatible(settings.name, client, settings.api_key)


class Compatible:
    """One server. See `Provider` for what each method promises."""

    features = openai_request.FEATURES

    def __init__(self, name: str, client: Client, key: str | None) -> None:
        self.name = name
        self._key = key
        self._client = client
        self._chat_url = client.url("chat/completions")
        self._embeddings_url = client.url("embeddings")
        self._models_url = client.url("models")

    async def generate(self, ask: GenerateAsk, emit: Emit) -> None:
        whose = f"{self.name}/{ask.model}"
        body = openai_request.encode(request(ask))
        try:
            if ask.stream:
                await self._client.stream(self._chat_url, body, whose, AnswerStream(Events(), reader(whose, self._key), emit, whose))
            else:
                data, head = await self._client.post(self._chat_url, body, whose)
                await emit_whole(reply(data, head, whose, key=self._key), emit, whose)
        except ContentFiltered as filtered:
            await emit_filtered(filtered, emit)

    async def embed(self, ask: EmbedAsk) -> Vectors:
        whose = f"{self.name}/{ask.model}"
        data, head = await self._client.post(self._embeddings_url, openai_request.encode(embedding(ask)), whose)
        return vectors(data, head, whose, key=self._key, count=len(ask.inputs), dimensions=ask.dimensions)

    async def check(self) -> None:
        try:
            data, _ = await self._client.get(self._models_url, self.name)
        except ProviderError as error:
            if error.status in (404, 405, 501):
                return  # not every server has a list of its models; that it answers is what was asked
            raise
        require_list(data, "data", self.name)

    async def close(self) -> None:
        await self._client.close()
