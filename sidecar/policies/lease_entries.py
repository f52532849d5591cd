"""One account that pods share, in the window that is in force here: what this pod has of it, and what it knows of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from sidecar._core import Balance, Rule
from sidecar.shares import LARGEST, NEITHER, Both

UNITS = (0, 1)  # of `Both`


class Entry(Struct):
    """One account in the window that is in force here. `have` and `room` count as `Ask` does."""

    account: str
    end_ns: int
    rule: Rule | None = None  # None: known from the journal only, nobody has asked for it since the start
    have: Both = NEITHER
    room: Both = NEITHER  # what there should be beyond used and pending
    need: Both = NEITHER
    least: Both = NEITHER
    base: Both = NEITHER  # what others know this pod to have spent beyond its own journal
    sequence: int = 0
    known: int = 0
    answered_ns: int = 0  # when the last answered word was sent
    used_ns: int = 0
    quiet_until_ns: int = 0
    refused: Both = NEITHER  # the least that nobody had, a moment ago
    told: tuple[Both, Both] | None = None
    lowest: Both = (LARGEST, LARGEST)  # room that was left since the last look
    turns: int = 0
    total: Both = NEITHER
    taken: Both = NEITHER
    heard: bool = False
    warned: bool = False  # that all pods together have reached the warning threshold
    others: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def is_leased(self) -> bool:
        """Calls are refused at its limit; others are only reported."""
        return self.rule is not None and self.rule.mode == "refuse"

    def sums(self, balance: Callable[[str, int], Balance | None]) -> tuple[Both, Both, Both]:
        """Used, held and the limits (-1: none), by the ledger's `balance`; what was topped up counts.

        The ledger is asked for the window by its last moment: a clock that was put back must not hide what was spent.
        """
        found = balance(self.account, self.end_ns - 1)
        limit: Both = (-1, -1)
        if found is None or found.resets_at_ns != self.end_ns:
            if self.is_leased and self.rule is not None:
                limit = (or_none(self.rule.limit_nano_usd), or_none(self.rule.limit_tokens))
            return self.base, self.base, limit
        if self.is_leased:
            limit = (or_none(found.limit_nano_usd), or_none(found.limit_tokens))
        used = plus(self.base, (found.used_nano_usd, found.used_tokens))
        return used, plus(used, (found.pending_nano_usd, found.pending_tokens)), limit

    def is_at_threshold(self, limit: Both) -> bool:
        """By what all pods have spent: each ledger warns of its own pod's share only."""
        rule = self.rule
        if rule is None or rule.mode == "shadow":
            return False
        if not self.is_leased:
            limit = (or_none(rule.limit_nano_usd), or_none(rule.limit_tokens))
        return any(limit[u] >= 0 and self.total[u] > 0 and self.total[u] * 100 >= limit[u] * rule.warn_percent for u in UNITS)


def each(of: Callable[[int], int]) -> Both:
    return of(0), of(1)


def both(values: Iterable[int]) -> Both:
    money, tokens = values
    return money, tokens


def plus(one: Both, other: Both) -> Both:
    return one[0] + other[0], one[1] + other[1]


def or_none(limit: int | None) -> int:
    return -1 if limit is None else limit
