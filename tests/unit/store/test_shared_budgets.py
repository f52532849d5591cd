"""Who a pod is among others, and what is refused before a word is said; real servers are in tests/leases and tests/flow."""

from __future__ import annotations

import sys

import pytest

from sidecar.errors import SettingsError, StoreFailed
from sidecar.settings import load
from sidecar.store.shared_budgets import connect, pod_life, read_short, short_name


def test_a_pod_is_the_same_for_as_long_as_its_folder_is(tmp_path):
    one, first = pod_life(str(tmp_path))
    assert [pod_life(str(tmp_path)) for _ in range(2)] == [(one, first + 1), (one, first + 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["pod"]
    (tmp_path / "pod").unlink()
    assert pod_life(str(tmp_path))[0] != one
    for cut in ("", "\n"):  # as a power cut may leave it
        (tmp_path / "pod").write_text(cut)
        other, life = pod_life(str(tmp_path))
        assert (len(other), life) == (32, 1)
    for text in ("a name of before", "name", "name -1", "name x"):
        (tmp_path / "pod").write_text(text)
        assert pod_life(str(tmp_path)) == (text.split()[0], 1)


def test_without_a_folder_every_process_is_another_pod():
    assert pod_life(None)[0] != pod_life(None)[0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "pod").mkdir()
    with pytest.raises(StoreFailed, match=r"cannot read or write .*/pod: Is a directory \(server\.data_dir\)"):
        pod_life(str(tmp_path))
    with pytest.raises(StoreFailed, match=r"No such file or directory"):
        pod_life(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("account", ["tenant:acme:day", "user:a%3Ab:c:d:day", "tenant:ü ö:day"])
def test_an_account_in_a_window_is_read_as_it_was_written(account):
    assert read_short(short_name(account, 1_800_000_000_000_000_000).encode()) == (account, 1_800_000_000_000_000_000)


async def test_nothing_is_shared_without_an_address_or_where_that_is_not_wanted():
    assert await connect(load(None, {})) is None
    assert await connect(load(None, {"SIDECAR_REDIS__URL": "redis://here:1", "SIDECAR_FLEET__SHARE_BUDGETS": "false"})) is None


async def test_a_missing_package_is_named_at_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(SettingsError, match="SIDECAR_REDIS__URL: needs the package redis"):
        await connect(load(None, {"SIDECAR_REDIS__URL": "redis://here:1"}))
