"""The ledger against its model, against the text tables, from many threads, and with bad arguments."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidecar._core import Balance, Denial, Ledger, Posting, Reservation, Rule
from tests.core.model_ledger import LARGEST, ModelLedger, ModelRule

TABLES = Path(__file__).parent / "tables"
_NUMBERS = ("limit_nano_usd", "limit_tokens", "lease_nano_usd", "lease_tokens", "warn_percent")

# --- against the model ----------------------------------------------------------------------------------------------------------

NAMES = ("company", "tenant", "user")
# A rule, how long its windows are (0: one for ever), and where one of them begins.
RULES: tuple[tuple[ModelRule, int, int], ...] = (
    (ModelRule(limit_nano_usd=100), 50, 0),
    (ModelRule(limit_nano_usd=100, limit_tokens=30, warn_percent=50), 50, 0),
    (ModelRule(limit_nano_usd=100, limit_tokens=30, lease_nano_usd=60), 50, 0),
    (ModelRule(limit_nano_usd=300, lease_nano_usd=150, lease_tokens=40), 50, 0),
    (ModelRule(limit_nano_usd=100, lease_nano_usd=20, mode="warn"), 50, 0),
    (ModelRule(limit_nano_usd=300), 200, 70),
    (ModelRule(limit_tokens=40, mode="warn"), 50, 0),
    (ModelRule(limit_nano_usd=20, mode="shadow"), 0, 0),
    (ModelRule(), 0, 0),
)
AMOUNTS = st.one_of(st.integers(0, 60), st.sampled_from([LARGEST, LARGEST - 50]))


def window_of(now_ns: int, every: int, offset: int) -> tuple[int, int] | None:
    start_ns = (now_ns - offset) // every * every + offset if every else 0
    return (max(0, start_ns), start_ns + every) if every else None


def real_rule(model: ModelRule) -> Rule:
    return Rule(**vars(model))


def plain(answer: Reservation | Denial | Posting | Balance | int | None) -> object:
    """An answer of the ledger in the model's form."""
    match answer:
        case Reservation():
            return ("reserved", answer.id, answer.warnings)
        case Denial() as d:
            return ("denied", d.account, d.reason, d.unit, d.limit, d.used, d.pending, d.asked, d.resets_at_ns)
        case Posting() as p:
            return ("posted", p.overrun_nano_usd, p.overrun_tokens, p.late, p.warnings)
        case Balance() as b:
            sums = (b.used_nano_usd, b.used_tokens, b.pending_nano_usd, b.pending_tokens)
            limits = (b.limit_nano_usd, b.limit_tokens, b.topped_up_nano_usd, b.topped_up_tokens)
            return (*sums, *limits, b.resets_at_ns, b.overruns, b.refusals, b.frozen)
        case _:
            return answer


