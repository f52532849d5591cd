"""Money ends with its call: nothing stays pending, whatever goes wrong while settling."""

from __future__ import annotations

import time

import pytest

from sidecar.call import Chunk, Usage
from sidecar.errors import BudgetExceeded, InternalError, ProviderUnavailable
from tests.unit.fakes import DONE, Bench

DEFECT = RuntimeError("a defect")


class Failing:
    """The real ledger; `post` and `void` fail so many times."""

    def __init__(self, ledger, times, *, after=False):
        self._ledger, self._times, self._after = ledger, times, after

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def post(self, *args):
        if self._after:
            self._ledger.post(*args)
        self._fail()
        return self._ledger.post(*args)

    def void(self, *args):
        self._fail()
        return self._ledger.void(*args)

    def _fail(self):
        self._times -= 1
        if self._times >= 0:
            raise ValueError("the ledger does not take it")


def with_ledger(bench: Bench, **options) -> Bench:
    ledger = Failing(bench.engine.ledger, 1, **options)
    bench.engine = bench.engine.__class__(
        **{name: getattr(bench.engine, name) for name in bench.engine.__struct_fields__} | {"ledger": ledger}
    )
    return bench


async def test_what_cannot_be_posted_is_posted_as_it_was_held_and_the_answer_stands():
    bench = with_ledger(Bench())
    call = await bench.run()
    assert bench.text() == "hi"
    assert (call.nano_usd, call.estimated, call.usage.input_tokens) == (call.max_nano_usd, True, call.max_tokens)
    bench.assert_settled(used=call.max_tokens)
    assert bench.engine.budgets.held == {}


async def test_what_cannot_be_voided_is_posted_as_nothing():
    bench = with_ledger(Bench(first=[(ProviderUnavailable("down"),)], second=[(ProviderUnavailable("down"),)]))
    with pytest.raises(ProviderUnavailable):
        await bench.run()
    bench.assert_settled(used=0)


async def test_a_defect_after_posting_posts_nothing_twice(monkeypatch):
    bench = Bench()

    def broken(*_):
        raise DEFECT

    monkeypatch.setattr(bench.engine.dear_calls, "saw", broken)
    call = await bench.run()
    bench.assert_settled(used=15)
    assert (call.nano_usd, call.estimated) == (sum(tried.nano_usd for tried in call.attempts), False)


async def test_a_defect_in_a_provider_leaves_nothing_pending_and_the_call_is_counted():
    bench, ended = Bench(first=[(DEFECT,)], second=[(DEFECT,)]), []
    bench.engine.meter.on_call = lambda call, _: ended.append(call)
    with pytest.raises(InternalError):
        await bench.run()
    bench.assert_settled()
    assert [call.error.reason for call in ended] == ["INTERNAL"]


async def test_a_reservation_is_listed_while_its_call_is_under_way():
    bench, seen = Bench(), []

    async def looking(ask, emit):
        seen.extend((held.call.id, held.accounts[0]) for held in bench.engine.budgets.held.values())
        await emit((Chunk(text="hi"), DONE))

    bench.openai.generate = looking
    await bench.run()
    assert seen == [("c1", "tenant:default:day")]
    assert bench.engine.budgets.held == {}


async def test_thresholds_and_dear_calls_are_told_to_whoever_listens_for_events():
    bench = Bench(
        first=[(Chunk(text="hi"), Chunk(finish="stop", usage=Usage(10, 0, 0, 0, 4_000, 0), last=True))],
        SIDECAR_LIMITS__TENANT_DAY_TOKENS="5000",
        SIDECAR_LIMITS__CALL_NOTIFY_USD="0.01",
        SIDECAR_LIMITS__CALL_LOG_USD="0.001",
    )
    told = []
    bench.engine.meter.on_event.append(lambda event: told.append((event.kind, event.facts)))
    call = await bench.run()
    with pytest.raises(BudgetExceeded):
        await bench.run()
    with pytest.raises(BudgetExceeded):
        await bench.run()
    assert [(kind, facts.get("account"), facts.get("threshold"), facts.get("action")) for kind, facts in told] == [
        ("budget", "tenant:default:day", "80", None),
        ("dear_call", None, None, "notify"),
        ("budget", "tenant:default:day", "100", None),
    ]
    today = time.strftime("%Y-%m-%dT00:00:00+00:00", time.gmtime())
    assert {facts["window"] for kind, facts in told if kind == "budget"} == {today}
    assert (told[1][1]["nano_usd"], told[1][1]["call"]) == (str(call.nano_usd), "c1")
