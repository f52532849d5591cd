"""What operators have said of budgets: in force here, kept over a restart, and the same in all pods that share budgets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec.json import decode, encode

Kind = Literal["budget", "frozen", "top_up"]
Key = tuple[str, str]  # kind and name
Word = tuple[int, str]  # when, in milliseconds of Unix time, and the text; "": what was said before is taken back
_KEPT_MS = 40 * 86_400_000  # of what was taken back, or is over: longer than any window, and than any pod is away

Keep = Callable[[Mapping[Key, str | None]], Awaitable[None]]
Share = Callable[[Mapping[Key, Word]], Awaitable[None]]
Apply = Callable[[str, str], None]  # name, text


async def nowhere(_: Mapping[Key, object]) -> None:
    """Without a folder a word lives as long as the process; without other pods nobody else hears it."""


class Words:
    """Of two words on the same matter the later one holds, whoever heard it first.

    `apply` puts a word of its kind in force, `keep` writes it down, `share` tells other pods.
    """

    def __init__(self) -> None:
        self.apply: dict[str, Apply] = {}
        self.keep: Keep = nowhere
        self.share: Share = nowhere
        self.known: dict[Key, Word] = {}

    def restore(self, kept: Mapping[Key, str], now_ms: int) -> None:
        """Know again what was kept, and put it in force, but for top-ups: those are in the ledger's own journal, and would count twice."""
        for (kind, name), text in kept.items():
            at_ms, said = decode(text, type=Word)
            if (said and kind != "top_up") or now_ms - at_ms < _KEPT_MS:
                self.known[kind, name] = (at_ms, said)
                if kind != "top_up" and kind in self.apply:
                    self.apply[kind](name, said)

    async def say(self, kind: Kind, name: str, text: str, now_ms: int) -> None:
        """Put it in force, here and in all pods. Raises StoreFailed, and then it is not in force here."""
        before = self.known.get((kind, name))
        words: dict[Key, Word] = {(kind, name): (now_ms if before is None else max(now_ms, before[0] + 1), text)}
        await self.share(words)
        await self._put(words)

    async def heard(self, words: Mapping[Key, Word]) -> list[Key]:
        """Put in force what is news here; returns its keys. Raises StoreFailed, and then nothing has changed."""
        news = {key: word for key, word in words.items() if key not in self.known or self.known[key][0] < word[0]}
        await self._put(news)
        return list(news)

    async def _put(self, words: Mapping[Key, Word]) -> None:
        await self.keep({key: encode(word).decode() for key, word in words.items()})
        for (kind, name), word in words.items():
            if (kind, name) in self.known and self.known[kind, name][0] >= word[0]:
                continue  # heard from other pods while it was kept or shared: a top-up would count twice
            self.known[kind, name] = word
            if kind in self.apply:  # else a later version's
                self.apply[kind](name, word[1])
