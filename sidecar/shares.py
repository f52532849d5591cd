"""What a pod says to the meeting place about a budget that pods share, and what it hears there."""

from __future__ import annotations

from msgspec import Struct

Both = tuple[int, int]  # nano-USD, tokens
NEITHER: Both = (0, 0)
LARGEST = 2**53 - 1  # the meeting place reckons in doubles; 9,007,199 USD


class Ask(Struct, frozen=True, gc=False):
    """One pod on one account in one window. `held` is used and pending together; a limit of -1 is none.

    `have` is what the pod may use now, `want` what it would like, `need` what the calls that wait add up to, `least` the smallest of them;
    all four count from the window's begin, as `held` does. `sequence` only grows; `known` is the last one that was answered (0: none).
    """

    account: str
    end_ns: int  # of the window, Unix time
    sequence: int
    known: int
    keep_ms: int  # how long the account is remembered after this
    limit: Both
    used: Both
    held: Both
    have: Both
    want: Both
    need: Both
    least: Both


class Answer(Struct, frozen=True, gc=False):
    """`lease` is what the pod may use from now on, `used` what it is known to have spent (more than it says if its journal was lost).

    `total` is spent by all pods, `taken` spent, held or leased by the others. `others` are their entries, to be taught to a meeting place
    that has forgotten them. `stale`: the sequence is not above this one, and nothing was done.
    """

    stale: int = 0
    lease: Both = NEITHER
    used: Both = NEITHER
    total: Both = NEITHER
    taken: Both = NEITHER
    others: tuple[tuple[bytes, bytes], ...] = ()


class Reply(Struct, frozen=True, gc=False):
    """`epoch` is another one when the meeting place has lost its memory; while it is `learning` it leases nothing new.

    `short`: (account, end_ns) in which somebody needs what this pod has leased and does not use.
    """

    epoch: str
    learning: bool
    short: tuple[tuple[str, int], ...]
    answers: tuple[Answer, ...]
