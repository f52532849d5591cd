"""The usage log: one row per call, exactly once, in the file and in a real PostgreSQL; sums that agree with the rows and the ledger."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date

import pytest

from sidecar.commands.check import check
from sidecar.days import Days
from sidecar.errors import SettingsError, StoreFailed
from sidecar.settings import load
from sidecar.store import usage as usage_module
from sidecar.store import usage_reports as reports
from sidecar.store import usage_sql as sql
from sidecar.store.usage import UsageLog
from sidecar.store.usage_file import FILE, UsageFile
from sidecar.store.usage_postgres import UsagePostgres, require_package
from sidecar.store.usage_rows import COLUMNS, DAY_KEYS, SUMS, BadRow, Row
from tests.fakes.postgres import HOW, Postgres, programs
from tests.fakes.running import free_port
from tests.unit.fakes import Bench
from tests.unit.store.usage_parts import NOON_MS, InFile, a_log, a_row, listed_in, ms, some_calls, until

DAY = date(2026, 11, 21)
NEXT = date(2026, 11, 22)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if programs() is None:
        pytest.skip(HOW)
    with Postgres() as running:
        yield running


def settings_for(postgres: Postgres | str, **environ: str):
    url = postgres if isinstance(postgres, str) else postgres.url
    return load(None, {"SIDECAR_USAGE__POSTGRES": url, "SIDECAR_SERVER__DATA_DIR": "/nowhere", **environ})


@pytest.fixture(params=["file", "postgres"])
def store(request, tmp_path) -> Iterator[InFile | UsagePostgres]:
    if request.param == "file":
        opened: InFile | UsagePostgres = InFile(tmp_path)
    else:
        postgres = request.getfixturevalue("postgres")
        postgres.clear()
        opened = UsagePostgres(settings_for(postgres))
    yield opened
    opened.close()


def total(store, **where: str) -> dict[str, int]:
    return reports.report(store.ask, Days(UTC), date(2000, 1, 1), date(2100, 1, 1), [], where, 1)[1].figures


def listed(store, limit: int = 100, before=None, **where: str) -> list[Row]:
    return reports.calls(store.ask, Days(UTC), date(2000, 1, 1), date(2100, 1, 1), where, before, limit, is_failed=False)


# --- both stores ----------------------------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_went_in(store):
    one = a_row(1, user_id="김", tags='{"a":"ü"}', first_token_ms=7, quality_ppm=None, cost_nano_usd=2**60, prompt_name="it's %s?")
    store.add([one])
    assert listed(store) == [one]


def test_a_row_arrives_once_however_often_it_is_sent(store):
    rows = [a_row(n) for n in range(5)]
    store.add(rows[:3])
    store.add(rows)
    store.add(rows)
    assert len(listed(store)) == 5
    assert (total(store)["calls"], total(store)["cost_nano_usd"]) == (5, 5 * 75_000)


def test_days_sums_are_the_sums_of_their_rows(store):
    """400 random rows in batches that overlap: what the days' sums say of a group is what its rows say."""
    dice = random.Random(7)
    rows = [
        a_row(
            n,
            day=f"2026-11-{dice.randint(19, 21)}",
            service=dice.choice("ab"),
            tenant=dice.choice("xyz"),
            model=dice.choice("mn"),
            status=dice.choice(["ok", "ok", "CANCELLED", "BUDGET_EXCEEDED"]),
            cache=dice.choice(["", "exact"]),
            input_tokens=dice.randint(0, 10**9),
            cost_nano_usd=dice.randint(0, 10**12),
            failed_attempts_nano_usd=dice.randint(0, 100),
            first_token_ms=dice.choice([None, 3, 900]),
            fallback=(fallback := dice.randint(0, 1)),
            primary_model="p" if fallback else "",
            primary_nano_usd=dice.randint(0, 10**9),
            quality_ppm=dice.choice([None, 0, 1_000_000, 123_456]),
            vote=dice.choice([None, 1, -1]),
        )
        for n in range(400)
    ]
    for begin in range(0, 400, 50):
        store.add(rows[max(0, begin - 10) : begin + 50])
    for by in (["day"], ["service", "tenant"], ["model"], []):
        _, from_days = reports.report(store.ask, Days(UTC), date(2026, 11, 1), date(2026, 12, 1), by, {"service": "a"}, 100)
        groups, _ = reports.report(store.ask, Days(UTC), date(2026, 11, 1), date(2026, 12, 1), [*by, "status"], {"service": "a"}, 100)
        summed = {name: sum(group.figures[name] for group in groups) for name in SUMS}
        assert summed == from_days.figures
    own = [r for r in rows if r.service == "a"]
    assert total(store, service="a")["cost_nano_usd"] == sum(r.cost_nano_usd for r in own)
    assert total(store, service="a")["failed"] == sum(r.status != "ok" for r in own)
    assert total(store, service="a")["fallback_primary_nano_usd"] == sum(r.primary_nano_usd * r.fallback for r in own)


