"""What this pod may use of budgets that it shares with others: leases, topped up before they run out.

A pod spends only what the meeting place (a Redis, see `store/shared_budgets.py`) has set aside for it, so that a call asks nobody: the
ledger holds what is used and pending within the lease that comes with each rule. Nothing here waits or reads a clock, so a simulation can
drive it.

What a pod may spend without a word is what nobody knows of when it dies. So a lease is never taken back, only given back: by its pod, or
when that is there again and tells what its journal has. Therefore leases are small: room for 16 calls where that is within a hundredth of
the limit, else for two, and more where calls had to wait.

What was spent is told as a sum, not as a change: each pod says what its journal has in the account's window, and a sum told twice is told
once. Whatever a lost reply, a killed process or a forgetful Redis left open is mended by the next word.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Literal

from sidecar._core import Balance, Rule
from sidecar.policies.lease_entries import UNITS, Entry, both, each, plus
from sidecar.settings.budgets import WithoutRedis
from sidecar.shares import LARGEST, NEITHER, Answer, Ask, Both, Reply

MOST_AT_ONCE = 100  # accounts in one word; the rest follow
REPORT_NS = 1_000_000_000
_PAUSE_NS = 250_000_000  # an account in which nothing was left is not asked about again for so long
_KEEP_NS = 86_400_000_000_000  # after its window an account is remembered for another day, whatever the clocks of pods say
_REPORTED_AT_ONCE = 200  # so that a thousand tenants' calls in flight do not stop the others' for long
_BEYOND = 1_000_000  # a data folder was put back from a copy: also beyond words of its later lives that are still on their way
_ROOM_TURNS = 10  # reports after which room that was not used is given up
_ROOM_CALLS = (2, 16)  # for which there is room at first: at least, and at most
_ROOM_PART = 100  # of the limit is for the room beyond the least

State = Literal["away", "learning", "up"]


class Leases:
    """The shared accounts of this pod: `leased` and `wants_more` are for calls, `due`, `heard` and `failed` for who talks to Redis."""

    def __init__(
        self,
        balance: Callable[[str, int], Balance | None],
        window: Callable[[str], tuple[int, int | None] | None],
        without: Callable[[str], WithoutRedis],
        pods: int,
        lease_ns: int,
    ) -> None:
        """`balance` and `window` are the ledger's; `without` says of an account what holds while nobody answers, `pods` how many are
        expected, for "share".
        """
        self._balance = balance
        self._window = window
        self._without = without
        self._pods = max(1, pods)
        self._lease_ns = lease_ns
        self._sequence = 0
        self._entries: dict[str, Entry] = {}
        self._rules: dict[str, tuple[Rule, tuple[str, Rule]]] = {}  # as they were last handed out
        self._touched: set[str] = set()
        self._unreported: OrderedDict[str, int] = OrderedDict()  # when each is to be reported, the soonest first
        self._due: OrderedDict[str, None] = OrderedDict()
        self._heard: OrderedDict[str, None] = OrderedDict()  # the longest unanswered first
        self._epoch = ""
        self.state: State = "away"
        self.lost: list[tuple[str, Both]] = []  # what the others know this pod to have spent, and its journal does not
        self.reached: list[tuple[str, Both]] = []  # accounts at their warning threshold by what all pods have spent together
        self.untaught: list[tuple[str, int, tuple[tuple[bytes, bytes], ...]]] = []  # what others should be told of others

    def count_from(self, sequence: int) -> None:
        """Say what is to be said under numbers above this one."""
        self._sequence = max(self._sequence, sequence)

    # --- a call's path

    def leased(self, accounts: Iterable[tuple[str, Rule]]) -> tuple[tuple[str, Rule], ...]:
        """The same accounts, each rule with what this pod may use of it. Accounts without a window are this pod's own."""
        found = []
        for pair in accounts:
            name, rule = pair
            known = self._rules.get(name)
            if known is None or known[0] is not rule:
                if rule.window is None:
                    found.append(pair)
                    continue
                known = self._enter(name, rule)
            found.append(known[1])
            self._touched.add(name)
        return tuple(found)

    def wants_more(self, accounts: Iterable[tuple[str, Rule]], ask: Both, now_ns: int) -> bool:
        """Note that a call waits for more on these accounts. False: there is nobody to ask, or nothing left there a moment ago."""
        if self.state != "up":
            return False
        short: list[tuple[Entry, Both, Both]] = []
        for name, _ in accounts:
            entry = self._entries.get(name)
            if entry is None or not entry.is_leased:
                continue
            _, held, limit = entry.sums(self._balance)
            more = both(ask[unit] if limit[unit] >= 0 and held[unit] + ask[unit] > entry.have[unit] else 0 for unit in UNITS)
            if more == NEITHER:
                continue
            if now_ns < entry.quiet_until_ns and any(more[unit] >= entry.refused[unit] > 0 for unit in UNITS):
                return False
            short.append((entry, more, limit))
        for entry, more, limit in short:
            entry.room = both(_wider(entry, unit, more[unit], limit[unit]) for unit in UNITS)
            entry.least = both(min(entry.least[unit] or more[unit], more[unit] or entry.least[unit]) for unit in UNITS)
            entry.need = plus(entry.need, more)
            entry.used_ns = now_ns
            self._due[entry.account] = None
            self._due.move_to_end(entry.account, last=False)
        return True

    # --- talking to the others

    def due(self, now_ns: int, wall_ns: int) -> list[Ask]:
        """What is to be said now, the most urgent first; at most `MOST_AT_ONCE` accounts. Say it and hand the reply to `heard`."""
        touched, self._touched = self._touched, set()
        for name in touched & self._entries.keys():
            self._look(self._entries[name], now_ns)
            self._unreported.setdefault(name, now_ns + REPORT_NS)
        for _ in range(_REPORTED_AT_ONCE):
            name, at_ns = next(iter(self._unreported.items()), ("", now_ns + 1))
            if at_ns > now_ns:
                break
            del self._unreported[name]
            if self._report(name):
                self._unreported[name] = now_ns + REPORT_NS
        self._renew(now_ns)
        asks: list[Ask] = []
        while self._due and len(asks) < MOST_AT_ONCE:
            name, _ = self._due.popitem(last=False)
            entry = self._entries.get(name)
            if entry is None:
                continue
            if entry.end_ns <= wall_ns:
                self._forget(entry)
                continue
            asks.append(self._ask(entry, wall_ns))
        return asks

    def is_behind(self) -> bool:
        """More is to be said than fitted into one word."""
        return bool(self._due)

    def rest_ns(self, now_ns: int) -> int:
        """How long until the next report; 0 where calls have used something since the last look."""
        if self._touched:
            return 0
        at_ns = next(iter(self._unreported.values()), now_ns + REPORT_NS)
        return max(0, at_ns - now_ns)

    def heard(self, asks: Sequence[Ask], reply: Reply, sent_ns: int, now_ns: int) -> bool:
        """What the others say to what was said at `sent_ns`. True: they have forgotten all; `learn` from the journal what to tell them."""
        is_another = reply.epoch != self._epoch
        if is_another:
            self._teach_all(reply.epoch)
        self._turn("learning" if reply.learning else "up")
        for ask, answer in zip(asks, reply.answers, strict=True):
            entry = self._entries.get(ask.account)
            if answer.stale:
                self._sequence = max(self._sequence, answer.stale + _BEYOND)
                self._due[ask.account] = None
            elif entry is not None and entry.end_ns == ask.end_ns and entry.sequence == ask.sequence:
                self._adopt(entry, ask, answer, sent_ns, now_ns)
        wanted = {ask.account for ask in asks if ask.need != NEITHER}  # calls wait here as well for what has just come
        for name, end_ns in reply.short:
            if name not in wanted:
                self._give_back(name, end_ns)
        return is_another

    def failed(self, asks: Sequence[Ask]) -> None:
        """Nobody answered. What was asked is asked again when somebody does; calls do not wait for it."""
        for ask in asks:
            self._due[ask.account] = None
        if self.state == "away":
            return
        self._turn("away")
        for entry in map(self._entries.get, self._due):
            if entry is not None:
                entry.need = entry.least = NEITHER

    def learn(self, accounts: Iterable[tuple[str, int]]) -> None:
        """Accounts (name, end of the window) of which this life of the pod has not spoken yet: the others are told what was spent."""
        for name, end_ns in accounts:
            if name not in self._entries:
                self._entries[name] = Entry(name, end_ns)
                self._due[name] = None

    def give_all_back(self) -> None:
        """Before the end: leave the others all that is not used."""
        for name in self._heard:
            entry = self._entries[name]
            entry.room = NEITHER
            self._lower(entry, entry.sums(self._balance)[1])
            self._due[name] = None
        self._due.update(dict.fromkeys((*self._unreported, *self._touched)))

    # --- for operators

    def standing(self, account: str, wall_ns: int) -> tuple[Both, Both, Both] | None:
        """The limits (-1: none), what all pods have spent, and what is spent, held or leased by any; None: this pod has not heard of it."""
        entry = self._entries.get(account)
        if entry is None or not entry.heard or entry.end_ns <= wall_ns:
            return None
        _, held, limit = entry.sums(self._balance)
        return limit, entry.total, each(lambda unit: entry.taken[unit] + max(entry.have[unit], held[unit]))

    # --- inside

    def _enter(self, name: str, rule: Rule) -> tuple[Rule, tuple[str, Rule]]:
        assert rule.window is not None  # noqa: S101
        entry, end_ns = self._entries.get(name), rule.window[1]
        in_force = self._window(name)
        if in_force is not None and in_force[1] is not None and in_force[0] >= end_ns:
            end_ns = in_force[1]  # the clock was put back: the ledger stays in the later window
        if entry is None or entry.end_ns != end_ns:
            self._heard.pop(name, None)
            entry = self._entries[name] = Entry(name, end_ns)
        if entry.rule is not rule:  # another limit is warned of anew
            entry.rule, entry.warned = rule, entry.warned and rule == entry.rule
        made = self._rules[name] = (rule, (name, self._made(entry, rule)))
        return made

    def _made(self, entry: Entry, rule: Rule) -> Rule:
        if rule.mode != "refuse":
            return rule
        limits = (rule.limit_nano_usd, rule.limit_tokens)
        lease = [None if limit is None else self._allowed(entry, unit, limit) for unit, limit in enumerate(limits)]
        return Rule(
            limit_nano_usd=rule.limit_nano_usd,
            limit_tokens=rule.limit_tokens,
            window=rule.window,
            warn_percent=rule.warn_percent,
            mode=rule.mode,
            lease_nano_usd=lease[0],
            lease_tokens=lease[1],
        )

    def _allowed(self, entry: Entry, unit: int, limit: int) -> int:
        """What this pod may use, in the ledger's own count."""
        have = entry.have[unit]
        without = "lease" if self.state == "up" else self._without(entry.account)
        if self.state == "away" and without == "refuse":
            have = 0
        elif without == "share":
            have = have + max(0, limit - entry.taken[unit] - have) // self._pods if entry.heard else max(have, limit // self._pods)
        return max(0, have - entry.base[unit])

    def _turn(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._rules.clear()

    def _look(self, entry: Entry, now_ns: int) -> None:
        """Whether the account that was just used runs low."""
        entry.used_ns = now_ns
        if not entry.is_leased or now_ns < entry.quiet_until_ns:
            return
        used, held, limit = entry.sums(self._balance)
        left = each(lambda unit: entry.have[unit] - held[unit])
        # A call that has come and gone between two looks: nobody saw how much it held.
        entry.lowest = NEITHER if used == held else each(lambda unit: min(entry.lowest[unit], left[unit]))
        if any(limit[unit] >= 0 and left[unit] <= entry.room[unit] // 2 and entry.room[unit] for unit in UNITS):
            self._due[entry.account] = None

    def _report(self, name: str) -> bool:
        """Say what was used, and give up room that was not. Returns whether calls still hold something: that will change."""
        entry = self._entries.get(name)
        if entry is None:
            return False
        used, held, _ = entry.sums(self._balance)
        entry.turns += 1
        if entry.turns >= _ROOM_TURNS:
            entry.room = each(lambda unit: entry.room[unit] // 2 if entry.lowest[unit] > entry.room[unit] * 3 // 4 else entry.room[unit])
            entry.lowest, entry.turns = (LARGEST, LARGEST), 0
        self._lower(entry, each(lambda unit: held[unit] + 2 * entry.room[unit]))
        if (used, held) != entry.told:
            self._due[name] = None
        return used != held

    def _renew(self, now_ns: int) -> None:
        """Say now and then that leases are still wanted, and give back those that nobody has used."""
        for name in islice(self._heard, MOST_AT_ONCE):
            entry = self._entries[name]
            if now_ns - entry.answered_ns < self._lease_ns // 4:
                return
            if now_ns - entry.used_ns > self._lease_ns // 2:
                entry.room = NEITHER
            self._due[name] = None

    def _ask(self, entry: Entry, wall_ns: int) -> Ask:
        used, held, limit = entry.sums(self._balance)
        if entry.room == NEITHER:
            self._lower(entry, held)
        have = each(lambda unit: min(LARGEST, max(entry.have[unit], held[unit])))

        def wanted(unit: int) -> int:
            if limit[unit] < 0 or (entry.need == NEITHER and entry.have[unit] - held[unit] > entry.room[unit] // 2):
                return have[unit]
            return min(LARGEST, max(have[unit], held[unit] + entry.need[unit] + entry.room[unit]))

        self._sequence += 1
        entry.sequence = self._sequence
        entry.told = (used, held)
        ask = Ask(
            account=entry.account,
            end_ns=entry.end_ns,
            sequence=entry.sequence,
            known=entry.known,
            keep_ms=(entry.end_ns - wall_ns + _KEEP_NS) // 1_000_000,
            limit=each(lambda unit: min(LARGEST, limit[unit])),
            used=each(lambda unit: min(LARGEST, used[unit])),
            held=each(lambda unit: min(LARGEST, held[unit])),
            have=have,
            want=each(wanted),
            need=each(lambda unit: min(LARGEST, held[unit] + entry.need[unit]) if entry.need[unit] else 0),
            least=each(lambda unit: min(LARGEST, held[unit] + entry.least[unit]) if entry.least[unit] else 0),
        )
        entry.need = entry.least = NEITHER
        return ask

    def _adopt(self, entry: Entry, ask: Ask, answer: Answer, sent_ns: int, now_ns: int) -> None:
        entry.known, entry.answered_ns, entry.heard = ask.sequence, sent_ns, True
        lost = each(lambda unit: max(0, answer.used[unit] - ask.used[unit]))
        if lost != NEITHER:
            entry.base = plus(entry.base, lost)
            self.lost.append((entry.account, lost))
        entry.have, entry.total, entry.taken, entry.others = answer.lease, answer.total, answer.taken, answer.others
        if not entry.warned and entry.is_at_threshold(ask.limit):
            entry.warned = True
            self.reached.append((entry.account, entry.total))
        # Where less was to be had than wanted, that is the room from now on: it is not asked for again and again.
        if self.state == "up":
            got = each(lambda unit: max(0, answer.lease[unit] - ask.held[unit]) if answer.lease[unit] < ask.want[unit] else LARGEST)
            entry.room = each(lambda unit: min(entry.room[unit], got[unit]))
        short = each(lambda unit: ask.least[unit] - ask.held[unit] if answer.lease[unit] < ask.least[unit] else 0)
        if short != NEITHER:
            entry.quiet_until_ns, entry.refused = now_ns + _PAUSE_NS, short
        self._rules.pop(entry.account, None)
        self._heard[entry.account] = None
        self._heard.move_to_end(entry.account)
        is_idle = entry.account not in self._touched and now_ns - entry.used_ns > self._lease_ns // 2
        if is_idle and entry.have == ask.used and entry.room == NEITHER:
            self._forget(entry)  # all is told, and nothing is held or leased: the next use begins anew

    def _lower(self, entry: Entry, most: Both) -> None:
        lower = each(lambda unit: min(entry.have[unit], most[unit]))
        if lower != entry.have:
            entry.have = lower
            self._rules.pop(entry.account, None)

    def _give_back(self, name: str, end_ns: int) -> None:
        """Somebody else needs what is not used here; it may be the last life of this pod that leased it."""
        self.learn([(name, end_ns)])
        entry = self._entries[name]
        if entry.end_ns == end_ns:
            entry.room = NEITHER
            self._lower(entry, entry.sums(self._balance)[1])
            self._due[name] = None

    def _teach_all(self, epoch: str) -> None:
        """The others have forgotten: say again what this pod has spent and leased, and what it knows of them."""
        self._epoch = epoch
        for name, entry in self._entries.items():
            entry.known = 0
            self._due[name] = None
            if entry.others:
                self.untaught.append((name, entry.end_ns, entry.others))

    def _forget(self, entry: Entry) -> None:
        for table in (self._entries, self._rules, self._heard):
            table.pop(entry.account, None)
        self._unreported.pop(entry.account, None)


def _wider(entry: Entry, unit: int, more: int, limit: int) -> int:
    """The room that there should be from now on, as a call waits for `more`."""
    if not more:
        return entry.room[unit]
    # The first that waits tells that there was too little room, those that wait with it how much.
    wider = entry.room[unit] + (more if entry.need[unit] else entry.room[unit])
    least, most = (calls * more for calls in _ROOM_CALLS)
    return min(LARGEST, max(wider, least, min(most, limit // _ROOM_PART)))
