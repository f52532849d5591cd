"""What operators do to money while calls run: limits up and down, top-ups, freezes, runs opened and closed."""

from __future__ import annotations

import asyncio

from sidecar.policies.budgets import Override


class Operator:
    """At one process. Overrides are told to the scopes in the moment in which they come into force."""

    def __init__(self, random, engine, scopes, crowd, watch):
        self._random = random
        self._engine = engine
        self._scopes = scopes
        self._crowd = crowd
        self._watch = watch

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
        asyncio.get_running_loop().create_task(self._keep(account, own))

    async def _keep(self, account, own):
        await self._engine.budgets.override(account, own, self._engine.wall_ns() // 1_000_000)
        if own is None:
            self._scopes.overrides.pop(account, None)
        else:
            self._scopes.overrides[account] = (own.limit_nano_usd, own.limit_tokens, own.mode)

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
        self._engine.ledger.top_up(account, rule, more, self._random.choice((0, 1_000)), now_ns)

    def _freeze(self):
        ledger = self._engine.ledger
        frozen = sorted(ledger.books.frozen)
        if frozen and self._random.random() < 0.7:
            self._watch.note("operator", f"lets {frozen[0]} go")
            ledger.unfreeze(frozen[0])
            return
        accounts = [name for name in self._accounts() if name.startswith("tenant:") and name.endswith(":day")]
        if accounts:
            account = self._random.choice(accounts)
            self._watch.note("operator", f"freezes {account}")
            ledger.freeze(account)

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
