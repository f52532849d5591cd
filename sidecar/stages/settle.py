"""Post what was used, free the rest, report once - always."""

from __future__ import annotations

from sidecar.billing import NOTHING, tokens, total
from sidecar.caching import remember
from sidecar.call import Call
from sidecar.engine import Engine


def settle(engine: Engine, call: Call) -> None:
    """End the call's money and tell the meter, whatever happened before. It never awaits, so nothing can come between.

    Writes usage, estimated and nano_usd. Frees a reservation that nothing was spent on.
    """
    call.usage = total([tried.usage for tried in call.attempts]) if call.attempts else NOTHING
    call.estimated = any(tried.estimated for tried in call.attempts)
    call.nano_usd = sum(tried.nano_usd for tried in call.attempts)
    if call.reservation is not None:
        used = tokens(call.usage)
        now_ns = engine.wall_ns()
        if used or call.nano_usd:
            posting = engine.ledger.post(call.reservation, call.nano_usd, used, now_ns, call.id)
            if posting.warnings:
                engine.meter.warn_budgets(posting.warnings, call)
            if posting.overrun_nano_usd or posting.overrun_tokens:
                engine.meter.overrun(posting, call)
        else:
            engine.ledger.void(call.reservation, now_ns)
    remember(engine, call)
    engine.health.saw(call, engine.clock_ns())
    engine.meter.call(call)
