"""What operators do while the process runs: see and hold breakers, list events, keep users' preferences."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.running import Sidecar, free_port, model_row, provider_tables, serving, spawn, start
from tests.fakes.script import Fail, Say
from tests.flow.reading import failed

HELD_OPEN, HELD_CLOSED, LET_GO = (
    ops_pb2.SetBreakerRequest.STATE_OPEN,
    ops_pb2.SetBreakerRequest.STATE_CLOSED,
    ops_pb2.SetBreakerRequest.STATE_AUTO,
)

TABLES = """
[profile]
primary = "ops-usual"
fallbacks = []

[retries.unavailable]
retries = 0

[services.shop]
breaker_failures = 1

[nodes.shop.chain]
primary = "ops-usual"

[plans.gold]
preferred = ["compatible/ops-first", "ops-second"]

[plans.silver]
models = ["ops-usual"]
"""
MODELS = "".join(
    (
        model_row("ops-usual", "compatible"),
        model_row("ops-first", "compatible", aliases=["first"]),
        model_row("ops-second", "compatible"),
        model_row("ops-third", "compatible"),
    )
)


def tables(url: str) -> str:
    return TABLES + provider_tables(url, "compatible") + MODELS


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one(upstream, tmp_path_factory) -> AsyncIterator[Sidecar]:
    """One sidecar for all tests here that leave it as it was; each has a service, a user or a model of its own."""
    async with serving(tmp_path_factory.mktemp("operators"), tables(upstream.url)) as running:
        yield running


def ask(model: str = "", **caller: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="hi", model=model, caller=pb.Caller(**caller))


# --- breakers ----------------------------------------------------------------------------------------------------------------------


async def breaker(sidecar: Sidecar, service: str, target: str) -> ops_pb2.BreakerStatus | None:
    listed = (await sidecar.ops.ListBreakers(ops_pb2.ListBreakersRequest(service=service))).breakers
    assert [(b.service, b.target) for b in listed] == sorted((b.service, b.target) for b in listed)
    return next((b for b in listed if (b.service, b.target) == (service, target)), None)


async def hold(sidecar: Sidecar, service: str, target: str, state: int) -> ops_pb2.BreakerStatus:
    request = ops_pb2.SetBreakerRequest(service=service, target=target, state=state)
    return (await sidecar.ops.SetBreaker(request)).breaker


async def explained(sidecar: Sidecar, request: pb.GenerateRequest) -> ops_pb2.ExplainResponse:
    return await sidecar.ops.Explain(ops_pb2.ExplainRequest(generate=request))


async def test_breaker_that_opened_is_listed_and_let_go(one, upstream):
    target = "compatible/opened"
    asking = ask(target, node="shop.chain")
    assert await breaker(one, "shop", target) is None
    assert (await explained(one, asking)).candidates[0].breaker == "closed"
    assert await breaker(one, "shop", target) is None  # a dry run makes none
    upstream.on("opened", Fail(500), Say())
    assert (await one.llm.Generate(asking)).model == "ops-usual"  # the next candidate
    found = await breaker(one, "shop", target)
    assert (found.state, found.forced, found.changes) == ("open", False, 1)
    assert 0 < found.open_left.ToMilliseconds() <= 30_000
    assert await breaker(one, "core", target) is None
    everybody = (await one.ops.ListBreakers(ops_pb2.ListBreakersRequest())).breakers
    assert ("shop", target) in [(b.service, b.target) for b in everybody]
    assert (await explained(one, asking)).candidates[0].breaker == "open"
    now = await hold(one, "shop", target, LET_GO)
    assert (now.state, now.forced, now.changes, now.HasField("open_left")) == ("closed", False, 2, False)
    assert (await one.llm.Generate(asking)).model == "compatible/opened"


async def test_breaker_that_an_operator_holds_open_lets_nothing_through(one, upstream):
    target = "compatible/held"
    asking = ask(target, node="shop.chain")
    assert (await one.llm.Generate(asking)).text
    now = await hold(one, "shop", target, HELD_OPEN)
    assert (now.state, now.forced, now.HasField("open_left")) == ("open", True, False)
    assert (await one.llm.Generate(asking)).model == "ops-usual"  # the next candidate
    assert len(upstream.asked("held")) == 1
    await hold(one, "shop", target, LET_GO)
    assert (await one.llm.Generate(asking)).model == target
    assert len(upstream.asked("held")) == 2


async def test_breaker_that_an_operator_holds_closed_never_opens(one, upstream):
    target = "compatible/kept"
    asking = ask(target, node="shop.chain")
    await one.llm.Generate(asking)
    assert (await hold(one, "shop", target, HELD_CLOSED)).forced
    upstream.on("kept", Fail(500))
    for _ in range(4):
        await one.llm.Generate(asking)
    assert len(upstream.asked("kept")) == 5
    found = await breaker(one, "shop", target)
    assert (found.state, found.forced) == ("closed", True)
    await hold(one, "shop", target, LET_GO)


async def test_services_that_settings_do_not_name_share_their_breakers(one):
    target = "compatible/shared"
    await one.llm.Generate(ask(target, service="unheard-of"))
    assert await breaker(one, "", target) is not None
    await hold(one, "", target, HELD_OPEN)
    for service in ("unheard-of", "other", ""):
        assert (await explained(one, ask(target, service=service))).candidates[0].breaker == "open"
    assert (await explained(one, ask(target, service="shop"))).candidates[0].breaker == "closed"
    await hold(one, "", target, LET_GO)


async def test_an_operators_change_is_an_event_a_log_line_and_a_metric(one):
    target = "compatible/logged"
    await one.llm.Generate(ask(target, service="shop"))
    for state in (HELD_OPEN, HELD_CLOSED, LET_GO):
        await hold(one, "shop", target, state)
    events = (await one.ops.ListEvents(ops_pb2.ListEventsRequest(kind="breaker"))).events
    mine = [event for event in events if event.facts["target"] == target]
    assert [(event.facts["from"], event.facts["to"]) for event in mine] == [("closed", "closed"), ("open", "closed"), ("closed", "open")]
    for event in mine:
        assert (event.kind, event.facts["service"], event.facts["who"]) == ("breaker", "shop", "operator")
        assert target in event.message
        assert "operator" in event.message
    async with asyncio.timeout(5):
        while sum(target in line and '"operator"' in line for line in one.log.splitlines()) < 3:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.05)
    assert (await one.metrics())("llm_circuit_breaker_changes_total", service="shop", to="open") > 0


@pytest.mark.parametrize(
    ("change", "code", "reason", "field", "words"),
    [
        ({"state": 0}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "state", "STATE_OPEN, STATE_CLOSED or STATE_AUTO"),
        ({"state": 9}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "state", "state is 9"),
        ({"target": "compatible/wrnog"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_BREAKER", "target", 'did you mean "compatible/wrong"?'),
        ({"target": ""}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_BREAKER", "target", 'target ""'),
        ({"service": "nobody"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_BREAKER", "service", 'service "nobody" has no breakers'),
    ],
)
async def test_breaker_that_cannot_be_set(one, change, code, reason, field, words):
    await one.llm.Generate(ask("compatible/wrong", service="shop"))
    request = {"service": "shop", "target": "compatible/wrong", "state": HELD_OPEN} | change
    got = await failed(one.ops.SetBreaker(ops_pb2.SetBreakerRequest(**request)))
    assert (got.code, got.reason, got.field) == (code, reason, field)
    assert words in got.message
    assert got.degradation is None
    found = await breaker(one, "shop", "compatible/wrong")
    assert (found.state, found.forced) == ("closed", False)


# --- events ------------------------------------------------------------------------------------------------------------------------


async def test_events_are_listed_newest_first(one):
    target = "compatible/eventful"
    await one.llm.Generate(ask(target, service="shop"))
    for _ in range(120):
        await hold(one, "shop", target, LET_GO)
    listed = (await one.ops.ListEvents(ops_pb2.ListEventsRequest())).events
    assert len(listed) == 100
    ages = [event.age.ToNanoseconds() for event in listed]
    assert ages == sorted(ages)
    assert 0 <= ages[0] <= ages[-1] < 600e9
    few = (await one.ops.ListEvents(ops_pb2.ListEventsRequest(limit=3, kind="breaker"))).events
    assert [event.facts["target"] for event in few] == [target] * 3
    assert len((await one.ops.ListEvents(ops_pb2.ListEventsRequest(limit=110))).events) == 110
    assert not (await one.ops.ListEvents(ops_pb2.ListEventsRequest(kind="weather"))).events


async def test_events_of_a_negative_number(one):
    got = await failed(one.ops.ListEvents(ops_pb2.ListEventsRequest(limit=-1)))
    assert (got.code, got.reason, got.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "limit")
    assert "limit is -1" in got.message


# --- preferences -------------------------------------------------------------------------------------------------------------------


def wish(user: str, model: str = "ops-second", tenant: str = "", plan: str = "gold") -> ops_pb2.SetPreferenceRequest:
    return ops_pb2.SetPreferenceRequest(tenant=tenant, user=user, plan=plan, model=model)


async def preferred(sidecar: Sidecar, user: str, tenant: str = "", plan: str = "") -> ops_pb2.GetPreferenceResponse:
    return await sidecar.ops.GetPreference(ops_pb2.GetPreferenceRequest(tenant=tenant, user=user, plan=plan))


async def test_preference_chooses_the_model_of_its_users_calls(one):
    asking = ask(tenant="acme", user="kim", plan="gold")
    assert (await one.llm.Generate(asking)).model == "ops-usual"
    await one.ops.SetPreference(wish("kim", "ops-second", "acme"))
    assert (await one.llm.Generate(asking)).model == "ops-second"
    for caller in ({"tenant": "other", "user": "kim"}, {"tenant": "acme", "user": "lee"}):
        assert (await one.llm.Generate(ask(plan="gold", **caller))).model == "ops-usual"
    await one.ops.DeletePreference(ops_pb2.DeletePreferenceRequest(tenant="acme", user="kim"))
    assert (await one.llm.Generate(asking)).model == "ops-usual"


async def test_preference_is_set_read_and_deleted(one):
    choices = ["compatible/ops-first", "ops-second"]
    assert await preferred(one, "park", plan="gold") == ops_pb2.GetPreferenceResponse(choices=choices)
    for name in ("first", "ops-first", "compatible/ops-first"):  # whatever it is called: kept as the plan has it
        await one.ops.SetPreference(wish("park", name))
        assert await preferred(one, "park", plan="gold") == ops_pb2.GetPreferenceResponse(model="compatible/ops-first", choices=choices)
    await one.ops.SetPreference(wish("park", "ops-second"))
    assert (await preferred(one, "park", tenant="default")).model == "ops-second"  # the tenant of whoever names none
    assert await preferred(one, "park", plan="silver") == ops_pb2.GetPreferenceResponse(model="ops-second")
    assert (await preferred(one, "park", tenant="acme")).model == ""
    for _ in range(2):
        await one.ops.DeletePreference(ops_pb2.DeletePreferenceRequest(user="park"))
        assert (await preferred(one, "park")).model == ""


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field", "words"),
    [
        (wish(""), "INVALID_ARGUMENT", "INVALID_REQUEST", "user", "user is empty"),
        (wish("u", plan=""), "INVALID_ARGUMENT", "INVALID_REQUEST", "plan", "plan is empty"),
        (wish("u", ""), "INVALID_ARGUMENT", "INVALID_REQUEST", "model", "model is empty"),
        (wish("u\n"), "INVALID_ARGUMENT", "INVALID_REQUEST", "user", "printable"),
        (wish("u" * 257), "INVALID_ARGUMENT", "INVALID_REQUEST", "user", "257 bytes"),
        (wish("u", tenant="t" * 257), "INVALID_ARGUMENT", "INVALID_REQUEST", "tenant", "257 bytes"),
        (wish("u", "m" * 257), "INVALID_ARGUMENT", "INVALID_REQUEST", "model", "257 bytes"),
        (wish("u", "ops-secnod"), "INVALID_ARGUMENT", "UNKNOWN_MODEL", "model", 'did you mean "ops-second"?'),
        (wish("u", "ops-third"), "PERMISSION_DENIED", "NOT_ALLOWED", "model", "ops-third; choose one of compatible/ops-first, ops-second"),
        (wish("u", plan="silver"), "PERMISSION_DENIED", "NOT_ALLOWED", "plan", "plans that do: gold"),
        (wish("u", plan="unheard-of"), "PERMISSION_DENIED", "NOT_ALLOWED", "plan", 'plan "unheard-of" stores no preferences'),
        (ops_pb2.GetPreferenceRequest(), "INVALID_ARGUMENT", "INVALID_REQUEST", "user", "user is empty"),
        (ops_pb2.GetPreferenceRequest(user="u", plan="\x7f"), "INVALID_ARGUMENT", "INVALID_REQUEST", "plan", "printable"),
        (ops_pb2.DeletePreferenceRequest(tenant="acme"), "INVALID_ARGUMENT", "INVALID_REQUEST", "user", "user is empty"),
    ],
)
async def test_preference_that_cannot_be(one, request_, code, reason, field, words):
    got = await failed(getattr(one.ops, type(request_).__name__.removesuffix("Request"))(request_))
    assert (got.code.name, got.reason, got.field) == (code, reason, field)
    assert words in got.message
    assert got.degradation is None
    assert (await preferred(one, "u")).model == ""


async def started(folder, upstream) -> Sidecar:
    """With a folder for what outlives it."""
    return await (await start(folder, tables(upstream.url), f'data_dir = "{folder}/data"')).until_serving()


async def test_preferences_outlive_a_restart(upstream, tmp_path):
    first = await started(tmp_path, upstream)
    try:
        await first.ops.SetPreference(wish("김", "ops-second", "acme"))
        await first.ops.SetPreference(wish("gone"))
        await first.ops.DeletePreference(ops_pb2.DeletePreferenceRequest(user="gone"))
    finally:
        assert await first.stop() == 0
    second = await started(tmp_path, upstream)
    try:
        assert (await preferred(second, "김", "acme")).model == "ops-second"
        assert (await preferred(second, "gone")).model == ""
        assert (await second.llm.Generate(ask(tenant="acme", user="김", plan="gold"))).model == "ops-second"
    finally:
        await second.stop()


async def test_what_was_answered_outlives_kill_9(upstream, tmp_path):
    first = await started(tmp_path, upstream)
    kept: list[str] = []

    async def keep(user: str) -> None:
        await first.ops.SetPreference(wish(user))
        kept.append(user)
        if len(kept) == 30:
            first.process.kill()

    await asyncio.gather(*(keep(f"user-{number}") for number in range(300)), return_exceptions=True)
    await first.stop()
    assert len(kept) >= 30
    second = await started(tmp_path, upstream)
    try:
        found = {user: (await preferred(second, user)).model for user in kept}
        assert found == dict.fromkeys(kept, "ops-second")
    finally:
        await second.stop()


async def test_preferences_file_that_is_none(upstream, tmp_path):
    (tmp_path / "preferences.db").write_bytes(b"a letter" * 1_000)
    settings = tmp_path / "settings.toml"
    settings.write_text(f'[server]\nlisten = "127.0.0.1:{free_port()}"\nops_listen = ""\ndata_dir = "{tmp_path}"\n{tables(upstream.url)}')
    process = await spawn(settings, tmp_path / "stderr")
    assert await asyncio.wait_for(process.wait(), 20) == 1
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert line == f"sidecar: cannot use {tmp_path}/preferences.db (server.data_dir): file is not a database; repair it or move it away"


async def test_preference_that_cannot_be_written(upstream, tmp_path):
    sidecar = await started(tmp_path, upstream)
    try:
        await sidecar.ops.SetPreference(wish("kim"))
        with sqlite3.connect(tmp_path / "data" / "preferences.db") as other:
            other.execute("DROP TABLE preferences")
        got = await failed(sidecar.ops.SetPreference(wish("kim", "first")))
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
        assert "preferences.db (server.data_dir): no such table" in got.message
        assert (await preferred(sidecar, "kim")).model == "ops-second"
        assert (await sidecar.llm.Generate(ask(user="kim", plan="gold"))).model == "ops-second"  # calls go on
    finally:
        await sidecar.stop()


# --- what is written down ----------------------------------------------------------------------------------------------------------


async def test_every_change_is_written_down_with_what_was_before(upstream, tmp_path):
    sidecar = await started(tmp_path, upstream)
    by_kim = {"metadata": (("x-sidecar-user", "kim"),)}
    try:
        await sidecar.llm.Generate(ask("compatible/audited", service="shop"))
        for state in (HELD_OPEN, LET_GO):
            request = ops_pb2.SetBreakerRequest(service="shop", target="compatible/audited", state=state)
            await sidecar.ops.SetBreaker(request, **by_kim)
        for model in ("first", "ops-second", "ops-second"):  # the last one changes nothing
            await sidecar.ops.SetPreference(wish("lee", model, "acme"), **by_kim)
        for _ in range(2):
            await sidecar.ops.DeletePreference(ops_pb2.DeletePreferenceRequest(tenant="acme", user="lee"), **by_kim)
        await sidecar.ops.Drain(ops_pb2.DrainRequest(), **by_kim)
    finally:
        assert await sidecar.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "data" / "audit.jsonl").read_text().splitlines()]
    closed, held = {"state": "closed", "forced": False}, {"state": "open", "forced": True}
    none, first, second = ({"model": model} for model in ("", "compatible/ops-first", "ops-second"))
    assert [(line["action"], line["subject"], line["before"], line["after"]) for line in lines] == [
        ("SetBreaker", "shop compatible/audited", closed, held),
        ("SetBreaker", "shop compatible/audited", held, closed),
        ("SetPreference", "acme/lee", none, first),
        ("SetPreference", "acme/lee", first, second),
        ("DeletePreference", "acme/lee", second, none),
        ("Drain", "sidecar", {"draining": False}, {"draining": True}),
    ]
    assert {(line["who"], line["user"]) for line in lines} == {("anybody", "kim")}


async def test_nothing_is_changed_that_cannot_be_written_down(upstream, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "audit.jsonl").symlink_to("/dev/full")
    sidecar = await started(tmp_path, upstream)
    try:
        assert (await sidecar.llm.Generate(ask("compatible/unaudited", service="shop"))).text
        for change in (
            sidecar.ops.SetBreaker(ops_pb2.SetBreakerRequest(service="shop", target="compatible/unaudited", state=HELD_OPEN)),
            sidecar.ops.SetPreference(wish("kim")),
            sidecar.ops.Drain(ops_pb2.DrainRequest()),
        ):
            got = await failed(change)
            assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
            assert "nothing was changed" in got.message
        assert (await breaker(sidecar, "shop", "compatible/unaudited")).state == "closed"
        assert (await preferred(sidecar, "kim")).model == ""
        assert (await sidecar.llm.Generate(ask("compatible/unaudited", service="shop"))).text
    finally:
        await sidecar.stop()
