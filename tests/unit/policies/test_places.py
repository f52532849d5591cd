"""Places and the queue before them: who is next, who is pushed out, and that no place and no caller is ever lost."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.errors import Overloaded
from sidecar.policies.places import Places

PRIORITIES = ("critical", "normal", "optional")


class Crowd:
    """Callers of one service, and the order in which they came to their places."""

    def __init__(self, limit=1, queue=100):
        self.places = Places("oracle", limit, queue)
        self.served = []
        self.tasks = {}

    def call(self, name, tenant="a", priority="normal"):
        async def wait():
            await self.places.take(tenant, priority)
            self.served.append(name)

        self.tasks[name] = asyncio.create_task(wait())
        return self.tasks[name]

    async def calls(self, *names, **fields):
        for name in names:
            self.call(name, **fields)
        await self.settle()

    async def settle(self):
        for _ in range(3):  # a task begins, its future is answered, it goes on
            await asyncio.sleep(0)

    async def leave_all(self):
        while self.places.taken:
            self.places.leave(10)
            await self.settle()

    def refused(self):
        return [name for name, task in self.tasks.items() if task.done() and task.exception() is not None]


async def test_tenants_take_turns_however_many_calls_one_of_them_has():
    crowd = Crowd(queue=2000)
    await crowd.calls(*(f"a{i}" for i in range(1001)), tenant="a")
    await crowd.calls("b0", "b1", tenant="b")
    await crowd.calls("c0", tenant="c")
    await crowd.leave_all()
    assert crowd.served[:7] == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
    assert len(crowd.served) == 1004


async def test_critical_first_and_optional_last_whoever_came_first():
    crowd = Crowd()
    await crowd.calls("o", "o1", priority="optional")
    await crowd.calls("n", tenant="b")
    await crowd.calls("c", tenant="b", priority="critical")
    await crowd.leave_all()
    assert crowd.served == ["o", "c", "n", "o1"]


async def test_full_queue_refuses_and_says_which_setting():
    crowd = Crowd(limit=2, queue=3)
    await crowd.calls(*range(6))
    assert crowd.refused() == [5]
    with pytest.raises(Overloaded, match=r"2 calls under way.*services\.oracle\.concurrency.*3 are waiting.*services\.oracle\.queue"):
        await crowd.tasks[5]
    await crowd.leave_all()
    assert crowd.served == [0, 1, 2, 3, 4]


async def test_no_queue_at_all():
    crowd = Crowd(queue=0)
    await crowd.calls(0, 1)
    await crowd.calls(2, priority="critical")
    assert crowd.refused() == [1, 2]


async def test_more_important_call_pushes_out_the_newest_of_the_least_important():
    crowd = Crowd(queue=4)
    await crowd.calls("under way", "n0")
    await crowd.calls("o0", "o1", priority="optional")
    await crowd.calls("n1")
    await crowd.calls("c", priority="critical")
    assert crowd.refused() == ["o1"]
    with pytest.raises(Overloaded, match="matters more took this one's turn"):
        await crowd.tasks["o1"]
    await crowd.calls("n2")
    assert crowd.refused() == ["o0", "o1"]
    await crowd.calls("n3")  # nothing less important is left
    await crowd.calls("o2", priority="optional")
    assert crowd.refused() == ["o0", "o1", "n3", "o2"]
    await crowd.calls("c1", priority="critical")
    assert set(crowd.refused()) == {"o1", "o0", "n3", "o2", "n2"}
    await crowd.leave_all()
    assert crowd.served == ["under way", "c", "c1", "n0", "n1"]


async def test_full_queue_is_shared_alike():
    crowd = Crowd(queue=4)
    await crowd.calls("a0", "a1", "a2", "a3", "a4", tenant="a")
    await crowd.calls("b0", "b1", "b2", tenant="b")
    assert set(crowd.refused()) == {"a4", "a3", "b2"}  # two of each wait; a third of the second tenant would be no fairer
    await crowd.calls("a5", tenant="a")
    assert "a5" in crowd.refused()
    with pytest.raises(Overloaded, match="of another tenant took this one's turn"):
        await crowd.tasks["a4"]
    await crowd.leave_all()
    assert crowd.served == ["a0", "a1", "b0", "a2", "b1"]


async def test_pushed_out_is_of_the_tenant_that_has_the_most_waiting():
    crowd = Crowd(queue=3)
    await crowd.calls("under way")
    await crowd.calls("a0", "a1", tenant="a", priority="optional")
    await crowd.calls("b0", tenant="b", priority="optional")
    await crowd.calls("n", tenant="c")
    assert crowd.refused() == ["a1"]


@pytest.mark.parametrize(
    ("held_ms", "limit", "queue", "expected_ms"),
    [
        (None, 1, 0, 1_000),  # nobody has left yet: a guess
        (2_000, 1, 3, 8_000),  # four turns
        (2_000, 4, 3, 2_000),
        (1, 1, 0, 100),
        (600_000, 1, 9, 60_000),
    ],
)
async def test_told_wait_is_what_the_queue_will_take(held_ms, limit, queue, expected_ms):
    crowd = Crowd(limit, queue)
    if held_ms is not None:
        await crowd.calls("first")
        crowd.places.leave(held_ms)
    await crowd.calls(*range(limit + queue))
    with pytest.raises(Overloaded) as refusal:
        await crowd.places.take("z", "optional")
    assert refusal.value.retry_after_ms == expected_ms
    await crowd.leave_all()


async def test_mean_follows_what_calls_take_now():
    crowd = Crowd(queue=0)
    for held_ms in [60_000] + [100] * 60:
        await crowd.places.take("a", "normal")
        crowd.places.leave(held_ms)
    await crowd.places.take("a", "normal")
    with pytest.raises(Overloaded) as refusal:
        await crowd.places.take("a", "normal")
    assert 100 <= refusal.value.retry_after_ms < 200


async def test_who_goes_is_out_of_the_queue_at_once():
    crowd = Crowd(queue=2)
    await crowd.calls(0, 1, 2)
    crowd.tasks[1].cancel()
    await crowd.settle()
    assert crowd.places.waiting == 1
    await crowd.calls(3)
    assert not crowd.tasks[3].done()
    await crowd.leave_all()
    assert crowd.served == [0, 2, 3]


async def test_who_goes_as_the_place_comes_hands_it_on():
    crowd = Crowd()
    await crowd.calls(0, 1, 2)
    crowd.places.leave(1)  # to 1 ...
    crowd.tasks[1].cancel()  # ... who has not heard of it yet
    await crowd.settle()
    assert crowd.served == [0, 2]
    assert crowd.places.taken == 1


async def test_who_is_just_going_is_passed_over():
    crowd = Crowd()
    await crowd.calls(0, 1, 2)
    crowd.tasks[1].cancel()
    crowd.places.leave(1)  # 1 is in the queue still
    await crowd.settle()
    assert crowd.served == [0, 2]
    crowd.tasks[2].cancel()
    await crowd.leave_all()
    assert (crowd.places.taken, crowd.places.waiting) == (0, 0)


async def test_pushed_out_and_gone_in_the_same_moment():
    crowd = Crowd(queue=1)
    await crowd.calls(0)
    await crowd.calls(1, priority="optional")
    pushing = crowd.call(2, priority="normal")
    crowd.tasks[1].cancel()
    await crowd.settle()
    assert crowd.tasks[1].cancelled()
    assert not pushing.done()
    await crowd.leave_all()
    assert crowd.served == [0, 2]


class PlacesMachine(RuleBasedStateMachine):
    """Callers come, go and leave in any order, also several in one turn of the event loop."""

    @initialize(limit=st.integers(1, 3), queue=st.integers(0, 4))
    def make(self, limit, queue):
        self.runner = asyncio.Runner()
        self.limit, self.queue, self.count = limit, queue, 0
        self.crowd = Crowd(limit, queue)
        self.holding = []

    @rule(tenant=st.sampled_from("ab"), priority=st.sampled_from(PRIORITIES))
    def come(self, tenant, priority):
        async def begin():
            self.crowd.call(self.count, tenant, priority)

        self.runner.run(begin())
        self.count += 1

    @precondition(lambda self: self.crowd.served)
    @rule()
    def leave(self):
        async def leave():
            held = self.crowd.served.pop(0)
            del self.crowd.tasks[held]
            self.crowd.places.leave(1)

        self.runner.run(leave())

    @precondition(lambda self: any(not task.done() for task in self.crowd.tasks.values()))
    @rule(data=st.data())
    def go(self, data):
        waiting = [name for name, task in self.crowd.tasks.items() if not task.done()]
        task = self.crowd.tasks[data.draw(st.sampled_from(waiting))]
        self.runner.get_loop().call_soon(task.cancel)

    @rule()
    def turn(self):
        self.runner.run(asyncio.sleep(0))

    @invariant()
    def never_more_than_there_are(self):
        if hasattr(self, "crowd"):
            assert len(self.crowd.served) <= self.crowd.places.taken <= self.limit
            assert self.crowd.places.waiting <= self.queue

    def teardown(self):
        """Everybody who holds a place leaves; whoever waited has been served, refused or cancelled, and no place is missing."""
        if not hasattr(self, "crowd"):
            return
        crowd = self.crowd

        async def drain():
            await crowd.settle()
            while crowd.served:
                crowd.tasks.pop(crowd.served.pop(0))
                crowd.places.leave(1)
                await crowd.settle()

        self.runner.run(drain())
        left = [name for name, task in crowd.tasks.items() if not task.done()]
        assert left == []
        assert all(task.cancelled() or isinstance(task.exception(), Overloaded) for task in crowd.tasks.values())
        assert (crowd.places.taken, crowd.places.waiting) == (0, 0)
        self.runner.close()


PlacesMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPlacesMachine = PlacesMachine.TestCase
