"""What becomes of calls that cost much: nothing, a log line, an alert with a cool-down, the cheapest model for a minute."""

from __future__ import annotations

import pytest

from sidecar.call import Call
from sidecar.policies import dear_calls
from sidecar.policies.dear_calls import DearCalls
from sidecar.request import GenerateRequest
from sidecar.settings.operation import Limits

USD, MIN_NS = 10**9, 60 * 10**9


def call(usd: float, tenant: str = "acme", node: str = "pivot") -> Call:
    made = Call(id="c", operation="generate", request=GenerateRequest(prompt="hi"), metadata={}, arrived=0.0, deadline=1.0, send=None)
    made.tenant, made.service, made.node_name, made.nano_usd = tenant, "vision", node, round(usd * USD)
    return made


@pytest.mark.parametrize(
    ("usd", "what"), [(0, ""), (0.5, ""), (0.500000001, "log"), (2, "log"), (2.01, "notify"), (5, "notify"), (5.01, "throttle")]
)
def test_the_shipped_thresholds(usd, what):
    assert DearCalls(Limits()).saw(call(usd), 0) == what


def test_an_alert_has_its_time_of_rest_per_tenant_and_node():
    seen = DearCalls(Limits())
    assert [seen.saw(call(3), now) for now in (0, 1, 5 * MIN_NS - 1, 5 * MIN_NS)] == ["notify", "log", "log", "notify"]
    assert seen.saw(call(3, tenant="other"), 1) == "notify"
    assert seen.saw(call(3, node="other"), 1) == "notify"


def test_throttling_lasts_a_minute_from_the_last_such_call_and_is_told_once():
    seen = DearCalls(Limits())
    assert not seen.is_throttled(call(0), 0)
    assert seen.saw(call(6), 0) == "throttle"
    assert seen.is_throttled(call(0), MIN_NS - 1)
    assert not seen.is_throttled(call(0, node="other"), 1)
    assert not seen.is_throttled(call(0, tenant="other"), 1)
    assert seen.saw(call(6), MIN_NS // 2) == "notify"  # it goes on; what it costs is told like any dear call
    assert seen.is_throttled(call(0), MIN_NS + MIN_NS // 2 - 1)
    assert not seen.is_throttled(call(0), MIN_NS + MIN_NS // 2)


def test_the_figures_are_settings():
    seen = DearCalls(Limits(call_log_nano_usd=1, call_notify_nano_usd=2, call_throttle_nano_usd=3, call_throttle_ms=5))
    assert seen.saw(call(4e-9), 0) == "throttle"
    assert not seen.is_throttled(call(0), 5_000_000)


def test_each_threshold_stands_by_itself():
    quiet = Limits(call_log_nano_usd=100 * USD)
    seen = DearCalls(quiet)
    assert [seen.saw(call(usd), 0) for usd in (1, 3, 6, 101)] == ["", "notify", "throttle", "log"]
    assert DearCalls(Limits(call_notify_nano_usd=100 * USD)).saw(call(6), 0) == "throttle"


def test_tenants_that_callers_invent_do_not_grow_the_memory(monkeypatch):
    monkeypatch.setattr(dear_calls, "_MOST_REMEMBERED", 10)
    seen = DearCalls(Limits())
    for number in range(100):
        assert seen.saw(call(6, tenant=f"t{number}"), number) == "throttle"
        assert seen.saw(call(3, tenant=f"t{number}"), number) == "notify"
    assert (len(seen._throttled), len(seen._notified)) == (10, 10)
    assert seen.is_throttled(call(0, tenant="t99"), 100)
