"""Load shedding: what begins it, what ends it, whom it spares."""

import asyncio

import pytest

from sidecar.errors import Overloaded
from sidecar.policies.shedding import Shedding
from sidecar.settings.operation import Admission


class Operator:
    """Hears what is told."""

    def __init__(self):
        self.heard = []

    def __call__(self, message, level, **facts):
        self.heard.append((level, facts["priority"], message))


@pytest.fixture
def operator():
    return Operator()


@pytest.fixture
def shedding(operator):
    return Shedding(Admission(lag_optional_ms=100, lag_normal_ms=400), operator)


def look(shedding, *late_ms):
    for one in late_ms:
        shedding.look(one)


def refused(shedding):
    found = []
    for priority in ("critical", "normal", "optional"):
        try:
            shedding.require_calm(priority)
        except Overloaded:
            found.append(priority)
    return found


def test_single_hiccup_sheds_nothing(shedding, operator):
    for _ in range(20):
        look(shedding, 5_000, 3_000, 0)
        assert refused(shedding) == []
    assert operator.heard == []


def test_lag_that_lasts_sheds_optional_calls_first_and_critical_ones_never(shedding):
    look(shedding, 150, 150)
    assert refused(shedding) == []
    look(shedding, 150)
    assert refused(shedding) == ["optional"]
    look(shedding, 9_000, 9_000, 9_000)
    assert refused(shedding) == ["normal", "optional"]


def test_it_ends_at_once_when_the_lag_is_gone(shedding):
    look(shedding, *[9_000] * 10)
    look(shedding, 0)
    assert refused(shedding) == []


def test_it_does_not_begin_and_end_all_the_time(shedding, operator):
    look(shedding, *[110, 90, 120, 80] * 10, *[110] * 3, *[90, 110] * 10)
    assert refused(shedding) == ["optional"]
    assert len(operator.heard) == 1
    look(shedding, 49)
    assert refused(shedding) == []


def test_beginning_and_end_are_told_once_with_what_was_refused(shedding, operator):
    look(shedding, *[150] * 5)
    for _ in range(7):
        with pytest.raises(Overloaded) as refusal:
            shedding.require_calm("optional")
    assert refusal.value.retry_after_ms == 1_150
    assert "admission.lag_optional_ms" in refusal.value.message
    look(shedding, 0, 0)
    (began, ended) = operator.heard
    assert began[:2] == ("warning", "optional")
    assert "150 ms late" in began[2]
    assert ended[:2] == ("info", "optional")
    assert "7 optional calls were refused" in ended[2]


def test_each_priority_begins_and_ends_for_itself(shedding, operator):
    look(shedding, *[150] * 3, *[500] * 3, 150, 0)
    assert [(level, priority) for level, priority, _ in operator.heard] == [
        ("warning", "optional"),
        ("warning", "normal"),
        ("info", "normal"),
        ("info", "optional"),
    ]


def test_normal_calls_never_suffer_before_optional_ones(operator):
    shedding = Shedding(Admission(lag_optional_ms=900, lag_normal_ms=200), operator)
    look(shedding, 300, 300, 300)
    assert refused(shedding) == ["normal", "optional"]


async def test_watch_measures_how_late_a_sleep_ends(shedding):
    """The clock is the test's: it shows 180 ms more after each sleep of 50."""
    reads = 0
    enough = asyncio.Event()

    def clock_ns():
        nonlocal reads
        reads += 1
        if reads > 8:
            enough.set()
        return reads // 2 * 180_000_000  # once before each sleep, once after it

    task = asyncio.create_task(shedding.watch(clock_ns))
    await asyncio.wait_for(enough.wait(), 30)
    task.cancel()
    assert shedding.lag_ms == 130
    assert refused(shedding) == ["optional"]
