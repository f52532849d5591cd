"""Which accounts a call is on, and in which window."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from sidecar.call import Call, GenerateRequest
from sidecar.policies.budgets import Budgets
from sidecar.settings import Limits, Settings


def call(tenant: str) -> Call:
    made = Call(id="c", operation="generate", request=GenerateRequest(prompt="hi"), metadata={}, arrived=0.0, deadline=1.0, send=None)
    made.tenant = tenant
    return made


def ns(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000_000


def test_the_tenants_day_is_that_of_the_time_zone_in_settings():
    budgets = Budgets(Settings(limits=Limits(time_zone="Asia/Seoul", tenant_day_tokens=7, warn_percent=50), budgets={}))
    ((name, before),) = budgets.accounts(call("acme"), ns("2026-03-01 23:59:59", "Asia/Seoul"))
    ((_, after),) = budgets.accounts(call("other"), ns("2026-03-02 00:00", "Asia/Seoul"))
    assert name == "tenant:acme:day"
    assert before.window == (ns("2026-03-01", "Asia/Seoul"), ns("2026-03-02", "Asia/Seoul"))
    assert after.window == (ns("2026-03-02", "Asia/Seoul"), ns("2026-03-03", "Asia/Seoul"))
    assert (after.limit_nano_usd, after.limit_tokens, after.warn_percent, after.mode) == (30_000_000_000, 7, 50, "refuse")


def test_one_rule_serves_all_calls_of_a_day():
    budgets, now_ns = Budgets(Settings(budgets={})), ns("2026-03-01 12:00", "UTC")
    assert budgets.accounts(call("a"), now_ns)[0][1] is budgets.accounts(call("b"), now_ns + 1)[0][1]
