"""Few streams never rest; many rest in proportion, together, and a caller who goes away leaves nothing behind."""

import asyncio

import pytest

from sidecar.edge.pace import Pace


def crowd(streams: int) -> Pace:
    pace = Pace()
    for _ in range(streams):
        pace.begin()
    return pace


def rests(pace: Pace) -> bool:
    """Begin a rest, and say whether it is one."""
    try:
        pace.rest().send(None)
    except StopIteration:
        return False
    return True


def beats_ahead_s(pace: Pace) -> list[float]:
    return [beat * 0.01 - asyncio.get_running_loop().time() for beat in pace._beats]


async def test_few_streams_do_not_rest():
    assert not rests(crowd(24))


@pytest.mark.parametrize(("streams", "least_s", "most_s"), [(25, 0.005, 0.025), (150, 0.03, 0.05), (500, 0.09, 0.11), (5000, 0.09, 0.11)])
async def test_many_streams_rest_in_proportion_but_never_long(streams, least_s, most_s):
    pace = crowd(streams)
    assert rests(pace)
    [ahead_s] = beats_ahead_s(pace)
    assert least_s - 0.01 <= ahead_s <= most_s


async def test_streams_that_ended_do_not_count():
    pace = crowd(30)
    for _ in range(10):
        pace.end()
    assert not rests(pace)


async def test_rests_end_together():
    pace = crowd(100)
    assert all(rests(pace) for _ in range(100))
    assert len(pace._beats) <= 3  # some may begin a beat later


async def test_rest_ends():
    pace = crowd(100)
    await asyncio.gather(*(pace.rest() for _ in range(100)))
    assert pace._beats == {}


async def test_caller_who_goes_away_leaves_nothing_behind():
    pace = crowd(100)
    tasks = [asyncio.create_task(pace.rest()) for _ in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    await tasks[1]
    assert pace._beats == {}
