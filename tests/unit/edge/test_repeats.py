"""The very same request again: answered as before, with nothing looked at anew, for as long as nothing has changed."""

from __future__ import annotations

from hashlib import sha256

import grpc
import pytest
import pytest_asyncio
from msgspec.structs import replace

from sidecar.call import Chunk
from sidecar.edge.calls import Calls
from sidecar.edge.keys import Keys
from sidecar.edge.rpc import LLMService
from sidecar.edge.wire import to_repeat
from sidecar.forgetting import invalidate
from sidecar.settings.doors import Auth, Token
from sidecar.store.cache_invalidation import Invalidation
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc
from tests.unit.fakes import DONE, Bench

EXACT = pb.CacheResult.KIND_EXACT
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def said(text):
    return [Chunk(text=text), DONE]


class Door:
    """LLMService behind a real port; `ended` are its calls, those that the stages did not look at have no size."""

    def __init__(self, *answers, auth=None, **environ):
        self.bench = Bench([said(text) for text in answers], **environ)
        self.engine = self.bench.engine
        self.ended = []
        self.engine.meter.on_call = lambda call, _: self.ended.append(call)
        calls = Calls(self.engine.meter.metrics.in_flight)
        calls.ready = True
        self.server = grpc.aio.server()
        llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(self.engine, calls, Keys(auth or Auth())), self.server)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}")
        self.llm = llm_pb2_grpc.LLMServiceStub(self.channel)

    async def ask(self, *metadata, mode=pb.CachePolicy.MODE_DEFAULT, **fields):
        caller = pb.Caller(node="core.react_agent", **fields)
        request = pb.GenerateRequest(prompt="What is it?", caller=caller, cache=pb.CachePolicy(mode=mode))
        return await self.llm.Generate(request, metadata=metadata)

    @property
    def is_repeat(self):
        """The last call was answered without being looked at anew."""
        return self.ended[-1].size is None

    @property
    def asked(self):
        return len(self.bench.openai.asks)


@pytest_asyncio.fixture
async def opened():
    doors = []

    async def make(*answers, **options):
        door = Door(*answers, **options)
        doors.append(door)
        await door.server.start()
        return door

    yield make
    for door in doors:
        await door.channel.close()
        await door.server.stop(None)


async def test_a_repeat_is_answered_as_the_call_before_it(opened):
    door = await opened("This.")
    for _ in range(2):
        before = await door.ask()
        assert not door.is_repeat
    for _ in range(2):  # the first makes the reply that the second takes
        again = await door.ask()
        assert door.is_repeat
        assert again.id not in (before.id, "")
        assert again.cache.age.ToNanoseconds() > before.cache.age.ToNanoseconds() > 0
        assert again.timing.total.ToNanoseconds() > 0
        assert to_repeat(again) == to_repeat(before)
    assert door.asked == 1


async def test_a_repeat_is_counted_and_listed_like_any_call(opened):
    door = await opened("This.")
    for _ in range(4):
        await door.ask(("traceparent", TRACE), user="kim", agent="a1")
    assert door.is_repeat
    first, *_, last = door.ended
    for field in ("service", "node_name", "tenant", "user", "agent", "operation", "trace_id", "messages", "served"):
        assert getattr(last, field) == getattr(first, field), field
    assert (last.nano_usd, last.saved_nano_usd) == (0, first.nano_usd)
    registry = door.engine.meter.metrics.registry
    where = {"service": "core", "node": "react_agent", "provider": "openai", "model": "gpt-4o"}
    assert registry.get_sample_value("llm_request_total", where | {"status": "ok"}) == 4
    assert registry.get_sample_value("llm_cache_total", where | {"kind": "exact"}) == 3


async def test_each_repeat_has_its_own_trace(opened):
    door = await opened("This.")
    for last in "123":
        await door.ask(("traceparent", TRACE.replace("4736", f"473{last}")))
    assert door.is_repeat
    assert [call.trace_id[-1] for call in door.ended] == ["1", "2", "3"]


