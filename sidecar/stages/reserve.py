"""Hold the most the call could cost, or what it mostly costs, on every account at once."""

from __future__ import annotations

from sidecar._core import Denial
from sidecar.billing import images
from sidecar.call import Call
from sidecar.engine import Engine
from sidecar.errors import BudgetExceeded, StoreFailed
from sidecar.policies.budgets import Held
from sidecar.policies.sharing import Sharing

_SLACK_NS = 60_000_000_000  # a reservation outlives its call's deadline: it must not expire while settle is on its way
_TURNS = 3  # with a lease that has been topped up another call may have been faster
_AGAIN_MS = 1_000  # after that other pods have been asked for what they do not use


async def reserve(engine: Engine, call: Call) -> None:
    """Hold the dearest candidate's price, so that concurrent calls can never overspend together.

    It waits only where pods share the budgets and what this one has leased is too little (`fleet.wait_ms`), and for the word of all pods on
    a call of a run that has a plan, which may lower its candidates' output to what is left for its agent. Writes reservation,
    max_nano_usd (nano-USD) and max_tokens. Raises BudgetExceeded with the account, its limit, what is used and when it resets; NotAllowed
    for what the plan of the call's run does not have; StoreFailed where nothing is to be spent that cannot be written down, or the other
    pods cannot be asked. Then nothing is held.
    """
    if engine.ledger.degraded:
        _go_on_or_refuse(engine, call)
    budgets, ledger, sharing = engine.budgets, engine.ledger, engine.sharing
    call.max_nano_usd, call.max_tokens = _wanted(engine, call)
    for turn in range(_TURNS):
        now_ns = engine.wall_ns()
        run = await budgets.runs.join(call, now_ns) if call.run else None
        if run is not None:
            budgets.runs.check(run, call, ledger, now_ns)
        accounts = budgets.accounts(call, now_ns)
        leased = accounts if sharing is None else sharing.leased(accounts)
        ttl_ns = int((call.deadline - call.arrived) * 1e9) + _SLACK_NS
        held = ledger.reserve(leased, call.max_nano_usd, call.max_tokens, ttl_ns, now_ns)
        if sharing is None or not isinstance(held, Denial) or held.reason != "lease" or turn == _TURNS - 1:
            break
        if not await sharing.more(accounts, (call.max_nano_usd, call.max_tokens)):
            break
    if isinstance(held, Denial):
        if run is not None:
            budgets.runs.refused(run, call)
        if sharing is not None and held.reason == "lease":
            raise _short(engine, sharing, held, now_ns)
        told = budgets.used_up(held, now_ns)
        if told is not None:
            engine.meter.budget(*told)
        raise _refusal(held, now_ns)
    call.reservation = held.id
    budgets.held[held.id] = Held(call, now_ns, tuple(name for name, _ in accounts))
    for account in held.warnings:
        engine.meter.budget(*budgets.reached(account, ledger.balance(account, now_ns), now_ns))
    if run is not None:
        try:
            await budgets.runs.enter(run, call, held.id, now_ns)
        except BudgetExceeded as refusal:
            told = budgets.used_up_by_all(refusal, now_ns) if refusal.unit == "nano_usd" else None
            if told is not None:
                engine.meter.budget(*told)
            raise


def _wanted(engine: Engine, call: Call) -> tuple[int, int]:
    """Nano-USD and tokens to hold: of each unit what its dearest candidate costs at most or, with `limits.reserve_quantile`, mostly."""
    nano_usd = tokens = 0
    for candidate in call.candidates:
        output, most = engine.outputs.held(call, candidate), candidate.max_nano_usd
        if output < candidate.max_output_tokens:
            prices = candidate.model.prices
            most = prices.most(candidate.input_tokens, output, images(call) if prices.image else 0, writes=candidate.writes)
        nano_usd, tokens = max(nano_usd, most), max(tokens, candidate.input_tokens + output)
    return nano_usd, tokens


def _short(engine: Engine, sharing: Sharing, denial: Denial, now_ns: int) -> BudgetExceeded | StoreFailed:
    """What this pod may use of a shared budget is too little, and no more was to be had."""
    known = sharing.leases.standing(denial.account, now_ns)
    if known is None or sharing.leases.state != "up":
        why = "is away" if sharing.leases.state == "away" else "has lost its memory and is being told again"
        if sharing.leases.state == "up":
            why = "did not answer in time (fleet.wait_ms)"
        return StoreFailed(
            f"account {denial.account} is shared by pods, what this one may use of it ({_amount(denial, denial.limit)}) is used up, and "
            f"the Redis that pods share {why}; try again after a while"
        )
    unit = ("nano_usd", "tokens").index(denial.unit)
    limit, used, taken = (both[unit] for both in known)
    left = limit - used >= denial.asked  # others hold it for their calls, which mostly cost less
    wait_ms = _AGAIN_MS if left or denial.resets_at_ns is None else max(0, denial.resets_at_ns - now_ns) // 1_000_000
    refusal = BudgetExceeded(
        f"account {denial.account} has a limit of {_amount(denial, limit)} that pods share: {_amount(denial, used)} are used, "
        f"{_amount(denial, taken - used)} held by calls in flight or set aside for them, and this call may need "
        f"{_amount(denial, denial.asked)}; lower max_output_tokens, or {'try again after a while' if left else 'wait for the reset'}",
        account=denial.account,
        unit=denial.unit,
        limit=limit,
        used=taken,
        asked=denial.asked,
        resets_at_ns=denial.resets_at_ns,
        retry_after_ms=wait_ms,
    )
    told = None if left else engine.budgets.used_up_by_all(refusal, now_ns)
    if told is not None:
        engine.meter.budget(*told)
    return refusal


def _go_on_or_refuse(engine: Engine, call: Call) -> None:
    if engine.settings.journal.on_full == "refuse":
        raise StoreFailed(
            "what calls cost cannot be written down: the disk of server.data_dir is full or fails, and journal.on_full refuses calls then"
        )
    call.notices.append("the disk of server.data_dir is full or fails: what this call costs is kept in memory until there is room")


def _amount(denial: Denial, value: int) -> str:
    return f"{value / 1e9:.6f} USD" if denial.unit == "nano_usd" else f"{value} tokens"


def _refusal(denial: Denial, now_ns: int) -> BudgetExceeded:
    wait_ms = None if denial.resets_at_ns is None else max(0, denial.resets_at_ns - now_ns) // 1_000_000
    why = (
        f"has a limit of {_amount(denial, denial.limit)}: {_amount(denial, denial.used)} are used, "
        f"{_amount(denial, denial.pending)} held by calls in flight, and this call may need {_amount(denial, denial.asked)}; lower "
        "max_output_tokens, or wait for the reset"
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
