"""python -m tests.storm --seconds 60: real sidecars, a real Redis or Valkey, 200 callers, one dollar, and kills at random."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.fakes.servers import programs
from tests.storm.storm import Storm
from tests.storm.test_storm import broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=4, help="seconds between two kills, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--program", choices=sorted(programs()), default=sorted(programs())[0] if programs() else None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        storm = Storm(Path(folder), programs()[given.program], seed=given.seed, callers=given.callers)
        books = asyncio.run(storm.blow(given.seconds, given.pause))
    print("\n".join(books.lines()))
    found = broken(books)
    print("\n".join(found) or "all books agree, and the budget was kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