class LedgerMachine(RuleBasedStateMachine):
    """The same operations on both; every answer, every error and every balance must be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.model, self.now_ns = self.make(), ModelLedger(), 1000

    def make(self) -> Ledger:
        return Ledger()

    def both(self, operation: str, *arguments: Any, model_arguments: tuple[Any, ...] | None = None) -> None:
        try:
            expected = getattr(self.model, operation)(*(model_arguments or arguments))
        except (KeyError, ValueError) as error:
            with pytest.raises(type(error), match=str(error.args[0])):
                getattr(self.ledger, operation)(*arguments)
        else:
            assert plain(getattr(self.ledger, operation)(*arguments)) == expected

    def in_force(self, rule_and_window: tuple[ModelRule, int, int]) -> ModelRule:
        model, every, offset = rule_and_window
        return replace(model, window=window_of(self.now_ns, every, offset))

    @rule(by=st.one_of(st.integers(0, 20), st.integers(-60, 200)))
    def let_time_pass(self, by: int) -> None:
        self.now_ns = max(0, self.now_ns + by)

    @rule(
        accounts=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(RULES)), max_size=4),
        nano_usd=AMOUNTS,
        tokens=AMOUNTS,
        ttl_ns=st.integers(1, 100),
    )
    def reserve(self, accounts: list[tuple[str, tuple[ModelRule, int, int]]], nano_usd: int, tokens: int, ttl_ns: int) -> None:
        models = [(name, self.in_force(model)) for name, model in accounts]
        real = [(name, real_rule(model)) for name, model in models]
        rest = (nano_usd, tokens, ttl_ns, self.now_ns)
        self.both("reserve", real, *rest, model_arguments=(models, *rest))

    @rule(name=st.sampled_from(NAMES), late=st.booleans())
    def reserve_in_another_window(self, name: str, late: bool) -> None:
        elsewhen = (self.now_ns + 1, self.now_ns + 9) if late else (0, self.now_ns)
        if elsewhen[0] < elsewhen[1]:
            model = ModelRule(window=elsewhen)
            self.both("reserve", [(name, real_rule(model))], 1, 1, 1, self.now_ns, model_arguments=([(name, model)], 1, 1, 1, self.now_ns))

    @rule(back=st.integers(-1, 8), nano_usd=AMOUNTS, tokens=AMOUNTS)
    def post(self, back: int, nano_usd: int, tokens: int) -> None:
        self.both("post", max(0, len(self.model.reservations) - back), nano_usd, tokens, self.now_ns)

    @rule(back=st.integers(-1, 8))
    def void(self, back: int) -> None:
        number = max(0, len(self.model.reservations) - back)
        self.both("void", number, self.now_ns, model_arguments=(number,))

    @rule()
    def expire(self) -> None:
        self.both("expire", self.now_ns)

    @rule(name=st.sampled_from(NAMES), model=st.sampled_from(RULES), nano_usd=AMOUNTS, tokens=AMOUNTS)
    def top_up(self, name: str, model: tuple[ModelRule, int, int], nano_usd: int, tokens: int) -> None:
        given, rest = self.in_force(model), (nano_usd, tokens, self.now_ns)
        self.both("top_up", name, real_rule(given), *rest, model_arguments=(name, given, *rest))

    @rule(name=st.sampled_from(NAMES), operation=st.sampled_from(["freeze", "unfreeze", "unfreeze", "close_account"]))
    def operate(self, name: str, operation: str) -> None:
        if operation == "close_account":
            last = self.model.close_account(name)
            assert self.meaning(plain(self.ledger.close_account(name))) == self.meaning(last)
        else:
            self.both(operation, name)

    @invariant()
    def every_balance_is_the_same(self) -> None:
        assert self.ledger.pending() == self.model.count_pending()
        self.check_count()
        for name in NAMES:
            for moment_ns in (self.now_ns, max(0, self.now_ns - 60), self.now_ns + 60):
                assert self.meaning(plain(self.ledger.balance(name, moment_ns))) == self.meaning(self.model.balance(name, moment_ns))

    def check_count(self) -> None:
        assert self.ledger.accounts() == len(self.model.accounts)

    def meaning(self, balance: object) -> object:
        return balance


LedgerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase

# --- the text tables ------------------------------------------------------------------------------------------------------------


def table_cases() -> list[Any]:
    """(name, lines) of every case in every table; a line is (file:number, operation, expected)."""
    cases: list[Any] = []
    for path in sorted(TABLES.glob("ledger_*.txt")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("case "):
                cases.append(pytest.param([], id=line.removeprefix("case ")))
            elif line and not line.startswith("#"):
                operation, _, expected = line.partition(" -> ")
                cases[-1].values[0].append((f"{path.name}:{number}", operation, expected))
    return cases


def or_never(resets_at_ns: int | None) -> str:
    return "never" if resets_at_ns is None else str(resets_at_ns)


def said(answer: object) -> str:
    """An answer in the tables' words."""
    match answer:
        case Reservation() as r:
            return f"reserved {r.id}" + warns(r.warnings)
        case Denial() as d:
            if d.reason not in ("limit", "lease"):
                return f"denied {d.account} {d.reason}"
            amounts = f"{d.reason}={d.limit} used={d.used} pending={d.pending} asked={d.asked}"
            return f"denied {d.account} {d.unit} {amounts} resets={or_never(d.resets_at_ns)}"
        case Posting() as p:
            overrun = f" overrun={p.overrun_nano_usd},{p.overrun_tokens}" if p.overrun_nano_usd or p.overrun_tokens else ""
            return "posted" + overrun + " late" * p.late + warns(p.warnings)
        case Balance() as b:
            sums = f"used={b.used_nano_usd},{b.used_tokens} pending={b.pending_nano_usd},{b.pending_tokens}"
            limits = ",".join("none" if limit is None else str(limit) for limit in (b.limit_nano_usd, b.limit_tokens))
            topped_up = f" limits={limits}" if b.topped_up_nano_usd or b.topped_up_tokens else ""
            return f"{sums} resets={or_never(b.resets_at_ns)} overruns={b.overruns} refusals={b.refusals}{topped_up}" + " frozen" * b.frozen
        case _:
            raise AssertionError(answer)


