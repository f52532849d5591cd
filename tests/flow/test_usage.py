"""The usage log of a real process: each ending has a row, sums agree with callers and accounts; kill -9, a full disk, the command line."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import resource
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.conftest import usual_tables
from tests.fakes.running import Sidecar, model_row, serving
from tests.fakes.script import Fail, Say, Tokens
from tests.flow.reading import account, failed, streamed
from tests.flow.test_commands import sidecar_command

COST = 39_000  # nano-USD: the fake's 11 tokens in and 7 out, at the test models' prices


def ask(tenant: str = "acme", **fields) -> pb.GenerateRequest:
    fields = {"prompt": "hi", "caller": pb.Caller(service="flow", tenant=tenant)} | fields
    return pb.GenerateRequest(**fields)


async def calls(sidecar: Sidecar, limit: int = 0, **equals: str) -> list[ops_pb2.UsageCall]:
    which = ops_pb2.UsageFilter(equals=equals)
    return [*(await sidecar.ops.ListCalls(ops_pb2.ListCallsRequest(filter=which, limit=limit))).calls]


async def all_calls(sidecar: Sidecar) -> list[ops_pb2.UsageCall]:
    """Page by page."""
    found: list[ops_pb2.UsageCall] = []
    while True:
        before = found[-1].cursor if found else ""
        page = (await sidecar.ops.ListCalls(ops_pb2.ListCallsRequest(limit=1_000, before=before))).calls
        if not page:
            return found
        found += page


async def report(sidecar: Sidecar, *by: str, **equals: str) -> ops_pb2.ReportUsageResponse:
    return await sidecar.ops.ReportUsage(ops_pb2.ReportUsageRequest(filter=ops_pb2.UsageFilter(equals=equals), by=by))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest_asyncio.fixture(loop_scope="session")
async def pod(start_sidecar, folder) -> AsyncIterator[Sidecar]:
    models = "".join(model_row(f"log-{name}", "compatible") for name in ("ok", "cached", "bad", "slow"))
    yield await start_sidecar(models, f'data_dir = "{folder}"')


async def test_every_ending_has_a_row_and_the_sums_agree_with_callers_and_account(pod, upstream):
    upstream.on("log-cached", Say(tokens=Tokens(input=100, cached=1_000, cache_write=200)))
    upstream.on("log-bad", Fail(400, "no"))
    gate = asyncio.Event()
    upstream.on("log-slow", Say(gate=gate, hold_after=1))
    told = [await pod.llm.Generate(ask(model="log-ok"))]
    told.append((await streamed(pod.llm.Stream(ask(model="log-cached", prompt="other")))).end)
    for _ in range(2):
        told.append(await pod.llm.Generate(ask(model="log-ok", cache=pb.CachePolicy(mode=pb.CachePolicy.MODE_DEFAULT))))
    told.append(await pod.llm.Embed(pb.EmbedRequest(inputs=["a"], caller=pb.Caller(service="flow", tenant="acme"))))
    bad = await failed(pod.llm.Generate(ask(model="log-bad")))
    unknown = await failed(pod.llm.Generate(ask(model="no-such-model")))
    cut = pod.llm.Stream(ask(model="log-slow"))
    async for event in cut:
        if event.WhichOneof("event") == "text_delta":
            break
    cut.cancel()
    await pod.until_idle()
    gate.set()
    found = {call.id: call for call in await calls(pod)}
    assert len(found) == 8
    for answer in told:
        row = found[answer.id]
        assert (row.status, row.cost_nano_usd, row.usage) == ("ok", answer.cost.nano_usd, answer.usage)
        assert (row.caller.service, row.caller.tenant) == ("flow", "acme")
    assert found[told[3].id].cache == "exact"
    assert found[told[1].id].operation == "stream"
    assert found[told[1].id].HasField("first_token_ms")
    assert found[bad.facts["id"]].status == "PROVIDER_REJECTED"
    assert found[unknown.facts["id"]].status == "UNKNOWN_MODEL"
    (cancelled,) = [call for call in found.values() if call.status == "CANCELLED"]
    assert cancelled.cost_nano_usd > 0
    assert cancelled.usage.estimated
    assert [call.time_ms for call in await calls(pod)] == sorted((call.time_ms for call in found.values()), reverse=True)

    total = (await report(pod)).total
    rows_cost = sum(call.cost_nano_usd for call in found.values())
    assert total.cost_nano_usd == rows_cost == (await account(pod, "acme")).used_nano_usd
    assert (total.calls, total.failed, total.cancelled, total.cached) == (8, 3, 1, 1)
    assert total.cache_saved_nano_usd == 1_000 * 750
    assert total.cache_write_extra_nano_usd == 200 * 250
    by_model = {group.keys[1]: group.sums.calls for group in (await report(pod, "service", "model", tenant="acme")).groups}
    assert by_model["log-ok"] == 3
    assert sum((g.sums.calls for g in (await report(pod, "status")).groups), 0) == 8


async def test_a_fallback_is_compared_with_who_was_wanted(start_sidecar, upstream, folder):
    """compatible-default refuses its key, so the chain's second model answers; both have the same prices."""
    pod = await start_sidecar(
        '[nodes.log.chain]\nprimary = "compatible/log-refusing"\nfallbacks = ["compatible/compatible-spare"]\n', f'data_dir = "{folder}"'
    )
    upstream.on("log-refusing", Fail(429, "quota", code="insufficient_quota"))
    answer = await pod.llm.Generate(ask(caller=pb.Caller(node="log.chain")))
    assert answer.fallback
    (row,) = await calls(pod)
    assert (row.fallback, row.primary_model, row.attempts) == (True, "compatible/log-refusing", 2)
    sums = (await report(pod, service="log")).total
    assert (sums.fallbacks, sums.fallback_nano_usd) == (1, COST)


