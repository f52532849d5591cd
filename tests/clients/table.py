"""The table client × feature, as the tests found it."""

from __future__ import annotations

from pathlib import Path

from tests.clients.talking import KINDS

FILE = Path(__file__).parent / "COMPATIBILITY.md"
FEATURES = (
    "text", "stream", "tools", "tools, streamed", "image", "JSON schema", "embeddings", "models", "count tokens", "errors", "broken stream",
    "cancel",
)  # fmt: skip
SPEAKERS = {"go": "Go", "node": "TypeScript", "java": "Java"}  # folders of deploy/examples
_STUBS = "text, a stream, embeddings, a broken stream's typed details"
_HEAD = """# Clients that nobody here wrote

Each is installed as it is published and run against the sidecar in front of a provider that is played; nothing but its address is set.
`make compatibility` runs them all and writes this table; a test fails while it is not what the tests found.

"""
_TAIL = """
yes: tested, and it works · –: the client, or the API that it speaks, does not have it

- *stream*: pieces arrive one by one, while the provider still speaks, and the last one brings the usage.
- *tools*: a call, its result sent back, and the answer; *streamed*: its arguments in pieces.
- *JSON schema*: strict, by the client's own way of asking for it.
- *errors*: an unknown model, a parameter that cannot be served and a provider's 429 are the client's own classes of exceptions.
- *broken stream*: an answer that breaks off is an exception, never a good end; it carries what came and why.
- *cancel*: a client that stops reading ends the provider's call.
"""


class Table:
    """What was found: `outcomes[feature, client]`; a client that does not have a feature is not asked for it."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], str] = {}
        self.notes: list[str] = []
        self.languages: set[str] = set()  # whose example was built and run

    def note(self, feature: str, client: str, outcome: str) -> None:
        if self.outcomes.get((feature, client)) != "failed":  # a feature may have more than one test
            self.outcomes[feature, client] = outcome

    @property
    def is_whole(self) -> bool:
        """Every client was run, and nothing failed or was left out."""
        clients = {client for _, client in self.outcomes}
        return (
            bool(self.notes)
            and self.languages == set(SPEAKERS)
            and clients == set(KINDS)
            and {feature for feature, _ in self.outcomes} == set(FEATURES)
            and set(self.outcomes.values()) == {"passed"}
        )

    def text(self) -> str:
        rows = [["client", *FEATURES], ["---"] * (len(FEATURES) + 1)]
        for name, kind in KINDS.items():
            rows.append([kind.title, *("yes" if (feature, name) in self.outcomes else "–" for feature in FEATURES)])
        lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        stubs = f"\nOver gRPC, with stubs generated from the contract (`deploy/examples`): {', '.join(SPEAKERS.values())}: {_STUBS}.\n"
        return _HEAD + lines + _TAIL + stubs + "".join(f"\n{note}\n" for note in self.notes)
