"""Who comes, when, and what they want; all of it drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from sidecar.policies.runs import RunPlan, Share
from sidecar.request import Caller as Identity
from sidecar.request import EmbedRequest, GenerateRequest, ResponseFormat
from tests.sim.deployment import AGENTS, EMBEDDING_MODELS, MODELS, NODES, PLANS, SERVICES, TENANTS, USERS
from tests.sim.seen import Caller

_SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
_RUNS = ("r1", "r2")


def arrivals(random: Random, seconds: float, few: int) -> list[float]:
    """The moments at which callers come: some one by one, some in herds."""
    times = [random.uniform(0, seconds) for _ in range(few)]
    for _ in range(random.choice((0, 1, 1, 2))):  # a herd
        at = random.uniform(0, seconds)
        times += [at] * random.choice((10, 40, 100, 200))
    return times


class Crowd:
    """`plans` are the runs' that have one."""

    def __init__(self, random: Random, *, runs: float, nodes: Sequence[tuple[str, str]] = ()) -> None:
        """`runs`: how many of the calls are of a run. `nodes`: service and node of them all, if they are to meet there."""
        self._nodes = nodes
        self._random = random
        self._runs = runs
        self._count = 0
        self.plans = {(tenant, run): self._plan(tenant, run) for tenant in TENANTS for run in _RUNS if random.random() < 2 * runs}

    def _plan(self, tenant: str, run: str) -> RunPlan:
        random = self._random
        total = int(10 ** random.uniform(6, 10))
        shares = {
            agent: Share(
                max_input_tokens=random.choice((None, None, 20, 500)),
                max_output_tokens=random.choice((None, None, 100, 5_000)),
                max_nano_usd=int(total * random.uniform(0, 1)) if random.random() < 0.6 else None,
                model=random.choice(MODELS) if random.random() < 0.1 else "",
                priority=random.choice(("critical", "normal", "optional")),
            )
            for agent in random.choice(((), AGENTS[:2], AGENTS))
        }
        return RunPlan(tenant, run, total, random.choice((0, 15, 20, 50)), random.choice((None, 3, 12)), shares)

    def caller(self) -> Caller:
        """The next one."""
        random = self._random
        deadline_s = 10 ** random.uniform(-1.5, 1.5)
        identity = self._identity()
        embeds = random.random() < 0.15
        self._count += 1
        return Caller(
            f"call-{self._count - 1}",
            self._embedding(identity) if embeds else self._question(identity),
            deadline_s,
            streams=not embeds and random.random() < 0.6,
            patience_s=deadline_s * random.random() if random.random() < 0.15 else None,
            pause_s=10 ** random.uniform(-3, 0.5) if random.random() < 0.15 else 0.0,
            hangs_up=random.random() < 0.3,
        )

    def _identity(self) -> Identity:
        random = self._random
        service = random.choice(SERVICES) if random.random() < 0.95 else "unheard"
        tenant = random.choice(TENANTS)
        run = random.choice(_RUNS) if random.random() < self._runs else ""
        node = random.choice((*NODES, *NODES, ""))
        if self._nodes:
            service, node = random.choice(self._nodes)
        return Identity(
            service=service,
            node=node,
            tenant=tenant,
            user=random.choice(USERS),
            plan=random.choice(PLANS),
            run=run,
            agent=random.choice(("", *AGENTS)) if run else "",
            step=random.choice((0, *range(1, 15))) if run else 0,
            run_plan=self.plans.get((tenant, run)) if random.random() < 0.7 else None,
            priority=random.choice(("critical", "normal", "normal", "optional")),
        )

    def _embedding(self, identity: Identity) -> EmbedRequest:
        random = self._random
        inputs = tuple(f"text {number}" for number in range(random.randint(1, 4)))
        return EmbedRequest(identity, inputs, model=random.choice(("", *EMBEDDING_MODELS)))

    def _question(self, identity: Identity) -> GenerateRequest:
        random = self._random
        strict = random.random() < 0.1
        return GenerateRequest(
            identity,
            prompt=random.choice(("hello", "what is this?", "tell me all")),
            model=random.choice(MODELS) if random.random() < 0.1 else "",
            max_output_tokens=random.choice((None, 16, 64)),
            on_cut=random.choice(("", "", "fail", "restart", "hold")),
            cache_mode=random.choice(("", "", "", "default", "only")) if random.random() < 0.3 else "",
            response_format=ResponseFormat("json_schema", "answer", _SCHEMA, strict=True) if strict else None,
        )
