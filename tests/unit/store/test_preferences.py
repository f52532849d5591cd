"""Users' preferences: what is stored is found again, in the same process and in the next one, and a file that cannot be used says why."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from sidecar.errors import StoreFailed
from sidecar.store.preferences import FILE, UserPreferences


def opened(folder, **options) -> UserPreferences:
    store = UserPreferences(**options)
    store.open(folder)
    return store


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    store = UserPreferences(most=3)
    if request.param == "file":
        store.open(tmp_path)
    yield store
    store.close()


async def test_what_was_set_last_is_found_until_it_is_deleted(store):
    assert store.of("acme", "kim") == ""
    await store.set("acme", "kim", "gpt-4o")
    await store.set("acme", "kim", "claude-sonnet-4")
    await store.set("other", "kim", "gpt-4o-mini")
    assert (store.of("acme", "kim"), store.of("other", "kim"), store.of("acme", "lee")) == ("claude-sonnet-4", "gpt-4o-mini", "")
    await store.delete("acme", "kim")
    await store.delete("acme", "nobody")
    assert (store.of("acme", "kim"), store.of("other", "kim")) == ("", "gpt-4o-mini")


async def test_the_one_first_set_the_longest_ago_goes_where_there_is_no_room(store):
    for user in ("a", "b", "c"):
        assert not await store.set("t", user, "gpt-4o")
    assert not await store.set("t", "a", "gpt-4o-mini")  # no new one
    assert await store.set("t", "d", "gpt-4o")
    assert [store.of("t", user) for user in "abcd"] == ["", "gpt-4o", "gpt-4o", "gpt-4o"]
    assert len(store) == 3


async def test_changes_happen_in_the_order_of_asking(store):
    await asyncio.gather(*(store.set("t", "u", f"model-{number}") for number in range(50)))
    assert store.of("t", "u") == "model-49"


async def test_a_file_outlives_the_store(tmp_path):
    folder = tmp_path / "not" / "there" / "yet"
    first = opened(folder)
    for user, model in (("a", "gpt-4o"), ("김", "claude-sonnet-4"), ("c", "gpt-4o")):
        await first.set("t", user, model)
    await first.set("t", "a", "gpt-4o-mini")
    await first.delete("t", "c")
    # Not closed: the file is read as a process that was killed left it.
    second = opened(folder, most=2)
    assert (second.of("t", "a"), second.of("t", "김"), second.of("t", "c")) == ("gpt-4o-mini", "claude-sonnet-4", "")
    assert await second.set("t", "d", "gpt-4o")
    second.close()
    first.close()
    third = opened(folder)
    assert [third.of("t", user) for user in ("a", "김", "d")] == ["", "claude-sonnet-4", "gpt-4o"]
    third.close()


async def test_nobody_else_may_read_the_file(tmp_path):
    store = opened(tmp_path)
    await store.set("t", "u", "gpt-4o")
    assert {file.name: file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {FILE: 0, f"{FILE}-wal": 0, f"{FILE}-shm": 0}
    store.close()


async def test_a_write_that_fails_changes_nothing(tmp_path):
    store = opened(tmp_path)
    await store.set("t", "u", "gpt-4o")
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("DROP TABLE preferences")
    with pytest.raises(StoreFailed, match=rf"cannot write {tmp_path}/{FILE} \(server.data_dir\): no such table.*nothing was changed"):
        await store.set("t", "u", "gpt-4o-mini")
    with pytest.raises(StoreFailed):
        await store.delete("t", "u")
    assert store.of("t", "u") == "gpt-4o"
    store.close()


def no_database(file):
    file.write_bytes(b"this is a letter, not a database" * 100)


def later_version(file):
    with sqlite3.connect(file) as other:
        other.execute("PRAGMA user_version = 2")


def other_table(file):
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE preferences (name TEXT)")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_database, "file is not a database; repair it or move it away"),
        (later_version, "a later version of the sidecar wrote it; run that, or move it away"),
        (other_table, "no such column: tenant; repair it or move it away"),
        (lambda file: file.mkdir(), "unable to open database file; repair it or move it away"),
    ],
    ids=["no database", "a later version", "another table", "a folder"],
)
def test_a_file_that_cannot_be_used(tmp_path, make, said):
    make(tmp_path / FILE)
    with pytest.raises(StoreFailed) as caught:
        opened(tmp_path)
    assert caught.value.message == f"cannot use {tmp_path}/{FILE} (server.data_dir): {said}"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreFailed) as caught:
        opened(tmp_path / "file" / "data")
    assert caught.value.message == f"cannot write {tmp_path}/file/data/{FILE} (server.data_dir): Not a directory"
