"""What is not to be given any more: by tenant, user, node, model, prompt, age or a single entry."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from sidecar.store.cache_entry import Named

_MOST: Final = 1_000  # remembered: beyond that the oldest takes all with it that is older than itself


class Invalidation(Struct, frozen=True):
    """All that is set must fit; nothing set: everything. `node` is `service.node`, `model` `provider/model` or `model`.

    `generation` orders invalidations: it hits what was made by calls that began before they knew of it. New fields go to the end, with a
    default.
    """

    generation: int
    tenant: str = ""
    user: str = ""
    service: str = ""
    node: str = ""
    model: str = ""
    prompt_name: str = ""
    prompt_version: str = ""
    before_ms: int = 0  # kept before this Unix time; 0: whenever
    entry: str = ""  # the id of the call that made it
    is_complaint: bool = False  # about this call, of which another pod may know whose answer it was given

    def hits(self, named: Named, kept_ms: int, call_id: str) -> bool:
        return (
            (not self.tenant or self.tenant == named.tenant)
            and (not self.user or self.user == named.user)
            and (not self.service or self.service == named.service)
            and (not self.node or self.node == f"{named.service}.{named.node}")
            and (not self.model or self.model in (named.model, named.model.partition("/")[2]))
            and (not self.prompt_name or self.prompt_name == named.prompt_name)
            and (not self.prompt_version or self.prompt_version == named.prompt_version)
            and (not self.before_ms or kept_ms < self.before_ms)
            and (not self.entry or self.entry == call_id)
        )


class Invalidations:
    """Those of late, so that an entry that comes from elsewhere, or from a call that began before, is known to be gone."""

    def __init__(self) -> None:
        self.generation = 0  # of the last one
        self._floor = 0  # what is older than this is gone
        self._list: list[Invalidation] = []

    def add(self, one: Invalidation) -> bool:
        """Returns whether it is new."""
        if one.generation <= self._floor or any(one.generation == other.generation for other in self._list):
            return False
        self._list.append(one)
        self._list.sort(key=lambda other: other.generation)
        self.generation = max(self.generation, one.generation)
        while len(self._list) > _MOST:
            self._floor = self._list.pop(0).generation
        return True

    def raise_floor(self, generation: int) -> None:
        """What is older than this is gone, whatever it is."""
        self._floor = max(self._floor, generation)
        self.generation = max(self.generation, generation)

    def hit(self, generation: int, named: Named, kept_ms: int, call_id: str) -> bool:
        """Is an entry of this generation gone?"""
        if generation >= self.generation:
            return False
        if generation < self._floor:
            return True
        return any(one.generation > generation and one.hits(named, kept_ms, call_id) for one in reversed(self._list))
