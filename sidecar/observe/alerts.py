"""Which events are worth waking somebody for, how much, and what makes two of them the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from hashlib import sha256
from typing import Final

from msgspec import Struct

from sidecar.observe.events import Event
from sidecar.settings import Settings
from sidecar.settings.alerts import Severity

ORDER: Final = {"info": 0, "warning": 1, "critical": 2}
_WEEK_MS: Final = 604_800_000
_OVER_MS: Final = 1_000  # an end belongs to its beginning, and is told by whoever told that
_LASTING: Final = ("breaker", "health", "journal", "shed", "certificate")  # an event of level info tells the end
_MOST_FACTS: Final = 12
_LONGEST: Final = 500  # characters of a message or a fact: names are what callers made them


class Alert(Struct, frozen=True):
    """What is told, in words and as facts; no prompt, no answer, no key.

    `about` says what is the same trouble: of those with one `about` the first is told, by whichever pod, and no other for `quiet_ms`.
    With `lasts` its end will be told, by an alert of the same `about` with `is_over`. `at_ms` is Unix time.
    """

    kind: str
    severity: Severity
    about: str
    message: str
    facts: dict[str, str]
    at_ms: int
    quiet_ms: int
    lasts: bool = False
    is_over: bool = False

    @property
    def id(self) -> str:
        """The same wherever the same is told: receivers can tell by it what they have heard."""
        return sha256(f"{self.about}{'|over' if self.is_over else ''}".encode()).hexdigest()[:32]


class Judge:
    """Turns events into alerts. `pod` names this process: what is its own trouble is told of each pod, all else once."""

    def __init__(self, settings: Settings, pod: str, wall_ns: Callable[[], int]) -> None:
        self._quiet_ms = settings.alerts.quiet_ms
        self._dear_ms = settings.limits.call_notify_every_ms
        self._pod = pod
        self._wall_ns = wall_ns
        self._of = {
            "budget": self._budget,
            "dear_call": self._dear_call,
            "set_aside": _set_aside,
            "breaker": _breaker,
            "health": self._health,
            "journal": self._own,
            "alert": self._alert,
            "shed": _shed,
            "certificate": _certificate,
        }

    def alert(self, event: Event) -> Alert | None:
        """None: nobody needs to be woken for it."""
        found = self._of.get(event.kind, _other)(event)
        if found is None:
            return None
        severity, about, quiet_ms, *words = found
        is_over = event.level == "info"
        if is_over:
            severity = "info"
        facts = {name: _short(value) for name, value in list(event.facts.items())[:_MOST_FACTS] if value}
        facts.pop("error", None)  # a provider's own words may hold anything
        return Alert(
            event.kind,
            severity,
            about,
            _short(words[0] if words else event.message),
            facts,
            self._wall_ns() // 1_000_000,
            _OVER_MS if is_over else quiet_ms or self._quiet_ms,
            lasts=event.kind in _LASTING and not is_over,
            is_over=is_over,
        )

    # --- each kind: severity, about, for how long it is told once (0: as settings say), other words than the event's --------------

    def _budget(self, event: Event) -> _Found:
        facts = event.facts
        if facts["mode"] == "shadow":
            return None
        account, window = facts["account"], facts["window"]
        is_alarm = account.startswith("company:") and account.endswith("critical")
        is_out = facts["threshold"] == "100" and facts["mode"] == "refuse"
        ends_ms = int(datetime.fromisoformat(facts["ends"]).timestamp() * 1000) if facts.get("ends") else 0
        quiet_ms = max(ends_ms - self._wall_ns() // 1_000_000, 1_000) if ends_ms else _WEEK_MS
        about = f"budget|{account}|{facts['threshold']}|{window}|{facts['limit']}"  # another limit is another threshold
        return "critical" if is_alarm or is_out else "warning", about, quiet_ms

    def _dear_call(self, event: Event) -> _Found:
        facts = event.facts
        severity: Severity = "critical" if facts["action"] == "halt" else "warning"
        return severity, f"dear|{facts['tenant']}|{facts['node']}|{facts['action']}", self._dear_ms

    def _health(self, event: Event) -> _Found:
        facts = event.facts
        if "node" in facts:
            return "critical", f"node|{facts['node']}", 0
        key = facts.get("key", event.message)
        if key.startswith("usage"):
            return self._own(event)
        return "critical" if key == "budgets" else "warning", f"health|{key}", 0

    def _own(self, event: Event) -> _Found:
        """A trouble of this pod's alone: its disk, its files."""
        key = event.facts.get("key", event.kind)
        return "critical" if event.level == "error" else "warning", f"{self._pod}|{key}", 0

    def _alert(self, event: Event) -> _Found:
        facts = event.facts
        if "provider" in facts:
            return None  # a refused key is set aside too, which tells which of them
        if "target" in facts:
            return "warning", f"absurd|{facts['target']}", 0
        return self._own(event) if "key" in facts else ("warning", f"alert|{event.message}", 0)


_Found = tuple[Severity, str, int] | tuple[Severity, str, int, str] | None
_WORDS: Final = {
    "PROVIDER_AUTH_FAILED": "refuses its key",
    "PROVIDER_QUOTA_EXHAUSTED": "has no quota or credit left",
    "PROVIDER_MODEL_UNKNOWN": "does not know its model any more",
}


def _set_aside(event: Event) -> _Found:
    key, reason = event.facts["key"], event.facts["reason"]
    severity: Severity = "critical" if reason == "PROVIDER_AUTH_FAILED" else "warning"
    return severity, f"aside|{reason}|{key}", 0, f"{key} {_WORDS.get(reason, f'fails: {reason}')}; others are asked before it for a while"


def _breaker(event: Event) -> _Found:
    facts = event.facts
    if facts.get("who") == "operator" or facts["to"] == "half_open":
        return None
    return "warning", f"breaker|{facts['service']}|{facts['target']}", 0


def _shed(event: Event) -> _Found:
    return "warning", f"shed|{event.facts['priority']}", 0


def _certificate(event: Event) -> _Found:
    return "warning", "certificate", 0


def _other(event: Event) -> _Found:
    """A kind that nobody has judged: an error is worth a warning."""
    if event.level != "error" or event.kind == "alerts":  # those are about alerts that do not arrive
        return None
    return "warning", f"{event.kind}|{event.message}", 0


def _short(text: str) -> str:
    """One line without control characters, of bounded length."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def unpriced_alerts(lines: Iterable[str], now_ms: int) -> list[Alert]:
    """Of models without a price of their own, as the catalogue tells of them at start."""
    return [Alert("price", "warning", f"price|{line}", _short(line), {}, now_ms, _WEEK_MS) for line in lines]


def trial(now_ms: int) -> Alert:
    """For `sidecar alerts test`."""
    return Alert("trial", "critical", f"trial|{now_ms}", "this is a trial: alerts of the sidecar arrive here", {}, now_ms, 1_000)