def warns(accounts: list[str]) -> str:
    return " warns " + " ".join(accounts) if accounts else ""


def rule_at(words: dict[str, str], now_ns: int) -> Rule:
    """The rule of a line "rule", with the window that the moment is in."""
    given: dict[str, Any] = {key: int(value) for key, value in words.items() if key in _NUMBERS}
    window = window_of(now_ns, int(words.get("every", 0)), int(words.get("offset", 0)))
    if "window" in words:
        start, _, end = words["window"].partition("..")
        window = (int(start), int(end))
    return Rule(**given, window=window, mode=words.get("mode", "refuse"))  # type: ignore[arg-type]


def carry_out(ledger: Ledger, rules: dict[str, dict[str, str]], line: str) -> str:
    word, *pairs = line.split(" ")
    if word == "rule":
        rules[pairs[0]] = dict(pair.split("=") for pair in pairs[1:])
        return ""
    given = dict(pair.split("=") for pair in pairs)
    number = {key: int(value) for key, value in given.items() if key not in ("on", "account", "rule")}
    match word:
        case "reserve":
            on = [pair.split(":") for pair in given["on"].split(",") if pair]
            accounts = [(name, rule_at(rules[named], number["at"])) for name, named in on]
            return said(ledger.reserve(accounts, number["nano_usd"], number["tokens"], number["ttl"], number["at"]))
        case "post":
            return said(ledger.post(number["id"], number["nano_usd"], number["tokens"], number["at"]))
        case "void":
            ledger.void(number["id"], number["at"])
            return "voided"
        case "top_up":
            rule = rule_at(rules[given["rule"]], number["at"])
            return said(ledger.top_up(given["account"], rule, number["nano_usd"], number["tokens"], number["at"]))
        case "freeze":
            return "frozen" if ledger.freeze(given["account"]) else "as it was"
        case "unfreeze":
            return "thawed" if ledger.unfreeze(given["account"]) else "as it was"
        case "close":
            balance = ledger.close_account(given["account"])
            return said(balance) if balance else "unknown"
        case "expire":
            return f"expired {ledger.expire(number['at'])}"
        case "balance":
            balance = ledger.balance(given["account"], number["at"])
            return said(balance) if balance else "unknown"
        case "count":
            return f"accounts={ledger.accounts()} pending={ledger.pending()}"
        case _:
            raise AssertionError(f"no such operation: {word}")


@pytest.mark.parametrize("lines", table_cases())
def test_table(lines: list[tuple[str, str, str]]) -> None:
    ledger, rules = Ledger(), dict[str, dict[str, str]]()
    for where, operation, expected in lines:
        if expected.startswith("error "):
            with pytest.raises((KeyError, ValueError)) as caught:
                carry_out(ledger, rules, operation)
            assert expected.removeprefix("error ") in caught.value.args[0], where
        else:
            assert carry_out(ledger, rules, operation) == expected, where


def test_tables_are_there() -> None:
    assert len(table_cases()) >= 30


# --- threads, bounds, bad arguments ---------------------------------------------------------------------------------------------


