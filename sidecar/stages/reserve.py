"""Hold the most the call could cost, on every account at once."""

from __future__ import annotations

from sidecar._core import Denial
from sidecar.call import Call
from sidecar.engine import Engine
from sidecar.errors import BudgetExceeded, StoreFailed
from sidecar.policies.budgets import Held

_SLACK_NS = 60_000_000_000  # a reservation outlives its call's deadline: it must not expire while settle is on its way


def reserve(engine: Engine, call: Call) -> None:
    """Hold the dearest candidate's price, so that concurrent calls can never overspend together.

    Writes reservation, max_nano_usd (nano-USD) and max_tokens. Raises BudgetExceeded with the account, its limit, what is used and
    when it resets; NotAllowed for what the plan of the call's run does not have; StoreFailed where nothing is to be spent that cannot be
    written down. Then nothing is held.
    """
    if engine.ledger.degraded:
        _go_on_or_refuse(engine, call)
    budgets, ledger = engine.budgets, engine.ledger
    call.max_nano_usd = max(c.max_nano_usd for c in call.candidates)
    call.max_tokens = max(c.input_tokens + c.max_output_tokens for c in call.candidates)
    now_ns = engine.wall_ns()
    run = budgets.runs.of(call, now_ns) if call.run else None
    if run is not None:
        budgets.runs.check(run, call, ledger, now_ns)
    accounts = budgets.accounts(call, now_ns)
    ttl_ns = int((call.deadline - call.arrived) * 1e9) + _SLACK_NS
    held = ledger.reserve(accounts, call.max_nano_usd, call.max_tokens, ttl_ns, now_ns)
    if isinstance(held, Denial):
        if run is not None:
            budgets.runs.refused(run, call)
        told = budgets.used_up(held, now_ns)
        if told is not None:
            engine.meter.budget(*told)
        raise _refusal(held, now_ns)
    call.reservation = held.id
    budgets.held[held.id] = Held(call, now_ns, tuple(name for name, _ in accounts))
    if run is not None:
        budgets.runs.let_in(run, call, held.id, now_ns)
    for account in held.warnings:
        engine.meter.budget(*budgets.reached(account, ledger.balance(account, now_ns), now_ns))


def _go_on_or_refuse(engine: Engine, call: Call) -> None:
    if engine.settings.journal.on_full == "refuse":
        raise StoreFailed(
            "what calls cost cannot be written down: the disk of server.data_dir is full or fails, and journal.on_full refuses calls then"
        )
    call.notices.append("the disk of server.data_dir is full or fails: what this call costs is kept in memory until there is room")


def _refusal(denial: Denial, now_ns: int) -> BudgetExceeded:
    def amount(value: int) -> str:
        return f"{value / 1e9:.6f} USD" if denial.unit == "nano_usd" else f"{value} tokens"

    wait_ms = None if denial.resets_at_ns is None else max(0, denial.resets_at_ns - now_ns) // 1_000_000
    why = (
        f"has a limit of {amount(denial.limit)}: {amount(denial.used)} are used, {amount(denial.pending)} held by calls in flight, and "
        f"this call may need {amount(denial.asked)}; lower max_output_tokens, or wait for the reset"
    )
    if denial.reason != "limit":
        why, wait_ms = f"is {denial.reason}: nothing may be spent on it", None
    return BudgetExceeded(
        f"account {denial.account} {why}",
        account=denial.account,
        unit=denial.unit,
        limit=denial.limit,
        used=denial.used + denial.pending,
        asked=denial.asked,
        resets_at_ns=denial.resets_at_ns,
        retry_after_ms=wait_ms,
    )
