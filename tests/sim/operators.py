"""What operators do to money while calls run: limits up and down, top-ups, freezes, runs opened and closed."""

from __future__ import annotations

from contextlib import suppress

from msgspec.json import encode

from sidecar.errors import StoreFailed
from sidecar.policies.budgets import Override, TopUp
from tests.sim.deployment import TENANTS


class Operator:
    """At one process; `spawn` begins what takes a moment. `said`: by process and matter, the time of the last word that was answered."""

    def __init__(self, random, engine, crowd, watch, spawn):
        self._random = random
        self._engine = engine
        self._crowd = crowd
        self._watch = watch
        self._spawn = spawn
        self.changed = set()  # accounts whose limits they have changed
        self.answered = lambda kind, name, at_ms: None

    def act(self):
        """One deed."""
        self._random.choice((self._set, self._set, self._top_up, self._freeze, self._close_run, self._open_run))()

    def _accounts(self):
        """Those that calls have been on, of the settings' rows."""
        return [name for name in self._engine.ledger.books.accounts if self._engine.budgets.row_of(name) is not None]

    def _set(self):
        random, accounts = self._random, self._accounts()
        if not accounts:
            return
        account = random.choice(accounts)
        used = self._engine.ledger.books.accounts[account].used[0]
        limit = random.choice((0, used // 2, used + 1, used + 10_000_000, 10**12))
        own = random.choice((None, Override(limit, None, "refuse"), Override(limit, 10**9, "refuse"), Override(limit, None, "warn")))
        self._watch.note("operator", f"sets {account} to {own}")
        self.changed.add(account)
        self._spawn(self._say("budget", account, self._engine.budgets.override(account, own, self._now_ms())))

    async def _say(self, kind, name, saying):
        """As an RPC does; what it has answered must hold."""
        with suppress(StoreFailed):
            await saying
            known = self._engine.budgets.words.known.get((kind, name))
            if known is not None:
                self.answered(kind, name, known[0])

    def _now_ms(self):
        return self._engine.wall_ns() // 1_000_000

    def _top_up(self):
        accounts = self._accounts()
        if not accounts:
            return
        account, now_ns = self._random.choice(accounts), self._engine.wall_ns()
        rule = self._engine.budgets.rule_of(account, now_ns)
        if rule is None:
            return
        more = int(10 ** self._random.uniform(5, 9))
        self._watch.note("operator", f"tops {account} up by {more} nano-USD")
        self.changed.add(account)
        said = encode(TopUp(account, rule.window[1], more, self._random.choice((0, 1_000)))).decode()
        name = f"top-up {self._random.random()}"
        self._spawn(self._say("top_up", name, self._engine.budgets.words.say("top_up", name, said, self._now_ms())))

    def _freeze(self):
        tenant, text = self._random.choice(TENANTS), self._random.choice(("yes", "", ""))
        self._watch.note("operator", f"{'freezes' if text else 'lets go'} {tenant}")
        self._spawn(self._say("frozen", tenant, self._engine.budgets.words.say("frozen", tenant, text, self._now_ms())))

    def _open_run(self):
        runs, plans = self._engine.budgets.runs, list(self._crowd.plans.values())
        if plans:
            plan = self._random.choice(plans)
            self._watch.note("operator", f"opens run {plan.run} of {plan.tenant}")
            runs.open(plan, self._engine.wall_ns() // 1_000_000)

    def _close_run(self):
        runs = self._engine.budgets.runs
        if runs.listing():
            run = self._random.choice(runs.listing())
            self._watch.note("operator", f"closes run {run.plan.run} of {run.plan.tenant}")
            runs.close(run, self._engine.ledger)
            self._spawn(self._engine.budgets.keep_runs())
