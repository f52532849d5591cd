"""The cache in the pipeline: who is answered from it, who waits for whom, and what becomes of all that when something fails."""

import asyncio

import pytest

from sidecar import errors
from sidecar.call import NOBODY, Chunk, EmbedRequest, GenerateRequest, Image, Message, Start, Text, Usage, Vectors
from sidecar.pipeline import plan, run
from sidecar.policies.cache_keys import key_of
from sidecar.policies.cache_rules import has_time_words
from tests.unit.fakes import DONE, Bench, FakeProvider, caller

NODE = "SIDECAR_NODES__CORE__REACT_AGENT__CACHE__"
ON = {NODE + "MODE": "default"}


def ask(prompt="hello", mode="default", tenant="", user="", **fields):
    return GenerateRequest(prompt=prompt, cache_mode=mode, caller=caller("core.react_agent", tenant=tenant, user=user), **fields)


def slow(text="hi", seconds=0.05):
    return [(seconds, Chunk(text=text), DONE)]


class Elapsed:
    """A clock that goes on by itself, and further when it is told to."""

    def __init__(self, bench):
        import msgspec

        self.ahead_ns = 0
        real = bench.engine.clock_ns
        bench.engine = msgspec.structs.replace(bench.engine, clock_ns=lambda: real() + self.ahead_ns)

    def pass_s(self, seconds):
        self.ahead_ns += int(seconds * 1e9)


def hits(bench):
    """llm_cache by kind."""
    families = bench.engine.meter.metrics.registry.collect()
    found = {}
    for sample in (s for f in families if f.name == "llm_cache" for s in f.samples if s.name == "llm_cache_total"):
        found[sample.labels["kind"]] = found.get(sample.labels["kind"], 0) + sample.value
    return found


# --- the key ------------------------------------------------------------------------------------------------------------------------


def key(bench, request, scope="tenant", version=""):
    call = bench.call(request)
    plan(bench.engine, call)
    return key_of(call, scope, version)


def test_composed_and_decomposed_letters_ask_the_same_and_look_alikes_do_not():
    bench = Bench()
    digests = {
        text: key(bench, ask(text)).digest
        for text in (
            "caf\u00e9",
            "cafe\u0301",
            "cafe",
            "c\u0430f\u00e9",
            "caf\u00e9 ",
            "ca\u200bf\u00e9",
            "CAF\u00c9",
            "\uff43\uff41\uff46\u00e9",
        )
    }
    assert digests["caf\u00e9"] == digests["cafe\u0301"]
    assert len(set(digests.values())) == len(digests) - 1
    assert key(bench, ask("\u1112\u1161\u11ab")).digest == key(bench, ask("한")).digest


def test_no_text_can_pass_for_another_field():
    bench = Bench()
    imitation = '"],["acme","tenant","kim"'
    asked = [
        ask("x", tenant="a"),
        ask('x","a'),
        ask(imitation),
        ask("x", system="y"),
        ask("yx"),
        ask('y"}]},{"role":"user","parts":[{"text":"x'),
        ask("", messages=(Message("user", (Text("x"), Text("y"))),)),
        ask("", messages=(Message("user", (Text("xy"),)),)),
        ask("", messages=(Message("user", (Text('x","y'),)),)),
        ask("", messages=(Message("user", (Text("x\ny"),)),)),
        ask("x\n\u0301y"),
        ask("x\\n\u0301y"),
    ]
    digests = [key(bench, one).digest for one in asked]
    assert len(set(digests)) == len(digests)


def test_partition_is_all_but_the_last_user_turn():
    bench = Bench()
    first, second = key(bench, ask("one")), key(bench, ask("two"))
    assert first.partition == second.partition
    assert first.digest != second.digest
    assert first.question == "one"
    for other in (
        ask("one", tenant="b"),
        ask("one", system="s"),
        ask("one", temperature=0.5),
        ask("one", seed=1),
        ask("one", model="gpt-4o"),
    ):
        assert key(bench, other).partition != first.partition
    picture = Message("user", (Text("one"), Image(url="https://a/b.png")))
    assert not key(bench, ask("", messages=(picture,))).is_similar
    assert key(bench, ask("one"), "user").partition != first.partition
    assert key(bench, ask("one"), version="2").partition != first.partition


