"""What the stages work with, bundled once at start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from sidecar._core import Ledger

if TYPE_CHECKING:
    from sidecar.caching import Landed
    from sidecar.catalog import Catalog
    from sidecar.observe import Meter
    from sidecar.policies.admission import Admission
    from sidecar.policies.breakers import Breakers
    from sidecar.policies.budgets import Budgets
    from sidecar.policies.cache_flights import Flights
    from sidecar.policies.cache_repeats import Repeats
    from sidecar.policies.cache_similar import Similar
    from sidecar.policies.dear_calls import DearCalls
    from sidecar.policies.degradation import Degradations
    from sidecar.policies.endpoints import Endpoints
    from sidecar.policies.health import Health
    from sidecar.policies.latencies import Latencies
    from sidecar.policies.models import Preferences
    from sidecar.policies.prompt_prefixes import PromptPrefixes
    from sidecar.policies.quotas import Quotas
    from sidecar.policies.reservations import Outputs
    from sidecar.policies.retries import Retries
    from sidecar.policies.sharing import Sharing
    from sidecar.providers import Provider
    from sidecar.settings import Settings
    from sidecar.store.answers import Answers
    from sidecar.store.audit import Audit
    from sidecar.store.budget_file import BudgetFile
    from sidecar.store.cache_vectors import KnownVectors
    from sidecar.store.preferences import UserPreferences
    from sidecar.store.usage import UsageLog


class Engine(Struct, frozen=True):
    """One deployment's facts, policies and state. Everything that changes while calls run is inside the parts, never here.

    `clock_ns` is monotonic, `wall_ns` is Unix time: parts that need the time are told it, so that a test can drive them.
    """

    settings: Settings
    catalog: Catalog
    providers: dict[str, Provider]  # filled in while the process starts, before the first call
    preferences: Preferences
    budgets: Budgets
    dear_calls: DearCalls
    ledger: Ledger
    sharing: Sharing | None  # None: no other pods share the budgets
    breakers: Breakers
    retries: Retries
    endpoints: Endpoints
    health: Health
    latencies: Latencies
    outputs: Outputs
    quotas: Quotas
    prefixes: PromptPrefixes
    admission: Admission
    answers: Answers
    repeats: Repeats
    flights: Flights[Landed]
    similar: Similar
    vectors: KnownVectors
    user_preferences: UserPreferences
    budget_file: BudgetFile
    audit: Audit
    usage: UsageLog
    degradations: Degradations
    meter: Meter
    clock_ns: Callable[[], int]
    wall_ns: Callable[[], int]
    random: Callable[[], float]

    @property
    def connected(self) -> set[str]:
        """Names of the providers that can be called, whatever the number of their endpoints."""
        return {key.partition("#")[0] for key in self.providers}

    def trouble(self, key: str, problem: str, mended: str, kind: str = "health", **facts: str) -> None:
        """Tell operators of a problem, for as long as it lasts in GetStatus; or, where it is "", that it is `mended`."""
        if problem:
            self.health.notices[key] = problem
        else:
            self.health.notices.pop(key, None)
        self.meter.event(kind, problem or mended, "error" if problem else "info", key=key, **facts)
