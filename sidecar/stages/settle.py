"""Post what was used, free the rest, report once - always."""

from __future__ import annotations

from msgspec.structs import replace

from sidecar.billing import tokens, total
from sidecar.caching import remember
from sidecar.call import NOTHING, Call
from sidecar.engine import Engine
from sidecar.errors import BudgetExceeded


def settle(engine: Engine, call: Call) -> None:
    """End the call's money and tell the meter, whatever happened before. It never awaits, so nothing can come between.

    Writes usage, estimated and nano_usd. Frees a reservation that nothing was spent on. Money comes first and takes nothing from what
    follows: a defect there is logged, and the call is counted and listed all the same.
    """
    if call.attempts:
        call.usage = total([tried.usage for tried in call.attempts])
        call.estimated = any(tried.estimated for tried in call.attempts)
        call.nano_usd = sum(tried.nano_usd for tried in call.attempts)
    if call.reservation is not None:
        try:
            _post(engine, call, call.reservation)
        except Exception as error:
            engine.meter.log.defect(call.id, error)
            _post_what_was_held(engine, call, call.reservation)
        engine.budgets.held.pop(call.reservation, None)
        engine.budgets.runs.ended(call, call.reservation)
    elif isinstance(call.error, BudgetExceeded) and call.error.account == "call" and engine.dear_calls.halted(call, engine.clock_ns()):
        engine.meter.halted(call, call.error)
    engine.meter.call(call)
    engine.outputs.saw(call)
    remember(engine, call)
    engine.health.saw(call, engine.clock_ns())


def _post(engine: Engine, call: Call, reservation: int) -> None:
    used = tokens(call.usage)
    now_ns = engine.wall_ns()
    if not used and not call.nano_usd:
        engine.ledger.void(reservation, now_ns)
        return
    engine.usage.note(call, engine.clock_ns() / 1e9 - call.arrived)
    posting = engine.ledger.post(reservation, call.nano_usd, used, now_ns, call.id)
    for account in posting.warnings:
        engine.meter.budget(*engine.budgets.reached(account, engine.ledger.balance(account, now_ns), now_ns))
    if posting.overrun_nano_usd or posting.overrun_tokens:
        engine.meter.overrun(posting, call)
    dear = engine.dear_calls.saw(call, engine.clock_ns())
    if dear:
        engine.meter.dear(dear, call)


def _post_what_was_held(engine: Engine, call: Call, reservation: int) -> None:
    """Where what was used could not be posted: never nothing for something, and nothing stays pending."""
    is_free = not call.nano_usd and not tokens(call.usage)
    nano_usd, used = (0, 0) if is_free else (call.max_nano_usd, call.max_tokens)
    try:
        engine.ledger.post(reservation, nano_usd, used, engine.wall_ns(), call.id)
    except (KeyError, ValueError):  # it had been posted before something else failed
        return
    if not is_free:
        call.nano_usd, call.usage, call.estimated = nano_usd, replace(NOTHING, input_tokens=used), True
