"""Measures the built verifier on the labelled pairs: hits, wrong answers by class of trap, and an open store.

    python tools/verifier/measure.py           prints the figures of the held-out seeds
    python tools/verifier/measure.py --blind   prints those of `blind/`, which nobody had seen who made the verifier
    python tools/verifier/measure.py --write   writes `report.json` and `REPORT.md` anew (with what `train.py` left in `folds.json`)

A seed is held out by its name's hash, so that all texts of a seed are on one side. `tests/core/test_verify_quality.py` holds the binary to
`report.json`.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sidecar._core import PromptIndex, compare

FOLDER = Path(__file__).resolve().parent
THRESHOLD = 0.95
BLIND = """
## Pairs that nobody had seen who made the verifier

All of `blind/` (see its README): never trained or tuned on. Its light paraphrases, a third of `same`, are easier than those of
`pairs/`, its near-repeats have more typos. The open store holds the prompts of both sets.

"""
Seed = dict[str, Any]
Counts = dict[str, list[int]]


def hash64(text: str) -> int:
    """FNV-1a, then splitmix64's finish: the same on every machine, unlike Python's own."""
    mask = 2**64 - 1
    found = 0xCBF29CE484222325
    for byte in text.encode():
        found = (found ^ byte) * 0x100000001B3 & mask
    found = (found ^ found >> 30) * 0xBF58476D1CE4E5B9 & mask
    found = (found ^ found >> 27) * 0x94D049BB133111EB & mask
    return found ^ found >> 31


def part(seed: Seed) -> str:
    """Train for six of ten seeds, tune for one, held out for three."""
    digit = hash64(seed["seed"]) % 10
    return "held_out" if digit >= 7 else "tune" if digit == 6 else "train"


def seeds(folder: str = "pairs") -> list[Seed]:
    lines = [line for path in sorted((FOLDER / folder).glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines if line.strip()]


def texts(seed: Seed) -> list[str]:
    return [seed["text"], *seed["same"], *seed["near"], *(trap["text"] for trap in seed["traps"])]


def interval(wrong: int, of: int) -> tuple[float, float]:
    """Wilson's interval at 95 %."""
    if of == 0:
        return 0.0, 1.0
    z, share = 1.959964, wrong / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, centre - half), min(1.0, centre + half)


def count(chosen: list[Seed], threshold: float = THRESHOLD) -> Counts:
    """[served, of] by kind of pair; of traps also against the seed's paraphrases, apart."""
    counts: Counts = {}

    def add(name: str, served: bool) -> None:
        entry = counts.setdefault(name, [0, 0])
        entry[0] += served
        entry[1] += 1

    for seed in chosen:
        language = seed["lang"]
        for kind in ("same", "near"):
            for text in seed[kind]:
                served = compare(seed["text"], text).score >= threshold
                for name in ("should hit", f"should hit {language}", kind, f"{kind} {language}"):
                    add(name, served)
        for trap in seed["traps"]:
            served = compare(seed["text"], trap["text"]).score >= threshold
            for name in ("traps", f"traps {language}", f"trap {trap['class']}", f"traps {trap['how']}"):
                add(name, served)
            for text in seed["same"]:
                add("traps against paraphrases", compare(text, trap["text"]).score >= threshold)
    return counts


def open_store(chosen: list[Seed], everything: list[Seed], threshold: float = THRESHOLD) -> Counts:
    """Each chosen seed asks in a store that holds all texts of all seeds but its own: whatever is served is wrong."""
    names = [seed["seed"] for seed in everything]
    index = PromptIndex(capacity=100_000)
    key = 0
    owner: dict[int, str] = {}
    for seed in everything:
        for text in texts(seed):
            index.add("all", key, text)
            owner[key] = seed["seed"]
            key += 1
    assert len(set(names)) == len(names)
    counts: Counts = {"open store": [0, 0]}
    for seed in chosen:
        own = [key for key, name in owner.items() if name == seed["seed"]]
        for text in (seed["text"], *seed["same"]):
            found = index.candidates("all", text, most=32 + len(own))
            served = any(entry.score >= threshold and owner[entry.key] != seed["seed"] for entry in found)
            counts["open store"][0] += served
            counts["open store"][1] += 1
    counts["open store size"] = [key, key]
    return counts


