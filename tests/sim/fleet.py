"""One seed, one fleet: processes with journals and usage logs that are killed at any moment, and a Redis in which they share budgets.

What one process does with its providers is the matter of `world`. Here it is money alone, and that across the ends of processes.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random

from sidecar.billing import tokens
from sidecar.errors import SidecarError, StoreFailed
from sidecar.pipeline import run
from tests.sim.alerts import Office
from tests.sim.callers import Crowd, arrivals
from tests.sim.clock import VirtualLoop
from tests.sim.deployment import draw
from tests.sim.ledger import Killed
from tests.sim.moments import begin_ns
from tests.sim.process import Process
from tests.sim.providers import Scripted, Timeline
from tests.sim.redis import Redis
from tests.sim.seen import CURRENT, Notes, One
from tests.sim.world import Outcome, Quiet, guarded

_FOLDER = "/dev/shm"
_LIVED_S = 8.0


class MoneyWatch(Notes):
    """Takes down what is asked and held; the rules are those of the ledger, and of what is left in the end."""

    def begin(self, target, deed):
        caller = CURRENT.get()
        self.numbers += 1
        one = One(self.numbers, caller, target, deed, self.now, 0, "")
        self.note(caller, f"asks {target} ({one.number}, which will do: {deed})")
        if caller.holds != 1:
            self.broken(caller, f"somebody is asked, and it holds {caller.holds} reservations")
        caller.ones.append(one)
        return one

    def end(self, one):
        one.ended = self.now

    def reserved(self, caller, accounts):
        caller.holds += 1
        self.note(caller, f"holds {caller.call.max_nano_usd} nano-USD")
        self.is_within(caller, accounts)


class Postgres:
    """Rows of all processes, by id as there; replies are lost now and then."""

    def __init__(self, random):
        self._random = random
        self.rows = {}
        self.is_moody = True

    def add(self, rows):
        lost = self.is_moody and self._random.random()
        if lost and lost < 0.1:
            raise StoreFailed("postgres is away")
        for row in rows:
            self.rows.setdefault(row.id, row)
        if lost and lost > 0.9:
            raise StoreFailed("no reply")

    def close(self):
        pass


class Fleet:
    def __init__(self, seed, folder, *, all_of_it=False):
        """`all_of_it`: it has all that otherwise few fleets have, as alerts that go somewhere and full disks."""
        self.seed = seed
        self.all_of_it = all_of_it
        self.random = random = Random(f"fleet {seed}")
        many = random.choice((1, 2, 3))
        self.is_gentle = many > 1 and random.random() < 0.4
        self.settings, self.catalog, self.environ = draw(random, _sharing(random, many) | _journal(seed))
        self.loop = VirtualLoop(Random(random.random()))
        self.watch = watch = MoneyWatch(self.loop)
        self.log = Quiet("error")
        self.log.watch = watch
        self.seconds = random.uniform(3, 20)
        self.begins_ns = begin_ns(random, self.seconds) - self.loop.now_ns
        fleet = self.settings.fleet
        self.redis = Redis(Random(random.random()), self.loop, fleet.lease_ms, fleet.learn_ms, is_gentle=self.is_gentle)
        self.postgres = Postgres(Random(random.random())) if random.random() < 0.4 else None
        self.providers = {}
        for name in ("openai", "anthropic", "google", "local"):
            endpoints = [f"{name}#{endpoint}" for endpoint in self.settings.providers[name].endpoints]
            for spot in (name, *endpoints):
                self.providers[spot] = Scripted(spot, Timeline(random, self.seconds), Random(random.random()), watch, self.loop)
        watch.is_within = self._check_together
        self.processes = [Process(self, number, folder, Random(random.random())) for number in range(many)]
        self.crowd = Crowd(random, runs=random.choice((0, 0.3)))
        own = Random(f"alerts {seed}")
        self.office = Office(own, watch, self.redis) if own.random() < 0.15 or all_of_it else None
        if self.office is not None:
            for process in self.processes:
                process.desk = self.office.desk(process, Random(own.random()))
        self.said = {}
        self.restarting = set()
        self.faults = []
        self.left = 0
        self.all_ended = asyncio.Event()

    def wall_ns(self):
        return self.loop.now_ns + self.begins_ns

    def play(self):
        guarded(self.loop, self._main(), self.watch, self.faults)
        results = {}
        for caller in self.watch.callers:
            results[caller.result or "none"] = results.get(caller.result or "none", 0) + 1
        breaks = [f"seed {self.seed} {sentence}" for sentence in self.watch.breaks]
        return Outcome(self.seed, breaks, self.watch.trace, results, self.watch.numbers, self.environ)

    async def _main(self):
        random, loop = self.random, self.loop
        for process in self.processes:
            process.start()
        await self._all_up()
        begin, last = loop.time(), 0.0
        times = arrivals(random, self.seconds, random.randint(10, 80))
        self.left = len(times)
        for at in times:
            caller = self.crowd.caller()
            caller.deadline_s = min(caller.deadline_s, 10.0)
            self.watch.callers.append(caller)
            loop.call_at(begin + at, self._arrive, caller, random.choice(self.processes))
            last = max(last, at + caller.deadline_s)
        self._plan_trouble(begin)
        try:
            await asyncio.wait_for(self.all_ended.wait(), last + _LIVED_S)
        except TimeoutError:
            waiting = [str(caller) for caller in self.watch.callers if caller.done_at is None]
            self.watch.broken("world", f"these calls do not end: {waiting}")
        await asyncio.sleep(max(0.0, begin + self.seconds - loop.time()))
        await self._end()

    async def _all_up(self):
        for process in self.processes:
            await process.up.wait()

    def _plan_trouble(self, begin):
        random, loop = self.random, self.loop

        def often(most, deed, *facts):
            for _ in range(random.randint(0, most)):
                loop.call_at(begin + random.uniform(0, self.seconds), deed, *(fact() for fact in facts))

        if self.is_gentle:
            return
        often(3, self._kill, lambda: random.choice(self.processes), lambda: random.random() < 0.3, lambda: random.uniform(0.01, 3))
        often(1, self._restart, lambda: random.choice(self.processes), lambda: random.uniform(0.01, 3))
        often(2, self._fill_disk, lambda: random.choice(self.processes), lambda: random.uniform(0.1, 5))
        for at, process, for_s in self._full_journals():
            loop.call_at(begin + at, process.fill_journal, for_s)
        often(6, self._operate, lambda: random.choice(self.processes), lambda: random.uniform(0, 0.04) if random.random() < 0.2 else None)
        if self.processes[0].engine.sharing is not None:
            often(2, self.redis.kill, lambda: random.uniform(0, 5))
            often(2, self.redis.cut, lambda: random.choice(self.processes).name, lambda: random.uniform(0, 5))
            often(1, self.redis.remember)

    def _check_together(self, caller, accounts):
        """Where nobody dies or is cut off, all processes together stay within each limit, overruns apart."""
        if not self.is_gentle or self.settings.fleet.without_redis == "share":
            return
        for account, rule in accounts:
            if rule.mode != "refuse" or rule.window is None:
                continue
            sums = [one for process in self.processes if (one := process.books.accounts.get(account)) and one.span == rule.window]
            for unit, limit in enumerate((rule.limit_nano_usd, rule.limit_tokens)):
                taken = sum(one.used[unit] + one.held[unit] - one.over[unit] for one in sums)
                if limit is not None and taken > limit:
                    self.watch.broken(caller, f"{account} has a limit of {limit}; all processes together have used and hold {taken}")

    # --- what happens from outside

    def _kill(self, process, power, away_s):
        if process.is_alive:
            process.kill(power=power)
            self.loop.call_later(away_s, process.start)

    def _restart(self, process, away_s):
        if process.up.is_set():
            self.restarting.add(task := self.loop.create_task(process.restart(away_s)))
            task.add_done_callback(self.restarting.discard)

    def _fill_disk(self, process, for_s):
        disk = process.disk
        disk.is_full = True
        self.loop.call_later(for_s, setattr, disk, "is_full", False)

    def _full_journals(self):
        own = Random(f"full {self.seed}")
        for process in self.processes if own.random() < 0.2 or self.all_of_it else ():
            yield own.uniform(0, self.seconds), process, own.uniform(0.5, 10)

    def _operate(self, process, killed_after_s):
        if process.up.is_set():
            process.operator.answered = lambda kind, name, at_ms: self.said.__setitem__((process.name, kind, name), at_ms)
            process.operator.act()
            if killed_after_s is not None:
                self.loop.call_later(killed_after_s, self._kill, process, False, 1.0)

    def _arrive(self, caller, process):
        if not process.up.is_set():
            others = [other for other in self.processes if other.up.is_set()]
            if not others:
                self._over(caller, "UNAVAILABLE")
                return
            process = others[0]
        caller.task = self.loop.create_task(self._live(caller, process))
        if caller.patience_s is not None:
            self.loop.call_later(caller.patience_s, self._leave, caller)

    def _leave(self, caller):
        if caller.done_at is None:
            caller.gone_at = self.watch.now
            self.watch.note(caller, "goes away")
            caller.task.cancel()

    async def _live(self, caller, process):
        CURRENT.set(caller)
        process.callers.append(caller)
        engine, watch = process.engine, self.watch

        async def send(pieces):
            if caller.pause_s:
                await asyncio.sleep(caller.pause_s)

        call = caller.begin(watch.now, engine.clock_ns() / 1e9, send)
        watch.note(caller, f"comes to {process.name}: {call.operation}")
        result = "CRASHED"
        try:
            await run(engine, call)
            result = "ok"
        except SidecarError as error:
            result = error.reason
            if "journal.on_full" in error.message and not (process.ledger.degraded and process.ledger.refuses_when_full):
                watch.broken(caller, f"it is refused for a full journal: {error.message}")
        except (asyncio.CancelledError, Killed):
            result = "CANCELLED"
        except BaseException as error:
            watch.broken(caller, f"{error!r} comes out of the pipeline")
        self._over(caller, "KILLED" if caller.is_killed else result)

    def _over(self, caller, result):
        caller.result, caller.done_at = result, self.watch.now
        self.watch.note(caller, f"ends: {result}")
        if caller.call is not None and not caller.is_killed:
            spent = (caller.call.nano_usd, tokens(caller.call.usage))
            if caller.spent != spent or len(caller.posted) > 1:
                self.watch.broken(caller, f"posted (nano-USD, tokens) is {caller.posted}, and it used {spent}")
        self.left -= 1
        if not self.left:
            self.all_ended.set()

    # --- the end

    async def _end(self):
        """All comes back and is told; then nothing is held, and journals, usage logs and Redis say the same."""
        self.redis.is_up, self.redis.is_gentle = True, True
        self.redis.cut_off.clear()
        if self.postgres is not None:
            self.postgres.is_moody = False
        await self._all_up()
        for process in self.processes:
            process.disk.is_full = False
        fleet = self.settings.fleet
        if self.processes[0].engine.sharing is not None:
            await asyncio.sleep(fleet.learn_ms / 1000 + 5)
        if self.office is not None:
            await self.office.settle()
            self.office.check(is_gentle=self.is_gentle)
        for process in self.processes:
            if process.books.open or process.ledger.pending():
                self.watch.broken(process.name, f"{process.ledger.pending()} reservations hold something")
            self._check_redis(process)
            process.check_words()
        if self.postgres is not None:
            await asyncio.sleep(max(process._writes_every_s for process in self.processes) * 2 + 1)
        for process in self.processes:
            process.stop()
        await asyncio.sleep(0.1)
        for process in self.processes:
            process.check_journal()
        self._check_rows()

    def _check_redis(self, process):
        """It was told all that this process has spent, once."""
        if process.engine.sharing is None:
            return
        now_ns = process.wall_ns()
        for account, sums in process.books.accounts.items():
            if sums.span is None or not any(sums.used) or sums.ended(now_ns):
                continue
            told = self.redis.told(account, sums.span[1], process.name)
            is_less = told is None or any(told[unit] < sums.used[unit] for unit in (0, 1))
            if is_less or (not process.lost_power and told != tuple(sums.used)):
                self.watch.broken(process.name, f"{account} has {sums.used} used, and Redis was told {told}")

    def _check_rows(self):
        """Each call that ended has one row, with what was posted for it; nobody else has any."""
        watch = self.watch
        found = {}
        for process in self.processes:
            rows, days = process.rows()
            if self.postgres is None and days != sum(row[1] for row in rows):
                watch.broken(process.name, f"the days' sums are {days} nano-USD, and the rows' {sum(row[1] for row in rows)}")
            for name, *spent in rows:
                if name in found:
                    watch.broken(process.name, f"{name} has two rows")
                found[name] = tuple(spent)
        for name, row in self.postgres.rows.items() if self.postgres is not None else ():
            if name in found:
                watch.broken("world", f"{name} has a row in a file and one in PostgreSQL")
            inputs = row.input_tokens + row.cached_input_tokens + row.cache_write_tokens
            found[name] = (row.cost_nano_usd, inputs + row.output_tokens + row.reasoning_tokens)
        for caller in watch.callers:
            row = found.pop(caller.name, None)
            if caller.call is None or caller.is_killed or caller.row_lost:
                if row is not None and row != caller.spent:
                    watch.broken(caller, f"its row says {row}, and posted is {caller.posted}")
            elif row is None:
                watch.broken(caller, "it has no row in the usage log")
            elif row != caller.spent:
                watch.broken(caller, f"its row says {row}, and posted is {caller.posted}")
        if found:
            watch.broken("world", f"rows of nobody: {sorted(found)}")


def _sharing(random, many):
    """Variables that have processes share their budgets, or none."""
    if many == 1 and random.random() < 0.7:
        return {}
    return {
        "SIDECAR_LIMITS__TENANT_DAY_USD": f"{10 ** random.uniform(-3, 0.5):.6f}",
        "SIDECAR_REDIS__URL": "redis://127.0.0.1:1",
        "SIDECAR_FLEET__LEASE_MS": "20000",
        "SIDECAR_FLEET__LEARN_MS": str(random.choice((500, 2_000))),
        "SIDECAR_FLEET__WITHOUT_REDIS": random.choice(("lease", "lease", "refuse", "share")),
        "SIDECAR_FLEET__PODS": str(many),
    }


def _journal(seed):
    """What becomes of calls while its disk is full."""
    return {"SIDECAR_JOURNAL__ON_FULL": Random(f"journal {seed}").choice(("refuse", "go_on"))}


def play_fleet(seed, *, all_of_it=False):
    """Run one seed to its end, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="sidecar-sim-", dir=_FOLDER if Path(_FOLDER).is_dir() else None) as folder:
        return Fleet(seed, Path(folder), all_of_it=all_of_it).play()
