"""The ledger reckoned once more, in plain integers: what each account must hold after all that was asked of it.

One process's books outlive it: `reopen` says what a journal must give back. An account keeps the latest window that it has seen,
whatever the clock does; what was reserved in an older one is settled there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Both = tuple[int, int]  # nano-USD, tokens
Span = tuple[int, int] | None


@dataclass
class Sums:
    """One account in one window. `over` is what was spent above reservations, or after they had given their hold back."""

    span: Span
    used: list[int] = field(default_factory=lambda: [0, 0])
    held: list[int] = field(default_factory=lambda: [0, 0])
    over: list[int] = field(default_factory=lambda: [0, 0])
    topped_up: list[int] = field(default_factory=lambda: [0, 0])
    holds: int = 0

    def ended(self, now_ns: int) -> bool:
        return self.span is not None and self.span[1] <= now_ns


@dataclass
class Held:
    owner: object
    ask: Both
    until_ns: int
    sums: dict[str, Sums]
    is_expired: bool = False


@dataclass(frozen=True)
class Entry:
    """What the journal has: its number, what happened, and of each account window, used and topped up after it."""

    number: int
    kind: str
    name: str = ""
    spent: Both = (0, 0)
    states: tuple[tuple[str, Span, Both, Both], ...] = ()


class Books:
    def __init__(self) -> None:
        self.accounts: dict[str, Sums] = {}
        self.closing: dict[str, Sums] = {}  # closed while calls in flight were on them
        self.frozen: set[str] = set()
        self.open: dict[int, Held] = {}
        self.posts: list[Both] = []
        self.history: list[Entry] = []
        self._written: dict[str, Span] = {}
        self.latest_ns = 0

    def sums(self, account: str, span: Span, now_ns: int) -> Sums:
        """The account as it will be when a reservation with this window comes."""
        if account in self.closing:
            return self.closing[account]
        found = self.accounts.get(account)
        if found is None or found.ended(now_ns):
            found = self.accounts[account] = Sums(span)
        elif found.span != span and found.span is not None and span is not None and span[1] > found.span[0]:
            found.span = span
        return found

    def reserve(self, number: int, owner: object, accounts, ask: Both, until_ns: int, now_ns: int) -> None:
        held = Held(owner, ask, until_ns, {name: self.sums(name, rule.window, now_ns) for name, rule in accounts})
        for sums in held.sums.values():
            sums.holds += 1
            _add(sums.held, ask)
        self.open[number] = held

    def post(self, number: int, spent: Both) -> Held:
        held = self.open.pop(number)
        self._let_go(held)
        for sums in held.sums.values():
            _add(sums.used, spent)
            _add(sums.over, [max(0, spent[unit] - (0 if held.is_expired else held.ask[unit])) for unit in (0, 1)])
        self.posts.append(spent)
        return held

    def void(self, number: int) -> None:
        self._let_go(self.open.pop(number))

    def _let_go(self, held: Held) -> None:
        for name, sums in held.sums.items():
            sums.holds -= 1
            if not held.is_expired:
                _add(sums.held, [-amount for amount in held.ask])
            if not sums.holds and self.closing.get(name) is sums:
                del self.closing[name]

    def expire(self, now_ns: int) -> int:
        """How many reservations give back what they hold; accounts that nobody can tell from new ones go."""
        due = [held for held in self.open.values() if held.until_ns <= now_ns and not held.is_expired]
        for held in due:
            held.is_expired = True
            for sums in held.sums.values():
                _add(sums.held, [-amount for amount in held.ask])
        busy = {name for held in self.open.values() for name in held.sums}
        self.accounts = {name: sums for name, sums in self.accounts.items() if name in busy or not sums.ended(now_ns)}
        return len(due)

    def forget_untouched(self, known: list[str]) -> None:
        """Accounts on which nothing was spent may go; whoever has forgotten them says so by these names."""
        names = set(known)
        self.accounts = {name: sums for name, sums in self.accounts.items() if name in names or any((*sums.used, *sums.topped_up))}

    def close(self, account: str) -> None:
        sums = self.accounts.pop(account, None)
        if sums is not None and sums.holds:
            self.closing[account] = sums

    def pending(self) -> int:
        return sum(not held.is_expired for held in self.open.values())

    @property
    def posted(self) -> Both:
        return sum(spent[0] for spent in self.posts), sum(spent[1] for spent in self.posts)

    # --- over the end of a process

    @property
    def last(self) -> int:
        """The number of the journal's last entry that means something here."""
        return self.history[-1].number if self.history else 0

    def wrote(self, number: int, kind: str, sums: dict[str, Sums], *, name: str = "", spent: Both = (0, 0), at_ns: int = 0) -> None:
        """The journal was handed this entry. A state of a window that is not in force is none, unless it is the last one written."""
        if kind == "close":
            self._written.pop(name, None)
        states = []
        for account, one in sums.items():
            if self.accounts.get(account) is one or (account in self._written and self._written[account] == one.span):
                states.append((account, one.span, tuple(one.used), tuple(one.topped_up)))
                self._written[account] = one.span
        self.history.append(Entry(number, kind, name, spent, tuple(states)))
        self.latest_ns = max(self.latest_ns, at_ns)

    def reopen(self, last: int) -> None:
        """Another process begins with the journal's entries up to this one: nothing is held any more, what was posted is."""
        self.history = [entry for entry in self.history if entry.number <= last]
        self.open, self.closing, self.frozen, self.accounts = {}, {}, set(), {}
        self.posts = [entry.spent for entry in self.history if entry.kind == "post"]
        for entry in self.history:
            match entry.kind:
                case "freeze":
                    self.frozen.add(entry.name)
                case "unfreeze":
                    self.frozen.discard(entry.name)
                case "close":
                    self.accounts.pop(entry.name, None)
            for account, span, used, topped_up in entry.states:
                self.accounts[account] = Sums(span, list(used), topped_up=list(topped_up))
        self._written = {account: sums.span for account, sums in self.accounts.items()}


def _add(sums: list[int], more) -> None:
    sums[0] += more[0]
    sums[1] += more[1]
