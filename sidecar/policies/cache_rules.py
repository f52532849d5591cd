"""What may be remembered of a call, for whom and for how long; and whether it may be answered from memory at all."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from sidecar.call import Call
from sidecar.request import GenerateRequest, Text
from sidecar.settings import Settings
from sidecar.settings.caching import CacheSettings, NodeCache

_NODE = NodeCache()  # of calls that name no node

# Words that make an answer old soon. English ones whole, Korean ones with whatever is written onto them.
_TIME_WORDS = frozenset(
    ("now", "today", "tonight", "tomorrow", "yesterday", "current", "currently", "latest", "newest", "recent", "recently", "nowadays")
)
_NEAR = frozenset(("this", "last", "next", "past"))
_SPANS = frozenset(("morning", "afternoon", "evening", "night", "weekend"))
_UNITS = re.compile("(?:minute|hour|day|week|month|quarter|year)s?")
_KOREAN = re.compile("지금|현재|오늘|내일|어제|그제|모레|방금|최근|최신|이번|지난|다음\\s?(?:주|달|해|분기)|올해|작년|내년")
_WORDS = re.compile("[a-z]+")
_USUAL_ACCEPTANCE = 0.95  # of services that settings do not name
_LOOKED_AT = 20_000  # characters at either end of a question


class Rule(Struct, frozen=True, gc=False):
    """What holds for one call. `reads`: it may be answered from memory; `writes`: its answer may be remembered."""

    reads: bool
    writes: bool
    must: bool  # an answer from memory or none
    scope: Literal["user", "tenant"]
    life_ms: int
    more_ms: int  # for which it is kept beyond its life, where an old answer is better than none
    tool_calls: bool
    stale: bool  # when every model has failed, an old answer is better than none
    semantic: Literal["off", "shadow", "on"]


def rule_of(call: Call, settings: CacheSettings) -> Rule | None:
    """None: the cache has nothing to do with this call."""
    request = call.request
    node = call.node.cache if call.node is not None else _NODE
    mode = request.cache_mode
    if isinstance(request, GenerateRequest) and not mode and (node.mode != "off" or node.stale):
        # Nobody has asked for it for this very call, and its answers are meant to differ.
        if _temperature(call, request) > settings.max_temperature:
            return None
        mode = node.mode if node.mode != "off" else "keep"
    elif not mode:
        mode = node.mode
    if mode in ("", "off", "bypass"):
        return None
    life_ms = node.ttl_ms or settings.ttl_ms
    is_somebodys = node.scope == "tenant" or bool(call.user)  # what is each user's own is nobody's where no user is named
    return Rule(
        reads=mode in ("default", "only") and is_somebodys,
        writes=mode in ("default", "refresh", "keep") and is_somebodys,
        must=mode == "only",
        scope=node.scope,
        life_ms=life_ms,
        more_ms=settings.stale_ms if node.stale else 0,
        tool_calls=node.tool_calls,
        stale=node.stale and mode in ("default", "keep") and is_somebodys,
        semantic=node.semantic,
    )


def life_ms(call: Call, rule: Rule, settings: CacheSettings) -> int:
    """How long this call's answer may be given again: less where its question says when."""
    if rule.life_ms > settings.time_words_ttl_ms and has_time_words(last_turn(call)):
        return settings.time_words_ttl_ms
    return rule.life_ms


def may_keep(call: Call, rule: Rule) -> bool:
    """Is this a whole answer that says the same to everybody who asks the same: no cut, no refusal, no filtered text?"""
    answer = call.answer
    if not rule.writes or call.error is not None or call.recalled is not None or call.served is None or answer is None or not answer.last:
        return False
    return answer.finish == "stop" or (answer.finish == "tool_calls" and rule.tool_calls)


def acceptance(settings: Settings, service: str) -> float:
    """The least score of a similar answer that is given."""
    row = settings.services.get(service)
    return row.cache_acceptance if row is not None else _USUAL_ACCEPTANCE


def last_turn(call: Call) -> str:
    """The text of the last message, "" where it is not the user's."""
    turn = call.messages[-1]
    return "\n".join(part.text for part in turn.parts if isinstance(part, Text)) if turn.role == "user" else ""


def has_time_words(text: str) -> bool:
    if len(text) > 2 * _LOOKED_AT:
        text = f"{text[:_LOOKED_AT]} {text[-_LOOKED_AT:]}"
    if not text.isascii() and _KOREAN.search(text) is not None:
        return True
    words = _WORDS.findall(text.lower())
    if not _TIME_WORDS.isdisjoint(words):
        return True
    return not _NEAR.isdisjoint(words) and any(
        near in _NEAR and (span in _SPANS or _UNITS.fullmatch(span) is not None) for near, span in pairwise(words)
    )


def _temperature(call: Call, request: GenerateRequest) -> float:
    """As the model will be asked; a model's own default counts as 1."""
    if request.temperature is not None:
        return request.temperature
    if call.node is not None and call.node.temperature is not None:
        return call.node.temperature
    return 1.0
