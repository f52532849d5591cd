"""What audits prove, kept in a file: written soon, read back whole, and told of when the disk says no."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from msgspec.structs import replace

from sidecar.errors import StoreFailed
from sidecar.forgetting import invalidate
from sidecar.policies.cache_audits import Namespace
from sidecar.store import proof_file
from sidecar.store.cache_invalidation import Invalidation
from sidecar.store.proof_file import ProofFile
from sidecar.upkeep.cache_proofs import CacheProofs
from tests.unit.fakes import Bench

NAME = Namespace("oracle.intent", "free", "openai/gpt-4o-mini", "greet", "2", "1")


def make(folder, **environ):
    bench = Bench(SIDECAR_SERVER__DATA_DIR=str(folder), **environ)
    judge = bench.engine.similar.judge
    return bench, judge.audits, CacheProofs(bench.engine, judge)


async def test_a_restart_brings_back_what_was_proven(tmp_path):
    _, audits, proofs = make(tmp_path)
    proofs.open()
    for number in range(200):
        audits.record(NAME, same=number != 3)
    audits.record(Namespace("a.b", "", "", "", "", ""), same=False)
    before = audits.standings()
    await proofs.close()
    _, audits, proofs = make(tmp_path)
    proofs.open()
    assert audits.standings() == before
    await proofs.close()


async def test_a_tenant_that_is_erased_is_not_in_the_file_any_more(tmp_path):
    bench, audits, proofs = make(tmp_path, SIDECAR_CACHE__AUDIT__BY="tenant")
    proofs.open()
    acme, other = (replace(NAME, tenants=tenant) for tenant in ("acme", "b"))
    for _ in range(200):
        audits.record(acme, same=True)
        audits.record(other, same=True)
    assert (audits.open, len(audits)) == (2, 2)
    await invalidate(bench.engine, Invalidation(0, tenant="acme", node="oracle.intent"))
    assert len(audits) == 2  # only some answers were taken back
    await invalidate(bench.engine, Invalidation(0, tenant="acme"))
    assert (audits.open, [one.namespace for one in audits.standings()]) == (1, [other])
    await proofs.close()
    assert b"acme" not in b"".join(ProofFile(tmp_path).load(10))


async def test_what_is_written_is_there_without_an_orderly_end(tmp_path):
    _, audits, proofs = make(tmp_path)
    proofs.open()
    audits.record(NAME, same=True)
    async with asyncio.timeout(10):
        while not (rows := sqlite3.connect(tmp_path / proof_file.FILE).execute("SELECT kept FROM proofs").fetchall()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert len(rows) == 1
    await proofs.close()


async def test_only_the_latest_are_kept_and_what_is_garbled_is_passed_over(tmp_path):
    file = ProofFile(tmp_path)
    file.save([(str(number), b"%d" % number) for number in range(10)])
    file.save([("3", b"three")])
    assert file.load(4) == [b"7", b"8", b"9", b"three"]
    assert file.load(4) == [b"7", b"8", b"9", b"three"]
    file.close()
    _, audits, proofs = make(tmp_path)
    proofs.open()
    assert len(audits) == 0
    await proofs.close()


async def test_a_file_of_a_later_version_is_no_start(tmp_path):
    ProofFile(tmp_path).close()
    with sqlite3.connect(tmp_path / proof_file.FILE) as file:
        file.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreFailed, match="later version"):
        make(tmp_path)[2].open()


async def test_a_disk_that_says_no_is_told_of_once_and_nothing_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr("sidecar.upkeep.cache_proofs._RETRY_S", 0.01)
    bench, audits, proofs = make(tmp_path)
    proofs.open()
    save, refusals = proofs._file.save, [StoreFailed("full")] * 3

    def refusing(rows):
        if refusals:
            raise refusals.pop()
        save(rows)

    proofs._file.save = refusing
    mended = asyncio.Event()
    bench.engine.meter.on_event.append(lambda event: mended.set() if "kept again" in event.message else None)
    audits.record(NAME, same=True)
    await asyncio.wait_for(mended.wait(), 10)
    assert [event.kind for event in bench.engine.meter.events.latest(10)] == ["health", "health"]
    await proofs.close()
    assert len(ProofFile(tmp_path).load(10)) == 1
