"""Active checks: now and then a list of models is fetched from each key. Off by default; it costs no tokens and is on no call's path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from sidecar.errors import ProviderError, ProviderRateLimited
from sidecar.policies.health import Health
from sidecar.settings.operation import Health as HealthSettings


class Checkable(Protocol):
    """A connected provider, as far as a check asks. Raises ProviderError."""

    async def check(self) -> None: ...


async def check_all(
    health: Health,
    rule: HealthSettings,
    connected: Mapping[str, Checkable],
    clock_ns: Callable[[], int],
    random: Callable[[], float],
) -> None:
    """Check each of `connected` (by key: `provider` or `provider#endpoint`) every `check_interval_ms`, until cancelled.

    Breakers are not told: they judge how calls go, and a list of models is none. The first check comes within one interval, at a time of
    chance, and each pause is up to a quarter longer or shorter: the pods of a deployment start together and must not ask together.
    """
    if not rule.check_interval_ms:
        return
    interval_s = rule.check_interval_ms / 1000

    async def keep_checking(key: str, provider: Checkable) -> None:
        await asyncio.sleep(interval_s * random())
        while True:
            problem = await problem_of(provider, rule.check_timeout_ms)
            health.checked(key, problem, clock_ns())
            await asyncio.sleep(interval_s * (0.75 + random() / 2))

    async with asyncio.TaskGroup() as checks:
        for key, provider in connected.items():
            checks.create_task(keep_checking(key, provider))


async def problem_of(provider: Checkable, timeout_ms: int) -> str:
    """One check. Returns what is wrong, "" if nothing is; never raises but when cancelled."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            await provider.check()
    except TimeoutError:
        return f"no list of models came within {timeout_ms} ms"
    except ProviderRateLimited:
        return ""  # it answers, and it knows the key
    except ProviderError as error:
        return f"{error.reason}: {error.message}"
    except Exception as error:  # a defect of ours must not end the checks
        return f"the check itself failed: {type(error).__name__}"
    return ""
