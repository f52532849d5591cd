"""Which accounts pay for a call, and what each allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.json import decode, encode
from msgspec.structs import replace

from sidecar._core import Balance, Denial, Ledger, Rule
from sidecar.call import Call
from sidecar.days import zone_of
from sidecar.errors import BudgetExceeded, InvalidRequest, Overloaded, StoreFailed
from sidecar.policies.runs import Run, Runs, escaped
from sidecar.policies.windows import Kind, Windows
from sidecar.policies.words import Keep, Key, Words
from sidecar.settings import Settings
from sidecar.settings.budgets import BudgetRow, Mode, WithoutRedis, account_suffix
from sidecar.settings.reading import shown
from sidecar.shares import Both

MOST_OVERRIDES = 100_000  # about 40 MB
_MOST_TOLD = 10_000
_RUN = "run"  # the kind under which runs are kept, beside operators' words


# The middle of an account's name, by scope; "": the call names none. All but the last part are escaped, so that no two are the same.
_WHOSE: dict[str, Callable[[Call], str]] = {
    "company": lambda call: "",
    "service": lambda call: call.service,
    "node": lambda call: f"{call.service}.{call.node_name}" if call.node_name else "",
    "tenant": lambda call: call.tenant,
    "user": lambda call: f"{escaped(call.tenant)}:{call.user}" if call.user else "",
    "plan": lambda call: f"{escaped(call.tenant)}:{escaped(call.plan)}" if call.plan else "",
    "run": lambda call: f"{escaped(call.tenant)}:{call.run}" if call.run else "",
    "agent": lambda call: f"{escaped(call.tenant)}:{escaped(call.run)}:{call.agent}" if call.run and call.agent else "",
}


class Override(Struct, frozen=True):
    """What an operator has set for one account, in place of its row's."""

    limit_nano_usd: int | None = None
    limit_tokens: int | None = None
    mode: Mode = "refuse"
    warn_percent: int = 80


class TopUp(Struct, frozen=True):
    """What an operator has added to an account's limits, until its window ends."""

    account: str
    ends_ns: int
    nano_usd: int
    tokens: int


class Held(Struct, frozen=True):
    """An open reservation: whose, since when (Unix time), and on which accounts."""

    call: Call
    since_ns: int
    accounts: tuple[str, ...]


class Row:
    """One row of the settings as the accounts that it makes."""

    def __init__(self, name: str, row: BudgetRow, settings: Settings) -> None:
        self.name = name
        self.row = row
        self.scope = row.scope or "company"
        self.suffix = account_suffix(name, self.scope)
        self.zone = row.time_zone or settings.limits.time_zone
        kind: Kind = row.window
        self._windows = Windows(kind, zone_of(self.zone))
        self.set = Override(
            row.limit_nano_usd,
            row.limit_tokens,
            row.mode,
            settings.limits.warn_percent if row.warn_percent is None else row.warn_percent,
        )
        self.plans = {name_: plan for name_, plan in settings.plans.items() if plan.is_capped} if name == "plan_month" else {}
        self._is_always = name == "tenant_day"  # a tenant without limits can be frozen too
        self._rule: Rule | None = None
        self._window: tuple[int, int] | None = None
        self.has_overrides = False
        self._whose = _WHOSE[self.scope]
        self._begin, self._end = f"{self.scope}:", "" if self.scope == "company" else f":{self.suffix}"

    @property
    def is_limited(self) -> bool:
        """Its accounts are kept whether or not an operator has set one of them."""
        return self._is_always or _is_limited(self.set) or bool(self.plans)

    @property
    def pattern(self) -> str:
        """What its accounts are called, with `*` for whose they are."""
        if self.scope == "company":
            return f"company:{self.suffix}"
        stars = {"user": "*:*", "plan": "*:*", "run": "*:*", "agent": "*:*:*"}.get(self.scope, "*")
        return f"{self.scope}:{self.row.of or stars}:{self.suffix}"

    def account(self, call: Call) -> str:
        """The account that this call is on; "": none."""
        whose = self._whose(call) or (self.suffix if self.scope == "company" else "")
        return self._begin + whose + self._end if whose and (not self.row.of or self._means(whose)) else ""

    def has(self, account: str) -> bool:
        """The name is one of this row's accounts."""
        scope, _, rest = account.partition(":")
        if self.scope == "company":
            return scope == "company" and rest == self.suffix
        whose, _, suffix = rest.rpartition(":")
        parts = {"user": 1, "plan": 1, "run": 1, "agent": 2}.get(self.scope, 0)
        return scope == self.scope and suffix == self.suffix and bool(whose) and whose.count(":") >= parts and self._means(whose)

    def _means(self, whose: str) -> bool:
        own = whose.rpartition(":")[2] if self.scope == "plan" else whose
        return self.row.of in ("", own)

    def of(self, account: str) -> Override:
        """What settings give one account: the row's limits, or those of the plan that is part of its name."""
        plan = self.plans.get(account.rpartition(":")[0].rpartition(":")[2])
        return self.set if plan is None else replace(self.set, limit_nano_usd=plan.month_nano_usd, limit_tokens=plan.month_tokens)

    def window(self, now_ns: int) -> tuple[int, int]:
        """That of the moment, in Unix time."""
        window = self._windows.at(now_ns)
        assert window is not None  # noqa: S101  (rows of settings have windows)
        return window

    def rule(self, now_ns: int) -> Rule | None:
        """The row's own rule, one object for as long as the window lasts; None: it has no limit."""
        window = self._windows.at(now_ns)
        if self._rule is None or window is not self._window:
            self._rule, self._window = self.made(self.set, now_ns), window
        return self._rule

    def made(self, from_: Override, now_ns: int) -> Rule | None:
        """The rule that these limits make; None: no account is kept."""
        if not _is_limited(from_) or from_.mode == "off":
            return Rule(window=self._windows.at(now_ns), mode="shadow") if self._is_always else None
        return Rule(
            limit_nano_usd=from_.limit_nano_usd,
            limit_tokens=from_.limit_tokens,
            window=self._windows.at(now_ns),
            warn_percent=from_.warn_percent,
            mode=from_.mode,
        )