def test_pictures_are_part_of_the_question():
    bench = Bench()

    def picture(data, text="What is it?"):
        turn = Message("user", (Text(text), Image(data=data, mime_type="image/png")))
        return key(bench, ask("", messages=(turn,)))

    assert picture(b"a" * 1_000_000) == picture(b"a" * 1_000_000)
    assert picture(b"a").partition != picture(b"b").partition
    assert picture(b"a").partition == picture(b"a", "What else is it?").partition
    assert picture(b"a").digest != picture(b"a", "What else is it?").digest


@pytest.mark.parametrize(
    "text",
    [
        "what is it today?",
        "the LATEST figures",
        "in the last 5 days",
        "over the past days",
        "지금 몇 시야",
        "오늘의 매출",
        "sales this  week".replace("  ", " "),
    ],
)
def test_time_words(text):
    assert has_time_words(text)
    assert has_time_words("x" * 1_000_000 + " " + text)


@pytest.mark.parametrize("text", ["", "nowhere known", "presently", "What is the snow like?", "🎉🎉🎉"])
def test_no_time_words(text):
    assert not has_time_words(text)


# --- what is remembered -------------------------------------------------------------------------------------------------------------


async def test_node_lets_calls_be_answered_from_memory_that_do_not_say():
    bench = Bench(**ON)
    first = await bench.run()
    again = await bench.run()
    assert len(bench.openai.asks) == 1
    assert (again.recalled.kind, again.recalled.source, again.recalled.saved_nano_usd) == ("exact", first.id, first.nano_usd)
    assert first.nano_usd > 0
    assert again.nano_usd == 0
    await bench.run(cache_mode="bypass")
    assert len(bench.openai.asks) == 2
    bench.assert_settled(used=30)
    assert hits(bench) == {"exact": 1, "miss": 1}


async def test_lively_answers_are_remembered_only_for_those_who_ask_for_that():
    bench = Bench(**ON)
    for _ in range(2):
        await bench.run(temperature=0.9)
    assert len(bench.openai.asks) == 2
    for _ in range(2):
        await bench.run(temperature=0.9, cache_mode="default")
    assert len(bench.openai.asks) == 3


async def test_time_words_make_an_answer_old_soon():
    bench = Bench(SIDECAR_CACHE__TIME_WORDS_TTL_MS="30000")
    clock = Elapsed(bench)
    for prompt in ("what is new today", "what is new"):
        await bench.run(ask(prompt))
    clock.pass_s(31)
    await bench.run(ask("what is new today"), seconds=100)
    await bench.run(ask("what is new"), seconds=100)
    assert len(bench.openai.asks) == 3


async def test_life_is_the_nodes():
    bench = Bench(**ON, **{NODE + "TTL_MS": "5000"})
    clock = Elapsed(bench)
    await bench.run(seconds=100)
    clock.pass_s(4)
    assert (await bench.run(seconds=100)).recalled.age_ns >= 4 * 10**9
    clock.pass_s(2)
    assert (await bench.run(seconds=100)).recalled is None


async def test_users_share_a_tenants_answers_unless_the_node_says_otherwise():
    for scope, asked in (("tenant", 1), ("user", 2)):
        bench = Bench(**{NODE + "SCOPE": scope})
        await bench.run(ask(user="kim"))
        await bench.run(ask(user="lee"))
        await bench.run(ask(user="kim"))
        assert len(bench.openai.asks) == asked


async def test_what_is_each_users_own_is_nobodys_where_no_user_is_named():
    bench = Bench(**{NODE + "SCOPE": "user"})
    for _ in range(2):
        await bench.run(ask())
    assert len(bench.openai.asks) == 2
    with pytest.raises(errors.NotCached):
        await bench.run(ask(mode="only"))
    calls = [bench.call(ask()) for _ in range(3)]
    await asyncio.gather(*(run(bench.engine, call) for call in calls))
    assert len(bench.openai.asks) == 5  # nor does one wait for another


TOOLS = Chunk(finish="tool_calls", usage=Usage(10, 0, 0, 0, 5, 0), last=True)


