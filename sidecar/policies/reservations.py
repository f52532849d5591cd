"""How much output a call holds money for: all it may write or, where that would starve others, what nearly all answers come within."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict
from math import ceil

from sidecar.call import Call, Candidate

_KEPT = 1_000  # answers of each node and model; two numbers of four bytes each
_LEAST = 100  # below this a quantile says too little
_MOST_KEYS = 500  # callers choose the names of nodes; the memory must not grow with them
_MOST_TOKENS = 2**32 - 1
_ALL = ""  # models of a node


class _Lengths:
    """The last lengths in their order of arrival, and the same sorted."""

    __slots__ = ("arrived", "oldest", "ordered")

    def __init__(self) -> None:
        self.arrived = array("I")
        self.oldest = 0
        self.ordered = array("I")

    def add(self, tokens: int) -> None:
        if len(self.arrived) < _KEPT:
            self.arrived.append(tokens)
        else:
            self.ordered.pop(bisect_left(self.ordered, self.arrived[self.oldest]))
            self.arrived[self.oldest] = tokens
            self.oldest = (self.oldest + 1) % _KEPT
        insort(self.ordered, tokens)


class Outputs:
    """What the last 1,000 answers of each node and model put out, in tokens, reasoning too; kept only where `quantile` is set.

    Of n answers and the next one each is as likely to be the longest, so the next is longer than the r-th of n with a chance of at most
    (n + 1 - r) / (n + 1): r = ceil(q (n + 1)) makes that at most 1 - q, whatever the lengths' distribution. Where that needs more answers
    than are known of a model, those of all models of the node count: a fallback that is never asked must not hold the most for ever. Where
    it needs more than those too, the most is held.
    """

    def __init__(self, quantile: float | None) -> None:
        self._quantile = quantile
        self._lengths: OrderedDict[tuple[str, str, str], _Lengths] = OrderedDict()

    def held(self, call: Call, candidate: Candidate) -> int:
        """Output tokens to hold money for; never above the candidate's own limit, and all of that while too little is known."""
        most = candidate.max_output_tokens
        if self._quantile is None or not most:
            return most
        for model in (candidate.model.id, _ALL):
            lengths = self._lengths.get((call.service, call.node_name, model))
            known = 0 if lengths is None else len(lengths.ordered)
            rank = ceil(self._quantile * (known + 1))
            if lengths is not None and _LEAST <= known >= rank:
                return min(most, lengths.ordered[rank - 1])
        return most

    def saw(self, call: Call) -> None:
        """The call has ended. Answers that broke off count as long as they were, since that is what they cost: without them the long
        ones, which deadlines cut first, would be missing. Who never began to answer says nothing, and who lost a race neither.
        """
        if self._quantile is None:
            return
        for tried in call.attempts:
            tokens = min((tried.usage.output_tokens or 0) + (tried.usage.reasoning_tokens or 0), _MOST_TOKENS)
            if not tried.candidate.max_output_tokens or tried.outcome == "HEDGED" or (not tokens and tried.outcome != "ok"):
                continue
            for model in (tried.candidate.model.id, _ALL):
                self._add((call.service, call.node_name, model), tokens)

    def _add(self, key: tuple[str, str, str], tokens: int) -> None:
        lengths = self._lengths.pop(key, None)
        if lengths is None:
            lengths = _Lengths()
            if len(self._lengths) >= _MOST_KEYS:
                self._lengths.popitem(last=False)
        self._lengths[key] = lengths  # the one that was quiet for longest goes first
        lengths.add(tokens)
