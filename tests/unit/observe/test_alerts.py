"""Which events wake somebody, how much, and which are the same."""

from __future__ import annotations

import pytest

from sidecar.observe.alerts import Judge
from sidecar.observe.events import Event
from sidecar.observe.receivers import From, chat_text, signature, signing_key, webhook_body
from sidecar.settings import load

NOW_NS = 1_700_000_000_000_000_000
JUDGE = Judge(load(None, {}), "pod-7", lambda: NOW_NS)
HOUR_MS, WEEK_MS = 3_600_000, 604_800_000


def told(kind, message="it happened", level="warning", **facts):
    return JUDGE.alert(Event(1.0, kind, message, facts, level))


def budget(account="tenant:acme:day", threshold="80", mode="refuse", window="2023-11-14T00:00:00+00:00", ends="2023-11-15T00:00:00+00:00"):
    return told("budget", account=account, threshold=threshold, mode=mode, window=window, ends=ends, unit="nano_usd", used="1", limit="2")


@pytest.mark.parametrize(
    ("alert", "severity", "about"),
    [
        (budget(), "warning", "budget|tenant:acme:day|80|2023-11-14T00:00:00+00:00|2"),
        (budget(threshold="100"), "critical", "budget|tenant:acme:day|100|2023-11-14T00:00:00+00:00|2"),
        (budget(threshold="100", mode="warn"), "warning", "budget|tenant:acme:day|100|2023-11-14T00:00:00+00:00|2"),
        (budget("company:day_warning", "100", "warn"), "warning", "budget|company:day_warning|100|2023-11-14T00:00:00+00:00|2"),
        (budget("company:month_critical", "100", "warn"), "critical", "budget|company:month_critical|100|2023-11-14T00:00:00+00:00|2"),
        (told("dear_call", tenant="a", node="n", action="notify"), "warning", "dear|a|n|notify"),
        (told("dear_call", tenant="a", node="n", action="throttle"), "warning", "dear|a|n|throttle"),
        (told("dear_call", tenant="a", node="n", action="halt"), "critical", "dear|a|n|halt"),
        (told("set_aside", key="openai#eu", reason="PROVIDER_AUTH_FAILED"), "critical", "aside|PROVIDER_AUTH_FAILED|openai#eu"),
        (told("set_aside", key="openai/x", reason="PROVIDER_QUOTA_EXHAUSTED"), "warning", "aside|PROVIDER_QUOTA_EXHAUSTED|openai/x"),
        (told("set_aside", key="openai/x", reason="PROVIDER_MODEL_UNKNOWN"), "warning", "aside|PROVIDER_MODEL_UNKNOWN|openai/x"),
        (told("breaker", service="s", target="openai/x", to="open", **{"from": "closed"}), "warning", "breaker|s|openai/x"),
        (told("health", level="error", node="oracle.summary"), "critical", "node|oracle.summary"),
        (told("health", level="error", key="redis"), "warning", "health|redis"),
        (told("health", level="error", key="budgets"), "critical", "health|budgets"),
        (told("health", level="warning", key="openai", problem="no"), "warning", "health|openai"),
        (told("health", level="error", key="usage postgres"), "critical", "pod-7|usage postgres"),
        (told("journal", level="error"), "critical", "pod-7|journal"),
        (told("journal", level="error", key="posts"), "critical", "pod-7|posts"),
        (told("journal", level="warning"), "warning", "pod-7|journal"),
        (told("alert", level="error", target="openai/x", call="1"), "warning", "absurd|openai/x"),
        (told("alert", level="error", key="usage lost"), "critical", "pod-7|usage lost"),
        (told("alert", "no room", tenant="a"), "warning", "alert|no room"),
        (told("shed", priority="optional", lag_ms="300"), "warning", "shed|optional"),
        (told("certificate"), "warning", "certificate"),
        (told("something_new", "a new trouble", level="error"), "warning", "something_new|a new trouble"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_wakes_somebody(alert, severity, about):
    assert (alert.severity, alert.about, alert.is_over) == (severity, about, False)


@pytest.mark.parametrize(
    "alert",
    [
        budget(mode="shadow"),
        told("breaker", service="s", target="t", to="half_open"),
        told("breaker", service="s", target="t", to="open", who="operator"),
        told("alert", level="error", provider="openai", error="key sk-123 is wrong"),  # set_aside tells it, and of which key
        told("audit", level="info"),
        told("run"),
        told("alerts", level="error", receiver="chat"),  # an alert about alerts would be another one
    ],
)
def test_what_wakes_nobody(alert):
    assert alert is None


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("breaker", {"service": "s", "target": "t", "to": "closed"}),
        ("health", {"node": "a.b"}),
        ("journal", {}),
        ("shed", {"priority": "optional"}),
    ],
)
def test_the_end_of_a_trouble_is_told_as_such(kind, facts):
    begin = told(kind, level="error", **(facts | {"to": "open"} if "to" in facts else facts))
    over = told(kind, level="info", **facts)
    assert begin.lasts
    assert (over.is_over, over.severity, over.about) == (True, "info", begin.about)
    assert over.id != begin.id


def test_a_budget_is_quiet_until_its_window_ends_and_all_else_for_an_hour():
    assert budget().quiet_ms == 1_700_006_400_000 - NOW_NS // 1_000_000
    assert budget(window="", ends="").quiet_ms == WEEK_MS  # a run's
    assert told("shed", priority="optional").quiet_ms == HOUR_MS
    assert told("dear_call", tenant="a", node="n", action="notify").quiet_ms == 300_000
    other = Judge(load(None, {"SIDECAR_ALERTS__QUIET_MS": "5000"}), "pod-7", lambda: NOW_NS)
    assert other.alert(Event(1.0, "certificate", "it", {})).quiet_ms == 5000


def test_the_same_in_another_pod_has_the_same_id_unless_it_is_a_pods_own():
    other = Judge(load(None, {}), "pod-8", lambda: NOW_NS + 5)
    shared, own = Event(9.0, "health", "nobody is left", {"node": "a.b"}, "error"), Event(9.0, "journal", "full", {}, "error")
    assert JUDGE.alert(shared).id == other.alert(shared).id
    assert JUDGE.alert(own).id != other.alert(own).id


def test_what_callers_and_providers_wrote_is_short_and_plain():
    alert = told("dear_call", "x" * 5000, tenant="a\nb\x00c" + "d" * 5000, node="n", action="notify", error="whatever a provider says")
    assert len(alert.message) == 500
    assert len(alert.facts["tenant"]) == 500
    assert alert.facts["tenant"].startswith("a b cd")
    assert "error" not in alert.facts


# --- what is sent -------------------------------------------------------------------------------------------------------------------


def test_a_signature_is_the_standards_own_example():
    """From the specification of Standard Webhooks."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert (
        signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    assert signing_key("a-key-of-ones-own") == b"a-key-of-ones-own"


def test_a_chat_message_has_a_line_for_each_and_calls_nobody():
    alerts = [told("dear_call", "<!channel> & <b>", tenant="<@U1>", node="n", action="notify"), told("health", level="info", node="a.b")]
    text = chat_text(alerts, From("pod-7", "production"))
    assert text == (
        "*warning*: &lt;!channel&gt; &amp; &lt;b&gt;\n      tenant: &lt;@U1&gt; · node: n · action: notify\n"
        "*over*: it happened\n      node: a.b\n_2023-11-14T22:13:20+00:00, pod-7, production_"
    )


def test_a_chat_message_is_never_longer_than_chats_take():
    long = told("health", "x" * 500, level="error", **{f"fact{n}": "y" * 500 for n in range(12)})
    assert len(chat_text([long] * 20, From("pod-7", "production"))) == 12_001


def test_a_programs_body():
    body = webhook_body(told("health", level="error", node="a.b"), From("pod-7", "production"))
    assert body.keys() == {"type", "timestamp", "data"}
    assert (body["type"], body["timestamp"]) == ("alert", "2023-11-14T22:13:20+00:00")
    assert body["data"]["facts"] == {"node": "a.b"}
    assert webhook_body(told("health", level="info", node="a.b"), From("p", "e"))["type"] == "alert.over"