async def test_tool_calls_are_remembered_where_the_node_says_so():
    from sidecar.call import Tool, ToolDelta

    script = [(Chunk(tool_calls=(ToolDelta(0, "i", "t", "{}"),)), TOOLS)]
    for allowed, asked in (("false", 2), ("true", 1)):
        bench = Bench(script, **{NODE + "TOOL_CALLS": allowed})
        for _ in range(2):
            call = await bench.run(ask(tools=(Tool("t"),)))
        assert len(bench.openai.asks) == asked
        assert [c.name for c in call.answer.tool_calls] == ["t"]


@pytest.mark.parametrize("prompt", ["🎉", "한국어 English кириллица", "а lооk-аlike", "\u200b\u200bzero", "x" * 1_000_000, "\u0301\u0301"])
async def test_odd_questions_are_answered_again_like_any_other(prompt):
    bench = Bench(SIDECAR_MODELS__GPT_4O__CONTEXT_TOKENS="1000000")
    await bench.run(ask(prompt))
    assert (await bench.run(ask(prompt))).recalled is not None
    assert (await bench.run(ask(prompt + "."))).recalled is None


async def test_empty_last_turn_is_a_question_of_its_own():
    bench = Bench()
    turns = (Message("user", (Text("hello"),)), Message("assistant", (Text("hi"),)), Message("user", (Text(""),)))
    for _ in range(2):
        call = await bench.run(ask("", messages=turns))
    assert call.recalled is not None
    assert (await bench.run(ask("", messages=turns[:1]))).recalled is None


async def test_another_tenant_can_neither_read_nor_place_an_entry():
    bench = Bench(slow("poison", 0) + slow("good", 0))
    await bench.run(ask(tenant="evil"))
    call = await bench.run(ask(tenant="good"))
    assert call.answer.text == "good"
    assert call.recalled is None
    assert (await bench.run(ask(tenant="good"))).answer.text == "good"


async def test_halves_of_characters_are_answered_and_not_remembered():
    bench = Bench([(Chunk(text="\ud83d"), DONE)])
    for _ in range(2):
        call = await bench.run(ask(), stream=False)
    assert (call.recalled, len(bench.openai.asks)) == (None, 2)
    assert len(bench.engine.flights) == 0


# --- replay -------------------------------------------------------------------------------------------------------------------------


async def test_stream_is_replayed_in_pieces_at_the_pace_that_is_set():
    text = "word " * 100
    bench = Bench([(Chunk(reasoning="hm"), Chunk(text=text), DONE)], SIDECAR_CACHE__REPLAY_CHARS="60", SIDECAR_CACHE__REPLAY_PAUSE_MS="2")
    await bench.run(ask())
    bench.sent.clear()
    call = await bench.run(ask())
    assert isinstance(bench.sent[0], Start)
    assert bench.text() == text
    pieces = [pieces[0] for pieces in bench.sent[1:]]
    assert len(pieces) == 1 + 9  # cut behind a word: 55 + ... letters each
    assert all(len(piece.text) <= 60 for piece in pieces)
    assert [piece.finish for piece in pieces] == [None] * 9 + ["stop"]
    took = bench.engine.clock_ns() / 1e9 - call.arrived
    assert took >= 9 * 0.002


async def test_entry_that_is_evicted_while_it_is_replayed_is_replayed_to_its_end():
    text = "word " * 100
    bench = Bench([(Chunk(text=text), DONE)], SIDECAR_CACHE__REPLAY_CHARS="60")
    await bench.run(ask())
    call = bench.call(ask())
    got = []

    async def send(pieces):
        from sidecar.store.cache_invalidation import Invalidation

        bench.engine.answers.invalidate(Invalidation(generation=bench.engine.answers.invalidations.generation + 1))
        if not isinstance(pieces, Start):
            got.extend(piece.text for piece in pieces)

    call.send = send
    await run(bench.engine, call)
    assert "".join(got) == text
    assert len(bench.engine.answers) == 0


async def test_reader_who_leaves_a_replay_leaves_nothing_behind():
    bench = Bench([(Chunk(text="word " * 100), DONE)], SIDECAR_CACHE__REPLAY_PAUSE_MS="10000")
    await bench.run(ask())
    task = asyncio.ensure_future(bench.run(ask(), seconds=100))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.assert_settled()
    assert (await bench.run(ask(), stream=False)).recalled is not None


# --- one call for many --------------------------------------------------------------------------------------------------------------


