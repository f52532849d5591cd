"""How many instructions the hot parts in Rust take, held to the figures below: a slow-down shows on any machine, however busy.

Callgrind counts them, as the difference of two runs with different turns. Run: python -m tests.bench.instructions (`make instructions`).
Exit status 1: more than the figure by over a tenth; 0 otherwise, also where valgrind is missing, which is said. Another compiler may count
otherwise: the figures are those of the one that `RUSTC` names, and are held to a quarter with others.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUSTC = "1.95.0"

# Bench and what of it, instructions a turn, and the turns of the two runs.
FIGURES: dict[tuple[str, ...], tuple[int, int, int]] = {
    ("ledger",): (5_477, 1000, 11_000),  # reserve and post on 5 accounts
    ("verify", "analyse"): (82_072, 100, 1100),
    ("verify", "compare"): (241_249, 100, 1100),
    ("verify", "candidates"): (1_444_400, 1, 201),  # among 10,000 prompts
}


def counted(bench: str, arguments: tuple[str, ...], few: int, many: int) -> float:
    """Instructions of one turn. Raises CalledProcessError where the bench cannot be built or run."""
    built = subprocess.run(["cargo", "bench", "--bench", bench, "--no-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = re.search(rf"\((.*{bench}-[0-9a-f]+)\)", built.stderr)
    assert found is not None, built.stderr
    collected = []
    for turns in (few, many):
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(ROOT / found[1]), *arguments, str(turns)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        total = re.search(r"Collected : (\d+)", said)
        assert total is not None, said
        collected.append(int(total[1]))
    return (collected[1] - collected[0]) / (many - few)


def main() -> int:
    """Count, print, compare."""
    if not shutil.which("valgrind"):
        print("instructions: not counted, valgrind is missing (Debian: apt-get install valgrind)")
        return 0
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    allowed = 1.1 if version == RUSTC else 1.25
    status = 0
    for (bench, *arguments), (figure, few, many) in FIGURES.items():
        found = counted(bench, tuple(arguments), few, many)
        verdict = "ok" if found <= figure * allowed else f"over {allowed:g} times as many"
        status = status or int(verdict != "ok")
        print(f"{' '.join((bench, *arguments))}: {found:.0f} instructions a turn, {figure} were measured: {verdict}")
    return status


if __name__ == "__main__":
    sys.exit(main())
