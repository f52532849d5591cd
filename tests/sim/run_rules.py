"""What the plan of a run promises: a total, a reserve for steps asked again, shares of agents, steps, and who goes without first."""

from __future__ import annotations

from collections import Counter, defaultdict

_RANK = {"critical": 0, "normal": 1, "optional": 2}


class RunRules:
    """Of one process. `runs` are its real ones: here they only say which are open, and with which plan."""

    def __init__(self, runs, books):
        self._runs = runs
        self._books = books
        self._steps = Counter()
        self._seen = defaultdict(set)
        self._used = defaultdict(lambda: [0, 0])  # tokens in and out, by run and agent; of calls in flight the most they may use
        self._flying = {}
        self._known = {}  # so that no other run has the same id
        for run in runs.listing():  # of the process before
            self._steps[id(run)] = run.steps
            self._seen[id(run)] = set(run.seen)
            for agent, tally in run.tallies.items():
                self._used[id(run), agent] = [tally.input_tokens, tally.output_tokens]

    def wrong(self, call, accounts):
        """A call is held on these accounts. Sentences on what its run's plan says against it."""
        given = {name: rule for name, rule in accounts if name.endswith((":plan", ":plan-first"))}
        run = self._runs.find(call.tenant, call.run) if call.run else None
        if run is None:
            if given:
                yield f"it is held on {sorted(given)}, and no plan of its run is open"
            return
        self._known[id(run)] = run
        plan, step = run.plan, call.request.caller.step
        is_again = bool(step) and (call.agent, step) in self._seen[id(run)]
        share = plan.agents.get(call.agent)
        limits = {f"run:{call.tenant}:{call.run}:plan": plan.total_nano_usd}
        if not is_again:
            limits[f"run:{call.tenant}:{call.run}:plan-first"] = plan.total_nano_usd * (100 - plan.reserve_percent) // 100
        if share is not None and share.max_nano_usd is not None:
            limits[f"agent:{call.tenant}:{call.run}:{call.agent}:plan"] = share.max_nano_usd
        if {name: rule.limit_nano_usd for name, rule in given.items()} != limits:
            yield f"of the run it is held on {given}; the plan says {limits}"
        if plan.agents and share is None:
            yield f"agent {call.agent} has no share in the plan of run {call.run}"
        yield from self._too_many_steps(run, call, is_again)
        if share is not None:
            yield from self._too_many_tokens(run, call, share)
            yield from self._not_kept(run, call, share, is_again)

    def _too_many_steps(self, run, call, is_again):
        if is_again:
            return
        step, most = call.request.caller.step, run.plan.max_steps
        self._steps[id(run)] += 1
        if step:
            self._seen[id(run)].add((call.agent, step))
        if most is not None and (self._steps[id(run)] > most or step > most):
            yield f"step {step} is number {self._steps[id(run)]} of run {call.run}, which may make {most}"

    def _too_many_tokens(self, run, call, share):
        used = self._used[id(run), call.agent]
        most = (
            max(candidate.input_tokens for candidate in call.candidates),
            max(candidate.max_output_tokens for candidate in call.candidates),
        )
        for unit, limit in enumerate((share.max_input_tokens, share.max_output_tokens)):
            used[unit] += most[unit]
            if limit is not None and used[unit] > limit:
                yield f"agent {call.agent} of run {call.run} has {limit} tokens {('in', 'out')[unit]}, and {used[unit]} are used and held"
        self._flying[call.id] = used, most

    def _not_kept(self, run, call, share, is_again):
        """What agents that matter more have not used of their shares is still there."""
        kept = 0
        for name, other in run.plan.agents.items():
            if other.max_nano_usd is not None and _RANK[other.priority] < _RANK[share.priority]:
                kept += max(0, other.max_nano_usd - self._taken(f"agent:{call.tenant}:{call.run}:{name}:plan"))
        limit = run.plan.total_nano_usd * (100 if is_again else 100 - run.plan.reserve_percent) // 100
        taken = self._taken(f"run:{call.tenant}:{call.run}:plan{'' if is_again else '-first'}")  # with what this call holds
        if kept and call.max_nano_usd and taken + kept > limit:
            yield f"{taken} of {limit} nano-USD of run {call.run} are used and held, and {kept} are others' who matter more"

    def _taken(self, account):
        sums = self._books.accounts.get(account) or self._books.closing.get(account)
        return 0 if sums is None else sums.used[0] + sums.held[0]

    def ended(self, call):
        """Instead of the most that it could use, the agent has used what it did."""
        used, most = self._flying.pop(call.id, (None, None))
        if used is None:
            return
        usage = call.usage
        spent = (
            (usage.input_tokens or 0) + (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0),
            (usage.output_tokens or 0) + (usage.reasoning_tokens or 0),
        )
        for unit in (0, 1):
            used[unit] += spent[unit] - most[unit]
