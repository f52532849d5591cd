"""The real ledger, watched: it agrees with the books, each reservation is settled once, and no account is promised more than it has."""

from __future__ import annotations

from sidecar._core import Denial
from tests.sim.books import Books
from tests.sim.run_rules import RunRules
from tests.sim.seen import CURRENT

_PASSED_S = 2.0  # a call that waits for the other pods has looked at the disk before
_UNITS = ("nano_usd", "tokens")


class Killed(BaseException):
    """The process is dead: whatever still runs in it is stopped here, as it may tell nobody."""


class WatchedLedger:
    """The real ledger beside the books. `scopes` say what accounts a call must be on; `books` go on after a kill."""

    def __init__(self, ledger, watch, scopes, books=None):
        self._ledger = ledger
        self._watch = watch
        self._scopes = scopes
        self.books = books or Books()
        self.runs = None
        self.is_dead = False
        self.full = (0.0, 0.0)  # seconds from which and until which the journal's disk takes no more
        self.refuses_when_full = False

    @property
    def degraded(self):
        return self._is_full_for(0.0) or self._ledger.degraded

    def _is_full_for(self, seconds):
        begin, end = self.full
        return begin + seconds <= self._watch.now < end

    def follow(self, runs):
        """Hold calls to the plans of these runs as well."""
        self.runs = RunRules(runs, self.books)

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def reserve(self, accounts, nano_usd, tokens, ttl_ns, now_ns):
        self._require_life()
        caller, books, ask = CURRENT.get(), self.books, (nano_usd, tokens)
        held = self._ledger.reserve(accounts, nano_usd, tokens, ttl_ns, now_ns)
        for found in self._scopes.wrong(caller.call, accounts, now_ns):
            self._watch.broken(caller, found)
        if isinstance(held, Denial):
            self._check_denial(caller, held, accounts, ask, now_ns)
            return held
        if self.refuses_when_full and self._is_full_for(_PASSED_S):
            self._watch.broken(caller, "it is held, and its cost cannot be written down: calls are to be refused then")
        books.reserve(held.id, caller, accounts, ask, now_ns + ttl_ns, now_ns)
        self._watch.reserved(caller, accounts)
        for found in self.runs.wrong(caller.call, accounts) if self.runs is not None else ():
            self._watch.broken(caller, found)
        for account, rule in accounts:
            sums = books.open[held.id].sums[account]
            if account in books.frozen or account in books.closing:
                self._watch.broken(caller, f"{account} is {'frozen' if account in books.frozen else 'closed'}, and something is held on it")
            if rule.mode == "refuse":
                self._check_limit(caller, account, sums, self._limits(rule, sums), ask)
        self._compare(caller, books.open[held.id].sums)
        return held

    def _limits(self, rule, sums):
        limits = (rule.limit_nano_usd, rule.limit_tokens)
        return [None if limit is None else limit + sums.topped_up[unit] for unit, limit in enumerate(limits)]

    def _check_limit(self, caller, account, sums, limits, ask):
        for unit, limit in enumerate(limits):
            taken = sums.used[unit] + sums.held[unit]
            if ask[unit] and limit is not None and taken > limit:
                self._watch.broken(caller, f"{account} has a limit of {limit} {_UNITS[unit]}, and {taken} are used and held")

    def _check_denial(self, caller, denial, accounts, ask, now_ns):
        """A refusal is true: that account, and none before it, has not so much left."""
        entered = {name: self.books.sums(name, rule.window, now_ns) for name, rule in accounts}
        rule = dict(accounts)[denial.account]
        sums = entered[denial.account]
        if denial.reason == "frozen" and denial.account in self.books.frozen:
            return
        if denial.reason == "closed" and denial.account in self.books.closing:
            return
        limits = (rule.lease_nano_usd, rule.lease_tokens) if denial.reason == "lease" else self._limits(rule, sums)
        fits = [limit is None or sums.used[unit] + sums.held[unit] + ask[unit] <= limit for unit, limit in enumerate(limits)]
        if denial.reason not in ("limit", "lease") or rule.mode != "refuse" or all(fits):
            self._watch.broken(caller, f"{denial.account} refuses for its {denial.reason}, and has room: {sums} of {limits}, asked {ask}")

    def _compare(self, who, accounts):
        """The real ledger says of these accounts what the books say."""
        for account, sums in accounts.items():
            if self.books.accounts.get(account) is not sums:
                continue  # of a window that is over nothing can be asked when it has been dropped
            now_ns = 0 if sums.span is None else sums.span[0]
            found = self._ledger.balance(account, now_ns)
            said = None if found is None else (found.used_nano_usd, found.used_tokens, found.pending_nano_usd, found.pending_tokens)
            is_gone = found is None and (sums.ended(self.books.latest_ns) or not any((*sums.used, *sums.held, *sums.topped_up)))
            if said != (*sums.used, *sums.held) and not is_gone:
                self._watch.broken(who, f"{account} has {said} used and pending; by the books it is {(*sums.used, *sums.held)}")

    def compare_all(self, who):
        self._compare(who, self.books.accounts)

    def post(self, reservation, nano_usd, tokens, now_ns, call=""):
        self._require_life()
        held = self._resolve(reservation)
        posting = self._ledger.post(reservation, nano_usd, tokens, now_ns, call)
        self.books.post(reservation, (nano_usd, tokens))
        self._wrote("post", held.sums, spent=(nano_usd, tokens), at_ns=now_ns)
        CURRENT.get().posted.append((nano_usd, tokens))
        self._compare(CURRENT.get(), held.sums)
        over = tuple(max(0, spent - ask) for spent, ask in zip((nano_usd, tokens), held.ask, strict=True))
        if (posting.overrun_nano_usd, posting.overrun_tokens) != over:
            self._watch.broken(CURRENT.get(), f"it went {over} above what was held, and {posting.overrun_nano_usd} nano-USD are told")
        return posting

    def void(self, reservation, now_ns):
        self._require_life()
        held = self._resolve(reservation)
        self._ledger.void(reservation, now_ns)
        self.books.void(reservation)
        self._compare(CURRENT.get(), held.sums)

    def _resolve(self, reservation):
        caller = CURRENT.get()
        held = self.books.open.get(reservation)
        if held is None or held.owner is not caller:
            self._watch.broken(caller, f"reservation {reservation} is settled a second time, or by another call")
        return held

    def expire(self, now_ns):
        self._require_life()
        gone, due = self._ledger.expire(now_ns), self.books.expire(now_ns)
        self.books.forget_untouched(self._ledger.names())
        if gone != due:
            self._watch.broken("world", f"{gone} reservations expired; by the books it is {due}")
        return gone

    def top_up(self, account, rule, nano_usd, tokens, now_ns):
        self._require_life()
        sums = self.books.sums(account, rule.window, now_ns)
        sums.topped_up[0] += nano_usd
        sums.topped_up[1] += tokens
        balance = self._ledger.top_up(account, rule, nano_usd, tokens, now_ns)
        self._wrote("top up", {account: sums}, at_ns=now_ns)
        return balance

    def freeze(self, account):
        return self._set_frozen("freeze", account, self.books.frozen.add)

    def unfreeze(self, account):
        return self._set_frozen("unfreeze", account, self.books.frozen.discard)

    def _set_frozen(self, what, account, note):
        self._require_life()
        before = set(self.books.frozen)
        note(account)
        changed = getattr(self._ledger, what)(account)
        if changed is not (before != self.books.frozen):
            self._watch.broken("world", f"{what} of {account}, and {before} were frozen: the answer is {changed}")
        if changed:
            self._wrote(what, {}, name=account)
        return changed

    def close_account(self, account):
        self._require_life()
        self.books.close(account)
        last = self._ledger.close_account(account)
        if last is not None:
            self._wrote("close", {}, name=account)
        return last

    def _wrote(self, kind, sums, **facts):
        status = self._ledger.journal()
        if status is None:
            return
        if status.last <= self.books.last:
            self._watch.broken("world", f"a {kind} was not handed to the journal, which ends with entry {status.last}")
        self.books.wrote(status.last, kind, sums, **facts)

    def _require_life(self):
        if self.is_dead:
            raise Killed