async def test_a_hundred_identical_calls_make_one():
    bench = Bench(slow())
    calls = [bench.call(ask(), stream=number % 2 == 0) for number in range(100)]
    await asyncio.gather(*(run(bench.engine, call) for call in calls))
    assert len(bench.openai.asks) == 1
    assert [call.answer.text for call in calls] == ["hi"] * 100
    waited = [call for call in calls if call.recalled is not None]
    assert len(waited) == 99
    assert all(call.recalled.joined and call.nano_usd == 0 and call.recalled.saved_nano_usd > 0 for call in waited)
    assert hits(bench) == {"miss": 1, "joined": 99}
    assert len(bench.engine.flights) == 0
    bench.assert_settled(used=15)


async def together(bench, calls):
    """Run them at the same time, the first one first. Returns their tasks."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.ensure_future(run(bench.engine, call)))
        await asyncio.sleep(0)
    return tasks


async def test_caller_who_leads_and_leaves_hands_over_to_one():
    bench = Bench(slow(seconds=0.3))
    tasks = await together(bench, [bench.call(ask(), stream=False) for _ in range(20)])
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 19
    assert len(bench.openai.asks) == 2
    assert bench.openai.most_at_once == 1
    assert len(bench.engine.flights) == 0


async def test_leader_that_fails_hands_over_to_one_and_no_herd_comes():
    down = errors.ProviderRejected("no")
    bench = Bench([(0.02, down), (0.02, down), *slow()])
    calls = [bench.call(ask(), stream=False) for _ in range(50)]
    results = await asyncio.gather(*await together(bench, calls), return_exceptions=True)
    assert [isinstance(result, errors.ProviderRejected) for result in results] == [True] * 2 + [False] * 48
    assert len(bench.openai.asks) == 3
    assert bench.openai.most_at_once == 1
    assert len(bench.engine.flights) == 0


async def test_who_waits_keeps_its_own_deadline_and_the_others_go_on():
    bench = Bench(slow(seconds=0.3))
    calls = [bench.call(ask(), stream=False), bench.call(ask(), stream=False, seconds=0.05), bench.call(ask(), stream=False)]
    results = await asyncio.gather(*await together(bench, calls), return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], errors.DeadlineExceeded)
    assert calls[2].recalled.joined
    assert len(bench.openai.asks) == 1


async def test_all_leave_and_nothing_is_left_behind():
    bench = Bench(slow(seconds=10))
    tasks = await together(bench, [bench.call(ask(), stream=False) for _ in range(5)])
    await asyncio.sleep(0.01)
    for task in tasks:  # each is handed the lead in the moment in which it leaves, too
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(bench.engine.flights) == 0
    bench.assert_settled()


async def test_answer_that_is_for_nobody_else_sends_the_others_to_ask_for_themselves():
    cut = Chunk(finish="length", usage=Usage(10, 0, 0, 0, 5, 0), last=True)
    bench = Bench([(0.02, Chunk(text="hi"), cut)])
    calls = [bench.call(ask(), stream=False) for _ in range(5)]
    await asyncio.gather(*await together(bench, calls))
    assert len(bench.openai.asks) == 5
    assert all(call.recalled is None for call in calls)
    assert len(bench.engine.flights) == 0


async def test_defect_of_the_leader_hands_over_too():
    bench = Bench([(0.02, ValueError("x")), *slow()])
    calls = [bench.call(ask(), stream=False) for _ in range(3)]
    results = await asyncio.gather(*await together(bench, calls), return_exceptions=True)
    assert isinstance(results[0], errors.InternalError)
    assert results[1:] == [None, None]
    assert len(bench.openai.asks) == 2


async def test_others_questions_do_not_wait():
    bench = Bench(slow(seconds=0.1))
    calls = [bench.call(ask()), bench.call(ask("other")), bench.call(ask(tenant="b"))]
    await asyncio.gather(*await together(bench, calls))
    assert bench.openai.most_at_once == 3


# --- stale --------------------------------------------------------------------------------------------------------------------------

STALE = {NODE + "STALE": "true", NODE + "TTL_MS": "1000"}
DOWN = (errors.ProviderUnavailable("down"),)


async def answered_then_down(bench, seconds=1.5):
    """One good answer, then its life is over."""
    clock = Elapsed(bench)
    await bench.run(seconds=100)
    bench.openai.scripts[:] = [DOWN]
    bench.anthropic.scripts[:] = [DOWN]
    bench.openai.asks.clear()
    bench.sent.clear()
    clock.pass_s(seconds)
    return clock


@pytest.mark.parametrize("stream", [False, True])
async def test_old_answer_when_every_model_fails(stream):
    bench = Bench(**STALE)
    await answered_then_down(bench)
    used = bench.ledger.balance("tenant:default:day", bench.engine.wall_ns()).used_tokens
    call = await bench.run(seconds=100, stream=stream)
    assert (call.recalled.kind, call.answer.text, call.error) == ("stale", "hi", None)
    assert call.recalled.age_ns >= 1.5e9
    assert "every model failed (PROVIDER_UNAVAILABLE); this answer is 1 second old" in call.notices[-1]
    assert len(call.attempts) > 1
    assert call.nano_usd == 0
    assert bench.text() == ("hi" if stream else "")
    assert hits(bench)["stale"] == 1
    bench.assert_settled(used=used)
    assert (await bench.run(seconds=100)).recalled.kind == "stale"  # and it has not become young by that


async def test_old_answer_where_time_runs_out_with_a_silent_model():
    bench = Bench(**STALE | {NODE + "TTL_MS": "1"})
    await bench.run()
    await asyncio.sleep(0.005)
    bench.openai.scripts[:] = bench.anthropic.scripts[:] = [(30.0,)]
    call = await bench.run(seconds=0.2, stream=False)
    assert call.recalled.kind == "stale"


@pytest.mark.parametrize(
    "failure",
    [errors.ProviderRejected("no"), errors.ProviderContextExceeded("no")],
)
async def test_no_old_answer_where_the_question_is_at_fault(failure):
    bench = Bench(**STALE)
    await answered_then_down(bench)
    bench.openai.scripts[:] = bench.anthropic.scripts[:] = [(failure,)]
    with pytest.raises(type(failure)):
        await bench.run(seconds=100)


async def test_no_old_answer_unless_the_node_allows_it_and_for_no_other_question():
    bench = Bench(**{NODE + "MODE": "default", NODE + "TTL_MS": "1000"})
    await answered_then_down(bench)
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run(seconds=100)
    bench = Bench(**STALE)
    await answered_then_down(bench)
    for request in (ask("other", ""), ask(mode="", tenant="b"), ask(mode="bypass"), ask(mode="default", cache_max_age_ms=1_000)):
        with pytest.raises(errors.ProviderUnavailable):
            await bench.run(request, seconds=100)


async def test_too_old_is_gone():
    bench = Bench(**STALE, SIDECAR_CACHE__STALE_MS="5000")
    clock = await answered_then_down(bench)
    clock.pass_s(5)
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run(seconds=100)


async def test_stream_that_broke_before_its_readers_eyes_is_not_patched_with_an_old_answer():
    bench = Bench(**STALE)
    await answered_then_down(bench)
    bench.openai.scripts[:] = [(Chunk(text="new"), errors.ProviderUnavailable("down"))]
    with pytest.raises(errors.SidecarError):
        await bench.run(seconds=100)
    assert bench.text() == "new"


async def test_refusal_of_the_sidecar_itself_is_no_failure_of_models():
    bench = Bench(**STALE)
    await answered_then_down(bench)
    for _ in range(3):
        bench.engine.admission.shedding.look(300)
    with pytest.raises(errors.Overloaded):
        await bench.run(GenerateRequest(prompt="hello", caller=caller("core.react_agent", priority="optional")), seconds=100)


# --- vectors ------------------------------------------------------------------------------------------------------------------------


class Embedder(FakeProvider):
    """Each text's vector is its length."""

    async def embed(self, ask):
        self.asks.append(ask)
        return Vectors([[float(len(text)), 0.5] for text in ask.inputs], Usage(7 * len(ask.inputs)))


