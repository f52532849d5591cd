"""Similar questions, end to end: audited until it is proven how seldom their answers are wrong, then given; closed again when they are."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
import pytest_asyncio
import redis.asyncio as redis

from sidecar.v1 import cache_pb2, ops_pb2
from sidecar.v1 import llm_pb2 as pb
from tests.fakes.script import Say
from tests.fakes.servers import Server, programs
from tests.flow.reading import failed, streamed
from tests.flow.test_commands import sidecar_command
from tests.tools.judge_pairs import judge_all, report

NODE = "sim.ilar"
MODEL = "compatible/compatible-default"
# Two audits without a failure prove this much: 0.4 / (1 - 0.5) ** 2 + ... is more than 1 / (1 - 0.5).
ROWS = f"""
[nodes.sim.ilar]
primary = "{MODEL}"
temperature = 0.0
cache = {{ mode = "default", semantic = "on" }}

[nodes.sim.shadow]
primary = "{MODEL}"
temperature = 0.0
cache = {{ mode = "default", semantic = "shadow" }}

[cache.audit]
target = 0.5
confidence = 0.5
share = 0.01
"""
NONE, SEMANTIC = pb.CacheResult.KIND_NONE, pb.CacheResult.KIND_SEMANTIC
PROGRAM = next(iter(programs().values()), None)


def variants():
    """Questions that are the same but for spaces: each another key, all as similar as can be."""
    words = ("how", "do", "i", "reset", "my", "password")
    for gaps in itertools.product((" ", "  "), repeat=len(words) - 1):
        yield "".join(word + gap for word, gap in zip(words, (*gaps, "?"), strict=True))


def ask(prompt: str, node: str = NODE, **fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"prompt": prompt, "caller": pb.Caller(node=node, tenant="acme", plan="paid")} | fields)


async def proofs(sidecar, node: str = "") -> cache_pb2.ListCacheProofsResponse:
    return await sidecar.ops.ListCacheProofs(cache_pb2.ListCacheProofsRequest(node=node))


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, upstream, tmp_path):
    upstream.on("compatible-default", Say(pieces=("Open the settings.",)))
    yield await start_sidecar(ROWS, f'data_dir = "{tmp_path}/data"')
    upstream.on("compatible-default", Say())


async def until_given(pod, questions, most: int = 20) -> pb.GenerateResponse:
    """Ask in ever other words until one is answered from memory."""
    for question in itertools.islice(questions, most):
        got = await pod.llm.Generate(ask(question))
        assert got.text == "Open the settings."
        if got.cache.kind == SEMANTIC:
            return got
        assert got.cost.nano_usd > 0
    raise AssertionError(f"{most} questions, and none was answered from memory")


async def test_audited_until_proven_then_given_and_closed_by_failures(pod, upstream):
    questions = variants()
    given = await until_given(pod, questions)
    assert (given.cost.nano_usd, given.usage.input_tokens) == (0, 0)
    assert given.cache.score >= 0.95
    (proof,) = (await proofs(pod)).proofs
    assert (proof.node, proof.tenants, proof.model) == (NODE, "paid", MODEL)
    assert (proof.failures, proof.complaints, proof.served, proof.open) == (0, 0, 1, True)
    assert 2 <= proof.audits <= 4
    assert 0 < proof.bound <= 0.5
    kinds = [event async for event in events(pod)]
    assert [event.message.partition(":")[0] for event in kinds] == [f"similar questions of {NODE} are from now on answered from the cache"]
    read = await pod.metrics()
    assert read("llm_cache_audit_total", node=NODE, outcome="same") == proof.audits

    # What models say changes: whoever is audited finds out. Until one is, a hit is an old answer; so ask as a user who complains.
    upstream.on("compatible-default", Say(pieces=("Write to the help desk.",)))
    for _ in range(6):
        got = await pod.llm.Generate(ask(next(questions)))
        if got.cache.kind == SEMANTIC:
            await pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=got.id, vote=ops_pb2.VOTE_DOWN))
        (proof,) = (await proofs(pod)).proofs
        if not proof.open:
            break
    assert not proof.open
    assert proof.failures > 0
    assert [event.facts["node"] async for event in events(pod)] == [NODE, NODE]


async def events(pod):
    for event in (await pod.ops.ListEvents(ops_pb2.ListEventsRequest(kind="cache"))).events:
        yield event


async def test_a_complaint_counts_once_and_takes_the_answer_away(pod):
    questions = variants()
    given = await until_given(pod, questions)
    before = (await proofs(pod)).proofs[0]
    for vote in (ops_pb2.VOTE_UP, ops_pb2.VOTE_DOWN, ops_pb2.VOTE_DOWN):
        await pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=given.id, vote=vote))
    after = (await proofs(pod)).proofs[0]
    assert (after.audits - before.audits, after.failures, after.complaints) == (1, 1, 1)
    source = given.cache.source_call_id
    assert source
    look = await pod.ops.CacheLookup(cache_pb2.CacheLookupRequest(generate=ask(next(questions))))
    assert source not in {candidate.source_call_id for candidate in look.candidates}


async def test_in_shadow_audits_count_and_nothing_is_given(pod):
    questions = variants()
    for question in itertools.islice(questions, 6):
        got = await streamed(pod.llm.Stream(ask(question, "sim.shadow")))
        assert got.end.cache.kind == NONE
    (proof,) = (await proofs(pod, "sim.shadow")).proofs
    assert (proof.audits, proof.failures, proof.served, proof.open) == (5, 0, 0, True)
    assert (await proofs(pod, NODE)).proofs == []


async def test_fresh_answers_that_differ_are_failed_audits_and_take_the_old_one_away(pod, upstream):
    questions = variants()
    first = await pod.llm.Generate(ask(next(questions)))
    upstream.on("compatible-default", Say(pieces=("Close the settings.",)))
    second = await pod.llm.Generate(ask(next(questions)))
    assert second.text == "Close the settings."
    (proof,) = (await proofs(pod)).proofs
    assert (proof.audits, proof.failures, proof.open, proof.bound) == (1, 1, False, 1.0)
    again = await pod.llm.Generate(ask(next(variants())))  # word for word as the first one was
    assert again.id != first.id
    assert again.cache.kind == NONE
    assert (await pod.metrics())("llm_cache_audit_total", node=NODE, outcome="words") == 1


async def test_what_was_proven_outlives_the_process(pod, start_sidecar, tmp_path):
    questions = variants()
    await until_given(pod, questions)
    (before,) = (await proofs(pod)).proofs
    await pod.stop()
    again = await start_sidecar(ROWS, f'data_dir = "{tmp_path}/data"')
    (after,) = (await proofs(again)).proofs
    assert after.open
    before.served = 0
    assert after == before
    assert [event async for event in events(again)] == []


async def test_command_line_tells_it(pod):
    await until_given(pod, variants())
    status, out, err = await sidecar_command("cache", "proofs", "--node", NODE, "--target", pod.target)
    assert (status, err) == (0, "")
    assert "fewer than 50.00% are wrong at 0.5 confidence" in out
    assert f"{NODE} paid {MODEL}: open; 0 of " in out


async def test_a_model_judges_answers_that_are_worded_anew_each_time(start_sidecar, upstream, tmp_path):
    ways = itertools.cycle(("Open the settings.", "The settings are what you have to open.", "It is in the settings: open them."))
    upstream.on("compatible-default", lambda _: Say(pieces=(next(ways),)))
    upstream.on("compatible-spare", judged)
    try:
        pod = await start_sidecar(f'{ROWS}judge = "compatible/compatible-spare"\n', f'data_dir = "{tmp_path}/data"')
        before = len(upstream.asked("compatible-spare"))
        who = pb.Caller(node=NODE, tenant="acme", plan="paid", run="r1", step=1)
        for number, question in enumerate(itertools.islice(variants(), 10)):
            got = await pod.llm.Generate(ask(question, caller=who))
            if got.cache.kind == SEMANTIC:
                break
            assert await until_audits(pod, number) == (number, 0, number > 1)  # the judge is asked beside the calls
        assert got.cache.kind == SEMANTIC
        (proof,) = (await proofs(pod)).proofs
        assert (proof.failures, proof.open) == (0, True)
        assert "compatible-spare" in proof.rules
        told = await pod.ops.ListCalls(ops_pb2.ListCallsRequest(filter=ops_pb2.UsageFilter(equals={"prompt_name": "cache-audit"})))
        assert len(told.calls) == len(upstream.asked("compatible-spare")) - before > 0
        assert {(c.model, c.caller.node, c.caller.tenant, c.caller.run, c.status) for c in told.calls} == {
            ("compatible-spare", "ilar", "acme", "", "ok")
        }
        assert all(call.cost_nano_usd > 0 for call in told.calls)
    finally:
        upstream.on("compatible-default", Say())
        upstream.on("compatible-spare", Say())


async def test_how_well_a_model_judges_can_be_measured(sidecar, upstream):
    def credulous(exchange) -> Say:
        """Everything says the same, in a wrong form where it is about a refund."""
        system, user = (message["content"] for message in exchange.body["messages"])
        code = system.partition("`")[2].split()[0]
        return Say(pieces=("Same." if "efund" in user else f"{code} same",))

    upstream.on("compatible-spare", credulous)
    told = report(await judge_all(sidecar.target, "compatible/compatible-spare")).splitlines()
    upstream.on("compatible-spare", Say())
    assert [line.partition(" taken")[0].partition(" not")[0] for line in told] == [
        "en, different: 19 of 20",
        "en, the same: 1 of 20",
        "ko, different: 20 of 20",
        "ko, the same: 0 of 20",
    ]
    assert told[1].endswith("not found to be the same: worded anew (unclear)")


def judged(exchange) -> Say:
    """A judge to whom whatever holds the settings says the same."""
    system, user = (message["content"] for message in exchange.body["messages"])
    texts = json.loads(user)
    is_same = all("settings" in texts[name] for name in ("first", "second"))
    return Say(pieces=(f"{system.partition('`')[2].split()[0]} {'same' if is_same else 'different'}",))


@pytest.mark.skipif(PROGRAM is None, reason="neither redis-server nor valkey-server is installed")
async def test_pods_add_up_what_they_audit(start_sidecar, upstream, tmp_path):
    upstream.on("compatible-default", Say(pieces=("Open the settings.",)))
    with Server(PROGRAM) as server:
        rows = (
            ROWS.replace("target = 0.5\nconfidence = 0.5", "target = 0.2\nconfidence = 0.8")
            + f'[fleet]\nshare_budgets = false\n[redis]\nurl = "{server.url}"\n'
        )
        one = await start_sidecar(rows, f'data_dir = "{tmp_path}/one"')
        two = await start_sidecar(rows)
        for pod in (one, two):
            for question in itertools.islice(variants(), 7):
                assert (await pod.llm.Generate(ask(question))).cache.kind == NONE  # six audits are not enough, twelve are
        for pod in (one, two):
            assert await until_audits(pod, 12) == (12, 0, True)
        given = await two.llm.Generate(ask(next(itertools.islice(variants(), 20, None))))
        assert given.cache.kind == SEMANTIC
        await two.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=given.id, vote=ops_pb2.VOTE_DOWN))
        assert await until_audits(one, 13) == (13, 1, False)
        async with redis.Redis(port=server.port) as client:
            (key,) = await client.keys("sidecar:cache:proof:*")
            assert {name: int(value) for name, value in (await client.hgetall(key)).items() if not name.startswith(b"p:")} == {
                b"audits": 13,
                b"failures": 1,
            }
            await client.flushall()  # what a server forgets, the pods tell it again
            async with asyncio.timeout(20):
                while await client.hget(key, "audits") != b"13":  # noqa: ASYNC110  (another process's)
                    await asyncio.sleep(0.1)
        await one.stop()
    again = await start_sidecar(rows, f'data_dir = "{tmp_path}/one"')  # without the server: what it had heard counts
    (proof,) = (await proofs(again)).proofs
    assert (proof.audits, proof.failures, proof.open) == (13, 1, False)
    upstream.on("compatible-default", Say())


async def until_audits(pod, many: int) -> tuple[int, int, bool]:
    async with asyncio.timeout(20):
        while (found := [*(await proofs(pod)).proofs, cache_pb2.CacheProof()])[0].audits < many:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.1)
    return found[0].audits, found[0].failures, found[0].open


async def test_a_node_that_is_none_is_refused(pod):
    got = await failed(pod.ops.ListCacheProofs(cache_pb2.ListCacheProofsRequest(node="ilar")))
    assert got.field == "node"
