"""One process of a fleet and what outlives it: a journal and a usage log in a folder. It is killed, loses power, and comes back."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from random import Random

from msgspec.json import decode

from sidecar._core import Ledger, check_journal
from sidecar.assembly import make_engine
from sidecar.errors import Draining, StoreFailed
from sidecar.policies.budgets import TopUp
from sidecar.store.shared_budgets import pod_life
from sidecar.store.usage_file import UsageFile
from sidecar.upkeep.house import keep_house, keep_runs
from sidecar.upkeep.words import Hearing
from tests.sim.books import Books
from tests.sim.ledger import WatchedLedger
from tests.sim.operators import Operator
from tests.sim.scopes import Scopes

_SMALL, _LARGE = 8_192, 67_108_864  # bytes of a journal's segment
_HEADER = 16  # bytes with which every file of a journal begins


class Disk(UsageFile):
    """A usage file whose disk is full now and then."""

    is_full = False

    def add(self, rows):
        if self.is_full:
            raise StoreFailed("no space left on device")
        return super().add(rows)


class Process:
    """`fleet` is the world: clock, settings, providers, watch, Redis and PostgreSQL. What is drawn here is drawn before it runs."""

    def __init__(self, fleet, number, folder, random: Random):
        self.name = f"pod-{number}"
        self.fleet = fleet
        self.books = Books()
        self.scopes = Scopes(fleet.settings)
        self.engine = self.ledger = self.usage = None
        self.is_alive = False
        self.up = asyncio.Event()  # it takes calls
        self.lost_power = False
        self.callers = []  # of this life
        self._kept = {}  # what operators have set, as the file has it
        self._chores = []
        self._line = None
        self._full = (0.0, 0.0)  # seconds from which and until which the journal's disk takes no more
        self.desk = None  # where its alerts go out, if they do
        self._random = random
        self._folder = folder / self.name
        self._lives = 0
        self._is_again = self._is_set_back = False
        self._fsync = random.choice(("settle", "interval", "never"))
        # Small segments make snapshots, in a thread of their own, so that what lies where depends on more than the seed.
        self._segment_bytes = random.choice((_LARGE, _LARGE, _SMALL))
        self._wall_off_ns = random.choice((0, 0, -2, 2)) * 1_000_000_000
        self._writes_every_s = 10 ** random.uniform(-0.7, 0.7)
        self._folder.mkdir(parents=True)
        (self._folder / "pod").write_text(self.name)

    @property
    def journal(self):
        return self._folder / f"journal-{self._lives}"

    # --- life and death

    def start(self):
        """With the journal as the last life has left it."""
        fleet = self.fleet
        if self._is_again and not fleet.is_gentle:
            by_s = self._random.choice((0, 0, -30, 30))
            if self._segment_bytes == _SMALL:
                by_s = abs(by_s)  # a snapshot leaves out what is over: a clock put back into that would find nothing of it
            self._wall_off_ns += by_s * 1_000_000_000
            self._is_set_back = self._is_set_back or by_s < 0
        self._is_again = True
        real, found = Ledger.open(self.journal, fsync=self._fsync, interval_ms=1, segment_bytes=self._segment_bytes)
        if found and not self.lost_power:
            fleet.watch.broken(self.name, f"its journal was left with {found}")
        self.ledger = ledger = WatchedLedger(real, fleet.watch, self.scopes, self.books)
        ledger.full, ledger.refuses_when_full = self._full, fleet.settings.journal.on_full == "refuse"
        ledger.compare_all(self.name)
        self._compare_names(real)
        if real.journal().last < self.books.last:
            fleet.watch.broken(self.name, f"its journal ends with entry {real.journal().last}, and there were {self.books.last}")
        self.engine = engine = make_engine(
            fleet.settings,
            fleet.catalog,
            fleet.log,
            ledger=ledger,
            clock_ns=fleet.loop.clock_ns,
            wall_ns=self.wall_ns,
            random=Random(self._random.random()).random,
        )
        self.scopes.follow(engine.budgets)
        engine.budgets.restore(self._kept, self._keep, self.wall_ns() // 1_000_000)
        ledger.follow(engine.budgets.runs)
        engine.providers.update(fleet.providers)
        self.usage = engine.usage
        self.usage._file = self.disk = Disk(self._folder)
        engine.meter.on_call = self._ended
        chores = [keep_house(engine), keep_runs(engine), self._keep_usage(), self._begin()]
        if self.desk is not None:
            chores.append(self.desk.begin(engine))
        self._chores = [fleet.loop.create_task(chore) for chore in chores]
        self.operator = Operator(self._random, engine, fleet.crowd, fleet.watch, self._spawn)
        self.is_alive = True
        fleet.watch.note(self.name, f"starts; its journal has {real.journal().last} entries")

    def fill_journal(self, for_s):
        """Its disk takes no more for a while: entries wait, and outlive the process in the handover."""
        now = self.fleet.watch.now
        self.fleet.watch.note(self.name, f"the disk of its journal is full for {for_s:.3f} s")
        self.ledger.full = self._full = (now, now + for_s)

    def _spawn(self, work):
        self._chores.append(self.fleet.loop.create_task(work))

    async def _begin(self):
        fleet, sharing = self.fleet, self.engine.sharing
        if sharing is None:
            self.up.set()
            return
        self._line = line = fleet.redis.line(*pod_life(str(self._folder)))
        board = fleet.redis.board(self.name)
        await sharing.begin(line, fleet.settings.fleet.learn_ms / 1000 + 2)
        self.engine.budgets.words.share = board.say
        hearing = Hearing(self.engine, board)
        with suppress(StoreFailed):
            await hearing.look()
        self.up.set()
        self._spawn(hearing.run())
        await sharing.run(line)

    async def _keep(self, changes):
        """It is on the disk a moment before anybody knows."""
        await asyncio.sleep(self._random.uniform(0, 0.02))
        for key, text in changes.items():
            if text is None:
                self._kept.pop(key, None)
            else:
                self._kept[key] = text
        await asyncio.sleep(self._random.uniform(0, 0.02))

    def _compare_names(self, real):
        """It has no accounts and no frozen ones beside those of the books."""
        more = {name for name in real.names() if name not in self.books.accounts}
        if more:
            self.fleet.watch.broken(self.name, f"its journal gave back {sorted(more)}, which nothing was posted on")
        wrong = [
            name
            for name in self.books.accounts
            if (b := real.balance(name, self._window_begin(name))) and b.frozen != (name in self.books.frozen)
        ]
        if wrong:
            self.fleet.watch.broken(self.name, f"its journal has forgotten who is frozen: {wrong}")

    def _window_begin(self, name):
        span = self.books.accounts[name].span
        return 0 if span is None else span[0]

    def _ended(self, call, duration_s):
        self.usage.ended(call, duration_s)
        self.ledger.runs.ended(call)

    def wall_ns(self):
        """Clocks of processes differ, and one may be set while its process is away."""
        return self.fleet.wall_ns() + self._wall_off_ns

    def stop(self):
        """In order: everything is written."""
        self.is_alive = False
        self.up.clear()
        for chore in self._chores:
            chore.cancel()
        self.disk.is_full = False
        self.usage._write()
        self.ledger.compare_all(self.name)
        self.disk.close()
        if not self.ledger.close():
            self.fleet.watch.broken(self.name, "its journal could not be written to its end")

    async def restart(self, away_s):
        """An orderly end: calls in flight are ended, leases go back; and a beginning."""
        self.is_alive = False
        self.up.clear()
        self.fleet.watch.note(self.name, "is stopped")
        flying = [caller for caller in self.callers if caller.done_at is None]
        for caller in flying:
            caller.call.aborted = Draining("the process stops")
            caller.task.cancel()
        if flying:
            await asyncio.wait([caller.task for caller in flying])
        if self.desk is not None:
            await self.desk.alerting.finish(2.0)
        for chore in self._chores:
            chore.cancel()
        if self.desk is not None:
            await self.desk.alerting.end()
        if self.engine.sharing is not None:
            await self.engine.sharing.end(self._line)
        self.stop()
        self.callers = []
        self.books.reopen(self.books.last)
        await asyncio.sleep(away_s)
        self.start()

    def kill(self, *, power: bool):
        """Not another word. Without power what the disk had not taken is gone as well: the journal ends at any byte."""
        fleet = self.fleet
        self.is_alive = False
        self.up.clear()
        self.ledger.is_dead = True
        self.engine.meter.on_call = None
        for chore in self._chores:
            chore.cancel()
        flying = [caller for caller in self.callers if caller.done_at is None]
        for caller in flying:
            caller.is_killed = True
            caller.gone_at = fleet.watch.now
            caller.task.cancel()
        lost = {record.id for record in (*self.usage._records, *self.usage._rows)}
        self.usage._records.clear()  # which lead back to the providers, and are not tracked by the collector
        for caller in self.callers:
            caller.row_lost = caller.row_lost or caller.name in lost
        self.callers = []
        self.disk.close()
        power = power and self._segment_bytes == _LARGE
        fleet.watch.note(self.name, f"{'loses power' if power else 'is killed'} with {len(flying)} calls, {len(lost)} rows unwritten")
        self._leave_journal(power=power)

    def _leave_journal(self, *, power):
        ledger, old, written = self.ledger._ledger, self.journal, self.books.last
        if self._segment_bytes == _LARGE and not power:
            self._lives += 1
            shutil.copytree(old, self.journal)  # as it is at this moment, what the writer has not written yet included
            ledger.close()
        else:
            ledger.close()
            if power:
                self.lost_power = True
                written = self._cut()
        self.books.reopen(written)

    def _cut(self):
        """Returns the number of the last entry that is left."""
        (self.journal / "handover").unlink()
        segment = max(self.journal.glob("segment-*"), key=lambda path: int(path.name.partition("-")[2]))
        length = segment.stat().st_size
        least = _HEADER if self._random.random() < 0.5 else max(_HEADER, length - 600)
        with segment.open("r+b") as file:
            file.truncate(self._random.randint(least, length))
        report = check_journal(self.journal)
        if report.damage:
            self.fleet.watch.broken(self.name, f"a journal that was cut is damaged: {report.damage}")
        return report.last

    # --- the usage log

    async def _keep_usage(self):
        """What the usage log's threads do."""
        while True:
            await asyncio.sleep(self._writes_every_s)
            with suppress(StoreFailed):
                self.usage._write()
                if self.fleet.postgres is not None:
                    while self.usage._move(self.fleet.postgres):
                        pass

    # --- what is left

    def check_words(self):
        """What operators were answered is kept, and the ledger has it."""
        watch, budgets = self.fleet.watch, self.engine.budgets
        for key, at_ms in self.fleet.said.items():
            if (self.engine.sharing is not None or key[0] == self.name) and budgets.words.known.get(key[1:], (0,))[0] < at_ms:
                watch.broken(self.name, f"it has forgotten what an operator said of {key[1:]}")
        frozen = {name for (kind, name), (_, text) in budgets.words.known.items() if kind == "frozen" and text}
        if {f"tenant:{name}:day" for name in frozen} != self.books.frozen:
            watch.broken(self.name, f"operators have frozen {sorted(frozen)}, and the ledger {sorted(self.books.frozen)}")
        added = {}
        for (kind, _), (_, text) in budgets.words.known.items():
            if kind == "top_up":
                said = decode(text, type=TopUp)
                added[said.account, said.ends_ns] = added.get((said.account, said.ends_ns), 0) + said.nano_usd
        for account, sums in self.books.accounts.items():
            more = added.get((account, sums.span[1]), 0) if sums.span is not None else 0
            is_over = sums.span is None or sums.ended(self.wall_ns()) or self._is_set_back  # then it may have gone to a later window
            if not is_over and sums.topped_up[0] != more:
                watch.broken(self.name, f"{account} was topped up by {more} nano-USD, and the ledger has {sums.topped_up[0]}")

    def rows(self):
        """(id, nano-USD, tokens) of each row in its file, and the sum of its days' nano-USD."""
        file = UsageFile(self._folder)
        columns = "id, cost_nano_usd, input_tokens + cached_input_tokens + cache_write_tokens + output_tokens + reasoning_tokens"
        rows = file._run(f"SELECT {columns} FROM llm_calls", ())
        ((days,),) = file._run("SELECT COALESCE(SUM(cost_nano_usd), 0) FROM llm_days", ())
        file.close()
        return rows, days

    def check_journal(self):
        """Of a process that has stopped: its journal has each post once, and gives back what the books say."""
        watch, books = self.fleet.watch, self.books
        report = check_journal(self.journal)
        if report.damage or (report.posts, report.posted_nano_usd, report.posted_tokens) != (len(books.posts), *books.posted):
            found = f"{report.posts} posts of {report.posted_nano_usd} nano-USD and {report.posted_tokens} tokens {report.damage}"
            watch.broken(self.name, f"its journal has {found}; posted were {len(books.posts)} of {books.posted}")
        real, _ = Ledger.open(self.journal)
        books.reopen(books.last)
        WatchedLedger(real, watch, self.scopes, books).compare_all(self.name)
        self._compare_names(real)
        real.close()