def embed(*inputs, mode="default", **fields):
    return EmbedRequest(caller=caller("oracle.embedding", **fields), inputs=inputs, cache_mode=mode)


def embedding(**environ):
    bench = Bench(**environ)
    bench.openai = bench.engine.providers["openai"] = Embedder("openai")
    return bench


async def test_batch_asks_and_pays_only_for_what_is_missing():
    bench = embedding()
    await bench.run(embed("a", "bb"), stream=False)
    call = await bench.run(embed("ccc", "a", "dddd", "bb"), stream=False)
    assert [ask.inputs for ask in bench.openai.asks] == [("a", "bb"), ("ccc", "dddd")]
    assert [vector[0] for vector in call.vectors.vectors] == [3, 1, 4, 2]
    assert (call.cached_inputs, call.usage.input_tokens) == (2, 14)
    assert call.nano_usd == 280  # 14 tokens at 0.02 USD a million
    again = await bench.run(embed("a", "dddd"), stream=False)
    assert (again.recalled.kind, again.cached_inputs, again.nano_usd) == ("exact", 2, 0)
    assert again.saved_nano_usd > 0
    assert len(bench.openai.asks) == 2
    bench.assert_settled(used=28)


async def test_vectors_of_other_tenants_or_lengths_are_not_known():
    bench = embedding()
    await bench.run(embed("a"), stream=False)
    await bench.run(embed("a", tenant="b"), stream=False)
    await bench.run(EmbedRequest(caller=caller("oracle.embedding"), inputs=("a",), dimensions=3, cache_mode="default"), stream=False)
    await bench.run(embed("a", mode=""), stream=False)
    assert len(bench.openai.asks) == 4
    with pytest.raises(errors.NotCached, match="1 of 2 inputs"):
        await bench.run(embed("a", "z", mode="only"), stream=False)
    assert NOBODY.tenant == ""


