"""Trains the verifier's trees and writes all that follows from them, in one command:

    pip install scikit-learn && python tools/verifier/train.py

It reads `pairs/*.jsonl`, takes features and vetoes from the built extension, fits the trees on what no veto refuses, writes
`rust_core/data/verify/trees.txt` and `folds.json`, builds the extension anew and measures it (`measure.py --write`). The same pairs,
extension and scikit-learn give the same file, whatever the machine's speed: one seed, no clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the fits are small: threads would only wait for each other
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

sys.path.insert(0, str(Path(__file__).resolve().parent))
from measure import FOLDER, Seed, part, seeds

from sidecar._core import PromptIndex, compare

ROOT = FOLDER.parents[1]
TREES = ROOT / "rust_core/data/verify/trees.txt"
SEED = 6
ROUNDS = 120
NEIGHBOURS = 12
REPEAT = 0.995
"""Only repeats score so high: what the trees say, those of the last training too, ends at 0.99."""
TRAPS_AT_95, TRAPS_AT_90 = 0.008, 0.010
"""The share of traps that may pass at each score, in domains that the trees have not been trained on. Where authors are new too,
about twice as many do: 2 % is the most."""
RISES = {"matched_least", "matched_most", "equal_share", "trigrams", "neighbours", "question_equal", "terms_ratio"}
FALLS = {
    "left",
    "left_weight",
    "left_heaviest",
    "loose",
    "derived",
    "left_before_matched",
    "left_participle",
    "left_kind",
    "left_has_opposite",
    "question_differs",
    "inversions",
}
UNUSED = {"cosine"}


class Pair:
    def __init__(self, seed: Seed, a: str, b: str, label: int, kind: str, weight: float) -> None:
        self.texts = a, b
        verdict = compare(a, b)
        self.seed, self.label, self.kind, self.weight = seed, label, kind, weight
        self.open = not verdict.veto and verdict.score < REPEAT
        self.repeat = not verdict.veto and verdict.score >= REPEAT
        self.features = list(verdict.features.values())


def pairs(everything: list[Seed]) -> list[Pair]:
    """All labelled pairs of each seed, and its nearest prompts of other seeds as negatives."""
    found = []
    index, owner = PromptIndex(capacity=100_000), {}
    for seed in everything:
        for text in (seed["text"], *seed["same"]):
            index.add(part(seed), len(owner), text)
            owner[len(owner)] = (seed, text)
    for seed in everything:
        base = seed["text"]
        found += [Pair(seed, base, text, 1, kind, 1.0) for kind in ("same", "near") for text in seed[kind]]
        found += [Pair(seed, a, b, 1, "other", 0.5) for at, a in enumerate(seed["same"]) for b in seed["same"][at + 1 :] + seed["near"]]
        found += [Pair(seed, base, trap["text"], 0, "trap", 1.5) for trap in seed["traps"]]
        found += [Pair(seed, text, trap["text"], 0, "other", 0.7) for trap in seed["traps"] for text in (*seed["same"], *seed["near"])]
        for entry in index.candidates(part(seed), base, most=NEIGHBOURS):
            other, text = owner[entry.key]
            if other is not seed:
                found.append(Pair(seed, base, text, 0, "neighbour", 1.0))
    return found


def fit(chosen: list[Pair]) -> Any:
    """A fitted model; features in the order of the extension, those that are not used held constant."""
    used = [pair for pair in chosen if pair.open]
    rules = [1 if name in RISES else -1 if name in FALLS else 0 for name in NAMES]
    model = HistGradientBoostingClassifier(
        max_iter=ROUNDS,
        max_depth=3,
        learning_rate=0.06,
        min_samples_leaf=12,
        l2_regularization=4.0,
        monotonic_cst=rules,
        random_state=SEED,
        max_features=0.5,
        early_stopping=False,
    )
    return model.fit(matrix(used), [pair.label for pair in used], sample_weight=[pair.weight for pair in used])


def matrix(chosen: list[Pair]) -> Any:
    values = np.array([pair.features for pair in chosen], dtype=np.float32).astype(np.float64)
    values[:, [NAMES.index(name) for name in UNUSED]] = 0.0
    return values


def margins(model: Any, chosen: list[Pair]) -> Any:
    """Log-odds; of what a veto refuses -inf, of repeats +inf."""
    found = np.array([np.inf if pair.repeat else -np.inf for pair in chosen])
    at = [at for at, pair in enumerate(chosen) if pair.open]
    if at:
        found[at] = model.decision_function(matrix([chosen[position] for position in at]))
    return found


def groups(chosen: list[Pair], number: int) -> dict[str, int]:
    """Each domain's fold: domains stay whole, so that what is judged has nothing of its domain in training."""
    names = sorted({pair.seed["domain"] for pair in chosen})
    return {name: at % number for at, name in enumerate(np.random.default_rng(SEED).permutation(names))}


