"""What was spent outlives the process: killed in the middle of calls, stopped, with a damaged journal, and with a full disk."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from pathlib import Path

import grpc
import pytest

from sidecar._core import check_journal
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.fakes.script import Say
from tests.flow.reading import account, failed, streamed
from tests.flow.test_commands import sidecar_command

COST = 39_000  # nano-USD: the fake's 11 tokens in and 7 out, at the test models' prices


def ask(tenant: str = "acme") -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="hi", caller=pb.Caller(tenant=tenant))


async def spent(sidecar, tenant: str = "acme") -> tuple[int, int]:
    """Nano-USD used and pending."""
    view = await account(sidecar, tenant)
    return view.used_nano_usd, view.pending_nano_usd


async def kill(sidecar) -> None:
    sidecar.process.send_signal(signal.SIGKILL)
    await sidecar.process.wait()


class Callers:
    """Calls without a pause, unary and streamed, until the sidecar is gone; counts the answers that have come whole."""

    def __init__(self, sidecar, number: int) -> None:
        self.answers, self.enough = 0, asyncio.Event()
        self._sidecar = sidecar
        self.tasks = [asyncio.ensure_future(self._call(turn % 2 == 0)) for turn in range(number)]

    async def _call(self, stream: bool) -> None:
        try:
            while True:
                if stream:
                    await streamed(self._sidecar.llm.Stream(ask(), timeout=60))
                else:
                    await self._sidecar.llm.Generate(ask(), timeout=60)
                self.answers += 1
                if self.answers >= 60:
                    self.enough.set()
        except grpc.aio.AioRpcError:
            return


@pytest.mark.parametrize("fsync", ["settle", "interval", "never"])
async def test_kill_9_in_the_middle_of_calls_loses_no_answered_call(start_sidecar, tmp_path, fsync):
    data, posted, number = tmp_path / "data", 0, 8
    for _ in range(3):
        sidecar = await start_sidecar(f'[journal]\nfsync = "{fsync}"\n', f'data_dir = "{data}"')
        assert await spent(sidecar) == (posted * COST, 0)
        callers = Callers(sidecar, number)
        await asyncio.wait_for(callers.enough.wait(), 60)
        await kill(sidecar)
        await asyncio.gather(*callers.tasks)
        report = check_journal(data / "journal")
        # Settled, and killed before the answer had gone out: at most the calls that were under way.
        assert posted + callers.answers <= report.posts <= posted + callers.answers + number
        assert (report.damage, report.posted_nano_usd) == ("", report.posts * COST)
        posted = report.posts
    last = await start_sidecar("", f'data_dir = "{data}"')
    assert await spent(last) == (posted * COST, 0)


async def test_a_call_under_way_when_the_process_is_killed_holds_nothing_afterwards(start_sidecar, upstream, tmp_path):
    first = await start_sidecar("", f'data_dir = "{tmp_path}/data"')
    await first.llm.Generate(ask())
    gate = asyncio.Event()
    upstream.on("compatible-default", Say(gate=gate), Say())
    waiting = asyncio.ensure_future(failed(first.llm.Generate(ask(), timeout=60)))
    async with asyncio.timeout(10):
        while not (await spent(first))[1]:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)
    await kill(first)
    gate.set()
    assert (await waiting).code == grpc.StatusCode.UNAVAILABLE
    second = await start_sidecar("", f'data_dir = "{tmp_path}/data"')
    assert await spent(second) == (COST, 0)


async def test_an_orderly_end(start_sidecar, tmp_path):
    first = await start_sidecar("", f'data_dir = "{tmp_path}/data"')
    await first.llm.Generate(ask("poor"))
    assert await first.stop() == 0
    second = await start_sidecar("", f'data_dir = "{tmp_path}/data"')
    assert await spent(second, "poor") == (COST, 0)


async def test_without_a_folder_nothing_is_kept(start_sidecar):
    first = await start_sidecar()
    await first.llm.Generate(ask("brief"))
    assert await spent(first, "brief") == (COST, 0)
    await kill(first)
    assert await spent(await start_sidecar(), "brief") == (0, 0)


async def test_two_sidecars_do_not_share_a_folder(start_sidecar, tmp_path):
    await start_sidecar("", f'data_dir = "{tmp_path}/data"')
    second = await start_sidecar("", f'data_dir = "{tmp_path}/data"', wait=False)
    assert await asyncio.wait_for(second.process.wait(), 30) == 1
    assert "another process uses it; every sidecar needs a data_dir of its own (server.data_dir)" in second.log


async def test_a_damaged_journal_stops_the_start_and_is_repaired_by_a_command(start_sidecar, tmp_path):
    data, server = tmp_path / "data", f'data_dir = "{tmp_path}/data"'
    first = await start_sidecar("", server)
    for tenant in ("one", "two", "one"):
        await first.llm.Generate(ask(tenant))
    assert await first.stop() == 0
    segment = data / "journal" / "segment-00000000000000000001"
    spoilt = bytearray(segment.read_bytes())
    spoilt[60] ^= 8
    segment.write_bytes(spoilt)
    (data / "journal" / "handover").unlink()
    refused = await start_sidecar("", server, wait=False)
    assert await asyncio.wait_for(refused.process.wait(), 30) == 1
    (line,) = refused.log.splitlines()
    assert f"{segment}: damaged at byte 16" in line
    assert "`sidecar journal repair`" in line
    status, out, _ = await sidecar_command("journal", "check", "--data-dir", str(data))
    assert status == 1
    assert "damaged at byte 16" in out
    status, out, _ = await sidecar_command("journal", "repair", "--data-dir", str(data))
    assert status == 0
    assert "lost: entries 1 to 1" in out
    # Two tenants, and the six alarms on what all spend together.
    assert "repaired: 3 entries, 8 accounts, 0 frozen; posted since the beginning: 2 calls, 0.000078000 USD, 36 tokens" in out
    status, out, _ = await sidecar_command("journal", "check", "--data-dir", str(data))
    assert status == 0
    assert out.startswith("whole: ")
    again = await start_sidecar("", server)
    assert [await spent(again, tenant) for tenant in ("one", "two")] == [(2 * COST, 0), (COST, 0)]


async def test_journal_commands_that_cannot_be(start_sidecar, tmp_path):
    status, _, err = await sidecar_command("journal", "check")
    assert status == 2
    assert "server.data_dir: is not set, expected the folder of the journal, here or in --data-dir" in err
    status, _, err = await sidecar_command("journal", "check", "--data-dir", str(tmp_path / "nowhere"))
    assert status == 1
    assert err == f"sidecar: journal {tmp_path}/nowhere/journal: No such file or directory (os error 2)\n"
    await start_sidecar("", f'data_dir = "{tmp_path}/data"')
    status, _, err = await sidecar_command("journal", "repair", environ={"SIDECAR_SERVER__DATA_DIR": str(tmp_path / "data")})
    assert status == 1
    assert "another process uses it" in err


# --- a full disk ------------------------------------------------------------------------------------------------------------------


def give_room(sidecar, bytes_per_file: int) -> None:
    """What a file of that process may grow to, from now on: to it, a full disk."""
    resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (bytes_per_file, resource.RLIM_INFINITY))


def written(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "data" / "journal").iterdir())


async def event(sidecar, words: str) -> None:
    """Waits for an event about the journal."""
    async with asyncio.timeout(15):
        while True:
            events = (await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(kind="journal"))).events
            if any(words in e.message for e in events):
                return
            await asyncio.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be changed on Linux only")
async def test_a_full_disk_refuses_calls_until_there_is_room_again(start_sidecar, tmp_path):
    sidecar = await start_sidecar("", f'data_dir = "{tmp_path}/data"')
    empty = written(tmp_path)
    await sidecar.llm.Generate(ask())
    async with asyncio.timeout(10):
        while written(tmp_path) == empty:  # noqa: ASYNC110  (another process's)
            await asyncio.sleep(0.02)
    give_room(sidecar, 20)
    await sidecar.llm.Generate(ask())  # nobody knows yet
    await event(sidecar, "until there is room calls are refused (journal.on_full)")
    refused = await failed(sidecar.llm.Generate(ask()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
    assert "server.data_dir is full or fails" in refused.message
    assert await spent(sidecar) == (2 * COST, 0)
    give_room(sidecar, resource.RLIM_INFINITY)
    await event(sidecar, "the journal is written again")
    await sidecar.llm.Generate(ask())
    await kill(sidecar)
    assert check_journal(tmp_path / "data" / "journal").posts == 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process can be changed on Linux only")
async def test_a_full_disk_lets_calls_go_on_and_says_so_if_settings_want_it(start_sidecar, tmp_path):
    sidecar = await start_sidecar('[journal]\non_full = "go_on"\n', f'data_dir = "{tmp_path}/data"')
    give_room(sidecar, 20)
    await sidecar.llm.Generate(ask())
    await event(sidecar, "until there is room calls go on, and what they cost is kept in memory (journal.on_full)")
    answer = await sidecar.llm.Generate(ask())
    assert any("what this call costs is kept in memory until there is room" in notice for notice in answer.notices)
    give_room(sidecar, resource.RLIM_INFINITY)
    await event(sidecar, "the journal is written again")
    assert await sidecar.stop() == 0
    assert check_journal(tmp_path / "data" / "journal").posts == 2