def test_feedback_is_attached_changed_and_counted(store):
    store.add([a_row(n) for n in range(3)])
    call = a_row(1).id
    assert store.rate(call, 500_000, None) == a_row(1)
    assert store.rate(call, None, 1) == a_row(1, quality_ppm=500_000)
    (rated,) = [r for r in listed(store) if r.id == call]
    assert (rated.quality_ppm, rated.vote) == (500_000, 1)
    assert [total(store)[name] for name in ("rated", "quality_ppm", "ups", "downs")] == [1, 500_000, 1, 0]
    assert store.rate(call, 250_000, -1)
    assert [total(store)[name] for name in ("rated", "quality_ppm", "ups", "downs")] == [1, 250_000, 0, 1]
    assert not store.rate("nobody's", 1, 1)


def test_calls_are_listed_page_by_page_newest_first(store):
    store.add([a_row(n, time_ms=NOON_MS + n // 3, status="ok" if n % 2 else "CANCELLED") for n in range(20)])
    seen: list[str] = []
    before = None
    while page := listed(store, 7, before):
        seen += [r.id for r in page]
        before = (page[-1].time_ms, page[-1].id)
    assert seen == [a_row(n).id for n in reversed(range(20))]
    assert len(listed(store, status="CANCELLED")) == 10
    failed = reports.calls(store.ask, Days(UTC), DAY, NEXT, {}, None, 100, is_failed=True)
    assert {r.status for r in failed} == {"CANCELLED"}
    assert reports.calls(store.ask, Days(UTC), NEXT, date(2026, 12, 1), {}, None, 100, is_failed=False) == []


def test_the_dearest_group_is_first_and_the_limit_holds(store):
    store.add([a_row(n, service=f"s{n}", cost_nano_usd=n) for n in range(6)])
    groups, whole = reports.report(store.ask, Days(UTC), DAY, NEXT, ["service"], {}, 2)
    assert [(g.keys, g.figures["cost_nano_usd"]) for g in groups] == [(("s5",), 5), (("s4",), 4)]
    assert whole.figures["cost_nano_usd"] == 15


def test_what_is_too_old_goes_rows_before_sums(store):
    old = [a_row(n, time_ms=ms(2026, 8, 15) + n, day="2026-08-15") for n in range(3)]
    store.add([*old, *(a_row(n) for n in range(10, 12))])
    store.purge(ms(2026, 11, 20), "2026-01-01")
    assert (len(listed(store)), total(store)["calls"]) == (2, 5)
    store.purge(ms(2026, 11, 20), "2026-09-01")
    assert (len(listed(store)), total(store)["calls"]) == (2, 2)
    store.add([a_row(20, time_ms=ms(2026, 8, 15), day="2026-08-15")])  # a month that has gone comes back if it must
    assert len(listed(store)) == 3


# --- the file -------------------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_used_says_why(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreFailed, match=r"cannot write .*usage\.db \(server\.data_dir\): "):
        UsageFile(tmp_path / "file")
    (tmp_path / FILE).write_text("no database, but longer than the head of one " * 20)
    with pytest.raises(StoreFailed, match="not a database; repair it or move it away"):
        UsageFile(tmp_path)
    later = tmp_path / "later"
    UsageFile(later).close()
    with sqlite3.connect(later / FILE) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreFailed, match="a later version"):
        UsageFile(later)


def test_file_of_an_older_version_goes_on_with_its_rows(tmp_path):
    columns = [name for name in COLUMNS if name not in ("answer_saved_nano_usd", "cache_source")]
    row = a_row(1, cost_nano_usd=5)
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute(sql.calls_table("PRIMARY KEY (id)").replace(", answer_saved_nano_usd BIGINT, cache_source TEXT", ""))
        file.execute(sql.days_table().replace(", answer_saved_nano_usd BIGINT NOT NULL DEFAULT 0", ""))
        values = [getattr(row, name) for name in columns]
        file.execute(f"INSERT INTO llm_calls ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", values)
        days = {name: getattr(row, name) for name in DAY_KEYS} | {"calls": 1, "cost_nano_usd": 5}
        file.execute(f"INSERT INTO llm_days ({', '.join(days)}) VALUES ({', '.join('?' * len(days))})", [*days.values()])
        file.execute("PRAGMA user_version = 1")
    new = InFile(tmp_path)
    new.add([a_row(2, cost_nano_usd=0, cache="exact", answer_saved_nano_usd=5, cache_source=row.id)])
    assert [(new.rate(a_row(n).id, None, -1) or row).cache_source for n in (1, 2)] == [None, row.id]
    assert (total(new)["cost_nano_usd"], total(new)["answer_saved_nano_usd"], total(new)["cached"]) == (5, 5, 1)
    assert len(listed(new)) == 2


def test_a_sum_beyond_64_bits_is_refused_and_never_a_float(tmp_path):
    file = InFile(tmp_path)
    file.add([a_row(0, cost_nano_usd=2**62)])
    for rows in ([a_row(1, cost_nano_usd=2**62)], [a_row(1, cost_nano_usd=2**61), a_row(2, cost_nano_usd=2**61)]):
        with pytest.raises(BadRow):
            file.add(rows)
    assert total(file)["cost_nano_usd"] == 2**62
    assert len(listed(file)) == 1
    file.close()


def test_only_the_owner_may_read_the_file(tmp_path):
    UsageFile(tmp_path).close()
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_a_batch_that_breaks_off_leaves_nothing(tmp_path):
    file = InFile(tmp_path)
    file.add([a_row(0)])
    bad = a_row(2)
    bad.service = None  # type: ignore[assignment]  # days' sums refuse it, after the rows were written
    with pytest.raises(BadRow):
        file.add([a_row(1), bad])
    assert [r.id for r in listed(file)] == [a_row(0).id]
    assert total(file)["calls"] == 1
    file.close()


# --- PostgreSQL -----------------------------------------------------------------------------------------------------------------


def test_many_pods_may_start_at_once_and_send_the_same_rows(postgres):
    postgres.clear()
    pods = [UsagePostgres(settings_for(postgres)) for _ in range(8)]
    rows = [a_row(n, service=f"s{n % 7}") for n in range(200)]
    together = threading.Barrier(len(pods))

    def one(pod: UsagePostgres) -> None:
        dice = random.Random(id(pod))
        mine = [*rows]
        dice.shuffle(mine)
        together.wait()
        for begin in range(0, 200, 20):
            for _ in range(50):
                try:
                    pod.add(mine[begin : begin + 20])
                    break
                except StoreFailed:  # a deadlock's loser sends its rows again, as the log does
                    time.sleep(0.01)
            else:
                raise AssertionError("never got through")

    with ThreadPoolExecutor(len(pods)) as threads:
        list(threads.map(one, pods))
    assert postgres.ask("SELECT COUNT(*), SUM(cost_nano_usd) FROM llm_calls") == [(200, 200 * 75_000)]
    assert postgres.ask("SELECT SUM(calls), SUM(cost_nano_usd) FROM llm_days") == [(200, 200 * 75_000)]
    assert postgres.ask("SELECT number FROM llm_migrations") == [(1,), (2,), (3,)]
    for pod in pods:
        pod.close()


def test_rows_lie_in_months(postgres):
    postgres.clear()
    pod = UsagePostgres(settings_for(postgres))
    pod.add([a_row(1, time_ms=ms(2026, 12, 31) + 86_399_999), a_row(2, time_ms=ms(2027, 1, 1))])
    assert postgres.ask("SELECT id FROM llm_calls_2026_12") == [(a_row(1).id,)]
    assert postgres.ask("SELECT id FROM llm_calls_2027_01") == [(a_row(2).id,)]
    postgres.ask("DROP TABLE llm_calls_2027_01")  # by hand
    with pytest.raises(StoreFailed):
        pod.add([a_row(3, time_ms=ms(2027, 1, 2))])
    pod.add([a_row(3, time_ms=ms(2027, 1, 2))])
    pod.close()


def test_tables_of_an_older_version_go_on_with_their_rows_while_its_pods_still_write(postgres):
    postgres.clear()
    pod = UsagePostgres(settings_for(postgres))
    pod.add([a_row(1)])
    pod.close()
    for table in ("llm_calls", "llm_days"):  # as the first version made them
        postgres.ask(f"ALTER TABLE {table} DROP COLUMN answer_saved_nano_usd")
    postgres.ask("ALTER TABLE llm_calls DROP COLUMN cache_source")
    postgres.ask("DELETE FROM llm_migrations WHERE number > 1")
    newer = UsagePostgres(settings_for(postgres))
    newer.add([a_row(2, answer_saved_nano_usd=500)])
    older = [name for name in COLUMNS if name not in ("answer_saved_nano_usd", "cache_source")]
    values = [getattr(a_row(3), name) for name in older]
    postgres.ask(f"INSERT INTO llm_calls ({', '.join(older)}) VALUES ({', '.join(['%s'] * len(older))})", *values)
    assert postgres.ask("SELECT number FROM llm_migrations ORDER BY number") == [(1,), (2,), (3,)]
    assert [row.id for row in listed(newer)] == [a_row(n).id for n in (3, 2, 1)]
    assert newer.rate(a_row(3).id, 500_000, 1)
    assert (total(newer)["calls"], total(newer)["answer_saved_nano_usd"]) == (2, 500)  # the third was not summed up by its writer here
    newer.close()

    postgres.ask("INSERT INTO llm_migrations VALUES (4)")  # a later version has been here
    pod = UsagePostgres(settings_for(postgres))
    pod.add([a_row(4)])
    assert len(listed(pod)) == 4
    pod.close()


def test_nobody_there_is_told_without_the_password():
    pod = UsagePostgres(settings_for(f"postgresql://u@127.0.0.1:{free_port()}/d", SIDECAR_USAGE__POSTGRES_PASSWORD="hunter2secret"))
    with pytest.raises(StoreFailed, match=r"PostgreSQL \(usage\.postgres\): .*refused") as caught:
        pod.add([a_row(1)])
    assert "hunter2" not in caught.value.message


# --- the log --------------------------------------------------------------------------------------------------------------------


async def test_what_ended_before_the_end_is_in_the_file(tmp_path):
    bench = Bench()
    log, told = a_log(tmp_path)
    bench.engine.meter.on_call = log.ended
    await some_calls(bench, 30)
    log.close()
    assert len(listed_in(tmp_path)) == 30
    assert told.all == []


async def test_a_full_disk_is_loud_costs_no_call_and_no_row_that_has_room_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(usage_module, "_RETRY_S", (0.05, 0.1))
    monkeypatch.setattr(usage_module, "_MOST_WAITING", 40)
    monkeypatch.setattr(usage_module, "_BATCH", 30)  # beside those that wait, and so many at most
    bench = Bench()
    log, told = a_log(tmp_path)
    bench.engine.meter.on_call = log.ended
    assert log._file is not None
    (pages,) = log._file._file.execute("PRAGMA page_count").fetchone()
    log._file._file.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own word for a full disk
    first = await some_calls(bench, 30)
    await asyncio.to_thread(until, lambda: told.places() == [("file", True)])
    assert "full" in told.all[0][1]
    more = await some_calls(bench, 60)
    assert log.lost > 0
    kept = 90 - log.lost
    assert log.waiting == kept
    with pytest.raises(StoreFailed, match="full"):
        await log.rate(first[0], 1_000_000, None)  # there is such a call: NOT_FOUND would be wrong
    log._file._file.execute("PRAGMA max_page_count = 1000000")
    await asyncio.to_thread(until, lambda: log.waiting == 0)
    log.close()
    rows = listed_in(tmp_path)
    assert len(rows) == kept
    assert {r.id for r in rows} >= {*first}
    assert {r.id for r in rows} <= {*first, *more}
    assert [p for p in told.places() if p[0] == "file"] == [("file", True), ("file", False)]
    assert told.places().count(("lost", True)) == log.lost


async def test_a_defect_costs_its_row_and_no_other(tmp_path):
    bench = Bench()
    log, told = a_log(tmp_path)
    bench.engine.meter.on_call = log.ended
    ids = await some_calls(bench, 3)
    log._records.append(object())  # type: ignore[arg-type]
    ids += await some_calls(bench, 3)
    log.close()
    assert {r.id for r in listed_in(tmp_path)} == {*ids}
    assert [place for place, _ in told.all] == ["lost"]
    assert "AttributeError" in told.all[0][1]


async def test_a_row_that_no_store_can_hold_is_told_and_costs_no_other(tmp_path, postgres):
    """Absurd figures: one beyond SQLite's integers, and two that only together are beyond them."""
    postgres.clear()
    log, told = a_log(tmp_path, settings_for(postgres))
    log._rows = [a_row(0), a_row(1, cost_nano_usd=2**63), a_row(2, cost_nano_usd=2**62), a_row(3, cost_nano_usd=2**62), a_row(4)]
    log._something.set()
    await asyncio.to_thread(until, lambda: log.waiting == 0 and log.unsent == 0 and bool(told.all))
    log.close()
    there = {id_ for (id_,) in postgres.ask("SELECT id FROM llm_calls")}
    assert {a_row(0).id, a_row(4).id} <= there
    assert a_row(1).id not in there
    assert log.lost == 5 - len(there)
    assert all(a_row(1).id in problem or a_row(2).id in problem or a_row(3).id in problem for _, problem in told.all)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"SIDECAR_USAGE__POSTGRES: needs the package psycopg .*llm-sidecar\[postgres\]"):
        require_package(settings_for("postgresql://u@db/d"))
    environ = {"SIDECAR_USAGE__POSTGRES": "postgresql://u@db/d", "SIDECAR_SERVER__DATA_DIR": "/nowhere"}
    assert check(None, environ, date(2026, 11, 21), live=False, as_json=False) == 1
    assert "error   usage.postgres: needs the package psycopg" in capsys.readouterr().out


async def test_rows_wait_for_a_postgres_that_is_away_and_arrive_once_also_after_a_restart(postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(usage_module, "_RETRY_S", (0.05, 0.2))
    postgres.clear()
    settings = settings_for(postgres)
    bench = Bench()
    log, told = a_log(tmp_path, settings)
    bench.engine.meter.on_call = log.ended
    ids = await some_calls(bench, 20)
    await asyncio.to_thread(until, lambda: log.unsent == 0 and log.waiting == 0)
    await asyncio.to_thread(postgres.stop)
    ids += await some_calls(bench, 20)
    await asyncio.to_thread(until, lambda: told.places() == [("postgres", True)])
    assert "rows of the usage log wait in" in told.all[0][1]
    assert await log.rate(ids[-1], 900_000, 1)  # it waits here
    with pytest.raises(StoreFailed):
        await log.rate(ids[0], 900_000, 1)  # it may be there
    log.close()
    assert len(listed_in(tmp_path)) == 20

    log, told = a_log(tmp_path, settings)
    bench.engine.meter.on_call = log.ended
    assert log.unsent == 20
    ids += await some_calls(bench, 5)
    await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(until, lambda: log.unsent == 0 and log.waiting == 0)
    assert await log.rate(ids[0], 100_000, -1)
    assert not await log.rate("nobody's", None, 1)
    log.close()
    assert {id_ for (id_,) in postgres.ask("SELECT id FROM llm_calls")} == {*ids}
    assert postgres.ask("SELECT SUM(calls), SUM(rated), SUM(ups), SUM(downs) FROM llm_days") == [(45, 2, 1, 1)]
    assert listed_in(tmp_path) == []


async def test_a_batch_that_arrived_and_was_not_taken_out_arrives_no_second_time(postgres, tmp_path):
    """The process dies between PostgreSQL's commit and the file's: at the next start the same rows are sent again."""
    postgres.clear()
    file = UsageFile(tmp_path)
    file.add([a_row(n) for n in range(10)])
    pod = UsagePostgres(settings_for(postgres))
    pod.add(file.oldest(10))
    pod.close()
    file.close()
    log, _ = a_log(tmp_path, settings_for(postgres))
    await asyncio.to_thread(until, lambda: log.unsent == 0)
    log.close()
    assert postgres.ask("SELECT SUM(calls) FROM llm_days") == [(10,)]
    assert postgres.ask("SELECT COUNT(*) FROM llm_calls") == [(10,)]


async def test_without_a_folder_nothing_is_kept():
    log = UsageLog(load(None, {}), time.time_ns)
    assert not log.is_kept
    with pytest.raises(StoreFailed, match=r"server\.data_dir"):
        await log.rate("x", 1, 1)
    log.close()
