"""One seed, one world: a deployment, providers that fail, callers who come and go, and a clock that belongs to nobody else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from random import Random

from sidecar._core import Ledger
from sidecar.assembly import make_engine
from sidecar.billing import tokens
from sidecar.call import Call
from sidecar.errors import Cancelled, Draining, SidecarError
from sidecar.observe import Log
from sidecar.pipeline import run
from sidecar.upkeep.house import keep_house
from tests.sim.callers import Crowd, arrivals
from tests.sim.clock import Stuck, VirtualLoop
from tests.sim.dear import DearRules
from tests.sim.deployment import draw, rare
from tests.sim.ledger import WatchedLedger
from tests.sim.lengths import LengthRules
from tests.sim.moments import begin_ns
from tests.sim.operators import Operator
from tests.sim.providers import Scripted, Timeline
from tests.sim.scopes import Scopes
from tests.sim.seen import CURRENT, GRACE_S, Caller, Notes
from tests.sim.watch import Watch

_AFTER_S = 3600.0  # so much later every breaker gives a permit again
_LIVED_S = 5.0  # what may still be under way after the last call


class Quiet(Log):
    """Events are part of the trace; nothing is written."""

    watch: Watch

    def write(self, level, message, **facts):
        self.watch.note("log", f"{level}: {message}")

    def call(self, call, duration_s):
        pass


@dataclass
class Outcome:
    """What came of one seed. `breaks` are the rules that did not hold, `trace` is (second, who, what)."""

    seed: int
    breaks: list[str] = field(default_factory=list)
    trace: list[tuple[float, object, str]] = field(default_factory=list)
    results: dict[str, int] = field(default_factory=dict)
    questions: int = 0
    settings: dict[str, str] = field(default_factory=dict)


def guarded(loop: VirtualLoop, main: Coroutine[None, None, None], watch: Notes, faults: list[str]) -> None:
    """Run to the end; nothing may be left over, and nothing may have failed unseen."""
    loop.set_exception_handler(lambda loop, context: faults.append(f"{context['message']}: {context.get('exception')!r}"))
    try:
        loop.run_until_complete(main)
    except Stuck as stuck:
        waiting = [str(caller) for caller in watch.callers if caller.done_at is None]
        watch.broken("world", f"{stuck}; {len(waiting)} calls have not ended: {waiting[:5]}")
    finally:
        for task in asyncio.all_tasks(loop):
            watch.broken("world", f"a task is left over: {task.get_coro().__qualname__}")
            task.cancel()
        for caller in watch.callers:
            if caller.call is not None:
                caller.call.attempts.clear()  # these records are not tracked by the collector, and here a provider leads back to them
        gc.collect()  # tasks whose exception nobody has asked for say so when they go
        for fault in faults:
            watch.broken("world", fault)
        loop.close()


class World:
    def __init__(self, seed: int, more: Mapping[str, str] | None = None) -> None:
        """`more` is set besides what the seed says, instead of what few seeds set."""
        self.seed = seed
        self.random = random = Random(seed)
        self.settings, catalog, self.environ = draw(random, rare(seed) if more is None else more)
        self.loop = VirtualLoop(Random(random.random()), coarse=random.random() < 0.5, hiccups=random.choice((0, 0, 0.01)))
        self.watch = watch = Watch(self.loop, self.settings)
        self.seconds = random.uniform(3, random.choice((20, 60)))
        self.wall_offset_ns = begin_ns(random, self.seconds) - self.loop.now_ns
        log = Quiet("error")
        log.watch = watch
        self.scopes = Scopes(self.settings)
        self.ledger = ledger = WatchedLedger(Ledger(), watch, self.scopes)
        self.engine = watch.engine = engine = make_engine(
            self.settings,
            catalog,
            log,
            ledger=ledger,
            clock_ns=self.loop.clock_ns,
            wall_ns=self.wall_ns,
            random=Random(random.random()).random,
        )
        self.scopes.follow(engine.budgets)
        ledger.follow(engine.budgets.runs)
        limits = self.settings.limits
        watch.dear, watch.lengths = DearRules(limits), LengthRules(limits.reserve_quantile)
        self.needs_many = limits.reserve_quantile is not None  # answers of one node
        self.crowd = Crowd(random, runs=random.choice((0, 0.1, 0.6)), nodes=(("reports", "first"),) if self.needs_many else ())
        self.operator = Operator(random, engine, self.crowd, watch, self.loop.create_task)
        engine.breakers.on_change.append(watch.breakers.change)
        engine.meter.on_event.append(self._told)
        engine.meter.call = self._reported
        for name in ("openai", "anthropic", "google", "local"):
            endpoints = [f"{name}#{endpoint}" for endpoint in self.settings.providers[name].endpoints]
            for spot in (name, *endpoints):
                script = Timeline(random, self.seconds)
                engine.providers[spot] = Scripted(spot, script, Random(random.random()), watch, self.loop)
        self.told = set()
        self.left = 0
        self.all_ended = asyncio.Event()
        self.faults: list[str] = []

    def wall_ns(self) -> int:
        return self.loop.now_ns + self.wall_offset_ns

    def _reported(self, call: Call) -> None:
        CURRENT.get().reported += 1
        self.ledger.runs.ended(call)
        self.watch.settled(call)

    def _told(self, event) -> None:
        """Of an account operators hear once for each threshold, unit and window, unless they have changed it meanwhile."""
        self.watch.dear.told(event)
        if event.kind != "budget" or event.facts["account"].endswith((":plan", ":plan-first")):
            return
        what = ("refuses" in event.message, *(event.facts[name] for name in ("account", "threshold", "unit", "window")))
        if what in self.told and event.facts["account"] not in self.operator.changed:
            self.watch.broken("world", f"operators are told again of {what}")
        self.told.add(what)
        facts = event.facts
        if "refuses" not in event.message and int(facts["used"]) * 100 < int(facts["limit"]) * int(facts["threshold"]):
            self.watch.broken("world", f"operators are told of {what}, and {facts['used']} of {facts['limit']} are used")

    # --- the run

    def play(self) -> Outcome:
        guarded(self.loop, self._main(), self.watch, self.faults)
        return self._outcome()

    def _outcome(self) -> Outcome:
        results: dict[str, int] = {}
        for caller in self.watch.callers:
            results[caller.result or "none"] = results.get(caller.result or "none", 0) + 1
        breaks = [f"seed {self.seed} {sentence}" for sentence in self.watch.breaks]
        return Outcome(self.seed, breaks, self.watch.trace, results, self.watch.numbers, self.environ)

    async def _main(self) -> None:
        random, loop = self.random, self.loop
        chores = [loop.create_task(keep_house(self.engine)), loop.create_task(self.engine.admission.watch())]
        begin = loop.time()
        last = 0.0
        times = arrivals(random, self.seconds, random.randint(20, 120) + 400 * self.needs_many)
        self.left = len(times)
        for at in times:
            caller = self.crowd.caller()
            self.watch.callers.append(caller)
            loop.call_at(begin + at, self._arrive, caller)
            last = max(last, at + caller.deadline_s)
        for _ in range(random.choice((0, 0, 0, 3))):
            loop.call_at(begin + random.uniform(0, self.seconds), self._operate)
        for _ in range(random.choice((0, 0, 2, 6))):
            loop.call_at(begin + random.uniform(0, self.seconds), self.operator.act)
        for _ in range(random.choice((0, 0, 0, 2))):
            loop.call_at(begin + random.uniform(0, self.seconds), self._set_wall_clock, random.randint(-90, 90) * 1_000_000_000)
        if random.random() < 0.1:
            loop.call_at(begin + random.uniform(0, self.seconds), self._drain)
        try:
            await asyncio.wait_for(self.all_ended.wait(), last + _LIVED_S)
        except TimeoutError:
            waiting = [str(caller) for caller in self.watch.callers if caller.done_at is None]
            self.watch.broken("world", f"these calls do not end: {waiting}")
            return
        finally:
            for chore in chores:
                chore.cancel()
        await asyncio.sleep(_LIVED_S)
        for chore in chores:
            if not chore.cancelled():
                self.watch.broken("world", f"a chore ended by itself: {chore!r}")
        self._check_rest()

    def _arrive(self, caller: Caller) -> None:
        caller.task = self.loop.create_task(self._live(caller))
        if caller.patience_s is not None:
            self.loop.call_later(caller.patience_s, self._leave, caller)
        self.loop.call_later(caller.deadline_s + GRACE_S + 0.005, self._look_at, caller)

    def _look_at(self, caller: Caller) -> None:
        if caller.done_at is None:
            self.watch.broken(caller, f"it has not ended {GRACE_S * 1000:.0f} ms after its deadline")

    def _leave(self, caller: Caller) -> None:
        """A caller goes: its task is cancelled, or (`hangs_up`) the next write to it fails first."""
        if caller.done_at is not None:
            return
        if caller.hangs_up and caller.streams:
            caller.deaf = True
            return
        caller.gone_at = self.watch.now
        self.watch.note(caller, "goes away")
        caller.task.cancel()

    async def _live(self, caller: Caller) -> None:
        CURRENT.set(caller)
        watch = self.watch
        call = caller.begin(watch.now, self.engine.clock_ns() / 1e9, self._reader(caller))
        call.attempts = _Attempts(watch, caller)
        node = self.engine.catalog.nodes.get(f"{caller.request.caller.service}.{caller.request.caller.node}")
        caller.on_cut = getattr(caller.request, "on_cut", "") or (node.on_cut if node is not None else "fail")
        who = caller.request.caller
        where = f"{who.service}.{who.node} of {who.tenant}, {caller.deadline_s:.3f} s, on_cut {caller.on_cut}"
        watch.note(caller, f"comes: {call.operation} for {where}")
        try:
            await run(self.engine, call)
            caller.result = "ok"
        except SidecarError as error:
            caller.result = error.reason
        except asyncio.CancelledError:
            caller.result = "CANCELLED"
            if caller.gone_at is None:
                watch.broken(caller, "it is cancelled, and nobody has cancelled it")
        except BaseException as error:
            caller.result = "CRASHED"
            watch.broken(caller, f"{error!r} comes out of the pipeline")
        finally:
            watch.ended(caller)
            self.left -= 1
            if not self.left:
                self.all_ended.set()

    def _reader(self, caller: Caller):
        """A stream's reader: it may be slow, and it may hang up."""

        async def send(pieces):
            if caller.deaf:
                caller.gone_at = caller.gone_at or self.watch.now
                raise Cancelled("the caller went away")
            self.watch.sent(caller, pieces)
            if caller.pause_s:
                await asyncio.sleep(caller.pause_s)

        return send

    # --- what happens from outside

    def _operate(self) -> None:
        """An operator holds a breaker, or lets it go; or another process tells of one."""
        facts = self.engine.breakers.listing(self.engine.clock_ns())
        if not facts:
            return
        chosen = self.random.choice(facts)
        what = self.random.choice(("open", "closed", None, "hint"))
        self.watch.note("operator", f"{what} for {chosen.service} {chosen.target}")
        if what == "hint":
            self.engine.breakers.hint(chosen.target, self.engine.clock_ns())
        else:
            self.engine.breakers.of(chosen.service, chosen.target).force(what)

    def _set_wall_clock(self, by_ns: int) -> None:
        self.watch.note("world", f"the wall clock is set by {by_ns / 1e9:.0f} s")
        self.wall_offset_ns += by_ns
        self.told.clear()  # an account may be in a later window now than the clock is

    def _drain(self) -> None:
        """The process is to stop: all calls are ended for a reason of its own."""
        self.watch.note("world", "all calls are ended")
        for caller in self.watch.callers:
            if caller.call is not None and caller.done_at is None and caller.gone_at is None:
                caller.call.aborted = Draining("the process stops")
                caller.gone_at = self.watch.now
                caller.task.cancel()

    # --- the end

    def _check_rest(self) -> None:
        """When all is over nothing is held, waited for or owed."""
        engine, watch = self.engine, self.watch
        for service, places in engine.admission.places.items():
            if places.taken or places.waiting:
                watch.broken("world", f"service {service} has {places.taken} places taken and {places.waiting} calls waiting")
        for name, tenant in engine.admission.tenants._tenants.items():
            if tenant.line or tenant.tokens_waiting:
                watch.broken("world", f"tenant {name} has calls waiting: {len(tenant.line)}, {tenant.tokens_waiting} tokens")
        if engine.ledger.pending() or self.ledger.books.open:
            watch.broken("world", f"{engine.ledger.pending()} reservations hold something; not settled: {list(self.ledger.books.open)}")
        self._check_money()
        later_ns = engine.clock_ns() + int(_AFTER_S * 1e9)
        later_ns += int(max((until - watch.now for until in watch.breakers.blocked_until.values()), default=0) * 1e9)
        for fact in engine.breakers.listing(later_ns):
            if fact.state == "open" and not fact.forced:
                watch.broken("world", f"the breaker of {fact.service} {fact.target} stays open")
        for fact in engine.breakers.listing(later_ns):
            breaker = engine.breakers.of(fact.service, fact.target)
            if not fact.forced and not isinstance(breaker.permit(later_ns), int):
                watch.broken("world", f"the breaker of {fact.service} {fact.target} gives no permit: a trial was never handed back")

    def _check_money(self) -> None:
        """Nothing is pending, every account has what was posted on it, and together that is what the calls used."""
        books, watch = self.ledger.books, self.watch
        self.ledger.compare_all("world")
        for account, sums in books.accounts.items():
            if any(sums.held):
                watch.broken("world", f"{account} has {sums.held} (nano-USD, tokens) pending")
        spent = [(call.nano_usd, tokens(call.usage)) for call in (caller.call for caller in watch.callers) if call is not None]
        if books.posted != tuple(map(sum, zip((0, 0), *spent, strict=True))):
            watch.broken("world", f"posted are {books.posted} (nano-USD, tokens), and the calls used {spent}")


class _Attempts(list):
    """A call's list of attempts, which tells the watch of each."""

    def __init__(self, watch: Watch, caller: Caller) -> None:
        super().__init__()
        self._watch = watch
        self._caller = caller

    def append(self, tried) -> None:
        super().append(tried)
        self._watch.tried(self._caller, tried)
