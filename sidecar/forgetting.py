"""Taking answers back: what operators invalidate, who is erased, what users say is wrong. Here, in the file and on all pods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from sidecar.engine import Engine
from sidecar.errors import StoreFailed, UnknownModel
from sidecar.policies.cache_similar import Given
from sidecar.store.cache_invalidation import Invalidation
from sidecar.store.usage_rows import Row

_GREATEST: Final = 1 << 62


async def invalidate(engine: Engine, what: Invalidation) -> tuple[dict[str, int], list[str]]:
    """Give nothing any more that this hits, on no pod, and erase it everywhere. Returns how many were where, and what went wrong.

    A number is taken for it first: it is what decides, on every pod, which answers are too old.
    """
    shared = engine.answers.shared
    numbered = await shared.say(what) if shared is not None else None
    problems = []
    if numbered is None:
        numbered = replace(what, generation=engine.answers.invalidations.generation + 1)
        if shared is not None:
            problems.append("Redis is away: the other pods are told when it is back")
    found = await forget(engine, [numbered], problems)
    return found, problems


async def forget(engine: Engine, ones: Sequence[Invalidation], problems: list[str], *, is_own: bool = True) -> dict[str, int]:
    """Apply invalidations here. What pods share is erased by the one whose own they are."""
    found = {"memory": sum(map(engine.answers.invalidate, ones)), "vectors": sum(map(engine.vectors.invalidate, ones))}
    for one in ones:
        if engine.similar.judge is not None and one.tenant and one == Invalidation(one.generation, one.tenant):
            engine.similar.judge.forget(one.tenant)
    if is_own:  # an operator's word takes all that it names, also where its number is not known to be the greatest yet
        ones = [replace(one, generation=_GREATEST) for one in ones]
    for place in engine.answers.elsewhere:
        if is_own or place is not engine.answers.shared:
            try:
                found[place.name] = await place.erase(ones)
            except StoreFailed as error:
                problems.append(error.message)
    return found


async def complain(engine: Engine, given: Given) -> None:
    """A user says that this call's answer is wrong: it is not given any more, on no pod. A similar question's is a failed audit too."""
    judge = engine.similar.judge
    if given.kind == "semantic" and judge is not None:
        node = engine.catalog.nodes.get(given.node)
        judge.complain(given, node.cache if node is not None else None)
    await invalidate(engine, Invalidation(generation=0, entry=given.source or given.id))


def given_by(engine: Engine, row: Row) -> Given:
    """The call of this row; one of an older version of the sidecar does not say whose answer it was given."""
    try:
        name = engine.catalog.named(row.model).name
    except UnknownModel:
        name = row.model
    node, model = f"{row.service}.{row.node}", f"{row.provider}/{name}"
    return Given(row.id, row.cache, row.cache_source or "", node, row.tenant, row.plan, model, row.prompt_name, row.prompt_version)
