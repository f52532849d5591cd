"""An answer that somebody says is wrong is not given any more: at once, after a restart, and when the complaint reaches another pod."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import nullcontext

import pytest

from sidecar.v1 import cache_pb2, ops_pb2
from sidecar.v1 import llm_pb2 as pb
from tests.fakes.postgres import HOW, Postgres
from tests.fakes.postgres import programs as postgres_programs
from tests.fakes.script import Say
from tests.fakes.servers import Server
from tests.flow.reading import failed
from tests.flow.test_cache_audits import NODE, NONE, PROGRAM, ROWS, ask, proofs, until_audits, until_given, variants
from tests.flow.test_usage_fleet import all_moved

EXACT = pb.CacheResult.KIND_EXACT
KEEP = f'[cache]\npersist = true\nkey = "{"11" * 32}"\n'


@pytest.fixture(autouse=True)
def answers(upstream):
    upstream.on("compatible-default", Say(pieces=("Open the settings.",)))
    yield
    upstream.on("compatible-default", Say())


async def complain(pod, id: str, vote: int = ops_pb2.VOTE_DOWN) -> None:
    await pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=id, vote=vote))


async def decision(pod, prompt: str) -> str:
    return (await pod.ops.CacheLookup(cache_pb2.CacheLookupRequest(generate=ask(prompt)))).decision


async def until_known(pod, prompt: str) -> None:
    """Its file is read beside the calls."""
    async with asyncio.timeout(10):
        while await decision(pod, prompt) != "exact":  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)


async def test_an_answer_goes_whichever_of_its_calls_is_complained_about(start_sidecar, tmp_path):
    pod = await start_sidecar(ROWS, f'data_dir = "{tmp_path}/data"')
    first, other = [await pod.llm.Generate(ask(prompt)) for prompt in ("What is it?", "Who was it?")]
    repeated = await pod.llm.Generate(ask("What is it?"))
    assert (repeated.cache.kind, repeated.cache.source_call_id) == (EXACT, first.id)
    await complain(pod, repeated.id)
    anew = await pod.llm.Generate(ask("What is it?"))
    assert anew.cache.kind == NONE
    await complain(pod, anew.id)
    assert await decision(pod, "What is it?") == "none"
    assert (await pod.llm.Generate(ask("Who was it?"))).cache.source_call_id == other.id


async def test_complaints_count_after_a_restart_too_and_the_file_keeps_nothing(start_sidecar, tmp_path):
    async def start():
        return await start_sidecar(ROWS + KEEP, f'data_dir = "{tmp_path}/data"')

    pod = await start()
    first, _ = [await pod.llm.Generate(ask(prompt)) for prompt in ("What is it?", "Who was it?")]
    repeated = await pod.llm.Generate(ask("What is it?"))
    similar = await until_given(pod, variants())
    (before,) = (await proofs(pod)).proofs
    await pod.stop()
    pod = await start()
    await until_known(pod, "What is it?")
    await complain(pod, repeated.id)
    assert await decision(pod, "What is it?") == "none"
    assert (await proofs(pod)).proofs[0].failures == 0
    for vote in (ops_pb2.VOTE_UP, ops_pb2.VOTE_DOWN, ops_pb2.VOTE_DOWN):
        await complain(pod, similar.id, vote)
    (after,) = (await proofs(pod)).proofs
    assert (after.audits - before.audits, after.failures, after.complaints) == (1, 1, 1)
    await pod.stop()
    pod = await start()
    await until_known(pod, "Who was it?")
    assert first.id not in {(await pod.llm.Generate(ask("What is it?"))).cache.source_call_id, *await sources(pod, "What is it?")}


async def test_without_a_usage_log_what_was_given_of_late_can_be_complained_about(start_sidecar):
    pod = await start_sidecar(ROWS)
    questions = variants()
    similar = await until_given(pod, questions)
    (before,) = (await proofs(pod)).proofs
    got = await failed(pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=similar.id, vote=ops_pb2.VOTE_UP)))
    assert got.reason == "NO_USAGE_LOG"
    await complain(pod, similar.id)
    (after,) = (await proofs(pod)).proofs
    assert (after.failures - before.failures, after.complaints) == (1, 1)
    first = await pod.llm.Generate(ask("What is it?"))
    repeated = await pod.llm.Generate(ask("What is it?"))
    assert repeated.cache.source_call_id == first.id
    await complain(pod, repeated.id)
    assert await decision(pod, "What is it?") == "none"
    got = await failed(pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=repeated.id, vote=ops_pb2.VOTE_DOWN)))
    assert got.reason == "NO_USAGE_LOG"


@pytest.mark.skipif(PROGRAM is None, reason="neither redis-server nor valkey-server is installed")
@pytest.mark.parametrize("shares_log", [True, False])
async def test_a_complaint_at_another_pod_counts_and_takes_the_answer_away_on_all(start_sidecar, tmp_path, shares_log):
    if shares_log and postgres_programs() is None:
        pytest.skip(HOW)
    with Server(PROGRAM) as redis, Postgres() if shares_log else nullcontext() as postgres:
        rows = f'{ROWS}[fleet]\nshare_budgets = false\n[redis]\nurl = "{redis.url}"\n'
        rows += f'[usage]\npostgres = "{postgres.url}"\n' if postgres is not None else ""
        one, two = [await start_sidecar(rows, f'data_dir = "{tmp_path}/{name}"') for name in ("one", "two")]
        given = await until_given(one, variants())
        source = given.cache.source_call_id
        assert source
        (before,) = (await proofs(one)).proofs
        async with asyncio.timeout(20):
            while shares_log and not await all_moved(one):  # noqa: ASYNC110  (another process's)
                await asyncio.sleep(0.05)
        await complain(two, given.id)
        assert (await until_audits(one, before.audits + 1))[1] == 1
        await complain(two, given.id)
        unasked = next(itertools.islice(variants(), 30, None))
        async with asyncio.timeout(10):
            while source in await sources(one, unasked):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await proofs(one)).proofs[0].failures == 1
        assert (await proofs(two if shares_log else one, NODE)).proofs[0].complaints == 1


async def sources(pod, prompt: str) -> set[str]:
    look = await pod.ops.CacheLookup(cache_pb2.CacheLookupRequest(generate=ask(prompt)))
    return {candidate.source_call_id for candidate in look.candidates}
