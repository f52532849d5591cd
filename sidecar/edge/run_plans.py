"""Runs' plans: protobuf ⇄ ours."""

from __future__ import annotations

from sidecar.errors import InvalidRequest
from sidecar.policies.runs import DEFAULT_RESERVE_PERCENT, RunPlan, Share
from sidecar.request import Priority
from sidecar.v1 import llm_pb2 as pb

_PRIORITIES: dict[int, Priority] = {
    pb.PRIORITY_UNSPECIFIED: "normal",
    pb.PRIORITY_CRITICAL: "critical",
    pb.PRIORITY_NORMAL: "normal",
    pb.PRIORITY_OPTIONAL: "optional",
}
_NUMBERS = {"critical": pb.PRIORITY_CRITICAL, "normal": pb.PRIORITY_NORMAL, "optional": pb.PRIORITY_OPTIONAL}


def run_plan(message: pb.RunPlan, field: str, tenant: str = "", run: str = "") -> RunPlan:
    """Raises InvalidRequest for what has no place in ours; what it cannot mean is found when the run is opened."""
    agents: dict[str, Share] = {}
    for number, share in enumerate(message.agents):
        if share.agent in agents:
            raise InvalidRequest(
                f"{field}.agents has {share.agent[:80]!r} twice; expected each agent once", field=f"{field}.agents[{number}].agent"
            )
        if share.priority not in _PRIORITIES:
            where = f"{field}.agents[{number}].priority"
            raise InvalidRequest(f"{where} is {share.priority}, which is no value of its enum; expected 0 to 3", field=where)
        agents[share.agent] = Share(
            share.max_input_tokens if share.HasField("max_input_tokens") else None,
            share.max_output_tokens if share.HasField("max_output_tokens") else None,
            share.max_nano_usd if share.HasField("max_nano_usd") else None,
            share.model,
            _PRIORITIES[share.priority],
        )
    return RunPlan(
        tenant,
        run,
        message.total_nano_usd,
        message.reserve_percent if message.HasField("reserve_percent") else DEFAULT_RESERVE_PERCENT,
        message.max_steps if message.HasField("max_steps") else None,
        agents,
    )


def plan_message(plan: RunPlan) -> pb.RunPlan:
    return pb.RunPlan(
        total_nano_usd=plan.total_nano_usd,
        reserve_percent=plan.reserve_percent,
        max_steps=plan.max_steps,
        agents=[
            pb.AgentShare(
                agent=name,
                max_input_tokens=share.max_input_tokens,
                max_output_tokens=share.max_output_tokens,
                max_nano_usd=share.max_nano_usd,
                model=share.model,
                priority=_NUMBERS[share.priority],
            )
            for name, share in plan.agents.items()
        ],
    )
