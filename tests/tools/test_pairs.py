"""The labelled pairs of the verifier are sound, and the check that says so finds what is not."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "verifier" / "check_pairs.py"
SEED = "How do I enable two-factor authentication for my account?"
SOUND = {
    "seed": "banking-en-001",
    "domain": "banking",
    "lang": "en",
    "text": SEED,
    "same": ["What are the steps to turn on 2FA on my account?", "How can I switch on two-step verification for my account?"],
    "near": ["how do i enable two factor authentication for my account"],
    "traps": [
        {"class": "antonym", "how": "one_word", "text": "How do I disable two-factor authentication for my account?"},
        {"class": "entity", "how": "reworded", "text": "What must I do to get text alerts?"},
        {"class": "scope", "how": "one_word", "text": "How can I switch on two-step verification for every account?"},
    ],
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_pairs", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_pairs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def problems(tool: ModuleType, folder: Path, *rows: object, name: str = "banking_en") -> list[str]:
    path = folder / f"{name}.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return tool.check([path]).problems


def with_trap(kind: str, how: str, text: str) -> dict[str, object]:
    return SOUND | {"traps": [*SOUND["traps"], {"class": kind, "how": how, "text": text}]}  # type: ignore[misc]


def test_the_pairs_in_the_repository_are_sound_and_as_many_as_their_readme_says(tool: ModuleType) -> None:
    report = tool.check(sorted(tool.PAIRS.glob("*.jsonl")))
    assert report.problems == []
    seeds = {lang: sum(count for (_, met), count in report.seeds.items() if met == lang) for lang in tool.LANGUAGES}
    assert seeds["en"] > 400
    assert seeds["ko"] > 150
    assert len({domain for domain, _ in report.seeds}) >= 9
    assert sum(report.traps.values()) > 3500
    missing = [
        (lang, kind) for lang in tool.LANGUAGES for kind in tool.CLASSES if not any(report.traps[lang, kind, how] for how in tool.HOWS)
    ]
    assert missing == []


def test_a_sound_line_is_accepted_and_counted(tool: ModuleType, tmp_path: Path) -> None:
    assert problems(tool, tmp_path, SOUND) == []
    report = tool.check([tmp_path / "banking_en.jsonl"])
    assert report.seeds == {("banking", "en"): 1}
    assert report.texts == {("en", "same"): 2, ("en", "near"): 1}
    assert report.traps[("en", "antonym", "one_word")] == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ([], "expected an object"),
        ({key: value for key, value in SOUND.items() if key != "near"}, "expected an object with the keys"),
        (SOUND | {"same": "one text"}, "same: expected list"),
        (SOUND | {"near": [7]}, "near: every entry must be a text"),
        (SOUND | {"traps": [*SOUND["traps"], "a text"]}, "traps: expected objects"),  # type: ignore[misc]
        (with_trap("synonym", "one_word", "How do I enable it?"), "unknown class 'synonym'"),
        (with_trap("entity", "two_words", "How do I enable it?"), "or how 'two_words'"),
        (SOUND | {"lang": "ko"}, "do not fit the file's name"),
        (SOUND | {"seed": "orders-en-001"}, "do not fit the file's name"),
        (SOUND | {"same": SOUND["same"][:1]}, "same: expected at least 2, found 1"),  # type: ignore[index]
        (SOUND | {"near": [" " + SEED]}, "with spaces at an end"),
        (SOUND | {"near": [SEED]}, "stands twice"),
        (SOUND | {"same": [*SOUND["same"], "How do I enable two-factor authentication for my account"]}, "only a near-repeat"),  # type: ignore[misc]
        (with_trap("scope", "one_word", "what are the steps to turn on 2FA on my account"), "worded like the seed or what is the same"),
        (with_trap("negation", "one_word", "Is it wise to leave two-factor authentication off?"), "is called one_word and differs"),
        (
            with_trap("unit", "reworded", "How do I enable ten-factor authentication for my account?"),
            "is called reworded and is worded like",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_named_with_its_place(tool: ModuleType, tmp_path: Path, row: object, said: str) -> None:
    found = problems(tool, tmp_path, row)
    assert len(found) >= 1
    assert any(said in problem and problem.startswith("banking_en.jsonl:1: ") for problem in found), found


def test_an_id_or_a_seed_text_met_before_is_a_problem(tool: ModuleType, tmp_path: Path) -> None:
    assert any("id 'banking-en-001' was met before" in problem for problem in problems(tool, tmp_path, SOUND, SOUND | {"text": "Another?"}))
    repeated = SOUND | {"seed": "banking-en-002", "text": SEED.lower()}
    assert any("was met before, in banking_en.jsonl:1" in problem for problem in problems(tool, tmp_path, SOUND, repeated))


def test_symbols_that_carry_meaning_tell_two_texts_apart_and_punctuation_does_not(tool: ModuleType) -> None:
    assert tool.folded("Total > 5, please!") == tool.folded("total > 5 please")
    assert tool.folded("total > 5") != tool.folded("total < 5")
    assert tool.changed_words(tool.words("from A to B"), tool.words("from B to A")) == 0
    assert tool.changed_words(tool.words("pay it now"), tool.words("never pay it")) == 2
