"""The shipped lexicon and trees give exactly the figures of `tools/verifier/report.json`, and those keep the promise."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "tools/verifier"


def measuring() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure", FOLDER / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MEASURE = measuring()
RECORDED = json.loads((FOLDER / "report.json").read_text())


def test_report_and_binary_agree_on_the_held_out_seeds() -> None:
    everything = MEASURE.seeds()
    found = MEASURE.report([seed for seed in everything if MEASURE.part(seed) == "held_out"], everything)
    assert found == RECORDED, "run `python tools/verifier/measure.py --write`, or `train.py` after a change of lexicon or pairs"
    text = (FOLDER / "REPORT.md").read_text("utf-8")
    assert all(MEASURE.row(name, found["counts"]) in text for name in ("should hit", "traps", "open store"))


def test_the_figures_keep_the_promise() -> None:
    counts = RECORDED["counts"]
    share = {name: served / of for name, (served, of) in counts.items()}
    assert share["should hit en"] >= 0.45
    assert share["traps"] <= 0.02
    assert max(value for name, value in share.items() if name.startswith("trap ")) <= 0.04
    assert counts["open store size"][0] >= 5000
    assert share["open store"] <= 0.01
