"""Beside the calls: what operators say of budgets at one pod is heard by all that share them."""

from __future__ import annotations

import asyncio
import contextlib

from sidecar.engine import Engine
from sidecar.errors import StoreFailed
from sidecar.store import shared_words
from sidecar.store.shared_words import SharedWords

_LOOK_S = 1.0


class Hearing:
    """One pod's ear; what it knows and the server does not, it says: to one that is new, that has forgotten or was put back."""

    def __init__(self, engine: Engine, place: SharedWords) -> None:
        self._engine = engine
        self._place = place
        self._version = ""

    async def look(self) -> None:
        """Hear what is new. Raises StoreFailed."""
        words, version = self._engine.budgets.words, await self._place.version()
        if version and version == self._version:
            return
        found = await self._place.hear()
        for kind, name in await words.heard(found):
            self._engine.meter.log.write("info", "an operator of another pod has set something", kind=kind, name=name)
        later = {key: word for key, word in words.known.items() if key not in found or found[key][0] < word[0]}
        if later:
            await self._place.say(later)
            version = ""  # others may have said something meanwhile: the next look hears all of it
        self._version = version

    async def run(self) -> None:
        """Until cancelled. That a server is away is told by what shares the budgets themselves."""
        try:
            while True:
                with contextlib.suppress(StoreFailed):
                    await self.look()
                await asyncio.sleep(_LOOK_S)
        finally:
            with contextlib.suppress(StoreFailed):
                await self._place.close()


async def connect_words(engine: Engine) -> Hearing | None:
    """Where pods share budgets, hear what operators have said before the first call, if the server answers.

    Raises SettingsError for what is wrong with [redis] or for its missing package.
    """
    place = await shared_words.connect(engine.settings)
    if place is None:
        return None
    engine.budgets.words.share = place.say
    hearing = Hearing(engine, place)
    with contextlib.suppress(StoreFailed):
        await hearing.look()
    return hearing
