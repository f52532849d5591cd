"""Rules of money broken on purpose are noticed: a hold that stays, a post too many, a row or an entry lost, a wrong day."""

from __future__ import annotations

import shutil
from datetime import UTC
from importlib import import_module
from random import Random

import pytest

from sidecar.errors import Cancelled, StoreFailed
from sidecar.observe.alerting import Lane
from sidecar.policies import run_rules
from sidecar.policies.budgets import Budgets
from sidecar.policies.dear_calls import DearCalls
from sidecar.policies.leases import Leases
from sidecar.policies.reservations import Outputs
from sidecar.policies.runs import Run, Runs
from sidecar.policies.windows import Windows
from sidecar.store.told import Told
from sidecar.store.usage import UsageLog
from tests.sim import process
from tests.sim.deployment import dear
from tests.sim.fleet import play_fleet
from tests.sim.world import World

choose, reserve, settle = (import_module(f"sidecar.stages.{name}") for name in ("choose", "reserve", "settle"))

_WITHIN = 60  # seeds: so soon each broken rule is noticed


def a_failed_call_keeps_its_hold(patch):
    post = settle._post
    patch.setattr(settle, "_post", lambda engine, call, reservation: None if call.error else post(engine, call, reservation))


def a_call_is_posted_twice(patch):
    def twice(engine, call, reservation):
        for _ in range(2):
            engine.ledger.post(reservation, call.nano_usd, 1, engine.wall_ns(), call.id)

    patch.setattr(settle, "_post", twice)


def an_overrun_is_hidden(patch):
    post = settle._post

    def at_most(engine, call, reservation):
        call.nano_usd, spent = min(call.nano_usd, call.max_nano_usd), call.nano_usd
        post(engine, call, reservation)
        call.nano_usd = spent

    patch.setattr(settle, "_post", at_most)


def a_cancelled_calls_row_is_lost(patch):
    ended = UsageLog.ended
    patch.setattr(UsageLog, "ended", lambda log, call, s: None if isinstance(call.error, Cancelled) else ended(log, call, s))


def rows_are_written_again_after_a_failure(patch):
    write = UsageLog._write

    def forgetful(log):
        before = list(log._rows)
        write(log)
        for row in before:
            row.id += "-again"
        log._rows += before

    patch.setattr(UsageLog, "_write", forgetful)


def the_journal_loses_its_last_entry(patch):
    class Forgetful:
        @staticmethod
        def copytree(old, new):
            shutil.copytree(old, new, ignore=shutil.ignore_patterns("handover"))
            segment = max(new.glob("segment-*"))
            with segment.open("r+b") as file:
                file.truncate(max(16, segment.stat().st_size - 1))

    patch.setattr(process, "shutil", Forgetful)


def days_are_those_of_utc(patch):
    init = Windows.__init__
    patch.setattr(Windows, "__init__", lambda windows, kind, zone: init(windows, kind, UTC))


def a_window_never_ends(patch):
    window = Windows._window
    patch.setattr(Windows, "at", lambda windows, now_ns: windows._now or setattr(windows, "_now", window(windows, now_ns)) or windows._now)


def an_account_is_left_out(patch):
    accounts = Budgets.accounts
    patch.setattr(Budgets, "accounts", lambda budgets, call, now_ns: accounts(budgets, call, now_ns)[:3])


def what_operators_set_is_not_in_force(patch):
    patch.setattr(Budgets, "_said", lambda budgets, account, text: None)


def what_operators_set_is_forgotten(patch):
    patch.setattr(Budgets, "restore", lambda budgets, kept, keep, now_ms: setattr(budgets.words, "keep", keep))


def the_reserve_of_a_run_is_ignored(patch):
    rules = Run.rules

    def whole(run):
        found = rules(run)
        return found | {run.first_account: found[run.account]}

    patch.setattr(Run, "rules", whole)


def optional_agents_take_what_others_need(patch):
    patch.setattr(run_rules, "_kept_for_others", lambda run, share, call, standing: None)


def steps_are_not_counted(patch):
    let_in = Runs.let_in

    def uncounted(runs, run, call, reservation, now_ns):
        let_in(runs, run, call, reservation, now_ns)
        run.steps = 0

    patch.setattr(Runs, "let_in", uncounted)


def a_lease_counts_twice(patch):
    allowed = Leases._allowed
    patch.setattr(Leases, "_allowed", lambda leases, entry, unit, limit: 2 * allowed(leases, entry, unit, limit))


def redis_is_not_told_what_the_journal_has(patch):
    patch.setattr(Leases, "learn", lambda leases, accounts: None)


def each_refusal_is_told(patch):
    used_up = Budgets._used_up

    def again(budgets, *what):
        budgets._told.clear()
        return used_up(budgets, *what)

    patch.setattr(Budgets, "_used_up", again)


def nobody_is_throttled(patch):
    patch.setattr(DearCalls, "is_throttled", lambda dear, call, now_ns: False)


def throttling_does_not_end(patch):
    patch.setattr(DearCalls, "is_throttled", lambda dear, call, now_ns: (call.tenant, call.service, call.node_name) in dear._throttled)