async def test_feedback_is_attached_by_id_also_after_a_restart(start_sidecar, folder):
    pod = await start_sidecar(server=f'data_dir = "{folder}"')
    first, second = [(await pod.llm.Generate(ask())).id for _ in range(2)]
    await pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=first, quality=0.75, vote=ops_pb2.VOTE_UP))
    assert await pod.stop() == 0
    pod = await start_sidecar(server=f'data_dir = "{folder}"')
    await pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=second, quality=0.0))
    await pod.ops.GiveFeedback(ops_pb2.GiveFeedbackRequest(id=first, vote=ops_pb2.VOTE_DOWN))
    found = {call.id: call for call in await calls(pod)}
    assert (found[first].quality, found[first].vote) == (0.75, ops_pb2.VOTE_DOWN)
    assert (found[second].HasField("quality"), found[second].quality, found[second].vote) == (True, 0.0, ops_pb2.VOTE_UNSPECIFIED)
    total = (await report(pod)).total
    assert (total.calls, total.rated, total.quality_ppm, total.ups, total.downs) == (2, 2, 750_000, 0, 1)


@pytest.mark.parametrize(
    ("method", "request_", "code", "field", "words"),
    [
        ("GiveFeedback", ops_pb2.GiveFeedbackRequest(vote=1), "INVALID_ARGUMENT", "id", "id is empty"),
        ("GiveFeedback", ops_pb2.GiveFeedbackRequest(id="x"), "INVALID_ARGUMENT", "quality", "neither quality nor vote"),
        ("GiveFeedback", ops_pb2.GiveFeedbackRequest(id="x", quality=1.01), "INVALID_ARGUMENT", "quality", "expected 0 to 1"),
        ("GiveFeedback", ops_pb2.GiveFeedbackRequest(id="x", quality=-0.01), "INVALID_ARGUMENT", "quality", "expected 0 to 1"),
        ("GiveFeedback", ops_pb2.GiveFeedbackRequest(id="x", quality=float("nan")), "INVALID_ARGUMENT", "quality", "expected 0 to 1"),
        ("GiveFeedback", ops_pb2.GiveFeedbackRequest(id="x", vote=7), "INVALID_ARGUMENT", "vote", "vote is 7"),
        ("GiveFeedback", ops_pb2.GiveFeedbackRequest(id="nobody's", vote=1), "NOT_FOUND", "id", "has no call"),
        ("ReportUsage", ops_pb2.ReportUsageRequest(by=["servce"]), "INVALID_ARGUMENT", "by", 'did you mean "service"'),
        ("ReportUsage", ops_pb2.ReportUsageRequest(by=["day", "day"]), "INVALID_ARGUMENT", "by", "twice"),
        ("ReportUsage", ops_pb2.ReportUsageRequest(limit=-1), "INVALID_ARGUMENT", "limit", "expected 1 to 10000"),
        ("ReportUsage", ops_pb2.ReportUsageRequest(limit=10_001), "INVALID_ARGUMENT", "limit", "expected 1 to 10000"),
        (
            "ReportUsage",
            ops_pb2.ReportUsageRequest(filter=ops_pb2.UsageFilter(from_day="2026-13-01")),
            "INVALID_ARGUMENT",
            "filter.from_day",
            "expected a day like",
        ),
        (
            "ReportUsage",
            ops_pb2.ReportUsageRequest(filter=ops_pb2.UsageFilter(from_day="2026-02-02", to_day="2026-02-01")),
            "INVALID_ARGUMENT",
            "filter.to_day",
            "before from_day",
        ),
        (
            "ReportUsage",
            ops_pb2.ReportUsageRequest(filter=ops_pb2.UsageFilter(equals={"prompt": "x"})),
            "INVALID_ARGUMENT",
            "filter.equals",
            "expected one of",
        ),
        ("ListCalls", ops_pb2.ListCallsRequest(limit=1_001), "INVALID_ARGUMENT", "limit", "expected 1 to 1000"),
        ("ListCalls", ops_pb2.ListCallsRequest(before="yesterday"), "INVALID_ARGUMENT", "before", "expected the cursor"),
        ("ForecastUsage", ops_pb2.ForecastUsageRequest(equals={"x": "y"}), "INVALID_ARGUMENT", "equals", "expected one of"),
    ],
)
async def test_bad_requests(kept, method, request_, code, field, words):
    got = await failed(getattr(kept.ops, method)(request_))
    assert (got.code.name, got.field) == (code, field)
    assert words in got.message


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kept(upstream, tmp_path_factory) -> AsyncIterator[Sidecar]:
    """One sidecar with a log, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("kept")
    async with serving(folder, usual_tables(upstream.url), f'data_dir = "{folder}/data"') as one:
        yield one


async def test_without_a_folder_there_is_no_log_and_it_is_said(sidecar):
    for method, request in (("ReportUsage", ops_pb2.ReportUsageRequest()), ("GiveFeedback", ops_pb2.GiveFeedbackRequest(id="x", vote=1))):
        got = await failed(getattr(sidecar.ops, method)(request))
        assert (got.code, got.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_USAGE_LOG")
        assert "server.data_dir" in got.message
    notices = (await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())).notices
    assert any("no usage log is kept" in notice for notice in notices)


async def test_kill_9_in_the_middle_of_calls_takes_no_row(start_sidecar, folder):
    pod = await start_sidecar(server=f'data_dir = "{folder}"')
    ended: set[str] = set()
    dead = asyncio.Event()

    async def caller() -> None:
        while not dead.is_set():
            try:
                answer = await pod.llm.Generate(ask(), timeout=10)
            except grpc.aio.AioRpcError:
                return
            ended.add(answer.id)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    async with asyncio.timeout(60):
        while len(ended) < 300:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    pod.process.kill()
    await pod.process.wait()
    dead.set()
    await asyncio.gather(*callers)
    pod = await start_sidecar(server=f'data_dir = "{folder}"')
    rows = await all_calls(pod)
    ids = [row.id for row in rows]
    assert len(ids) == len(set(ids))
    assert ended <= set(ids)
    whose = {(row.caller.service, row.caller.tenant, row.model, row.provider, row.status) for row in rows}
    assert whose == {("flow", "acme", "compatible-default", "compatible", "ok")}
    assert {(row.usage.input_tokens, row.usage.output_tokens, row.cost_nano_usd) for row in rows} == {(11, 7, COST)}
    total = (await report(pod)).total
    assert (total.calls, total.cost_nano_usd) == (len(rows), sum(row.cost_nano_usd for row in rows))


async def test_a_full_disk_is_told_and_calls_go_on(start_sidecar, folder):
    pod = await start_sidecar('[journal]\non_full = "go_on"\n', f'data_dir = "{folder}"')
    ids = [(await pod.llm.Generate(ask())).id for _ in range(3)]
    await until_row(pod, ids[-1])
    # No file of the process may grow any more: what a full disk does to it.
    limits = resource.prlimit(pod.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pod.process.pid, resource.RLIMIT_FSIZE, (1_024, limits[1]))
    ids += [(await pod.llm.Generate(ask())).id for _ in range(20)]
    async with asyncio.timeout(30):
        while (await pod.metrics())("llm_usage_store_up", store="file") != 0:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    ids += [(await pod.llm.Generate(ask())).id for _ in range(20)]
    notices = (await pod.ops.GetStatus(ops_pb2.GetStatusRequest())).notices
    assert any("the usage log cannot be written" in notice for notice in notices)
    resource.prlimit(pod.process.pid, resource.RLIMIT_FSIZE, limits)
    async with asyncio.timeout(30):
        while (await pod.metrics())("llm_usage_store_up", store="file") != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await until_row(pod, ids[-1])
    assert {call.id for call in await all_calls(pod)} == {*ids}
    notices = (await pod.ops.GetStatus(ops_pb2.GetStatusRequest())).notices
    assert not any("the usage log cannot be written" in notice for notice in notices)
    assert (await pod.metrics())("llm_usage_rows_lost_total") == 0


async def until_row(pod: Sidecar, call: str, within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while call not in {found.id for found in await calls(pod)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# --- the command line -----------------------------------------------------------------------------------------------------------


async def test_reports_on_the_command_line(start_sidecar, folder):
    pod = await start_sidecar(server=f'data_dir = "{folder}"')
    for tenant in ("acme", "acme", "=cmd()"):
        last = await pod.llm.Generate(ask(tenant))
    target = ("--target", pod.target)
    status, out, err = await sidecar_command("usage", "report", "--by", "tenant,model", *target)
    assert (status, err) == (0, "")
    period, titles, first, second, total = out.splitlines()
    assert "UTC" in period
    assert titles.split() == ["tenant", "model", "calls", "failed", "cached", "tokens_in", "tokens_out", "cost", "USD", "mean_ms"]
    assert first.split()[:8] == ["acme", "compatible-default", "2", "0", "0", "22", "14", "0.000078000"]
    assert second.split()[0] == "=cmd()"
    assert total.split()[:7] == ["total", "3", "0", "0", "33", "21", "0.000117000"]

    status, out, _ = await sidecar_command("usage", "report", "--by", "tenant", "--json", *target)
    assert status == 0
    assert json.loads(out)["total"]["cost_nano_usd"] == 3 * COST
    status, out, _ = await sidecar_command("usage", "report", "--by", "tenant", "--csv", *target)
    table = [*csv.DictReader(io.StringIO(out))]
    assert [(line["tenant"], line["calls"], line["cost_nano_usd"]) for line in table] == [("acme", "2", "78000"), ("'=cmd()", "1", "39000")]

    status, out, _ = await sidecar_command("usage", "feedback", last.id, "--quality", "0.5", "--up", *target)
    assert (status, out) == (0, "")
    status, out, _ = await sidecar_command("usage", "calls", "--where", "tenant==cmd()", "--json", *target)
    (call,) = json.loads(out)["calls"]
    assert (call["id"], call["quality"], call["vote"], call["cost_nano_usd"]) == (last.id, 0.5, 1, COST)
    status, out, _ = await sidecar_command("usage", "calls", "--where", f"id={last.id}", "--json", *target)
    assert json.loads(out)["calls"] == [call]
    status, out, _ = await sidecar_command("usage", "calls", "--where", "tenant=acme", "--json", *target)
    unrated = json.loads(out)["calls"]
    assert [(one["quality"], one["vote"]) for one in unrated] == [(None, None)] * 2
    status, out, _ = await sidecar_command("usage", "calls", *target)
    assert len(out.splitlines()) == 4
    status, out, _ = await sidecar_command("usage", "forecast", *target)
    assert "0.000117000 USD are spent" in out
    for kind in ("cache", "fallbacks"):
        status, out, err = await sidecar_command("usage", kind, *target)
        assert (status, err) == (0, ""), kind
        assert out.splitlines()[-1].startswith("total")

    # The same from the folder, while the sidecar runs and after it.
    running = await sidecar_command("usage", "report", "--by", "tenant", "--json", *target)
    assert await sidecar_command("usage", "report", "--by", "tenant", "--json", "--data-dir", str(folder)) == running
    await pod.stop()
    assert await sidecar_command("usage", "report", "--by", "tenant", "--json", "--data-dir", str(folder)) == running
    status, out, _ = await sidecar_command("usage", "calls", "--json", "--data-dir", str(folder))
    names = call.keys() - {"cursor"}
    assert [{name: one[name] for name in names} for one in json.loads(out)["calls"]] == [
        {name: one[name] for name in names} for one in (call, *unrated)
    ]
    for words in (("calls",), ("forecast",), ("forecast", "--csv"), ("calls", "--csv", "--failed")):
        status, _, err = await sidecar_command("usage", *words, "--data-dir", str(folder))
        assert (status, err) == (0, ""), words


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("report", "--by", "colour"), 2, "expected one of day"),
        (("report", "--from", "monday"), 2, "expected a day like 2026-11-21"),
        (("report", "--where", "service"), 2, "expected NAME=VALUE"),
        (("report", "--time-zone", "Mars/Olympus"), 2, "no time zone is called"),
        (("report",), 1, "usage.db"),
    ],
)
async def test_mistakes_on_the_command_line(tmp_path, words, status, told):
    got, out, err = await sidecar_command("usage", *words, "--data-dir", str(tmp_path))
    assert (got, out) == (status, "")
    (line,) = err.splitlines()
    assert line.startswith("sidecar usage: ")
    assert told in line


async def test_the_operators_token_comes_from_the_environment(start_sidecar, folder):
    token = "a-token-of-the-operators"
    pod = await start_sidecar(f'[auth]\nops_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n', f'data_dir = "{folder}"')
    words = ("usage", "forecast", "--target", pod.target)
    status, _, err = await sidecar_command(*words)
    assert status == 1
    assert "UNAUTHENTICATED" in err
    status, _, err = await sidecar_command(*words, environ={"LLM_TOKEN": token})
    assert (status, err) == (0, "")


async def test_a_failure_of_the_sidecars_on_the_command_line(sidecar):
    status, out, err = await sidecar_command("usage", "report", "--target", sidecar.target)
    assert (status, out) == (1, "")
    assert err.startswith("sidecar usage: FAILED_PRECONDITION NO_USAGE_LOG: ")
