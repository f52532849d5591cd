"""Figures of the last calls that outlive the process: whole frames are found again, and nothing else."""

from __future__ import annotations

import pytest

from sidecar.errors import StoreFailed
from sidecar.store.usage_shield import FILE, Shield


def test_what_was_put_is_found_by_the_next_process(tmp_path):
    one = Shield(tmp_path)
    assert one.found == []
    assert all(one.put(content) for content in (b"a", b"bc" * 100, b"d"))
    assert Shield(tmp_path).found == [b"a", b"bc" * 100, b"d"]  # the first was never closed, as after kill -9


def test_what_was_found_is_gone_when_it_is_cleared(tmp_path):
    Shield(tmp_path).put(b"before")
    two = Shield(tmp_path)
    two.clear()
    two.put(b"after")
    assert Shield(tmp_path).found == [b"after"]


@pytest.mark.parametrize("at", range(60))
def test_a_byte_that_is_wrong_ends_what_is_found(tmp_path, at):
    one = Shield(tmp_path, 4096)
    contents = [b"first one", b"second one", b"third one"]
    for content in contents:
        one.put(content)
    data = bytearray((tmp_path / FILE).read_bytes())
    data[at] ^= 0x55
    (tmp_path / FILE).write_bytes(data)
    found = Shield(tmp_path, 4096).found
    assert found == contents[: len(found)]
    assert len(found) < 3 or at >= sum(8 + len(content) for content in contents)


def test_of_too_many_the_first_are_kept_and_the_others_are_told(tmp_path):
    one = Shield(tmp_path, 4096)
    room = [one.put(b"x" * 92) for _ in range(50)]
    assert room == [True] * 40 + [False] * 10
    assert len(Shield(tmp_path, 4096).found) == 40


def test_a_half_is_emptied_when_its_rows_are_certainly_written(tmp_path):
    one = Shield(tmp_path, 4096)
    one.put(b"old")
    one.turn(100.0, all_written=True)
    one.put(b"new")
    one.turn(104.0, all_written=True)  # too soon to be certain
    assert Shield(tmp_path, 4096).found == [b"old", b"new"]
    one.turn(106.0, all_written=False)
    assert Shield(tmp_path, 4096).found == [b"old", b"new"]
    one.turn(106.0, all_written=True)
    assert Shield(tmp_path, 4096).found == [b"new"]
    one.turn(107.0, all_written=True)
    one.put(b"newer")
    one.turn(113.0, all_written=True)
    assert Shield(tmp_path, 4096).found == [b"newer"]


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(StoreFailed, match=r"cannot write .*usage\.shield: Is a directory \(server\.data_dir\)"):
        Shield(tmp_path)