async def test_batch_whose_rest_is_garbled_remembers_nothing_wrong():
    bench = embedding()
    await bench.run(embed("a"), stream=False)

    class Short(Embedder):
        async def embed(self, ask):
            return Vectors([], Usage(1))

    bench.engine.providers["openai"] = Short("openai")
    with pytest.raises(errors.ProviderGarbled, match="0 vectors for 1 inputs"):
        await bench.run(embed("a", "bb"), stream=False)
    with pytest.raises(errors.NotCached):
        await bench.run(embed("bb", mode="only"), stream=False)


# --- similar questions --------------------------------------------------------------------------------------------------------------

SIMILAR = {NODE + "MODE": "default", NODE + "SEMANTIC": "on"}
ASKED, ALIKE, OTHER = "How do I reset my password?", "how do i reset my password", "How do I reset my e-mail address?"


class OpenJudge:
    """Gives what it is told to, and notes everything."""

    def __init__(self, *, gives=True, keeps=True):
        self.gives, self.keeps = gives, keeps
        self.gave_calls, self.audits = [], []

    def may_give(self, call, likely):
        return self.gives

    def unproven(self, call, likely):
        return "" if self.gives else "no figures"

    def gave(self, call, likely):
        self.gave_calls.append((call.id, likely.entry.call_id))

    def asked(self, call, likely, fresh, differs):
        self.audits.append((likely.entry.answer().text, fresh.text))
        if not self.keeps:
            differs()


async def test_similar_question_is_answered_from_memory_where_a_judge_lets_it():
    bench = Bench([(Chunk(text="old"), DONE), (Chunk(text="new"), DONE)], **SIMILAR)
    bench.engine.similar.judge = judge = OpenJudge()
    first = await bench.run(ask(ASKED))
    bench.sent.clear()
    call = await bench.run(ask(ALIKE))
    assert (call.recalled.kind, call.answer.text, call.nano_usd, call.recalled.source) == ("semantic", "old", 0, first.id)
    assert call.recalled.score >= 0.95
    assert bench.text() == "old"
    assert judge.gave_calls == [(call.id, first.id)]
    assert (await bench.run(ask(OTHER))).recalled is None
    for apart in (ask(ALIKE, tenant="b"), ask(ALIKE, system="s"), ask(ALIKE, temperature=0.1), ask(ALIKE, model="gpt-4o")):
        assert (await bench.run(apart)).recalled is None
    assert hits(bench)["semantic"] == 1


