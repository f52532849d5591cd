"""An answer from memory, given to a stream's reader in pieces."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.call import Chunk, Start
from sidecar.pipeline import run
from tests.unit.caching.parts import ask
from tests.unit.fakes import DONE, Bench


async def test_stream_is_replayed_in_pieces_at_the_pace_that_is_set():
    text = "word " * 100
    bench = Bench([(Chunk(reasoning="hm"), Chunk(text=text), DONE)], SIDECAR_CACHE__REPLAY_CHARS="60", SIDECAR_CACHE__REPLAY_PAUSE_MS="2")
    await bench.run(ask())
    bench.sent.clear()
    call = await bench.run(ask())
    assert isinstance(bench.sent[0], Start)
    assert bench.text() == text
    pieces = [pieces[0] for pieces in bench.sent[1:]]
    assert len(pieces) == 1 + 9  # cut behind a word: 55 + ... letters each
    assert all(len(piece.text) <= 60 for piece in pieces)
    assert [piece.finish for piece in pieces] == [None] * 9 + ["stop"]
    took = bench.engine.clock_ns() / 1e9 - call.arrived
    assert took >= 9 * 0.002


async def test_entry_that_is_evicted_while_it_is_replayed_is_replayed_to_its_end():
    text = "word " * 100
    bench = Bench([(Chunk(text=text), DONE)], SIDECAR_CACHE__REPLAY_CHARS="60")
    await bench.run(ask())
    call = bench.call(ask())
    got = []

    async def send(pieces):
        from sidecar.store.cache_invalidation import Invalidation

        bench.engine.answers.invalidate(Invalidation(generation=bench.engine.answers.invalidations.generation + 1))
        if not isinstance(pieces, Start):
            got.extend(piece.text for piece in pieces)

    call.send = send
    await run(bench.engine, call)
    assert "".join(got) == text
    assert len(bench.engine.answers) == 0


async def test_reader_who_leaves_a_replay_leaves_nothing_behind():
    bench = Bench([(Chunk(text="word " * 100), DONE)], SIDECAR_CACHE__REPLAY_PAUSE_MS="10000")
    await bench.run(ask())
    task = asyncio.ensure_future(bench.run(ask(), seconds=100))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.assert_settled()
    assert (await bench.run(ask(), stream=False)).recalled is not None