def test_threads_together_never_reserve_beyond_the_limit_and_every_post_is_counted() -> None:
    ledger, limit = Ledger(), 10_000
    accounts = [("company", Rule(limit_nano_usd=limit, limit_tokens=10**9)), ("tenant", Rule())]
    spent: list[int] = []
    start = threading.Barrier(8)

    def call_and_post() -> None:
        start.wait()
        for turn in range(1000):
            held = ledger.reserve(accounts, 7, 3, 1_000_000, turn)
            if isinstance(held, Denial):
                assert held.used + held.pending + held.asked > limit
            elif turn % 3 == 0:
                ledger.void(held.id, turn)
            else:
                ledger.post(held.id, 5, 2, turn)
                spent.append(5)

    threads = [threading.Thread(target=call_and_post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("company", "tenant"):
        balance = ledger.balance(name, 0)
        assert balance is not None
        assert balance.used_nano_usd == sum(spent) <= limit
        assert (balance.used_tokens, balance.pending_nano_usd, balance.pending_tokens) == (2 * len(spent), 0, 0)
    assert sum(spent) > limit - 7 * 9
    assert ledger.pending() == 0


def test_idle_accounts_do_not_pile_up() -> None:
    ledger, day = Ledger(), Rule(limit_nano_usd=100, window=(0, 1000))
    for tenant in range(5000):
        held = ledger.reserve([(f"tenant-{tenant}", day)], 10, 1, 100, 1)
        assert isinstance(held, Reservation)
        ledger.post(held.id, 10, 1, 2)
    assert ledger.accounts() == 5000
    for _ in range(5000 // 256 + 1):
        ledger.expire(1000)
    assert ledger.accounts() == 0


def test_many_accounts_take_little_memory_and_are_restored_exactly() -> None:
    """Far more accounts than are kept unpacked; the bench says how much memory each takes."""
    ledger, most = Ledger(), 40_000

    def spend(tenant: int, nano_usd: int, now_ns: int) -> Reservation | Denial:
        day = Rule(limit_nano_usd=1000 + tenant, window=(0, 10**9) if tenant % 2 else None)
        held = ledger.reserve([(f"tenant-{tenant}", day)], nano_usd, 1, 100, now_ns)
        if isinstance(held, Reservation):
            ledger.post(held.id, nano_usd, 1, now_ns)
        return held

    for tenant in range(most):
        assert isinstance(spend(tenant, tenant % 1000 + 1, tenant), Reservation)
    assert ledger.accounts() == most
    assert sorted(ledger.names()) == sorted(f"tenant-{tenant}" for tenant in range(most))
    for tenant in range(0, most, 97):
        balance = ledger.balance(f"tenant-{tenant}", 10**6)
        assert balance is not None
        assert (balance.used_nano_usd, balance.limit_nano_usd) == (tenant % 1000 + 1, 1000 + tenant)
        refused = spend(tenant, 1000 + tenant - tenant % 1000, 10**6)
        assert isinstance(refused, Denial)
        assert (refused.used, refused.limit) == (tenant % 1000 + 1, 1000 + tenant)
    ledger.expire(10**9)
    assert ledger.balance("tenant-1", 10**9) is None
    balance = ledger.balance("tenant-2", 10**9)
    assert balance is not None
    assert balance.used_nano_usd == 3


def test_a_reservation_of_long_ago_is_still_told_from_one_that_never_was() -> None:
    ledger = Ledger()
    for _ in range(20_000):
        held = ledger.reserve([], 1, 1, 100, 1)
        assert isinstance(held, Reservation)
        ledger.void(held.id, 1)
    with pytest.raises(ValueError, match=r"reservation 1 is already settled, long ago"):
        ledger.post(1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"reservation 20000 is already voided"):
        ledger.post(20_000, 1, 1, 1)
    with pytest.raises(KeyError, match=r"reservation 20001 never existed"):
        ledger.post(20_001, 1, 1, 1)


def test_of_reservations_that_nobody_settles_the_latest_are_kept() -> None:
    ledger, kept = Ledger(), 65_536
    for _ in range(kept + 2):
        ledger.reserve([("a", Rule())], 1, 1, 1, 1)
    assert ledger.expire(2) == kept + 2
    for forgotten in (1, 2):
        with pytest.raises(ValueError, match="is already settled, long ago"):
            ledger.post(forgotten, 1, 1, 3)
    assert ledger.post(3, 1, 1, 3).late


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit_nano_usd": -1}, "limit_nano_usd: found -1, expected 0 to 9223372036854775807"),
        ({"limit_tokens": 2**63}, "limit_tokens: found 9223372036854775808, expected 0 to 9223372036854775807"),
        ({"lease_nano_usd": -1}, "lease_nano_usd: found -1, expected 0 to 9223372036854775807"),
        ({"lease_tokens": 2**63}, "lease_tokens: found 9223372036854775808, expected 0 to 9223372036854775807"),
        ({"window": (0, 2**63)}, r"window\[1\]: found 9223372036854775808, expected 1 to"),
        ({"window": (10, 10)}, r"window\[1\]: found 10, expected 11 to"),
        ({"window": (-1, 10)}, r"window\[0\]: found -1, expected 0 to"),
        ({"warn_percent": 0}, "warn_percent: found 0, expected 1 to 100"),
        ({"warn_percent": 101}, "warn_percent: found 101, expected 1 to 100"),
        ({"mode": "strict"}, 'mode: found "strict", expected "refuse", "warn" or "shadow"'),
    ],
)
def test_a_rule_out_of_range_says_what_was_expected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], -1, 0, 1, 1), ValueError, "nano_usd: found -1"),
        (([], 0, 2**63, 1, 1), ValueError, "tokens: found 9223372036854775808"),
        (([], 0, 0, 0, 1), ValueError, "ttl_ns: found 0, expected 1"),
        (([], 0, 0, 1, -5), ValueError, "now_ns: found -5"),
        (([], 0.5, 0, 1, 1), TypeError, "nano_usd: found 0.5, expected an int"),
        (([], "7", 0, 1, 1), TypeError, "nano_usd: found '7', expected an int"),
        ((["tenant"], 0, 0, 1, 1), TypeError, "accounts: found 'tenant', expected pairs"),
        (([("tenant", 5)], 0, 0, 1, 1), TypeError, "expected pairs of name"),
        (([("", Rule())], 0, 0, 1, 1), ValueError, "accounts: found a name of 0 bytes, expected 1 to 4096"),
        (([("n" * 4097, Rule())], 0, 0, 1, 1), ValueError, "accounts: found a name of 4097 bytes, expected 1 to 4096"),
        (([("a\x1fb", Rule())], 0, 0, 1, 1), ValueError, r"found the name \"a\\u{1f}b\", expected one without control characters"),
        (([(5, Rule())], 0, 0, 1, 1), TypeError, "expected pairs of name"),
        ((None, 0, 0, 1, 1), TypeError, "accounts: found None, expected pairs"),
    ],
)
def test_bad_arguments_of_reserve(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    ledger = Ledger()
    with pytest.raises(error, match=message):
        ledger.reserve(*arguments)
    assert (ledger.accounts(), ledger.pending()) == (0, 0)


def test_values_are_frozen_and_rules_compare() -> None:
    rule_a = Rule(limit_nano_usd=5)
    with pytest.raises(AttributeError):
        rule_a.limit_nano_usd = 6  # type: ignore[misc]
    assert rule_a == Rule(limit_nano_usd=5) != Rule(limit_nano_usd=6)
    assert len({rule_a, Rule(limit_nano_usd=5)}) == 1
    assert repr(rule_a) == "Rule(limit_nano_usd=5, limit_tokens=None, window=None, warn_percent=80, mode='refuse')"
    assert repr(Rule(lease_tokens=5)).endswith("mode='refuse', lease_nano_usd=None, lease_tokens=5)")
    assert Rule(lease_tokens=5) != Rule()
    assert repr(Rule(window=(7, 9))) == "Rule(limit_nano_usd=None, limit_tokens=None, window=(7, 9), warn_percent=80, mode='refuse')"
    assert (Rule(window=(7, 9)).window, Rule().window) == ((7, 9), None)
    for no_window in ("day", 5, (1,), (1, 2, 3)):
        with pytest.raises(TypeError, match=r"window: found .*, expected a pair \(start_ns, end_ns\) or None"):
            Rule(window=no_window)  # type: ignore[arg-type]
