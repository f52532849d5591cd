"""Providers: which there are, connecting them, and whether they answer."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable
from datetime import UTC, datetime

from sidecar.call import Chunk, GenerateAsk
from sidecar.catalog import Catalog
from sidecar.catalog import load as load_catalog
from sidecar.engine import Engine
from sidecar.errors import SettingsError, SidecarError
from sidecar.providers import Provider
from sidecar.request import Message, Text
from sidecar.settings import Settings
from sidecar.settings.routing import ProviderSettings


async def connect_all(engine: Engine) -> None:
    """Connect every configured provider, or each of its endpoints, SDKs imported in threads, and the echo.

    Raises SettingsError naming a missing package.
    """
    wanted = (*spots(engine.settings), ProviderSettings(name="echo", kind="echo"))
    for provider in await asyncio.gather(*(connect(spot) for spot in wanted)):
        engine.providers[provider.name] = provider


def spots(settings: Settings) -> list[ProviderSettings]:
    """Where calls may go: the configured providers, those with endpoints once for each, as `NAME#ENDPOINT`."""
    wanted = [settings.providers[name] for name in sorted(settings.configured)]
    return [spot for p in wanted for spot in ([p.at(name) for name in p.endpoints] if p.endpoints else [p])]


async def connect(settings: ProviderSettings) -> Provider:
    module = importlib.import_module(f"sidecar.providers.{settings.kind}")
    provider: Provider = await module.connect(settings)
    return provider


def skipped_providers(settings: Settings) -> list[str]:
    """A notice for each provider without a key. Anything else that a provider lacks is refused when settings are read."""
    return [f"provider {p.name} is skipped: it has no key" for p in settings.providers.values() if not p.is_configured]


async def live_check(settings: Settings) -> list[tuple[str, bool, str]]:
    """One tiny real call per configured provider and endpoint: (which, did it answer, what happened). For `sidecar check --live`."""
    catalog = load_catalog(settings, datetime.now(UTC).date())
    results: list[tuple[str, bool, str]] = []
    for spot in spots(settings):
        name = spot.name
        try:
            provider = await connect(spot)
            try:
                results.append((name, True, await _ask_once(provider, catalog)))
            finally:
                await provider.close()
        except (SidecarError, SettingsError) as error:
            results.append((name, False, str(error)))
        except TimeoutError:
            results.append((name, False, "no answer within 20 s"))
    return results


async def _ask_once(provider: Provider, catalog: Catalog) -> str:
    model = catalog.model(f"{provider.name.partition('#')[0]}/")
    said: list[Chunk] = []

    async def emit(chunks: Iterable[Chunk]) -> None:
        said.extend(chunks)

    async with asyncio.timeout(20):
        await provider.generate(GenerateAsk(model.name, (Message("user", (Text("Say ok."),)),), stream=False, max_output_tokens=16), emit)
    return f"{model.id} answered"
