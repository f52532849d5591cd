"""Calls that cost much: their tenant's node goes to the cheapest model for a while, and operators hear of it, with a rest in between."""

from __future__ import annotations

from collections import defaultdict

from sidecar.request import EmbedRequest

_NOTICE = "calls like this have just been dear"


class DearRules:
    """Of one process; `now` is seconds since its beginning."""

    def __init__(self, limits):
        self._limits = limits
        self._throttled = defaultdict(list)  # (from, until), by tenant, service and node
        self._rests_until = {}  # nobody hears of its dear calls before
        self._told = {}  # what operators have heard of a call, by its id

    def told(self, event):
        """Operators hear of a dear call."""
        if event.kind == "dear_call" and event.facts["action"] != "halt":
            self._told[event.facts["call"]] = event.facts["action"]

    def chosen(self, caller):
        """Candidates were chosen when the call came. Sentences on what is wrong with them."""
        call = caller.call
        since = self._throttled.get((call.tenant, call.service, call.node_name), ())
        is_throttled = any(at <= caller.began_at < until for at, until in since) and not isinstance(call.request, EmbedRequest)
        if is_throttled is not any(_NOTICE in notice for notice in call.notices):
            yield f"its tenant's calls of {call.node_name} {'have been' if is_throttled else 'were not'} dear, and it is told otherwise"
        prices = [candidate.max_nano_usd for candidate in call.candidates]
        falls = [number for number in range(1, len(prices)) if prices[number] < prices[number - 1]]
        if is_throttled and len(falls) > 1:  # one: where those begin that are set aside
            yield f"calls like it have been dear, and it goes to {[candidate.target for candidate in call.candidates]}, which cost {prices}"

    def ended(self, call, now):
        """It is settled. Sentences on what operators should have heard, and have not, or the other way round."""
        limits, whose = self._limits, (call.tenant, call.service, call.node_name)
        due = None
        if call.nano_usd > limits.call_throttle_nano_usd:
            since = self._throttled[whose]
            due = None if any(until > now for _, until in since) else "throttle"
            since.append((now, now + limits.call_throttle_ms / 1000))
        if due is None and call.nano_usd > limits.call_notify_nano_usd and now >= self._rests_until.get(whose, 0):
            self._rests_until[whose] = now + limits.call_notify_every_ms / 1000
            due = "notify"
        told = self._told.pop(call.id, None)
        if told != due:
            yield f"it cost {call.nano_usd} nano-USD; operators should hear {due}, and heard {told}"