@pytest.mark.parametrize(
    ("environ", "judge"),
    [({NODE + "SEMANTIC": "shadow"}, OpenJudge()), ({NODE + "SEMANTIC": "on"}, None), ({NODE + "SEMANTIC": "on"}, OpenJudge(gives=False))],
)
async def test_in_shadow_without_a_judge_or_unproven_nothing_similar_is_given(environ, judge):
    bench = Bench([(Chunk(text="old"), DONE), (Chunk(text="new"), DONE)], **environ, **{NODE + "MODE": "default"})
    bench.engine.similar.judge = judge
    await bench.run(ask(ASKED))
    call = await bench.run(ask(ALIKE))
    assert (call.recalled, call.answer.text) == (None, "new")
    assert hits(bench) == {"miss": 1, "shadow": 1}
    if judge is not None:
        assert (judge.gave_calls, judge.audits) == ([], [("old", "new")])


async def test_answer_that_an_audit_finds_wrong_is_dropped():
    bench = Bench([(Chunk(text="old"), DONE), (Chunk(text="new"), DONE)], **SIMILAR)
    bench.engine.similar.judge = OpenJudge(gives=False, keeps=False)
    await bench.run(ask(ASKED))
    await bench.run(ask(ALIKE))
    bench.engine.similar.judge = OpenJudge()
    assert (await bench.run(ask(ASKED, "only"))).recalled.source  # the fresh one, as a similar one
    assert (await bench.run(ask(ASKED, "only"))).answer.text == "new"


async def test_service_says_how_sure_it_must_be():
    bench = Bench(**SIMILAR, SIDECAR_SERVICES__CORE__CACHE_ACCEPTANCE="1.0")
    bench.engine.similar.judge = OpenJudge()
    await bench.run(ask("How do I turn on 2FA?"))
    assert (await bench.run(ask("How do I turn on 2FA"))).recalled is not None  # identical but for the end
    assert (await bench.run(ask("How can I turn on 2FA?"))).recalled is None


async def test_similar_question_old_answer_when_every_model_fails():
    bench = Bench(**STALE, **{NODE + "SEMANTIC": "on"})
    bench.engine.similar.judge = OpenJudge()
    await bench.run(GenerateRequest(prompt=ASKED, caller=caller("core.react_agent")))
    bench.openai.scripts[:] = bench.anthropic.scripts[:] = [DOWN]
    call = await bench.run(GenerateRequest(prompt=ALIKE, caller=caller("core.react_agent")))
    assert call.recalled.kind == "stale"
    assert "this answer to a similar question is" in call.notices[-1]
    with pytest.raises(errors.ProviderUnavailable):
        await bench.run(GenerateRequest(prompt=OTHER, caller=caller("core.react_agent")))


async def test_calls_that_wait_for_a_similar_answer_get_it_too():
    bench = Bench(**SIMILAR)
    bench.engine.similar.judge = judge = OpenJudge()
    await bench.run(ask(ASKED))
    calls = [bench.call(ask(ALIKE), stream=False) for _ in range(5)]
    await asyncio.gather(*(run(bench.engine, call) for call in calls))
    assert {call.recalled.kind for call in calls} == {"semantic"}
    assert len(bench.openai.asks) == 1
    assert len(judge.gave_calls) == 5  # each of them may be complained about


@pytest.mark.parametrize("prompt", ["   \n", "?", "🎉🎉", "x" * 100_000, "a" * 1_999 + " b", "\u200b", "한국어 mixed кириллица 2FA"])
async def test_odd_questions_do_no_harm_to_similar_ones(prompt):
    turns = (Message("user", (Text("hello"),)), Message("assistant", (Text("hi"),)), Message("user", (Text(prompt),)))
    bench = Bench(**SIMILAR)
    bench.engine.similar.judge = OpenJudge()
    await bench.run(ask("", messages=turns))
    assert (await bench.run(ask("", messages=turns))).recalled.kind == "exact"
    other = (*turns[:2], Message("user", (Text(prompt + "!x"),)))
    assert (await bench.run(ask("", messages=other))).recalled is None


async def test_questions_that_are_forgotten_are_not_found():
    bench = Bench(**SIMILAR, SIDECAR_CACHE__MAX_BYTES="65536")
    similar = bench.engine.similar
    similar.judge = OpenJudge()
    for number in range(200):
        await bench.run(ask(f"How do I find parcel {number}?"))
    assert 10 < len(similar) <= len(bench.engine.answers) < 200
    assert all(bench.engine.answers.old(digest, 0) for digest in similar._keys)


