"""The real ledger, watched: each reservation is settled once, by its own call, and no account is promised more than it has."""

from __future__ import annotations

from tests.sim.seen import CURRENT


class WatchedLedger:
    """The real ledger, and each reservation resolved once by the call that made it."""

    def __init__(self, ledger, watch):
        self._ledger = ledger
        self._watch = watch
        self.open = {}

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def reserve(self, accounts, nano_usd, tokens, ttl_ns, now_ns):
        caller = CURRENT.get()
        held = self._ledger.reserve(accounts, nano_usd, tokens, ttl_ns, now_ns)
        if hasattr(held, "id"):
            self.open[held.id] = caller
            self._check_limit(caller, accounts, nano_usd, tokens, now_ns)
            for candidate in caller.call.candidates:
                self._watch.turns[candidate.model.provider] += 1
        return held

    def _check_limit(self, caller, accounts, nano_usd, tokens, now_ns):
        for account, _ in accounts:
            balance = self._ledger.balance(account, now_ns)
            for asked, taken, limit in (
                (nano_usd, balance.used_nano_usd + balance.pending_nano_usd, balance.limit_nano_usd),
                (tokens, balance.used_tokens + balance.pending_tokens, balance.limit_tokens),
            ):
                if asked and limit is not None and taken > limit:
                    self._watch.broken(caller, f"{account} has a limit of {limit}, and {taken} are used and held")

    def post(self, reservation, nano_usd, tokens, now_ns, call=""):
        self._resolve(reservation)
        return self._ledger.post(reservation, nano_usd, tokens, now_ns, call)

    def void(self, reservation, now_ns):
        self._resolve(reservation)
        return self._ledger.void(reservation, now_ns)

    def _resolve(self, reservation):
        caller = CURRENT.get()
        if self.open.pop(reservation, None) is not caller:
            self._watch.broken(caller, f"reservation {reservation} is settled a second time, or by another call")
