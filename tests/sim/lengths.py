"""What a call holds where `limits.reserve_quantile` is set: by lists of all answers, sorted anew each time."""

from __future__ import annotations

from collections import defaultdict
from math import ceil

_LAST, _LEAST = 1_000, 100


class LengthRules:
    """Of one process."""

    def __init__(self, quantile):
        self._quantile = quantile
        self._lengths = defaultdict(list)

    def held(self, call):
        """It holds something. A sentence if that is not what it should be."""
        most = max(candidate.input_tokens + self._output(call, candidate) for candidate in call.candidates)
        if call.max_tokens != most:
            yield f"it holds {call.max_tokens} tokens; with the quantile {self._quantile} of what is known that is {most}"

    def _output(self, call, candidate):
        limit = candidate.max_output_tokens
        for model in (candidate.model.id, None) if self._quantile is not None and limit else ():
            known = sorted(self._lengths[call.service, call.node_name, model][-_LAST:])
            rank = ceil(self._quantile * (len(known) + 1))
            if len(known) >= _LEAST and rank <= len(known):
                return min(limit, known[rank - 1])
        return limit

    def ended(self, call):
        """What its tries put out is known from now on."""
        for tried in call.attempts if self._quantile is not None else ():
            usage = tried.usage
            length = (usage.output_tokens or 0) + (usage.reasoning_tokens or 0)
            if tried.outcome == "HEDGED" or not tried.candidate.max_output_tokens or (length == 0 and tried.outcome != "ok"):
                continue
            for model in (tried.candidate.model.id, None):
                self._lengths[call.service, call.node_name, model].append(length)