async def test_look_up_explains_itself():
    from sidecar.caching import look_up

    bench = Bench(**SIMILAR)
    await bench.run(ask(ASKED))

    async def looked(request):
        call = bench.call(request)
        plan(bench.engine, call)
        return await look_up(bench.engine, call)

    same = await looked(ask(ASKED))
    assert (same.decision, same.exact.entry.call_id) == ("exact", "c1")
    alike = await looked(ask(ALIKE))
    assert (alike.decision, alike.candidates[0].veto) == ("shadow", "")
    assert "0 of 0 audits failed" in alike.why
    bench.engine.similar.judge = OpenJudge()
    assert (await looked(ask(ALIKE))).decision == "semantic"
    refused = await looked(ask("How do I not reset my password?"))
    assert refused.decision == "none"
    assert refused.candidates[0].veto
    assert refused.candidates[0].deciding
    assert (await looked(ask(ASKED, "bypass"))).decision == "none"
    assert len(bench.openai.asks) == 1


# --- vectors of questions -----------------------------------------------------------------------------------------------------------


class Meanings(Embedder):
    """The first word is what a text means."""

    async def embed(self, ask):
        self.asks.append(ask)
        return Vectors([[1.0, float(text.split()[0] == "reset"), 0.2] for text in ask.inputs], Usage(7))


def with_vectors(monkeypatch, **environ):
    """A bench whose verifier lets through whatever is near enough."""
    import sidecar.caching as module
    from sidecar.cache_calls import QuestionVectors

    class Verdict:
        veto = ""

        def __init__(self, cosine):
            self.score = cosine

    bench = Bench(**SIMILAR, **environ, SIDECAR_CACHE__EMBEDDING="openai/text-embedding-3-small")
    bench.engine.similar.judge = OpenJudge()
    bench.engine.similar.embed = QuestionVectors(bench.engine)
    monkeypatch.setattr(module, "compare", lambda _asked, _stored, cosine=None: Verdict(cosine or 0.0))
    meanings = Meanings("openai")
    bench.openai.embed = meanings.embed
    return bench, meanings


async def test_what_letters_do_not_show_is_found_by_vectors_and_these_are_paid(monkeypatch):
    bench, meanings = with_vectors(monkeypatch)
    first = await bench.run(ask("reset the password of my account"))
    call = await bench.run(ask("reset credentials, please, as I have lost them"))
    assert (call.recalled.kind, call.recalled.source) == ("semantic", first.id)
    assert call.recalled.similarity > 0.999
    other = await bench.run(ask("who may sign a contract"))  # its cosine is 0.72
    assert other.recalled is None
    assert [len(ask.inputs) for ask in meanings.asks] == [1, 1, 1]
    bench.assert_settled(used=2 * 15 + 3 * 7)
    again = await bench.run(ask("who may sign a contract", temperature=0.1))  # another partition: its vector is known, and costs nothing
    assert again.recalled is None
    assert len(meanings.asks) == 3


async def test_vectors_that_do_not_come_in_time_or_are_none_fail_no_call(monkeypatch):
    bench, _ = with_vectors(monkeypatch, SIDECAR_CACHE__EMBEDDING_MS="50")
    await bench.run(ask("reset one"))
    for trouble in (5.0, errors.ProviderUnavailable("down"), [[0.0, 0.0, 0.0]], [[1.0, 2.0]]):

        async def embed(asked, trouble=trouble):
            if isinstance(trouble, float):
                await asyncio.sleep(trouble)
            if isinstance(trouble, Exception):
                raise trouble
            return Vectors(trouble, Usage(1))

        bench.openai.embed = embed
        call = await bench.run(ask(f"reset another {trouble!r}"))
        assert (call.recalled, call.error) == (None, None)
    bench.assert_settled()


async def test_where_no_provider_may_be_asked_a_proven_answer_is_given_and_not_audited():
    bench = Bench(**SIMILAR)
    bench.engine.similar.judge = judge = OpenJudge()
    judge.may_give = lambda _call, _likely: False  # it is always the next one's turn to be audited
    await bench.run(ask(ASKED))
    assert (await bench.run(ask(ALIKE, "only"))).recalled.kind == "semantic"
    assert (await bench.run(ask(ALIKE))).recalled is None
