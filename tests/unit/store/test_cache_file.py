"""The file that remembered answers outlive the process in: what is written, forgotten and erased, and a disk that fails."""

import asyncio
import sqlite3

import pytest

from sidecar.errors import StoreFailed
from sidecar.store.cache_entry import Named, Vault, packed
from sidecar.store.cache_file import FILE, CacheFile
from sidecar.store.cache_invalidation import Invalidation
from tests.unit.store.cache_parts import FakeWall, an_entry, digest


class Kept:
    """A file and what it has told."""

    def __init__(self, folder, key=bytes(32), wall=None):
        self.told, self.garbled = [], []
        self.wall = wall or FakeWall()
        self.file = CacheFile(folder, Vault(key), self.wall, self.told.append, self.garbled.append)

    def put(self, *entries):
        for entry in entries:
            self.file.put(entry, packed(entry))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


async def read(folder, most_bytes=1_000_000, **options):
    with Kept(folder, **options) as kept:
        return await kept.file.load(most_bytes), kept


async def test_what_was_put_comes_back_and_what_went_does_not(tmp_path):
    with Kept(tmp_path) as kept:
        kept.put(*(an_entry(number) for number in range(5)))
        kept.put(an_entry(1, text="another answer"))
        kept.file.gone([digest(2), digest(99)])
    entries, kept = await read(tmp_path)
    assert {entry.digest: entry.text for entry in entries} == {
        digest(0): "An answer.",
        digest(1): "another answer",
        digest(3): "An answer.",
        digest(4): "An answer.",
    }
    assert (kept.told, kept.garbled) == ([], [])
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


async def test_what_is_too_old_is_not_read_and_goes(tmp_path):
    with Kept(tmp_path) as kept:
        kept.put(an_entry(1, life_ms=1_000), an_entry(2, life_ms=1_000, keep_ms=60_000))
    later = FakeWall()
    later.now_ns += 30 * 10**9
    entries, _ = await read(tmp_path, wall=later)
    assert [entry.digest for entry in entries] == [digest(2)]
    with Kept(tmp_path, wall=later) as kept:
        kept.put(an_entry(3, kept_ms=later() // 1_000_000))
    with sqlite3.connect(tmp_path / FILE) as file:
        assert file.execute("SELECT COUNT(*) FROM answers").fetchone() == (2,)


async def test_no_more_is_read_than_there_is_room_for_the_latest_stay(tmp_path):
    with Kept(tmp_path) as kept:
        kept.put(*(an_entry(number, text="x" * 1_000) for number in range(20)))
    entries, _ = await read(tmp_path, most_bytes=5_500)
    assert [entry.digest for entry in entries] == [digest(number) for number in range(15, 20)]


async def test_erased_is_nowhere_in_the_file(tmp_path):
    kim, lee = (Named("acme", user, "core", "react_agent", "openai/gpt-4o", "", "") for user in ("kim", "lee"))
    with Kept(tmp_path) as kept:
        kept.put(*(an_entry(number, named=kim if number % 2 else lee) for number in range(10)))
        sealed_before = {}
        await kept.file.load(0)
        kept.put(an_entry(11, named=kim))  # still waits to be written
        assert await kept.file.erase([Invalidation(generation=1, tenant="acme", user="kim")]) == 6
        with sqlite3.connect(tmp_path / FILE) as file:
            sealed_before = dict(file.execute("SELECT name, sealed FROM answers").fetchall())
        assert len(sealed_before) == 5
        assert await kept.file.erase([Invalidation(generation=2)]) == 5
        raw = b"".join(path.read_bytes() for path in tmp_path.glob(f"{FILE}*"))
        assert not any(sealed in raw for sealed in sealed_before.values())
    entries, _ = await read(tmp_path)
    assert entries == []


async def test_an_invalidation_that_is_older_than_an_answer_spares_it(tmp_path):
    with Kept(tmp_path) as kept:
        kept.put(an_entry(1, generation=7), an_entry(2, generation=3))
        assert await kept.file.erase([Invalidation(generation=5), Invalidation(generation=2)]) == 1
    entries, _ = await read(tmp_path)
    assert [entry.digest for entry in entries] == [digest(1)]


async def test_another_key_reads_nothing_and_says_why(tmp_path):
    with Kept(tmp_path) as kept:
        kept.put(an_entry(1))
    entries, kept = await read(tmp_path, key=b"\1" * 32)
    assert entries == []
    assert kept.garbled == ["damaged, or sealed with another key"]


async def test_a_disk_that_fails_is_told_of_once_and_what_waits_is_written_when_it_is_back(tmp_path):
    with Kept(tmp_path) as kept:
        with sqlite3.connect(tmp_path / FILE) as other:
            other.execute("ALTER TABLE answers RENAME TO gone")
        kept.put(an_entry(1))
        async with asyncio.timeout(20):
            while not kept.told:  # noqa: ASYNC110  (a thread's)
                await asyncio.sleep(0.05)
        assert "no such table" in kept.told[0]
        with pytest.raises(StoreFailed):
            await kept.file.load(1_000)
        with sqlite3.connect(tmp_path / FILE) as other:
            other.execute("ALTER TABLE gone RENAME TO answers")
        async with asyncio.timeout(20):
            while len(kept.told) < 2:  # noqa: ASYNC110  (a thread's)
                await asyncio.sleep(0.05)
        assert kept.told[1] == ""
    entries, _ = await read(tmp_path)
    assert [entry.digest for entry in entries] == [digest(1)]


def test_a_later_versions_file_is_refused(tmp_path):
    with Kept(tmp_path):
        pass
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreFailed, match="a later version"):
        Kept(tmp_path)


async def test_where_the_disk_does_not_keep_up_answers_are_lost_and_counted(tmp_path):
    import random

    with Kept(tmp_path) as kept:
        kept.file._stopping.set()  # nobody writes
        kept.file._something.set()
        kept.file._thread.join()
        noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
        kept.put(*(an_entry(number, text=noise) for number in range(30)))
        assert 0 < kept.file.lost < 30
        assert kept.file._waiting_bytes <= 8 * 1024 * 1024