def the_dear_are_asked_first(patch):
    cheapest_first = choose._cheapest_first
    patch.setattr(choose, "_cheapest_first", lambda call, candidates: cheapest_first(call, candidates)[::-1])


def operators_get_no_rest_from_dear_calls(patch):
    saw = DearCalls.saw

    def again(dear, call, now_ns):
        dear._notified.clear()
        return saw(dear, call, now_ns)

    patch.setattr(DearCalls, "saw", again)


def what_is_not_logged_is_not_told(patch):
    saw = DearCalls.saw
    patch.setattr(DearCalls, "saw", lambda dear, call, now: "" if call.nano_usd <= dear._limits.call_log_nano_usd else saw(dear, call, now))


def answers_that_broke_off_have_no_length(patch):
    saw = Outputs.saw
    patch.setattr(Outputs, "saw", lambda outputs, call: saw(outputs, call) if call.error is None else None)


def a_full_journal_refuses_nobody(patch):
    patch.setattr(reserve, "_go_on_or_refuse", lambda engine, call: None)


def a_full_journal_refuses_all(patch):
    go_on_or_refuse = reserve._go_on_or_refuse

    def refuse(engine, call):
        go_on_or_refuse(engine, call)
        raise StoreFailed("the disk is full (journal.on_full)")

    patch.setattr(reserve, "_go_on_or_refuse", refuse)


def nobody_asks_who_sends_an_alert(patch):
    async def mine(told, receiver, ids):
        return ["mine"] * len(ids)

    patch.setattr(Told, "claim", mine)


def alerts_of_the_life_before_are_not_sent(patch):
    async def begin(lane):
        return None

    patch.setattr(Lane, "_begin", begin)


def an_alert_is_tried_once(patch):
    async def failed(lane, alerts, error):
        await lane._done(alerts, "lost")

    patch.setattr(Lane, "_failed", failed)


def with_all(seed):
    return play_fleet(seed, all_of_it=True)


def alone(seed):
    return World(seed).play()


def alone_and_dear(seed):
    return World(seed, dear(Random(seed))).play()


def alone_by_quantile(seed):
    return World(seed, {"SIDECAR_LIMITS__RESERVE_QUANTILE": "0.8"}).play()


BROKEN = {
    a_failed_call_keeps_its_hold: (alone, "reservations hold something"),
    a_call_is_posted_twice: (alone, "is settled a second time"),
    an_overrun_is_hidden: (alone, "and it used"),
    a_cancelled_calls_row_is_lost: (play_fleet, "it has no row in the usage log"),
    rows_are_written_again_after_a_failure: (play_fleet, "rows of nobody"),
    the_journal_loses_its_last_entry: (play_fleet, "its journal ends with entry"),
    days_are_those_of_utc: (alone, "does not begin and end with a day"),
    a_window_never_ends: (alone, "expected one that holds now_ns"),
    an_account_is_left_out: (alone, "are missing"),
    what_operators_set_is_not_in_force: (alone, "it should be"),
    what_operators_set_is_forgotten: (play_fleet, "it should be"),
    the_reserve_of_a_run_is_ignored: (alone, "of the run it is held on"),
    optional_agents_take_what_others_need: (alone, "others' who matter more"),
    steps_are_not_counted: (alone, "which may make"),
    a_lease_counts_twice: (play_fleet, "all processes together"),
    each_refusal_is_told: (alone, "operators are told again of"),
    redis_is_not_told_what_the_journal_has: (play_fleet, "and Redis was told"),
    a_full_journal_refuses_nobody: (with_all, "cannot be written down"),
    a_full_journal_refuses_all: (with_all, "it is refused for a full journal"),
    nobody_asks_who_sends_an_alert: (with_all, "was heard of"),
    alerts_of_the_life_before_are_not_sent: (with_all, "nobody heard of it"),
    an_alert_is_tried_once: (with_all, "nobody heard of it"),
    nobody_is_throttled: (alone_and_dear, "and it is told otherwise"),
    throttling_does_not_end: (alone_and_dear, "and it is told otherwise"),
    the_dear_are_asked_first: (alone_and_dear, "which cost"),
    operators_get_no_rest_from_dear_calls: (alone_and_dear, "operators should hear None"),
    what_is_not_logged_is_not_told: (alone_and_dear, "operators should hear"),
    answers_that_broke_off_have_no_length: (alone_by_quantile, "with the quantile"),
}


@pytest.mark.parametrize("break_rule", BROKEN, ids=lambda found: found.__name__)
def test_a_broken_rule_of_money_is_noticed(break_rule, monkeypatch):
    break_rule(monkeypatch)
    play, words = BROKEN[break_rule]
    seen = set()
    for seed in range(_WITHIN):
        breaks = play(seed).breaks
        if any(words in sentence for sentence in breaks):
            return
        seen.update(breaks)
    pytest.fail(f"{_WITHIN} seeds did not notice it; they noticed {sorted(seen)[:3]}")
