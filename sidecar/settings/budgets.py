"""Accounts beside the tenant's day: whose, for how long and how much. Rows of `[budgets.NAME]`, and those that are there from the start."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from sidecar.settings.kinds import Tokens
from sidecar.settings.reading import NanoUsd

Scope = Literal["company", "service", "node", "tenant", "user", "plan", "run", "agent"]
Mode = Literal["refuse", "warn", "shadow", "off"]
WithoutRedis = Literal["lease", "refuse", "share"]


class BudgetRow(Struct, frozen=True):
    """One limit for everybody of a scope, each with an account of its own, or with `of` for one of them.

    `of` names a service, `service.node`, a tenant or a plan. At the limit `refuse` refuses, `warn` warns and lets calls through, `shadow`
    only counts; `off` keeps no account. A row without a limit keeps none either, until an operator sets one for a single account
    (OpsService.SetBudget). A call that names no user, plan, run or agent is on none of theirs. A run's window is one of these too;
    a run with a plan of its own has its total beside it.

    The account is called `SCOPE:WHOSE:NAME`, without a scope that NAME begins with: row `service_day` is `service:oracle:day`.
    """

    scope: Scope | None = None  # None: the shipped row's
    window: Literal["minute", "hour", "day", "week", "month"] = "day"  # weeks begin on Monday
    time_zone: str = ""  # "": limits.time_zone
    of: str = ""
    limit_nano_usd: NanoUsd | None = field(default=None, name="limit_usd")
    limit_tokens: Tokens | None = None
    mode: Mode = "refuse"
    warn_percent: Annotated[int, Meta(ge=1, le=100)] | None = None  # None: limits.warn_percent
    without_redis: WithoutRedis | None = None  # None: fleet.without_redis


def _alarm(window: Literal["day", "week", "month"], usd: int) -> BudgetRow:
    return BudgetRow("company", window, limit_nano_usd=NanoUsd(usd * 1_000_000_000), mode="warn", warn_percent=100)


# The policy's alarms, which never refuse, and rows that wait for a limit; a table in the file replaces them key by key.
BUDGETS = {
    "company_day_warning": _alarm("day", 100),
    "company_day_critical": _alarm("day", 300),
    "company_week_warning": _alarm("week", 500),
    "company_week_critical": _alarm("week", 1_500),
    "company_month_warning": _alarm("month", 2_000),
    "company_month_critical": _alarm("month", 5_000),
    "tenant_month": BudgetRow("tenant", "month"),
    "service_day": BudgetRow("service"),
    "service_month": BudgetRow("service", "month"),
    "node_day": BudgetRow("node"),
    "user_day": BudgetRow("user"),
    "user_month": BudgetRow("user", "month"),
}


def account_suffix(name: str, scope: str) -> str:
    """What the accounts of this row end with."""
    return name[len(scope) + 1 :] if name.startswith((f"{scope}_", f"{scope}-")) else name
