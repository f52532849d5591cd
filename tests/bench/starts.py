"""What a sidecar costs before its first call: memory, time to SERVING, imports."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.calls import compatible
from tests.bench.processes import ROOT, Floor, Sidecar
from tests.bench.table import Row, of, within

_NOWHERE = "http://127.0.0.1:9"
_OLLAMA = f'[providers.ollama]\nbase_url = "{_NOWHERE}"\n'
_KEYS = "".join(f'[providers.{name}]\napi_key = "sk-of-nobody"\n' for name in ("openai", "anthropic", "google"))
_LIGHT = _OLLAMA + compatible(_NOWHERE)

# settings, most memory in MiB, most time in s
_SIDECARS: dict[str, tuple[str, int | None, float | None]] = {
    "echo": ("", 60, 0.7),
    "echo, ollama, compatible": (_LIGHT, 60, 0.7),
    "openai": ('[providers.openai]\napi_key = "sk-of-nobody"\n', 110, 2.0),
    "all providers": (_LIGHT + _KEYS, 140, 3.0),
}
_IMPORTS = ("grpc.aio", "aiohttp", "sidecar.app", "openai", "anthropic", "google.genai")
_SETTLE_S = 0.5  # what a start has left to free is freed


def start_rows(folder: Path, rounds: int) -> Iterator[Row]:
    """Medians over `rounds` starts of each, in turns."""
    starts: dict[str, Callable[[], Floor | Sidecar]] = {"floor": lambda: Floor(_NOWHERE)}
    for name, (settings, _, _) in _SIDECARS.items():
        starts[name] = lambda settings=settings: Sidecar(folder, settings)  # type: ignore[misc]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
    for _ in range(rounds):
        for name, start in starts.items():
            with start() as program:
                time.sleep(_SETTLE_S)
                found[name].append((program.memory_mib(), program.start_ms / 1000))
    for name, figures in found.items():
        memory, took = (statistics.median(column) for column in zip(*figures, strict=True))
        _, most_mib, most_s = _SIDECARS.get(name, ("", None, None))
        is_met = None if most_mib is None else within(memory, most_mib) and within(took, most_s)
        yield Row(
            f"Memory and time from start to SERVING: {name}",
            f"{of(memory, 'MiB')}, {took:.2f} s",
            f"{most_mib} MiB, {most_s:g} s" if most_mib else "",
            is_met,
        )


def import_rows(rounds: int) -> Iterator[Row]:
    """A fresh process that only imports, less one that imports nothing; the least of some, since only noise adds to it."""
    empty = min(_import_ms("sys") for _ in range(rounds))
    for name in _IMPORTS:
        took = min(_import_ms(name) for _ in range(rounds)) - empty
        yield Row(f"Import of {name}", of(took, "ms"))


def _import_ms(name: str) -> float:
    begun = time.monotonic()
    subprocess.run((sys.executable, "-c", f"import {name}"), cwd=ROOT, check=True)
    return (time.monotonic() - begun) * 1000
