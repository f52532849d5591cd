"""One lane: what is told once, what again, what waits, and what has no room. Time is the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

import pytest

from sidecar.errors import StoreFailed
from sidecar.observe.alerting import Alerting, Lane
from sidecar.observe.alerts import Alert
from sidecar.observe.receivers import NotSent
from sidecar.store.told import Told

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class FakeReceiver:
    """Takes messages, or does what `answers` say first."""

    name = "chat"

    def __init__(self, most=3):
        self.most = most
        self.told: list[list[str]] = []
        self.answers: list[Exception | str] = []
        self.tried = 0

    async def send(self, alerts):
        self.tried += 1
        answer = self.answers.pop(0) if self.answers else ""
        if isinstance(answer, Exception):
            raise answer
        self.told.append([alert.message for alert in alerts])
        return answer

    async def close(self):
        pass


class FakeMemory(Told):
    """Without a file; `verdicts` are what other pods say of an id."""

    def __init__(self):
        super().__init__(None, "", "")
        self.verdicts = {}
        self.shared: dict[str, int] = {}
        self.problem: StoreFailed | None = None

    async def keep(self, receiver, entries, now_ms):
        if self.problem is not None:
            raise self.problem

    async def claim(self, receiver, ids):
        return [self.verdicts.get(one, "mine") for one in ids]

    async def tell_others(self, receiver, ids, lefts_ms):
        self.shared |= dict(zip(ids, lefts_ms, strict=True))


class Bench:
    """A lane whose clock moves when `at` says so."""

    def __init__(self, memory=None, most=3, least="info"):
        self.now_ms = START_MS
        self.receiver = FakeReceiver(most)
        self.memory = FakeMemory() if memory is None else memory
        self.counted: Counter[str] = Counter()
        self.problems: list[str] = []
        self.lane = Lane(
            self.receiver,
            "chat-1",
            least,
            self.memory,
            clock_ns=lambda: self.now_ms * 1_000_000,
            wall_ns=lambda: self.now_ms * 1_000_000,
            random=lambda: 1.0,
            count=lambda name, outcome, many: self.counted.update({outcome: many}),
            tell=lambda name, problem: self.problems.append(problem),
        )
        self.task = asyncio.ensure_future(self.lane.run())

    async def at(self, later_ms=0):
        """So much later, when the lane has done what is to be done then."""
        self.now_ms += later_ms
        self.lane._something.set()
        for _ in range(40):
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return [message for messages in self.receiver.told for message in messages]

    def add(self, about="a", message="", **more):
        defaults = {"severity": "warning", "quiet_ms": HOUR_MS, "at_ms": self.now_ms}
        self.lane.add(Alert("health", about=about, message=message or about, facts={}, **(defaults | more)))

    def over(self, about="a"):
        self.add(about, f"{about} over", severity="info", quiet_ms=1_000, is_over=True)


@pytest.fixture
async def bench():
    made = []

    def make(*args, **more):
        made.append(Bench(*args, **more))
        return made[-1]

    yield make
    for one in made:
        one.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one.task


async def test_the_same_is_told_once_until_its_quiet_time_is_over(bench):
    b = bench()
    b.add()
    b.add()
    assert await b.at() == ["a"]
    b.add()
    assert await b.at(HOUR_MS - 1) == ["a"]
    b.add()
    assert await b.at() == ["a"]
    b.now_ms += 1
    b.add()
    assert await b.at() == ["a", "a"]


async def test_a_trouble_that_comes_again_too_soon_is_told_later_if_it_has_not_ended_by_then(bench):
    b = bench()
    b.add(lasts=True)
    await b.at()
    b.over()
    b.add(lasts=True)  # five minutes later, say
    assert await b.at(300_000) == ["a", "a over"]
    assert await b.at(HOUR_MS) == ["a", "a over", "a"]
    b.over()
    await b.at()
    b.add(lasts=True)
    await b.at(1_000)
    b.over()
    assert await b.at(5 * HOUR_MS) == ["a", "a over", "a", "a over"]  # it ended before it was time


async def test_an_end_is_told_by_whoever_told_the_beginning(bench):
    b = bench()
    b.over()
    assert await b.at() == []
    told_by_another = bench()
    b.add(lasts=True)
    one = Alert("health", "warning", "a", "a", {}, START_MS, HOUR_MS)
    told_by_another.memory.verdicts = {one.id: "told"}
    told_by_another.add(lasts=True)
    for each in (b, told_by_another):
        await each.at()
        each.over()
    assert await b.at() == ["a", "a over"]
    assert await told_by_another.at() == []
    assert told_by_another.counted == {"told_elsewhere": 1}


async def test_a_receiver_hears_what_is_severe_enough(bench):
    b = bench(least="critical")
    b.add("w")
    b.add("c", severity="critical", lasts=True)
    await b.at()
    b.over("c")
    assert await b.at() == ["c"]


async def test_what_waits_goes_together_and_has_an_end(bench):
    b = bench(most=100)
    b.receiver.answers = [NotSent("answers with HTTP 503")]
    b.add("0")
    await b.at()
    for i in range(1, 1_500):
        b.add(str(i))
    assert b.lane.waiting == 1_000
    assert b.counted["lost"] == 500
    await b.at(2_000)
    async with asyncio.timeout(60):
        while b.lane.waiting:
            await b.at()
    assert b.receiver.told == [[str(i) for i in range(begin, begin + 100)] for begin in range(0, 1_000, 100)]
    assert b.counted["sent"] == 1_000


async def test_pauses_grow_and_a_receiver_may_ask_for_a_longer_one(bench):
    b = bench()
    b.receiver.answers = [NotSent("is away")] * 3 + [NotSent("is busy", again_s=100)]
    b.add()
    await b.at()
    tries = [b.receiver.tried]
    for later_ms in (999, 1, 1_999, 1, 3_999, 1, 99_999):
        await b.at(later_ms)
        tries.append(b.receiver.tried)
    assert tries == [1, 1, 2, 2, 3, 3, 4, 4]
    assert await b.at(1) == ["a"]
    assert b.problems == [
        "the receiver is away; they wait and are tried again",
        "the receiver is busy; they wait and are tried again",
        "",
    ]
    assert b.counted == {"failed": 4, "sent": 1}


async def test_one_that_is_never_taken_does_not_keep_the_others(bench):
    b = bench()
    b.receiver.answers = [NotSent("is away"), NotSent("refuses it", is_final=True), "", NotSent("refuses it", is_final=True), ""]
    for about in ("good", "bad", "fine"):
        b.add(about)
        await b.at()
    for _ in range(5):
        await b.at(400_000)
    assert b.receiver.told == [["good"], ["fine"]]
    assert b.counted == {"failed": 3, "lost": 1, "sent": 2}


async def test_what_another_pod_is_sending_is_looked_at_again_and_sent_if_it_never_arrived(bench):
    b = bench()
    known_as = Alert("health", "warning", "a", "a", {}, 0, 0).id
    b.memory.verdicts = {known_as: "elsewhere"}
    b.add()
    await b.at()
    assert await b.at(10_000) == []
    b.memory.verdicts = {}
    assert await b.at(10_000) == ["a"]
    assert b.memory.shared == {known_as: HOUR_MS - 20_000}  # from when it happened


async def test_what_could_not_be_sent_for_a_day_is_history(bench):
    b = bench()
    b.receiver.answers = [NotSent("is away", again_s=90_000)]
    b.add("old")
    await b.at()
    b.now_ms += 89_000_000
    b.add("new")
    assert await b.at(2_000_000) == ["new"]
    assert b.counted["lost"] == 1


async def test_a_file_that_cannot_be_written_costs_no_alert(bench):
    b = bench()
    b.memory.problem = StoreFailed("cannot write alerts.db: full")
    b.add()
    assert await b.at() == ["a"]
    assert "cannot write alerts.db: full" in b.problems


# --- over a restart -----------------------------------------------------------------------------------------------------------------


async def test_what_was_told_and_what_was_not_outlive_the_process(bench, tmp_path: Path):
    def memory():
        kept = Told(None, "sidecar", "pod")
        kept.open(tmp_path)
        return kept

    first = bench(memory())
    first.add("told")
    async with asyncio.timeout(60):
        while await first.at() != ["told"]:
            pass
    first.receiver.answers = [NotSent("is away")]
    first.add("unsent")
    async with asyncio.timeout(60):
        while first.receiver.tried < 2:
            await first.at()
    first.task.cancel()
    await asyncio.wait([first.task])
    assert await Alerting(None, [first.lane], first.memory).end() == {"chat": 1}

    second = bench(memory())
    async with asyncio.timeout(60):
        while await second.at() != ["unsent"]:
            pass
    second.add("told")
    second.add("unsent")
    assert await second.at() == ["unsent"]
    await second.memory.close()


async def test_what_another_version_kept_is_passed_over(bench, tmp_path: Path):
    kept = Told(None, "sidecar", "pod")
    kept.open(tmp_path)
    await kept.keep("chat-1", [("x", START_MS + HOUR_MS, '{"a form": "of its own"}')], START_MS)
    b = bench(kept)
    b.add()
    async with asyncio.timeout(60):
        while await b.at() != ["a"]:
            pass
    await kept.close()


async def test_the_end_waits_for_what_is_under_way_and_no_longer(bench):
    b = bench()
    alerting = Alerting(None, [b.lane], b.memory)
    b.receiver.answers = [NotSent("is away", again_s=1_000)]
    b.add()
    await b.at()
    await alerting.finish(5)  # it is tried once more at once
    assert b.receiver.told == [["a"]]
    b.receiver.answers = [NotSent("is away", again_s=1_000)] * 100
    b.add("b")
    await alerting.finish(0.05)
    assert await alerting.end() == {"chat": 1}


async def test_the_file_holds_no_more_than_is_still_quiet(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sidecar.store.told._PURGE_EVERY", 2)
    kept = Told(None, "sidecar", "pod")
    kept.open(tmp_path)
    await kept.keep("chat-1", [("old", START_MS, ""), ("unsent", START_MS, "{}"), ("new", START_MS + 2, "")], START_MS)
    await kept.keep("chat-1", [("newest", START_MS + 2, "")], START_MS + 1)
    assert kept._file is not None
    assert {one for (one,) in kept._file.execute("SELECT id FROM alert")} == {"unsent", "new", "newest"}
    await kept.close()
