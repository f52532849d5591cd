"""The ledger as a small plain model: nothing is added up in advance, every balance is a sum over all reservations ever made.

Slow, and without a single counter that could drift: what the Rust ledger keeps as running totals is derived here each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LARGEST = 2**63 - 1
UNITS = ("nano_usd", "tokens")


@dataclass(frozen=True)
class ModelRule:
    """The arguments of `Rule`, in the same order and with the same defaults."""

    limit_nano_usd: int | None = None
    limit_tokens: int | None = None
    window_ns: int = 0
    window_offset_ns: int = 0
    warn_percent: int = 80
    mode: str = "refuse"

    def limit(self, unit: str) -> int | None:
        """The limit of one unit."""
        return self.limit_nano_usd if unit == "nano_usd" else self.limit_tokens

    def bounds(self, now_ns: int) -> tuple[int, int | None]:
        """Start and end of the window of `now_ns`."""
        if not self.window_ns:
            return 0, None
        number = (now_ns - self.window_offset_ns) // self.window_ns
        start_ns = number * self.window_ns + self.window_offset_ns
        return max(0, start_ns), start_ns + self.window_ns


@dataclass(eq=False)
class ModelWindow:
    """Between two moments of one account; compared by identity."""

    start_ns: int
    end_ns: int | None
    overruns: int = 0
    refusals: int = 0
    warned: bool = False

    def has_ended(self, now_ns: int) -> bool:
        """True from its end on."""
        return self.end_ns is not None and now_ns >= self.end_ns


@dataclass
class ModelAccount:
    """All windows of an account, the one in force last."""

    rule: ModelRule
    windows: list[ModelWindow]


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
        self.reservations: list[ModelReservation] = []

    def used(self, window: ModelWindow, unit: str) -> int:
        """Everything posted into the window."""
        return sum(r.posted.get(unit, 0) for r in self.reservations if any(w is window for _, w in r.windows))

    def pending(self, window: ModelWindow, unit: str) -> int:
        """Everything held in the window."""
        holding = (r for r in self.reservations if r.state == "pending" and any(w is window for _, w in r.windows))
        return sum(r.held[unit] for r in holding)

    def holds(self, window: ModelWindow) -> bool:
        """True while something may still be posted into the window."""
        open_ones = (r for r in self.reservations if r.state in ("pending", "expired"))
        return any(w is window for r in open_ones for _, w in r.windows)

    def reserve(self, accounts: list[tuple[str, ModelRule]], nano_usd: int, tokens: int, ttl_ns: int, now_ns: int) -> tuple[object, ...]:
        """("reserved", id, warnings) or ("denied", account, unit, limit, used, pending, asked, resets_at_ns)."""
        ask = {"nano_usd": nano_usd, "tokens": tokens}
        if len({name for name, _ in accounts}) < len(accounts):
            raise ValueError("named twice")
        entered = [(name, self._enter(name, rule, now_ns)) for name, rule in accounts]
        for name, window in entered:
            rule = self.accounts[name].rule
            for unit in UNITS:
                if self.used(window, unit) + self.pending(window, unit) + ask[unit] > LARGEST:
                    raise ValueError("above the largest amount")
            short = self._exceeded(rule, window, ask)
            if short and rule.mode == "refuse":
                window.refusals += 1
                used, pending = self.used(window, short), self.pending(window, short)
                return ("denied", name, short, rule.limit(short), used, pending, ask[short], window.end_ns)
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
        return ("posted", *overrun, late, self._warnings(reservation.windows))

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
        *older, window = account.windows
        if window.has_ended(now_ns):
            window = ModelWindow(*account.rule.bounds(now_ns))
        elif now_ns < window.start_ns:
            kept = [w for w in older if self.holds(w) and w.start_ns <= now_ns and not w.has_ended(now_ns)]
            if not kept:
                return None
            window = kept[0]
        sums = [total(window, unit) for total in (self.used, self.pending) for unit in UNITS]
        return (*sums, *(account.rule.limit(unit) for unit in UNITS), window.end_ns, window.overruns, window.refusals)

    def count_pending(self) -> int:
        """How many reservations hold something."""
        return sum(r.state == "pending" for r in self.reservations)

    def _enter(self, name: str, rule: ModelRule, now_ns: int) -> ModelWindow:
        account = self.accounts.setdefault(name, ModelAccount(rule, [ModelWindow(*rule.bounds(now_ns))]))
        if account.windows[-1].has_ended(now_ns):
            account.windows.append(ModelWindow(*rule.bounds(now_ns)))
        window, before = account.windows[-1], account.rule
        if (before.window_ns, before.window_offset_ns) != (rule.window_ns, rule.window_offset_ns):
            window.start_ns, window.end_ns = rule.bounds(now_ns)
        thresholds = [(r.limit_nano_usd, r.limit_tokens, r.warn_percent) for r in (before, rule)]
        window.warned = window.warned and thresholds[0] == thresholds[1]
        account.rule = rule
        return window

    def _exceeded(self, rule: ModelRule, window: ModelWindow, ask: dict[str, int]) -> str | None:
        for unit in UNITS:
            limit = rule.limit(unit)
            if limit is not None and ask[unit] and self.used(window, unit) + self.pending(window, unit) + ask[unit] > limit:
                return unit
        return None

    def _warnings(self, windows: list[tuple[str, ModelWindow]]) -> list[str]:
        warned = []
        for name, window in windows:
            rule = self.accounts[name].rule
            for unit in UNITS:
                limit, total = rule.limit(unit), self.used(window, unit) + self.pending(window, unit)
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
        touched = window.overruns or window.refusals or window.warned or any(self.used(window, unit) for unit in UNITS)
        return window.has_ended(now_ns) or not touched
