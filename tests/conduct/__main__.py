"""`python -m tests.conduct` makes every fault happen and writes what callers saw to CONDUCT.md."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.conduct.calling import CASES, Case, Seen, perform_all, stage
from tests.conduct.faults import ANSWERS, BODIES, CONNECTIONS, STATUSES, STREAMS, WIRES, Fault

_TABLE = Path(__file__).with_name("CONDUCT.md")
_PARTS = (
    ("Connections and silence", CONNECTIONS),
    ("Statuses", STATUSES),
    ("Answers that are none", BODIES),
    ("Streams", STREAMS),
    ("Answers", ANSWERS),
)
_HEADING = """# What callers see when providers fail

Written by `make conduct` on {day}: the real sidecar over a real socket, and a fake provider that speaks the real wires; {cases} calls.
Waits before another try are at most 30 ms here instead of 1-4 s; limits of time are 0.3 s to connect, 0.5 s to headers, 0.7 s to the
first token, 0.6 s of silence, 0.9 s for a whole answer instead of 5, 15, 15, 30 and 30 s. All else is as shipped: three failures in a row
open a breaker.

*Asked* is how often the failing provider was asked, *ms* how long the call took, from the quickest to the slowest wire. *Alone*: nobody
else can answer. *With a fallback*: another model can, and the answer says so (`fallback`). Where wires differ, each has its row. {verdict}
"""
_COLUMNS = ("fault", "call", "provider", "alone: caller saw", "asked", "ms", "with a fallback: caller saw", "asked", "ms")
_HEAD = f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|\n"


async def _performed() -> dict[Case, Seen | Exception]:
    with tempfile.TemporaryDirectory(prefix="sidecar-conduct-") as folder:
        async with stage(Path(folder)) as (sidecar, upstream):
            return await perform_all(sidecar, upstream)


def main() -> int:
    done = asyncio.run(_performed())
    seen = {case: one for case, one in done.items() if isinstance(one, Seen)}
    wrong = [case.model for case in CASES if case not in seen or any(getattr(seen[case], k) != v for k, v in case.wanted().items())]
    for name in wrong:
        print(f"not as it must be: {name}: {next(one for case, one in done.items() if case.model == name)}", file=sys.stderr)
    verdict = "Every call ended as it must." if not wrong else f"**{len(wrong)} calls did not end as they must.**"
    text = _HEADING.format(day=datetime.now(UTC).date(), cases=len(CASES), verdict=verdict)
    for title, faults in _PARTS:
        text += f"\n## {title}\n\n{_HEAD}" + "".join(row for fault in faults for row in _rows(fault, seen))
    _TABLE.write_text(text)
    print(f"{len(CASES)} calls, {len(wrong)} of them not as they must be; see {_TABLE}")
    return 1 if wrong else 0


def _rows(fault: Fault, seen: dict[Case, Seen]) -> Iterator[str]:
    """A row for each way to call, and for each group of wires that behaved alike."""
    for way in fault.ways:
        alike: dict[tuple[str, int, str, int], list[tuple[str, Seen, Seen]]] = {}
        for wire in WIRES:
            alone, chain = seen.get(Case(fault, wire, way, False)), seen.get(Case(fault, wire, way, True))
            if alone is not None and chain is not None:
                alike.setdefault((_said(alone), alone.asked, _said(chain), chain.asked), []).append((wire, alone, chain))
        possible = {wire for wire, one in fault.cases() if one == way}
        for (said, asked, chain_said, chain_asked), group in alike.items():
            names = "all" if len(group) == len(possible) == len(WIRES) - (way == "embed") else ", ".join(wire for wire, _, _ in group)
            first, second = _spread([one.took_ms for _, one, _ in group]), _spread([one.took_ms for _, _, one in group])
            yield f"| {fault.name} | {way} | {names} | {said} | {asked} | {first} | {chain_said} | {chain_asked} | {second} |\n"


def _said(seen: Seen) -> str:
    if seen.reason == "ok":
        said = "the fallback's answer" if seen.fallback else "the answer"
        return said + (f", {seen.finish}" if seen.finish not in ("", "STOP") else "")
    return f"{seen.code} {seen.reason}" + (f", “{seen.text}”" if seen.text else "")


def _spread(took_ms: list[float]) -> str:
    least, most = (f"{max(round(ms, -1), 10):.0f}" for ms in (min(took_ms), max(took_ms)))
    return least if least == most else f"{least}-{most}"


if __name__ == "__main__":
    sys.exit(main())
