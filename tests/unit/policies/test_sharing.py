"""The task that talks to other pods, with a meeting place in this process: who waits, for how long, and what is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sidecar._core import Denial, Ledger, Reservation, Rule
from sidecar.policies.sharing import Sharing, Untaught
from sidecar.settings.operation import Fleet
from sidecar.shares import Ask, Reply
from tests.leases.meeting import Place

HOUR_NS = 3_600_000_000_000


class Near:
    """A meeting place that answers after `delay_s`, or fails with `failure`."""

    def __init__(self, learn_ms: int = 0) -> None:
        self.place = Place("one", 600_000, learn_ms)
        self.failure: Exception | None = None
        self.delay_s = 0.0
        self.words = self.telling = self.first_sequence = 0
        self.closed = False

    async def exchange(self, asks: Sequence[Ask], *, is_telling: bool) -> Reply:
        self.words += 1
        self.telling += is_telling
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        now_ms = time.time_ns() // 1_000_000
        return self.place.exchange(b"pod", f"epoch{self.words}", list(asks), now_ms, is_telling=is_telling)

    async def teach(self, untaught: Untaught, keep_ms: int) -> None:
        self.place.teach(untaught)
        untaught.clear()

    def problem(self, error: Exception) -> str:
        return f"redis://here {error}"

    async def close(self) -> None:
        self.closed = True

    def entry(self, account: str) -> list[int]:
        """lease, used and held in nano-USD, as it is kept there."""
        entries = next(entries for (name, _), entries in self.place.accounts.items() if name == account)
        return [int(word) for word in entries[b"pod"].split()[2:5]]


def rule(limit_nano_usd: int = 1_000_000) -> Rule:
    start = time.time_ns() // HOUR_NS * HOUR_NS
    return Rule(limit_nano_usd=limit_nano_usd, window=(start, start + HOUR_NS))


def sharing(ledger: Ledger, wait_ms: int = 5_000) -> tuple[Sharing, list[str]]:
    one, told = Sharing(Fleet(wait_ms=wait_ms), ledger, time.monotonic_ns, time.time_ns), list[str]()
    one.tell = told.append
    return one, told


@asynccontextmanager
async def running(one: Sharing, place: Near) -> AsyncIterator[None]:
    await one.begin(place, 10)
    task = asyncio.create_task(one.run(place))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def reserve(one: Sharing, ledger: Ledger, accounts: tuple[tuple[str, Rule], ...], nano_usd: int) -> Reservation | Denial:
    while True:
        held = ledger.reserve(one.leased(accounts), nano_usd, 1, HOUR_NS, time.time_ns())
        if not isinstance(held, Denial) or not await one.more(accounts, (nano_usd, 1)):
            return held


async def until(what) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110  (the task's doing)
            await asyncio.sleep(0.01)


async def test_the_first_call_waits_and_those_after_it_do_not():
    ledger = Ledger()
    one, _ = sharing(ledger)
    accounts = (("a", rule()),)
    async with running(one, Near()):
        for _ in range(10):
            assert isinstance(await reserve(one, ledger, accounts, 100), Reservation)
    assert one.waits == 1


async def test_what_is_spent_is_told_by_itself_and_the_rest_given_back_at_the_end():
    ledger, place = Ledger(), Near()
    one, told = sharing(ledger)
    async with running(one, place):
        held = await reserve(one, ledger, (("a", rule()),), 1000)
        assert isinstance(held, Reservation)
        ledger.post(held.id, 700, 1, time.time_ns())
        await until(lambda: place.entry("a")[1:] == [700, 700])
        assert place.entry("a")[0] > 700
    await one.end(place)
    assert place.entry("a") == [700, 700, 700]
    assert place.closed
    assert told == [""]


async def test_nobody_waits_longer_than_settings_say_and_nobody_for_a_place_that_is_away():
    ledger, place = Ledger(), Near()
    one, told = sharing(ledger, wait_ms=100)
    async with running(one, place):
        place.delay_s = 30
        began = time.monotonic()
        assert not await _more(one)
        assert 0.09 < time.monotonic() - began < 10
    place.delay_s, place.failure = 0, ConnectionError("is gone")
    async with running(one, place):
        began = time.monotonic()
        assert not await _more(one)
        assert told[-1] == "redis://here is gone"


async def _more(one: Sharing) -> bool:
    accounts = (("b", rule()),)
    one.leased(accounts)
    return await one.more(accounts, (100, 1))


async def test_whatever_fails_is_tried_again_and_told_once():
    ledger, place = Ledger(), Near()
    one, told = sharing(ledger)
    async with running(one, place):
        place.failure = ZeroDivisionError("a defect")
        await until(lambda: one.leases.state == "away" and place.words > 5)
        place.failure = None
        await until(lambda: one.leases.state == "up")
        assert isinstance(await reserve(one, ledger, (("a", rule()),), 100), Reservation)
    assert told == ["", "redis://here a defect", ""]


async def test_a_place_that_has_forgotten_is_told_what_the_journal_has():
    ledger, place = Ledger(), Near()
    for name in ("old", "older"):
        held = ledger.reserve([(name, rule())], 500, 1, HOUR_NS, time.time_ns())
        assert isinstance(held, Reservation)
        ledger.post(held.id, 400, 1, time.time_ns())
    held = ledger.reserve([("run", Rule(limit_nano_usd=5))], 1, 1, HOUR_NS, time.time_ns())
    assert isinstance(held, Reservation)
    ledger.post(held.id, 1, 1, time.time_ns())
    one, _ = sharing(ledger)
    async with running(one, place):
        await until(lambda: len(place.place.accounts) == 2 and place.entry("old") == place.entry("older") == [400, 400, 400])
        place.place.accounts, place.place.epoch = {}, None
        await until(lambda: len(place.place.accounts) == 2 and place.entry("old") == [400, 400, 400])


async def test_a_clock_that_is_put_back_hides_nothing_that_was_spent():
    ledger, place, back_ns = Ledger(), Near(), [0]
    one = Sharing(Fleet(wait_ms=5_000), ledger, time.monotonic_ns, lambda: time.time_ns() - back_ns[0])
    accounts = (("a", rule()),)
    async with running(one, place):
        for spent in (400, 500):
            held = await reserve(one, ledger, accounts, 500)
            assert isinstance(held, Reservation)
            ledger.post(held.id, spent, 1, time.time_ns())
            back_ns[0] = 2 * HOUR_NS
            await until(lambda spent=spent: place.entry("a")[1] == (400 if spent == 400 else 900))
            one.leased(accounts)
            await asyncio.sleep(1.2)  # for a report
            one.leases.failed([])  # as after a lost connection: all is said again
            await until(lambda: one.leases.state == "up")
            back_ns[0] = 0
    assert place.entry("a")[1:] == [900, 900]


async def test_what_the_journal_has_lost_counts_and_is_told():
    ledger, place, day, lost = Ledger(), Near(), rule(1_000), list[tuple[str, tuple[int, int]]]()
    one, _ = sharing(ledger)
    one.lost = lambda account, more: lost.append((account, more))
    assert day.window is not None
    before = Ask("a", day.window[1], 1, 0, 60_000, (1_000, -1), (600, 6), (600, 6), (600, 6), (600, 6), (0, 0), (0, 0))
    place.place.exchange(b"pod", "", [before], time.time_ns() // 1_000_000)
    async with running(one, place):
        assert isinstance(await reserve(one, ledger, (("a", day),), 500), Denial)
        held = await reserve(one, ledger, (("a", day),), 400)
        assert isinstance(held, Reservation)
        ledger.post(held.id, 300, 1, time.time_ns())
        await until(lambda: place.entry("a")[1:] == [900, 900])
    assert lost == [("a", (600, 6))]


def test_what_holds_without_redis_is_each_accounts_own():
    wanted = {"a": "share", "b": "refuse"}
    one = Sharing(Fleet(pods=4), Ledger(), time.monotonic_ns, time.time_ns, wanted.get)
    leased = one.leased(tuple((name, rule(1_000)) for name in ("a", "b", "c")))
    assert [its.lease_nano_usd for _, its in leased] == [250, 0, 0]


async def test_a_process_whose_clock_was_put_back_tells_what_its_journal_has_of_a_window_that_has_not_begun():
    ledger, place, day = Ledger(), Near(), rule()
    held = ledger.reserve([("a", day)], 400, 1, HOUR_NS, time.time_ns())
    ledger.post(held.id, 400, 1, time.time_ns())
    before_ns = day.window[0] - 30_000_000_000
    async with running(Sharing(Fleet(), ledger, time.monotonic_ns, lambda: before_ns), place):
        await until(lambda: len(place.place.accounts) == 1 and place.entry("a")[1] == 400)


async def test_while_a_clock_is_behind_what_is_spent_is_told_of_the_later_window_in_which_the_ledger_counts():
    ledger, place, day = Ledger(), Near(), rule()
    held = ledger.reserve([("a", day)], 400, 1, HOUR_NS, time.time_ns())
    ledger.post(held.id, 400, 1, time.time_ns())
    before_ns = day.window[0] - 3 * HOUR_NS
    early = (("a", Rule(limit_nano_usd=1_000_000, window=(before_ns, before_ns + HOUR_NS))),)
    one = Sharing(Fleet(wait_ms=5_000), ledger, time.monotonic_ns, lambda: before_ns)
    async with running(one, place):
        held = ledger.reserve(one.leased(early), 500, 1, HOUR_NS, before_ns)
        if isinstance(held, Denial):
            assert held.reason == "lease"
            assert await one.more(early, (500, 1))
            held = ledger.reserve(one.leased(early), 500, 1, HOUR_NS, before_ns)
        assert isinstance(held, Reservation)
        ledger.post(held.id, 450, 1, before_ns)
        await until(lambda: place.entry("a")[1:] == [850, 850])
    assert [end_ns for _, end_ns in place.place.accounts] == [day.window[1]]


async def test_of_many_accounts_a_few_are_told_at_a_time():
    ledger, place, many = Ledger(), Near(learn_ms=1_000), 2_500
    day = rule()
    for number in range(many):
        held = ledger.reserve([(f"a{number}", day)], 500, 1, HOUR_NS, time.time_ns())
        assert isinstance(held, Reservation)
        ledger.post(held.id, 400, 1, time.time_ns())
    one, _ = sharing(ledger)
    await one.begin(place, 30)
    assert one.leases.state == "up"
    assert len(place.place.accounts) == many
    assert place.telling >= 10  # and the place learned on meanwhile
    assert place.words < 60
    assert isinstance(await reserve(one, ledger, (("a0", day),), 1), Denial)  # nobody runs, so nobody was asked


async def test_a_start_waits_while_a_new_place_learns_but_not_for_one_that_is_away():
    one, told = sharing(Ledger())
    began = time.monotonic()
    await one.begin(Near(learn_ms=300), 10)
    assert time.monotonic() - began > 0.25
    assert (one.leases.state, told) == ("up", [""])
    away = Near()
    away.failure = OSError("nobody is there")
    two, told = sharing(Ledger())
    await two.begin(away, 10)
    assert (two.leases.state, told) == ("away", ["redis://here nobody is there"])


async def test_where_nothing_is_left_it_is_not_asked_for_with_every_call():
    ledger, place = Ledger(), Near()
    one, _ = sharing(ledger)
    day = rule(1_000)
    assert day.window is not None
    async with running(one, place):
        others = Ask("a", day.window[1], 1, 0, 60_000, (1_000, -1), (900, 9), (900, 9), (900, 9), (900, 9), (0, 0), (0, 0))
        place.place.exchange(b"other", "", [others], time.time_ns() // 1_000_000)
        for _ in range(1_000):
            denied = await reserve(one, ledger, (("a", day),), 200)
            assert isinstance(denied, Denial)
            assert denied.reason == "lease"
        assert place.words < 30
        assert isinstance(await reserve(one, ledger, (("a", day),), 100), Reservation)  # a smaller one fits
        await until(lambda: one.leases.standing("a", time.time_ns()) == ((1_000, -1), (900, 9), (1_000, 10)))