async def test_a_stream_repeats_a_unary_call_and_the_other_way_round(opened):
    door = await opened("It is this.")
    request = pb.GenerateRequest(prompt="What?", model="gpt-4o", cache=pb.CachePolicy(mode=pb.CachePolicy.MODE_DEFAULT))
    await door.llm.Generate(request)
    await door.llm.Generate(request)
    events = [event async for event in door.llm.Stream(request)]
    assert door.is_repeat
    assert [events[0].WhichOneof("event"), events[-1].WhichOneof("event")] == ["start", "end"]
    assert "".join(event.text_delta for event in events) == "It is this."
    assert (events[-1].end.cache.kind, events[-1].end.text) == (EXACT, "")
    again = await door.llm.Generate(request)
    assert door.is_repeat
    assert (again.text, again.cache.kind) == ("It is this.", EXACT)
    assert door.asked == 1


async def test_what_metadata_says_belongs_to_the_question(opened):
    door = await opened("One's.", "Two's.")
    for tenant, text in (("one", "One's."), ("two", "Two's.")) * 3:
        assert (await door.ask(("x-sidecar-tenant", tenant))).text == text
    assert door.is_repeat
    assert door.ended[-1].tenant == "two"
    assert door.asked == 2


async def test_tokens_say_whose_repeat_it_is(opened):
    tokens = {name: Token(sha256=sha256(name.encode()).hexdigest(), tenant=name) for name in ("one", "two")}
    door = await opened("One's.", "Two's.", auth=Auth(tokens=tokens))
    for name, text in (("one", "One's."), ("two", "Two's.")) * 3:
        assert (await door.ask(("authorization", f"Bearer {name}"))).text == text
        assert door.ended[-1].tenant == name
    await door.ask(("authorization", "Bearer two"))
    assert door.is_repeat
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.ask(("authorization", "Bearer three"))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert door.asked == 2


async def test_an_invalidated_answer_is_not_repeated_and_nothing_of_it_is_kept(opened):
    door = await opened("Old.", "New.")
    for _ in range(3):
        await door.ask()
    assert door.is_repeat
    await invalidate(door.engine, Invalidation(generation=0, tenant="default"))
    assert len(door.engine.repeats) == 0
    assert [(await door.ask()).text for _ in range(2)] == ["New.", "New."]
    assert door.asked == 2


async def test_a_refreshed_answer_takes_the_repeats_place(opened):
    door = await opened("Old.", "New.")
    for _ in range(3):
        await door.ask()
    await door.ask(mode=pb.CachePolicy.MODE_REFRESH)
    assert (await door.ask()).text == "New."
    assert not door.is_repeat
    assert (await door.ask()).text == "New."
    assert door.is_repeat


async def test_an_answer_past_its_age_is_not_repeated(opened):
    door = await opened("Old.", "New.")
    for _ in range(3):
        await door.ask()
    [kept] = [kept for _, kept in door.engine.answers.entries(0)]
    for repeat in (door.engine.repeats.find(asked) for asked in list(door.engine.repeats._repeats)):
        repeat.kept = over = replace(kept, fresh_ns=1)
        door.engine.answers._memory.put(repeat.caching.key.digest, over, door.engine.clock_ns())
    assert (await door.ask()).text == "New."


async def test_a_throttled_node_is_looked_at_anew(opened):
    door = await opened("Dear.", SIDECAR_LIMITS__CALL_LOG_USD="0.000000001", SIDECAR_LIMITS__CALL_NOTIFY_USD="0.000000002",
                        SIDECAR_LIMITS__CALL_THROTTLE_USD="0.000000003")  # fmt: skip
    for _ in range(4):
        await door.ask()
    assert not door.is_repeat


async def test_a_run_and_a_users_own_choice_are_looked_at_each_time(opened):
    door = await opened("This.")
    for fields in ({"run": "r1"}, {"user": "kim", "plan": "premium"}):
        for _ in range(4):
            await door.ask(**fields)
            assert not door.is_repeat


async def test_repeats_are_bounded_in_bytes(opened):
    door = await opened("This.", SIDECAR_CACHE__MAX_BYTES="1000000")
    for number in range(40):
        for _ in range(2):
            await door.ask(user=f"user{number}")
    assert 3 <= len(door.engine.repeats) <= 1_000_000 // 16 // 6_000
    await door.ask(user="user39")
    assert door.is_repeat
    await door.ask(user="user0")
    assert not door.is_repeat