class Budgets:
    """The accounts of every call, from settings (`limits`, `budgets`, `plans`), operators' overrides and the plans of runs.

    `held` are the reservations that are open; `words` is what operators have said.
    """

    def __init__(self, settings: Settings) -> None:
        limits = settings.limits
        tenant_day = BudgetRow("tenant", limit_nano_usd=limits.tenant_day_nano_usd, limit_tokens=limits.tenant_day_tokens)
        rows = {"tenant_day": tenant_day, **settings.budgets}
        if any(plan.is_capped for plan in settings.plans.values()):
            rows["plan_month"] = BudgetRow("plan", "month")
        self.rows = tuple(Row(name, row, settings) for name, row in rows.items())
        self.overrides: dict[str, Override] = {}
        self._own_rules: dict[str, Rule] = {}
        self.runs = Runs(settings.limits.run_idle_hours)
        self.held: dict[int, Held] = {}
        self.words = Words()
        self._make_up: Callable[[int], None] = lambda now_ns: None  # top-ups that were written down when a process ended, and not in force
        self.words.apply["budget"] = self._said
        self._ready: list[tuple[Row, Rule | None, tuple[str, Rule] | None]] = []
        self._ready_from_ns = self._ready_until_ns = 0
        self._told: dict[tuple[str, str], tuple[int, int]] = {}  # accounts and units that refuse, with when that is over and their limit

    def accounts(self, call: Call, now_ns: int) -> tuple[tuple[str, Rule], ...]:
        """Names and rules, in the windows that `now_ns` (Unix time) is in; the tenant's day first, a run's own last."""
        if not self._ready_from_ns <= now_ns < self._ready_until_ns:
            self._prepare(now_ns)
        found: list[tuple[str, Rule]] = []
        for row, rule, pair in self._ready:
            if pair is not None:
                found.append(pair)
            elif name := row.account(call):
                its_rule = rule or self._rule(row, name, now_ns)
                if its_rule is not None:
                    found.append((name, its_rule))
        if call.run:
            found += self.runs.accounts(call)
        return tuple(found)

    def _prepare(self, now_ns: int) -> None:
        """What is the same for all calls until a window ends or an operator sets something: this is on every call's path."""
        self._ready.clear()
        self._ready_from_ns, self._ready_until_ns = 0, 2**63
        for row in self.rows:
            if not row.is_limited and not row.has_overrides:
                continue
            begin_ns, end_ns = row.window(now_ns)
            self._ready_from_ns, self._ready_until_ns = max(begin_ns, self._ready_from_ns), min(end_ns, self._ready_until_ns)
            if row.has_overrides or row.plans:
                self._ready.append((row, None, None))
            elif (rule := row.rule(now_ns)) is not None:
                self._ready.append((row, rule, (row.pattern, rule) if row.scope == "company" else None))

    def _rule(self, row: Row, account: str, now_ns: int) -> Rule | None:
        own = self.overrides.get(account) if row.has_overrides else None
        if own is None and row.plans:
            own = row.of(account)
        elif own is None:
            return row.rule(now_ns)
        known = self._own_rules.get(account)
        if known is None or known.window is None or not known.window[0] <= now_ns < known.window[1]:
            known = row.made(own, now_ns)
            if known is None:
                return None
            if len(self._own_rules) >= MOST_OVERRIDES:
                self._own_rules.clear()
            self._own_rules[account] = known
        return known

    def row_of(self, account: str) -> Row | None:
        """The row that makes this account; None: no row does."""
        return next((row for row in self.rows if row.has(account)), None)

    def without_redis(self, account: str) -> WithoutRedis | None:
        """What its row wants while the pods' Redis is away; None: what `fleet.without_redis` says."""
        row = self.row_of(account)
        return row.row.without_redis if row is not None else None

    def rule_of(self, account: str, now_ns: int) -> Rule | None:
        """What holds for this account now; None: it has no limit."""
        row = self.row_of(account)
        return self.runs.rule_of(account) if row is None else self._rule(row, account, now_ns)

    def listing(self) -> Iterator[tuple[str, Row, Override, bool]]:
        """Rows, with `*` for whose the accounts are, and what operators have set (True), in no order."""
        for row in self.rows:
            if row.plans:
                yield from ((f"plan:*:{name}:{row.suffix}", row, row.of(f"plan:*:{name}:{row.suffix}"), False) for name in row.plans)
            else:
                yield row.pattern, row, row.set, False
        for account, own in self.overrides.items():
            yield account, self.known(account), own, True

    def restore(self, kept: Mapping[Key, str], keep: Keep, now_ms: int) -> None:
        """Put in force what was kept, and keep there from now on. What no row makes any more is left where it is."""
        self.words.keep = keep
        self.words.restore({key: text for key, text in kept.items() if key[0] != _RUN}, now_ms)
        for (kind, _), text in kept.items():
            if kind == _RUN:
                self.runs.restore(decode(text, type=Run))
        self._make_up(now_ms * 1_000_000)

    def bind(self, ledger: Ledger, wall_ns: Callable[[], int]) -> None:
        """What operators say of whoever spends goes into this ledger, also if it was said at another pod."""

        def frozen(tenant: str, text: str) -> None:
            change = ledger.freeze if text else ledger.unfreeze
            change(self.tenant_account(tenant))

        def top_up(said: TopUp, now_ns: int) -> None:
            rule = self.rule_of(said.account, now_ns)
            if rule is not None and rule.window is not None and rule.window[1] == said.ends_ns:  # else it is over
                with suppress(ValueError):  # beyond the range of numbers, under this pod's own limit
                    ledger.top_up(said.account, rule, said.nano_usd, said.tokens, now_ns)

        def make_up(now_ns: int) -> None:
            for said in self._topped_up():
                found = ledger.balance(said.account, now_ns)
                if found is None and ledger.balance(said.account, said.ends_ns) is not None:
                    continue  # the clock was put back, and the account is in a later window
                had = (0, 0) if found is None else (found.topped_up_nano_usd, found.topped_up_tokens)
                more = (max(0, said.nano_usd - had[0]), max(0, said.tokens - had[1]))
                if more != (0, 0):
                    top_up(TopUp(said.account, said.ends_ns, *more), now_ns)

        self._make_up = make_up
        self.words.apply["frozen"] = frozen
        self.words.apply["top_up"] = lambda _, text: top_up(decode(text, type=TopUp), wall_ns())

    def _topped_up(self) -> Iterator[TopUp]:
        """What operators have added to each account, in each window."""
        sums: dict[tuple[str, int], Both] = {}
        for (kind, _), (_, text) in self.words.known.items():
            if kind == "top_up":
                said = decode(text, type=TopUp)
                before = sums.get((said.account, said.ends_ns), (0, 0))
                sums[said.account, said.ends_ns] = (before[0] + said.nano_usd, before[1] + said.tokens)
        yield from (TopUp(account, ends_ns, *both) for (account, ends_ns), both in sums.items())

    def tenant_account(self, tenant: str) -> str:
        """The account that every call of the tenant is on."""
        return f"tenant:{tenant}:day"

    def is_frozen(self, tenant: str) -> bool:
        return bool(self.words.known.get(("frozen", tenant), (0, ""))[1])

    async def override(self, account: str, own: Override | None, now_ms: int) -> None:
        """Put it in force from the next call on, once it is kept; None: the settings' again. Raises StoreFailed, Overloaded and, for an
        account that no row makes, InvalidRequest.
        """
        self.known(account)
        if own is not None and account not in self.overrides and len(self.overrides) >= MOST_OVERRIDES:
            raise Overloaded(f"{MOST_OVERRIDES} accounts are set already, no more can be; delete some (OpsService.DeleteBudget)")
        await self.words.say("budget", account, "" if own is None else encode(own).decode(), now_ms)

    def known(self, account: str) -> Row:
        """The row that makes this account. Raises InvalidRequest."""
        row = self.row_of(account)
        if row is None or (account == row.pattern and "*" in account):  # without a star it is the one account that there is
            forms = ", ".join(sorted({one.pattern for one in self.rows}))
            raise InvalidRequest(f"account is {shown(account)}; expected one account of the form {forms} (* is a name)", field="account")
        return row

    async def keep_runs(self) -> None:
        """Write down the runs that have changed since the last time. Raises StoreFailed, and then the next time tries again."""
        changed, self.runs.changed = self.runs.changed, {}
        try:
            await self.words.keep(
                {(_RUN, encode(key).decode()): None if run is None else encode(run).decode() for key, run in changed.items()}
            )
        except StoreFailed:
            self.runs.changed = changed | self.runs.changed
            raise

    def _said(self, account: str, text: str) -> None:
        """What operators have set for one account; "": what settings say again."""
        row = self.row_of(account)
        if row is None:
            return
        if text:
            self.overrides[account] = decode(text, type=Override)
            row.has_overrides = True
        else:
            self.overrides.pop(account, None)
        self._own_rules.pop(account, None)
        self._ready_until_ns = 0

    # --- what operators hear of

    def reached(self, account: str, balance: Balance | None, now_ns: int, total: Both | None = None) -> tuple[str, dict[str, str]]:
        """The warning threshold of an account, in words and as facts: `account`, `threshold` (percent), `window` (its begin), `ends`.

        `total` is what all pods have spent of it, where that has reached it.
        """
        rule = self.rule_of(account, now_ns)
        percent = 100 if rule is None else rule.warn_percent
        unit, used, limit = "nano_usd", 0, 0
        if balance is not None:
            held = (balance.used_nano_usd + balance.pending_nano_usd, balance.used_tokens + balance.pending_tokens)
            nano_usd, tokens = held if total is None else total
            sides = (("nano_usd", nano_usd, balance.limit_nano_usd), ("tokens", tokens, balance.limit_tokens))
            limited = [(name, taken, most) for name, taken, most in sides if most is not None]
            unit, used, limit = max(limited, key=lambda side: side[1] / max(side[2], 1), default=(unit, used, limit))
        words = f"{_worded(used, unit)} of {_worded(limit, unit)} are {'used or held' if total is None else 'used by all pods'}"
        return f"account {account} has reached {percent} % of its limit: {words}", _facts(account, percent, rule, unit, used, limit)

    def used_up(self, denial: Denial, now_ns: int) -> tuple[str, dict[str, str]] | None:
        """The same for an account that refuses for its limit, once in its window; None: that was told before, or it refuses for another
        reason.
        """
        if denial.reason != "limit":
            return None
        return self._used_up(denial, denial.used + denial.pending, denial.limit, now_ns)

    def used_up_by_all(self, refusal: BudgetExceeded, now_ns: int) -> tuple[str, dict[str, str]] | None:
        """The same for an account that pods share, of which none of them has anything left."""
        return self._used_up(refusal, refusal.used, refusal.limit, now_ns)

    def _used_up(self, what: Denial | BudgetExceeded, used: int, limit: int, now_ns: int) -> tuple[str, dict[str, str]] | None:
        which, until = (what.account, what.unit), (what.resets_at_ns or 0, limit)
        if self._told.get(which) == until or used * 2 < limit:
            return None  # of the second: one call asked for much, and others are let through
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[which] = until
        facts = _facts(what.account, 100, self.rule_of(what.account, now_ns), what.unit, used, limit)
        words = f"{_worded(used, what.unit)} of {_worded(limit, what.unit)} are used or held"
        return f"account {what.account} refuses calls: {words}, and {_worded(what.asked, what.unit)} were asked for", facts


def _facts(account: str, percent: int, rule: Rule | None, unit: str, used: int, limit: int) -> dict[str, str]:
    began_ns, ends_ns = rule.window if rule is not None and rule.window is not None else (0, 0)
    return {
        "account": account,
        "threshold": str(percent),
        "window": datetime.fromtimestamp(began_ns // 1_000_000_000, UTC).isoformat() if began_ns else "",
        "ends": datetime.fromtimestamp(ends_ns // 1_000_000_000, UTC).isoformat() if began_ns else "",
        "unit": unit,
        "used": str(used),
        "limit": str(limit),
        "mode": "refuse" if rule is None else rule.mode,
    }


def _worded(amount: int, unit: str) -> str:
    return f"{amount / 1e9:.6f} USD" if unit == "nano_usd" else f"{amount} tokens"


def _is_limited(one: Override) -> bool:
    return one.limit_nano_usd is not None or one.limit_tokens is not None
