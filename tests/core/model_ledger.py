"""The ledger as a small plain model: nothing is added up in advance, every balance is a sum over all reservations ever made.

Slow, and without a single counter that could drift: what the Rust ledger keeps as running totals is derived here each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

LARGEST = 2**63 - 1
UNITS = ("nano_usd", "tokens")


@dataclass(frozen=True)
class ModelRule:
    """The arguments of `Rule`, in the same order and with the same defaults."""

    limit_nano_usd: int | None = None
    limit_tokens: int | None = None
    window: tuple[int, int] | None = None
    warn_percent: int = 80
    mode: str = "refuse"
    lease_nano_usd: int | None = None
    lease_tokens: int | None = None

    def lease(self, unit: str) -> int | None:
        """What this process may use of a limit that it shares."""
        return self.lease_nano_usd if unit == "nano_usd" else self.lease_tokens

    def limit(self, unit: str) -> int | None:
        """The limit of one unit."""
        return self.limit_nano_usd if unit == "nano_usd" else self.limit_tokens

    def bounds(self) -> tuple[int, int | None]:
        """Start and end of the window."""
        return self.window or (0, None)


@dataclass(eq=False)
class ModelWindow:
    """Between two moments of one account; compared by identity."""

    start_ns: int
    end_ns: int | None
    overruns: int = 0
    refusals: int = 0
    warned: bool = False
    topped_up: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))

    def bounds(self) -> tuple[int, int | None]:
        """Start and end."""
        return self.start_ns, self.end_ns

    def has_ended(self, now_ns: int) -> bool:
        """True from its end on."""
        return self.end_ns is not None and now_ns >= self.end_ns


@dataclass
class ModelAccount:
    """All windows of an account, the one in force last."""

    rule: ModelRule
    windows: list[ModelWindow]
    closed: bool = False


@dataclass
class ModelReservation:
    """Amounts by unit; `state` is pending, expired, posted or voided."""

    held: dict[str, int]
    expires_at_ns: int
    windows: list[tuple[str, ModelWindow]]
    state: str = "pending"
    posted: dict[str, int] = field(default_factory=dict)


class ModelLedger:
    """Answers as plain tuples; raises what the Rust ledger raises."""

    def __init__(self) -> None:
        self.accounts: dict[str, ModelAccount] = {}
        self.frozen: set[str] = set()
        self.reservations: list[ModelReservation] = []
        self._before: list[ModelReservation] = []  # of lives before the last restart
        self._written: dict[str, tuple[ModelRule, ModelWindow, ModelWindow]] = {}  # the window, and how it was when it was written down

    def used(self, window: ModelWindow, unit: str) -> int:
        """Everything posted into the window."""
        return sum(r.posted.get(unit, 0) for r in self._before + self.reservations if any(w is window for _, w in r.windows))

    def pending(self, window: ModelWindow, unit: str) -> int:
        """Everything held in the window."""
        holding = (r for r in self.reservations if r.state == "pending" and any(w is window for _, w in r.windows))
        return sum(r.held[unit] for r in holding)

    def holds(self, window: ModelWindow) -> bool:
        """True while something may still be posted into the window."""
        open_ones = (r for r in self.reservations if r.state in ("pending", "expired"))
        return any(w is window for r in open_ones for _, w in r.windows)

    def reserve(self, accounts: list[tuple[str, ModelRule]], nano_usd: int, tokens: int, ttl_ns: int, now_ns: int) -> tuple[object, ...]:
        """("reserved", id, warnings) or ("denied", account, reason, unit, limit, used, pending, asked, resets_at_ns)."""
        ask = {"nano_usd": nano_usd, "tokens": tokens}
        if len({name for name, _ in accounts}) < len(accounts):
            raise ValueError("named twice")
        for _, rule in accounts:
            self._require_now(rule, now_ns)
        entered = [(name, self._enter(name, rule, now_ns)) for name, rule in accounts]
        for name, window in entered:
            rule = self.accounts[name].rule
            for unit in UNITS:
                if self.used(window, unit) + self.pending(window, unit) + ask[unit] > LARGEST:
                    raise ValueError("above the largest amount")
            reason, short = "limit", self._exceeded(rule, window, ask) if rule.mode == "refuse" else None
            if short is None and rule.mode == "refuse":
                reason, short = "lease", self._beyond_lease(rule, window, ask)
            if self.accounts[name].closed or name in self.frozen:
                reason, short = "closed" if self.accounts[name].closed else "frozen", "nano_usd"
            if short:
                window.refusals += reason != "lease"
                most = rule.lease(short) if reason == "lease" else self._limit(rule, window, short)
                used, pending = self.used(window, short), self.pending(window, short)
                return ("denied", name, reason, short, most or 0, used, pending, ask[short], window.end_ns)
        for name, window in entered:
            window.refusals += self._exceeded(self.accounts[name].rule, window, ask) is not None
        self.reservations.append(ModelReservation(ask, now_ns + ttl_ns, entered))
        return ("reserved", len(self.reservations), self._warnings(entered))

    def post(self, number: int, nano_usd: int, tokens: int, now_ns: int) -> tuple[object, ...]:
        """("posted", overrun nano-USD, overrun tokens, late, warnings)."""
        reservation = self._open(number)
        spent = {"nano_usd": nano_usd, "tokens": tokens}
        for _, window in reservation.windows:
            for unit in UNITS:
                own = reservation.held[unit] if reservation.state == "pending" else 0
                if self.used(window, unit) + self.pending(window, unit) - own + spent[unit] > LARGEST:
                    raise ValueError("above the largest amount")
        late = reservation.state == "expired" or now_ns >= reservation.expires_at_ns
        reservation.state, reservation.posted = "posted", spent
        overrun = [max(0, spent[unit] - reservation.held[unit]) for unit in UNITS]
        for _, window in reservation.windows:
            window.overruns += any(overrun)
        warnings = self._warnings([(name, window) for name, window in reservation.windows if not window.has_ended(now_ns)])
        for name, window in reservation.windows:
            account = self.accounts[name]
            was_written = name in self._written and self._written[name][1].bounds() == window.bounds()
            if not account.closed and (window is account.windows[-1] or was_written):
                self._written[name] = (account.rule, window, replace(window))
        return ("posted", *overrun, late, warnings)

    def void(self, number: int) -> None:
        """Ends a reservation without a posting."""
        self._open(number).state = "voided"

    def expire(self, now_ns: int) -> int:
        """Expires what is due and forgets accounts of which nothing would be missed."""
        due = [r for r in self.reservations if r.state == "pending" and r.expires_at_ns <= now_ns]
        for reservation in due:
            reservation.state = "expired"
        for name in [name for name, account in self.accounts.items() if self._is_idle(account, now_ns)]:
            del self.accounts[name]
        return len(due)

    def balance(self, name: str, now_ns: int) -> tuple[object, ...] | None:
        """Used and pending of both units, both limits, end of the window, overruns, refusals."""
        account = self.accounts.get(name)
        if account is None:
            return None
        for window in reversed(account.windows):
            is_kept = window is account.windows[-1] or self.holds(window)
            if is_kept and window.start_ns <= now_ns and not window.has_ended(now_ns):
                sums = [total(window, unit) for total in (self.used, self.pending) for unit in UNITS]
                limits = [self._limit(account.rule, window, unit) for unit in UNITS]
                counts = (window.end_ns, window.overruns, window.refusals, name in self.frozen)
                return (*sums, *limits, *window.topped_up.values(), *counts)
        return None

    def top_up(self, name: str, rule: ModelRule, nano_usd: int, tokens: int, now_ns: int) -> tuple[object, ...] | None:
        """Adds to the limits of the window in force; answers its balance."""
        self._require_now(rule, now_ns)
        window, by = self._enter(name, rule, now_ns), {"nano_usd": nano_usd, "tokens": tokens}
        if any(window.topped_up[unit] + by[unit] > LARGEST for unit in UNITS):
            raise ValueError("above the largest amount")
        window.topped_up = {unit: window.topped_up[unit] + by[unit] for unit in UNITS}
        window.warned = False
        if not self.accounts[name].closed:
            self._write_down(name)
        return self.balance(name, max(now_ns, window.start_ns))

    def freeze(self, name: str) -> bool:
        """True if it was not frozen."""
        was_frozen = name in self.frozen
        self.frozen.add(name)
        return not was_frozen

    def unfreeze(self, name: str) -> bool:
        """True if it was frozen."""
        was_frozen = name in self.frozen
        self.frozen.discard(name)
        return was_frozen

    def close_account(self, name: str) -> tuple[object, ...] | None:
        """The last balance; the account stays for as long as something may be posted to it."""
        account = self.accounts.get(name)
        if account is None:
            return None
        self._written.pop(name, None)
        last = self.balance(name, account.windows[-1].start_ns)
        account.closed = True
        if not any(self.holds(window) for window in account.windows):
            del self.accounts[name]
        return last

    def restart(self) -> None:
        """What was pending is gone; accounts are as they were when they were last written down."""
        self._before += self.reservations
        for reservation in self.reservations:
            if reservation.state in ("pending", "expired"):
                reservation.state = "gone"
        self.reservations = []
        self.accounts = {}
        for name, (rule, window, then) in self._written.items():
            for key, value in vars(then).items():
                setattr(window, key, value)
            self.accounts[name] = ModelAccount(rule, [window])

    def count_pending(self) -> int:
        """How many reservations hold something."""
        return sum(r.state == "pending" for r in self.reservations)

    def _require_now(self, rule: ModelRule, now_ns: int) -> None:
        start_ns, end_ns = rule.bounds()
        if now_ns < start_ns or (end_ns is not None and now_ns >= end_ns):
            raise ValueError("expected one that holds now_ns")

    def _enter(self, name: str, rule: ModelRule, now_ns: int) -> ModelWindow:
        account = self.accounts.setdefault(name, ModelAccount(rule, [ModelWindow(*rule.bounds())]))
        if account.closed and not any(self.holds(window) for window in account.windows):
            account = self.accounts[name] = ModelAccount(rule, [ModelWindow(*rule.bounds())])
        if account.windows[-1].has_ended(now_ns):
            account.windows.append(ModelWindow(*rule.bounds()))
        window, before, (start_ns, end_ns) = account.windows[-1], account.rule, rule.bounds()
        is_back_then = end_ns is not None and end_ns <= window.start_ns
        is_reshaped = (window.start_ns, window.end_ns) != (start_ns, end_ns) and not is_back_then
        if is_reshaped:
            window.start_ns, window.end_ns = start_ns, end_ns
        thresholds = [(r.limit_nano_usd, r.limit_tokens, r.warn_percent) for r in (before, rule)]
        window.warned = window.warned and thresholds[0] == thresholds[1]
        account.rule = rule
        if is_reshaped and not account.closed:
            self._write_down(name)
        return window

    def _write_down(self, name: str) -> None:
        account = self.accounts[name]
        self._written[name] = (account.rule, account.windows[-1], replace(account.windows[-1]))

    def _limit(self, rule: ModelRule, window: ModelWindow, unit: str) -> int | None:
        limit = rule.limit(unit)
        return None if limit is None else min(LARGEST, limit + window.topped_up[unit])

    def _exceeded(self, rule: ModelRule, window: ModelWindow, ask: dict[str, int]) -> str | None:
        for unit in UNITS:
            limit = self._limit(rule, window, unit)
            if limit is not None and ask[unit] and self.used(window, unit) + self.pending(window, unit) + ask[unit] > limit:
                return unit
        return None

    def _beyond_lease(self, rule: ModelRule, window: ModelWindow, ask: dict[str, int]) -> str | None:
        for unit in UNITS:
            lease = rule.lease(unit)
            if lease is not None and ask[unit] and self.used(window, unit) + self.pending(window, unit) + ask[unit] > lease:
                return unit
        return None

    def _warnings(self, windows: list[tuple[str, ModelWindow]]) -> list[str]:
        warned = []
        for name, window in windows:
            rule = self.accounts[name].rule
            for unit in UNITS:
                limit, total = self._limit(rule, window, unit), self.used(window, unit) + self.pending(window, unit)
                reached = limit is not None and total > 0 and total * 100 >= limit * rule.warn_percent
                if reached and not window.warned and rule.mode != "shadow":
                    window.warned = True
                    warned.append(name)
        return warned

    def _open(self, number: int) -> ModelReservation:
        if not 1 <= number <= len(self.reservations):
            raise KeyError(f"reservation {number} never existed")
        reservation = self.reservations[number - 1]
        if reservation.state in ("posted", "voided"):
            raise ValueError(f"reservation {number} is already {reservation.state}")
        return reservation

    def _is_idle(self, account: ModelAccount, now_ns: int) -> bool:
        if any(self.holds(window) for window in account.windows):
            return False
        window = account.windows[-1]
        counted = window.overruns or window.refusals or window.warned
        touched = counted or any(self.used(window, unit) or window.topped_up[unit] for unit in UNITS)
        return account.closed or window.has_ended(now_ns) or not touched
