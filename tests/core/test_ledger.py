"""The ledger against its model, against the text tables, from many threads, and with bad arguments."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidecar._core import Balance, Denial, Ledger, Posting, Reservation, Rule
from tests.core.model_ledger import LARGEST, ModelLedger, ModelRule

TABLES = Path(__file__).parent / "tables"

# --- against the model ----------------------------------------------------------------------------------------------------------

NAMES = ("company", "tenant", "user")
RULES = (
    ModelRule(limit_nano_usd=100, window_ns=50),
    ModelRule(limit_nano_usd=100, limit_tokens=30, window_ns=50, warn_percent=50),
    ModelRule(limit_nano_usd=300, window_ns=200, window_offset_ns=70),
    ModelRule(limit_tokens=40, mode="warn", window_ns=50),
    ModelRule(limit_nano_usd=20, mode="shadow"),
    ModelRule(),
)
AMOUNTS = st.one_of(st.integers(0, 60), st.sampled_from([LARGEST, LARGEST - 50]))


def real_rule(model: ModelRule) -> Rule:
    return Rule(**vars(model))


def plain(answer: Reservation | Denial | Posting | Balance | int | None) -> object:
    """An answer of the ledger in the model's form."""
    match answer:
        case Reservation():
            return ("reserved", answer.id, answer.warnings)
        case Denial() as d:
            return ("denied", d.account, d.unit, d.limit, d.used, d.pending, d.asked, d.resets_at_ns)
        case Posting() as p:
            return ("posted", p.overrun_nano_usd, p.overrun_tokens, p.late, p.warnings)
        case Balance() as b:
            sums = (b.used_nano_usd, b.used_tokens, b.pending_nano_usd, b.pending_tokens)
            return (*sums, b.limit_nano_usd, b.limit_tokens, b.resets_at_ns, b.overruns, b.refusals)
        case _:
            return answer


class LedgerMachine(RuleBasedStateMachine):
    """The same operations on both; every answer, every error and every balance must be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.model, self.now_ns = Ledger(), ModelLedger(), 1000

    def both(self, operation: str, *arguments: Any, model_arguments: tuple[Any, ...] | None = None) -> None:
        try:
            expected = getattr(self.model, operation)(*(model_arguments or arguments))
        except (KeyError, ValueError) as error:
            with pytest.raises(type(error), match=str(error.args[0])):
                getattr(self.ledger, operation)(*arguments)
        else:
            assert plain(getattr(self.ledger, operation)(*arguments)) == expected

    @rule(by=st.one_of(st.integers(0, 20), st.integers(-60, 200)))
    def let_time_pass(self, by: int) -> None:
        self.now_ns = max(0, self.now_ns + by)

    @rule(
        accounts=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(RULES)), max_size=4),
        nano_usd=AMOUNTS,
        tokens=AMOUNTS,
        ttl_ns=st.integers(1, 100),
    )
    def reserve(self, accounts: list[tuple[str, ModelRule]], nano_usd: int, tokens: int, ttl_ns: int) -> None:
        real = [(name, real_rule(model)) for name, model in accounts]
        rest = (nano_usd, tokens, ttl_ns, self.now_ns)
        self.both("reserve", real, *rest, model_arguments=(accounts, *rest))

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

    @invariant()
    def every_balance_is_the_same(self) -> None:
        assert self.ledger.pending() == self.model.count_pending()
        assert self.ledger.accounts() == len(self.model.accounts)
        for name in NAMES:
            for moment_ns in (self.now_ns, max(0, self.now_ns - 60), self.now_ns + 60):
                assert plain(self.ledger.balance(name, moment_ns)) == self.model.balance(name, moment_ns)


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
            amounts = f"limit={d.limit} used={d.used} pending={d.pending} asked={d.asked}"
            return f"denied {d.account} {d.unit} {amounts} resets={or_never(d.resets_at_ns)}"
        case Posting() as p:
            overrun = f" overrun={p.overrun_nano_usd},{p.overrun_tokens}" if p.overrun_nano_usd or p.overrun_tokens else ""
            return "posted" + overrun + " late" * p.late + warns(p.warnings)
        case Balance() as b:
            sums = f"used={b.used_nano_usd},{b.used_tokens} pending={b.pending_nano_usd},{b.pending_tokens}"
            return f"{sums} resets={or_never(b.resets_at_ns)} overruns={b.overruns} refusals={b.refusals}"
        case _:
            raise AssertionError(answer)


def warns(accounts: list[str]) -> str:
    return " warns " + " ".join(accounts) if accounts else ""


def carry_out(ledger: Ledger, rules: dict[str, Rule], line: str) -> str:
    word, *pairs = line.split(" ")
    if word == "rule":
        values = dict(pair.split("=") for pair in pairs[1:])
        rules[pairs[0]] = Rule(**{key: value if key == "mode" else int(value) for key, value in values.items()})  # type: ignore[arg-type]
        return ""
    given = dict(pair.split("=") for pair in pairs)
    number = {key: int(value) for key, value in given.items() if key not in ("on", "account")}
    match word:
        case "reserve":
            on = [pair.split(":") for pair in given["on"].split(",") if pair]
            accounts = [(name, rules[named]) for name, named in on]
            return said(ledger.reserve(accounts, number["nano_usd"], number["tokens"], number["ttl"], number["at"]))
        case "post":
            return said(ledger.post(number["id"], number["nano_usd"], number["tokens"], number["at"]))
        case "void":
            ledger.void(number["id"], number["at"])
            return "voided"
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
    ledger, rules = Ledger(), dict[str, Rule]()
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
    ledger, day = Ledger(), Rule(limit_nano_usd=100, window_ns=1000)
    for tenant in range(5000):
        held = ledger.reserve([(f"tenant-{tenant}", day)], 10, 1, 100, 1)
        assert isinstance(held, Reservation)
        ledger.post(held.id, 10, 1, 2)
    assert ledger.accounts() == 5000
    for _ in range(5000 // 256 + 1):
        ledger.expire(1000)
    assert ledger.accounts() == 0


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
        ({"window_ns": 2**64}, "window_ns: found 18446744073709551616, expected 0 to"),
        ({"window_ns": 10, "window_offset_ns": 10}, "window_offset_ns: found 10, expected 0 to 9"),
        ({"window_offset_ns": 1}, "window_offset_ns: found 1, expected 0 to 0"),
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
    expected = "Rule(limit_nano_usd=5, limit_tokens=None, window_ns=0, window_offset_ns=0, warn_percent=80, mode='refuse')"
    assert repr(rule_a) == expected