def out_of_fold(chosen: list[Pair], folds: int = 6) -> Any:
    """Margins of each pair by trees that have seen no pair of its domain."""
    fold = groups(chosen, folds)
    found = np.zeros(len(chosen))
    for number in range(folds):
        inside = [at for at, pair in enumerate(chosen) if fold[pair.seed["domain"]] == number]
        model = fit([pair for pair in chosen if fold[pair.seed["domain"]] != number])
        found[inside] = margins(model, [chosen[at] for at in inside])
    return found


def threshold(found: Any, chosen: list[Pair], share: float) -> float:
    """The least margin at which no more than the share of traps passes."""
    traps = sorted((margin for margin, pair in zip(found, chosen, strict=True) if pair.kind == "trap"), reverse=True)
    allowed = int(share * len(traps))
    return float(traps[allowed]) + 1e-6


def calibration(found: Any, chosen: list[Pair]) -> list[tuple[float, float]]:
    at_90, at_95 = threshold(found, chosen, TRAPS_AT_90), threshold(found, chosen, TRAPS_AT_95)
    at_95 = max(at_95, at_90 + 0.01)
    return [(at_90 - 6, 0.01), (at_90 - 1.5, 0.5), (at_90, 0.90), (at_95, 0.95), (at_95 + 3, 0.99)]


def counts(found: Any, chosen: list[Pair], limit: float) -> dict[str, list[int]]:
    result = {"should hit": [0, 0], "traps": [0, 0]}
    for margin, pair in zip(found, chosen, strict=True):
        name = {"same": "should hit", "near": "should hit", "trap": "traps"}.get(pair.kind)
        if name:
            result[name][0] += bool(margin >= limit)
            result[name][1] += 1
    return result


def domains_left_out(chosen: list[Pair]) -> dict[str, dict[str, list[int]]]:
    """Each domain judged by trees, and at a threshold, that have seen others only; three or so are left out at a time."""
    result = {}
    fold = groups(chosen, 6)
    for number in sorted(set(fold.values())):
        others = [pair for pair in chosen if fold[pair.seed["domain"]] != number]
        model, limit = fit(others), threshold(out_of_fold(others, 4), others, TRAPS_AT_95)
        for domain in sorted(name for name in fold if fold[name] == number):
            own = [pair for pair in chosen if pair.seed["domain"] == domain]
            result[domain] = counts(margins(model, own), own, limit)
    result = dict(sorted(result.items()))
    result["all, each left out once"] = {
        name: [sum(found[name][at] for found in result.values()) for at in (0, 1)] for name in ("should hit", "traps")
    }
    return result


def tree_line(nodes: Any) -> str:
    """Seven splits, breadth first, then eight leaves; a leaf higher up fills all below it."""
    splits: list[str] = []
    level = [nodes[0]]
    for _ in range(3):
        below = []
        for node in level:
            if node["is_leaf"]:
                splits.append("0 0 0")
                below += [node, node]
            else:
                splits.append(f"{node['feature_idx']} {np.float32(node['num_threshold'])!s} 0")
                below += [nodes[node["left"]], nodes[node["right"]]]
        level = below
    return " ".join([*splits, *(f"{leaf['value']:.5f}" for leaf in level)])


def write(model: Any, points: list[tuple[float, float]]) -> None:
    bias = float(model._baseline_prediction.ravel()[0])
    head = "# Written by tools/verifier/train.py; see rust_core/src/verify/trees.rs for the form.\n"
    first = " ".join([f"{bias:.6f}", *(f"{margin:.6f} {score}" for margin, score in points)])
    lines = [tree_line(one[0].nodes) for one in model._predictors]
    TREES.write_text(head + "\n".join([first, *lines]) + "\n")


def main() -> None:
    everything = seeds()
    found = pairs(everything)
    seen = [pair for pair in found if part(pair.seed) != "held_out"]
    oof = out_of_fold(seen)
    points = calibration(oof, seen)
    print("out of fold at 0.95:", counts(oof, seen, points[3][0]), "at 0.90:", counts(oof, seen, points[2][0]))
    model = fit(seen)
    held = [pair for pair in found if part(pair.seed) == "held_out"]
    print(
        "held out at 0.95:", counts(margins(model, held), held, points[3][0]), "at 0.90:", counts(margins(model, held), held, points[2][0])
    )
    if "--try" in sys.argv:
        return
    write(model, points)
    domains = domains_left_out(found)
    print("unseen domains:", domains["all, each left out once"])
    (FOLDER / "folds.json").write_text(json.dumps({"seed": SEED, "domains": domains}, indent=1) + "\n")
    subprocess.run([sys.executable, "-m", "maturin", "develop", "--release", "-q", "--all-features"], cwd=ROOT, check=True)
    subprocess.run([sys.executable, str(FOLDER / "measure.py"), "--write"], cwd=ROOT, check=True)


NAMES = list(compare("a", "b").features)

if __name__ == "__main__":
    main()