def blind() -> Counts:
    """The pairs of `blind/`: all are judged, and those ask in the open store of both sets that have no partner in `pairs/`."""
    chosen = seeds("blind")
    partners = (FOLDER / "blind" / "partners.txt").read_text().split()
    return count(chosen) | open_store([seed for seed in chosen if seed["seed"] not in partners], [*chosen, *seeds()])


def blind_report() -> str:
    low = count(seeds("blind"), 0.90)
    return table(blind()) + "\n\nAt a score of 0.90:\n\n" + table({name: low[name] for name in ("should hit", "traps")})


def report(chosen: list[Seed], everything: list[Seed]) -> dict[str, Any]:
    vetoes = Counter(compare(seed["text"], trap["text"]).veto or "none" for seed in chosen for trap in seed["traps"])
    lost = Counter(compare(seed["text"], text).veto or "none" for seed in chosen for text in seed["same"])
    return {
        "seeds": len(chosen),
        "counts": count(chosen) | open_store(chosen, everything),
        "at 0.90": count(chosen, 0.90) | open_store(chosen, everything, 0.90),
        "vetoes of traps": dict(vetoes.most_common()),
        "vetoes of paraphrases": dict(lost.most_common()),
    }


def row(name: str, counts: Counts) -> str:
    served, of = counts.get(name, [0, 0])
    low, high = interval(served, of)
    return f"| {name} | {served} / {of} | {100 * served / max(of, 1):.1f} % | {100 * low:.1f} – {100 * high:.1f} % |"


def table(counts: Counts) -> str:
    names = [name for name in counts if name != "open store size"]
    order = ["should hit", "same", "near", "traps", "open store"]
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    return "\n".join(["| pairs | served | share | 95 % interval |", "|---|---|---|---|", *(row(name, counts) for name in names)])


def markdown(found: dict[str, Any], folds: dict[str, Any], everything: list[Seed]) -> str:
    domains = Counter(f"{seed['domain']} ({seed['lang']})" for seed in everything)
    unseen = folds["domains"]
    fold_rows = "\n".join(
        f"| {name} | {100 * counts['should hit'][0] / counts['should hit'][1]:.0f} % of {counts['should hit'][1]} "
        f"| {100 * counts['traps'][0] / counts['traps'][1]:.1f} % of {counts['traps'][1]} |"
        for name, counts in unseen.items()
    )
    parts = (FOLDER / "report_head.md").read_text("utf-8").split("{{}}")
    bodies = [
        f"{found['seeds']} held-out seeds of {len(everything)}; the open store holds {found['counts']['open store size'][0]:,} prompts.\n\n"
        + table(found["counts"]),
        table({name: found["at 0.90"][name] for name in ("should hit", "traps", "open store")}),
        "| domain left out | should-hits served | traps served |\n|---|---|---|\n" + fold_rows,
        ", ".join(f"{name} {number}" for name, number in found["vetoes of traps"].items())
        + "\n\nOf paraphrases (lost hits): "
        + ", ".join(f"{name} {number}" for name, number in found["vetoes of paraphrases"].items()),
        ", ".join(f"{name} {number}" for name, number in sorted(domains.items())) + f"; trained with seed {folds['seed']}.",
    ]
    text = parts[0]
    for body, rest in zip(bodies, parts[1:], strict=True):
        text += body + rest
    return text + BLIND + blind_report() + "\n"


def main() -> None:
    if "--blind" in sys.argv:
        print(blind_report())
        return
    everything = seeds()
    chosen = [seed for seed in everything if part(seed) == "held_out"]
    found = report(chosen, everything)
    print(table(found["counts"]))
    if "--write" in sys.argv:
        folds = json.loads((FOLDER / "folds.json").read_text())
        (FOLDER / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        (FOLDER / "REPORT.md").write_text(markdown(found, folds, everything))


if __name__ == "__main__":
    main()
