"""Which accounts a call is on, what each allows and for how long: the settings' words, said once more and in another way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_LENGTH_NS = {"minute": 60_000_000_000, "hour": 3_600_000_000_000}
_DAY = timedelta(1)


@dataclass(frozen=True)
class Scope:
    """One row of the settings."""

    name: str
    scope: str
    of: str
    window: str
    zone: str
    limits: tuple[int | None, int | None]
    mode: str


class Scopes:
    """`overrides`: what operators have set, (nano-USD, tokens, mode) by account."""

    def __init__(self, settings):
        limits = settings.limits
        day = Scope("tenant_day", "tenant", "", "day", limits.time_zone, (limits.tenant_day_nano_usd, limits.tenant_day_tokens), "refuse")
        self.rows = [day]
        for name, row in settings.budgets.items():
            zone = row.time_zone or limits.time_zone
            limit = (row.limit_nano_usd, row.limit_tokens)
            self.rows.append(Scope(name, row.scope or "company", row.of, row.window, zone, limit, row.mode))
        self.plans = {name: (plan.month_nano_usd, plan.month_tokens) for name, plan in settings.plans.items() if plan.is_capped}
        if self.plans:
            self.rows.append(Scope("plan_month", "plan", "", "month", limits.time_zone, (None, None), "refuse"))
        self.overrides = {}

    def follow(self, budgets):
        """Know what operators set at the moment in which it is put in force there."""
        put = budgets.words.apply["budget"]

        def heard(account, text):
            if text:
                own = json.loads(text)
                self.overrides[account] = (own.get("limit_nano_usd"), own.get("limit_tokens"), own.get("mode", "refuse"))
            else:
                self.overrides.pop(account, None)
            put(account, text)

        budgets.words.apply["budget"] = heard

    def accounts(self, call):
        """By name: the row, its limits and its mode. Of plans of runs nothing is said here."""
        found = {}
        for row in self.rows:
            whose = self._whose(row, call)
            if not whose or row.of not in ("", whose if row.scope != "plan" else call.plan):
                continue
            suffix = row.name.removeprefix(f"{row.scope}_")
            account = f"company:{suffix}" if row.scope == "company" else f"{row.scope}:{whose}:{suffix}"
            limits, mode = self.plans.get(call.plan, row.limits) if row.name == "plan_month" else row.limits, row.mode
            if account in self.overrides:
                *limits, mode = self.overrides[account]
            if mode != "off" and any(limit is not None for limit in limits):
                found[account] = row, tuple(limits), mode
            elif row.name == "tenant_day":
                found[account] = row, (None, None), "shadow"
        return found

    def _whose(self, row, call):
        who = call.request.caller
        tenant = who.tenant
        return {
            "company": "all",
            "service": call.service,
            "node": who.node and f"{call.service}.{who.node}",
            "tenant": tenant,
            "user": who.user and f"{tenant}:{who.user}",
            "plan": who.plan and f"{tenant}:{who.plan}",
            "run": who.run and f"{tenant}:{who.run}",
            "agent": who.run and who.agent and f"{tenant}:{who.run}:{who.agent}",
        }[row.scope]

    def wrong(self, call, accounts, now_ns):
        """Sentences on what is wrong with the accounts that a call is to be held on."""
        expected = self.accounts(call)
        given = {name: rule for name, rule in accounts if not name.endswith((":plan", ":plan-first"))}
        if given.keys() != expected.keys():
            missing, wrong = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
            yield f"it is not on its accounts: {missing} are missing, {wrong} are not its own"
        for name in expected.keys() & given.keys():
            row, limits, mode = expected[name]
            rule = given[name]
            if (rule.limit_nano_usd, rule.limit_tokens) != limits or rule.mode != mode:
                yield f"{name} has {rule.limit_nano_usd}, {rule.limit_tokens} and {rule.mode}; it should be {limits} and {mode}"
            found = wrong_window(row.window, row.zone, rule.window, now_ns)
            if found:
                yield f"{name}: {found}"


def wrong_window(kind, zone, window, now_ns):
    """What is wrong with a window that is to be the one of `now_ns`. A sentence, or nothing."""
    if not window[0] <= now_ns < window[1]:
        return f"its window {window} does not hold {now_ns}"
    return _wrong_shape(kind, zone, window)


@lru_cache(10_000)
def _wrong_shape(kind, zone, window):
    begin_ns, end_ns = window
    if kind in _LENGTH_NS:
        length_ns = _LENGTH_NS[kind]
        return None if end_ns - begin_ns == length_ns and begin_ns % length_ns == 0 else f"{window} is no {kind}"
    first, last = _date(begin_ns, zone), _date(end_ns - 1, zone)
    if _date(begin_ns - 1, zone) != first - _DAY or _date(end_ns, zone) != last + _DAY:
        return f"its {kind} in {zone} does not begin and end with a day: {window}"
    after = last + _DAY
    match kind:
        case "day":
            fits = first == last
        case "week":
            fits = first.weekday() == 0 and after - first == 7 * _DAY
        case _:
            fits = first.day == after.day == 1 and (first.year, first.month) == (last.year, last.month)
    return None if fits else f"{first} to {last} is no {kind} in {zone}"


def _date(at_ns, zone):
    return datetime.fromtimestamp(at_ns // 1_000_000_000, ZoneInfo(zone)).date()
