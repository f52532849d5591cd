"""A limit of time ends its block when it should, gives way when it is moved, and leaves the caller's own cancellation alone."""

import asyncio

import pytest

from sidecar.time_limit import TimeLimit


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("ahead_s", [0.01, 0.12])
async def test_block_that_takes_too_long_is_ended(ahead_s):
    until = now() + ahead_s
    with pytest.raises(TimeoutError), TimeLimit(until):
        await asyncio.sleep(30)
    assert now() >= until - 0.003
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_moment_that_has_passed_ends_the_block_at_its_first_wait():
    with pytest.raises(TimeoutError), TimeLimit(now() - 1):
        await asyncio.sleep(30)


async def test_end_that_is_moved_on_is_not_kept():
    with TimeLimit(now() + 0.06) as limit:
        for _ in range(8):
            await asyncio.sleep(0.02)
            limit.until = now() + 0.06


async def test_end_that_is_moved_nearer_is_kept():
    async def move_and_wait(limit: TimeLimit) -> None:
        limit.until = now() + 0.06
        await asyncio.sleep(30)

    with pytest.raises(TimeoutError), TimeLimit(now() + 60) as limit:
        await move_and_wait(limit)


async def test_block_left_in_time_is_left_alone():
    with TimeLimit(now() + 0.01):
        pass
    await asyncio.sleep(0.1)


async def test_callers_cancellation_is_no_timeout():
    async def work() -> None:
        with TimeLimit(now() + 30):
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_outer_limit_passes_through_an_inner_one():
    async def inner() -> None:
        try:
            with TimeLimit(now() + 30):
                await asyncio.sleep(30)
        except TimeoutError:
            pytest.fail("the inner limit took the outer one's end for its own")

    with pytest.raises(TimeoutError), TimeLimit(now() + 0.02):
        await inner()


async def test_error_of_the_block_passes_through():
    with pytest.raises(KeyError), TimeLimit(now() + 30):
        raise KeyError
