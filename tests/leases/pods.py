"""A simulated pod: what runs in it, and what outlives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.policies.leases import Leases

END_NS = 2_000_000 * 1_000_000_000
ACCOUNTS = ("tenant:a:day", "company:all:day")


@dataclass(frozen=True)
class Standing:
    """What the ledger says of one account, as far as leases ask."""

    used_nano_usd: int
    used_tokens: int
    pending_nano_usd: int
    pending_tokens: int
    limit_nano_usd: int | None
    limit_tokens: int | None
    resets_at_ns: int | None = END_NS


@dataclass
class Pod:
    """One process and what outlives it: `used` is its journal."""

    name: bytes
    rate: float  # of its clock, against the world's
    off_ns: int  # its Unix clock, against the world's
    used: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in ACCOUNTS})
    pending: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in ACCOUNTS})
    overrun: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in ACCOUNTS})
    leases: Leases | None = None  # None: it is not running
    life: int = 0
    cut_off: bool = False
    busy: bool = False
    forgot: bool = False
    gone: bool = False  # it never comes back
    unknown: set[str] = field(default_factory=set)  # where it has not been heard of since Redis lost its memory
    waiting: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class Outcome:
    seed: int
    breaks: list[str] = field(default_factory=list)
    admitted: int = 0
    waited: int = 0
    refused: int = 0
    words: int = 0
    beyond: int = 0  # the most that was used and held above the limit, overruns apart
    trace: list[tuple[float, str]] = field(default_factory=list)
