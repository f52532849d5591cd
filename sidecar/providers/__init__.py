"""The providers: each file knows one wire format and nothing of the sidecar but `call` and `errors`.

A provider file has pure functions `request(ask) -> dict` (the body to send), `reply(body) -> Chunk` (a whole unary answer) and
`chunk(event) -> Chunk | None` (one event of a stream; None: nothing in it for us), a table from the SDK's exceptions to ours, and
`connect(settings, ...) -> Provider`. It never retries: the attempt stage alone decides that.
"""

from __future__ import annotations

from typing import Protocol

from sidecar.call import EmbedAsk, Emit, Feature, GenerateAsk, Vectors


class Provider(Protocol):
    """A connected provider. Raises only `errors.ProviderError` (and CancelledError, which closes the connection at once)."""

    name: str  # as settings call it: openai, anthropic, google, ollama, echo, or a compatible server's own name
    features: frozenset[Feature]  # what its wire can carry

    async def generate(self, ask: GenerateAsk, emit: Emit) -> None:
        """Asks, and emits every chunk up to the end of the body.

        With `ask.stream` false one chunk holds the whole answer. A stream that simply ends is no error here: the attempt stage
        asks for proof (`finish` and `last`) and raises StreamCut. Garbage raises ProviderGarbled; an error event raises its class.
        """

    async def embed(self, ask: EmbedAsk) -> Vectors: ...

    async def check(self) -> None:
        """Returns if the provider can be reached with this key: it fetches a list of models, which costs no tokens.

        It has no limit of time but for connecting: the caller sets one.
        """

    async def close(self) -> None: ...
