"""What the plan of a run says to a call, whoever keeps the run: this sidecar alone, or all pods together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.call import Call
from sidecar.errors import BudgetExceeded, NotAllowed, SidecarError

if TYPE_CHECKING:
    from sidecar.policies.runs import Run, Share

_RANK = {"critical": 0, "normal": 1, "optional": 2}


class Standing(Protocol):
    """How a run stands at the moment for one call. `is_again`: its step was let in before."""

    @property
    def steps(self) -> int: ...
    @property
    def is_again(self) -> bool: ...
    def tokens(self, agent: str) -> tuple[int, int]:
        """Input and output that the agent has used or that is held for it."""

    def taken(self, account: str) -> int:
        """Nano-USD used or held."""

    def limit(self, account: str) -> int:
        """Nano-USD, with what was topped up."""


def objection(run: Run, call: Call, standing: Standing) -> SidecarError | None:
    """What the plan has against the call, apart from the limits of its accounts; None: nothing. A NotAllowed or a BudgetExceeded."""
    plan = run.plan
    share = plan.agents.get(call.agent)
    if plan.agents and share is None:
        agents = ", ".join(sorted(plan.agents))
        why = f"the plan of run {plan.run} has no agent {call.agent or '(none named)'}; it has {agents}"
        return NotAllowed(why, field="caller.agent")
    most_steps, step = plan.max_steps, call.request.caller.step
    if most_steps is not None and not standing.is_again and (standing.steps >= most_steps or step > most_steps):
        why = f"has a limit of {most_steps} steps: {standing.steps} were made{f', and this is step {step}' if step else ''}"
        return exceeded(f"{run.account}:steps", why, "steps", most_steps, standing.steps, 1)
    if share is None:
        return None
    account, (input_tokens, output_tokens) = run.agent_account(call.agent), standing.tokens(call.agent)
    for side, most, used, asked in (
        ("input", share.max_input_tokens, input_tokens, most_input(call)),
        ("output", share.max_output_tokens, output_tokens, most_output(call)),
    ):
        if most is not None and used + asked > most:
            why = f"has a limit of {most} {side} tokens in this run: {used} are used or held, and this call may need {asked}"
            return exceeded(f"{account}:{side}", why, "tokens", most, used, asked)
    return _kept_for_others(run, share, call, standing)


def _kept_for_others(run: Run, share: Share, call: Call, standing: Standing) -> SidecarError | None:
    """When the plan runs short, what agents of higher priority have not used of their shares is kept for them."""
    kept = 0
    for name, other in run.plan.agents.items():
        if other.max_nano_usd is not None and _RANK[other.priority] < _RANK[share.priority]:
            kept += max(0, other.max_nano_usd - standing.taken(run.agent_account(name)))
    nano_usd = call.max_nano_usd
    if not kept or not nano_usd:
        return None
    account = run.account if standing.is_again else run.first_account
    taken, limit = standing.taken(account), standing.limit(account)
    if taken + nano_usd + kept <= limit:
        return None
    why = (
        f"has a limit of {limit / 1e9:.6f} USD: {taken / 1e9:.6f} are used or held, {kept / 1e9:.6f} are kept for agents that matter "
        f"more than {share.priority} ones, and this call may need {nano_usd / 1e9:.6f}"
    )
    return exceeded(account, why, "nano_usd", limit, taken + kept, nano_usd)


def over_limit(accounts: list[str], call: Call, standing: Standing) -> BudgetExceeded | None:
    """The first of these accounts that has not enough left for the call; None: all have. A call that costs nothing always fits."""
    asked = call.max_nano_usd
    for account in accounts:
        taken, limit = standing.taken(account), standing.limit(account)
        if asked and taken + asked > limit:
            why = (
                f"has a limit of {limit / 1e9:.6f} USD that pods share: {taken / 1e9:.6f} are used or held by calls in flight, and this "
                f"call may need {asked / 1e9:.6f}; lower max_output_tokens, or have it topped up"
            )
            return exceeded(account, why, "nano_usd", limit, taken, asked)
    return None


def is_closed(account: str, run: str) -> BudgetExceeded:
    return exceeded(account, f"is closed: run {run} was ended; open a plan for it, or take another id", "nano_usd", 0, 0, 0)


def exceeded(account: str, why: str, unit: str, limit: int, used: int, asked: int) -> BudgetExceeded:
    return BudgetExceeded(
        f"account {account} {why}", account=account, unit=unit, limit=limit, used=used, asked=asked, resets_at_ns=None, retry_after_ms=None
    )


def most_input(call: Call) -> int:
    return max(candidate.input_tokens for candidate in call.candidates)


def most_output(call: Call) -> int:
    return max(candidate.max_output_tokens for candidate in call.candidates)
