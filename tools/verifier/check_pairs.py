"""Check the labelled pairs in `pairs/*.jsonl` and count them: python tools/verifier/check_pairs.py [FILE ...].

What the trainer learns from must be sound: a trap that is worded like a paraphrase, or a label that does not fit its text,
teaches the verifier to serve a wrong answer. The format is described in `pairs/README.md`. Exit 1 when anything is wrong.
"""

import json
import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PAIRS = Path(__file__).parent / "pairs"
KEYS = {"seed": str, "domain": str, "lang": str, "text": str, "same": list, "near": list, "traps": list}
TRAP_KEYS = {"class", "how", "text"}
CLASSES = ("negation", "antonym", "entity", "number", "date", "unit", "scope", "direction", "modifier", "intent")
HOWS = ("one_word", "reworded")
LANGUAGES = ("en", "ko")
MOST_CHANGED_WORDS = 2
"""A trap called one_word may differ from its seed or a paraphrase by so many words (a name may have two), or in their order alone."""


@dataclass
class Report:
    """What was found: `problems` as `file:line: what`, and the counts that `print_counts` shows."""

    problems: list[str] = field(default_factory=list)
    seeds: Counter[tuple[str, str]] = field(default_factory=Counter)
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)
    traps: Counter[tuple[str, str, str]] = field(default_factory=Counter)


def folded(text: str) -> str:
    """Return `text` without case, punctuation and doubled spaces: what is equal here is no other wording."""
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """Return the words and numbers of `text`, folded; symbols that carry meaning ($, %, <, =) stand as words of their own."""
    return re.findall(r"[^\W_]+(?:['’.,:/_-][^\W_]+)*|[$€£₩¥%<>=+*&|~^#@/\\-]|!(?==)", unicodedata.normalize("NFKC", text).casefold())


def changed_words(left: list[str], right: list[str]) -> int:
    """Return how many words must be replaced, added or left out to turn `left` into `right`; 0 where only their order differs."""
    if sorted(left) == sorted(right):
        return 0
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(diagonal + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def shape_problems(row: object) -> list[str]:
    """Return what is wrong with the keys and types of one line; only a line without such a problem can be judged further."""
    if not isinstance(row, dict) or row.keys() != KEYS.keys():
        return [f"expected an object with the keys {', '.join(KEYS)}, found {sorted(row) if isinstance(row, dict) else type(row).__name__}"]
    found = [
        f"{key}: expected {kind.__name__}, found {type(row[key]).__name__}" for key, kind in KEYS.items() if not isinstance(row[key], kind)
    ]
    if found:
        return found
    found += [f"{key}: every entry must be a text" for key in ("same", "near") if not all(isinstance(text, str) for text in row[key])]
    for trap in row["traps"]:
        if not isinstance(trap, dict) or trap.keys() != TRAP_KEYS or not isinstance(trap["text"], str):
            found.append(f"traps: expected objects with the keys {', '.join(sorted(TRAP_KEYS))}, found {trap}")
        elif trap["class"] not in CLASSES or trap["how"] not in HOWS:
            found.append(f"trap {trap['text']!r}: unknown class {trap['class']!r} or how {trap['how']!r}")
    return found


def row_problems(row: dict, name: str) -> list[str]:
    """Return what is wrong with one line of sound shape, read from the file `name` (`<domain>_<lang>`)."""
    found = []
    if (
        f"{row['domain']}_{row['lang']}" != name
        or not row["seed"].startswith(f"{row['domain']}-{row['lang']}-")
        or row["lang"] not in LANGUAGES
    ):
        found.append(f"seed {row['seed']!r}, domain {row['domain']!r} and lang {row['lang']!r} do not fit the file's name")
    for key, least in (("same", 2), ("near", 1), ("traps", 3)):
        if len(row[key]) < least:
            found.append(f"{key}: expected at least {least}, found {len(row[key])}")
    wordings = [row["text"], *row["same"]]
    texts = [*wordings, *row["near"], *(trap["text"] for trap in row["traps"])]
    found += [f"{text!r}: empty, or with spaces at an end" for text in texts if not text or text != text.strip()]
    found += [f"{text!r} stands twice" for text, times in Counter(texts).items() if times > 1]
    alike = {folded(text) for text in wordings + row["near"]}
    found += [
        f"trap {trap['text']!r} is worded like the seed or what is the same as it" for trap in row["traps"] if folded(trap["text"]) in alike
    ]
    found += [f"same {text!r} is only a near-repeat" for text in row["same"] if folded(text) == folded(row["text"])]
    for trap in row["traps"]:
        least = min(changed_words(words(text), words(trap["text"])) for text in wordings)
        if trap["how"] == "one_word" and least > MOST_CHANGED_WORDS:
            found.append(
                f"trap {trap['text']!r} is called one_word and differs from the seed and every paraphrase by {least} words or more"
            )
        if trap["how"] == "reworded" and changed_words(words(row["text"]), words(trap["text"])) <= MOST_CHANGED_WORDS:
            found.append(f"trap {trap['text']!r} is called reworded and is worded like the seed")
    return found


def check(files: list[Path]) -> Report:
    """Return what is wrong in `files` and how many seeds, texts and traps they hold; ids and seed texts are compared across them."""
    report = Report()
    met: dict[str, str] = {}
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            place = f"{path.name}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                report.problems.append(f"{place}: not JSON: {error}")
                continue
            found = shape_problems(row)
            if not found:
                found = row_problems(row, path.stem)
                for what, text in (("id", row["seed"]), ("text", folded(row["text"]))):
                    if (first := met.setdefault(text, place)) != place:
                        found.append(f"{what} {text!r} was met before, in {first}")
                count(row, report)
            report.problems += [f"{place}: {problem}" for problem in found]
    return report


def count(row: dict, report: Report) -> None:
    """Add one line's seed, texts and traps to the counts of `report`."""
    report.seeds[row["domain"], row["lang"]] += 1
    for key in ("same", "near"):
        report.texts[row["lang"], key] += len(row[key])
    for trap in row["traps"]:
        report.traps[row["lang"], trap["class"], trap["how"]] += 1


def print_counts(report: Report) -> None:
    """Print seeds per domain, and same, near and traps per class, each by language."""
    languages = sorted({lang for _, lang in report.seeds})
    print(f"{'':20}" + "".join(f"{lang:>20}" for lang in languages))
    for domain in sorted({domain for domain, _ in report.seeds}):
        print(f"{'seeds ' + domain:30}" + "".join(f"{report.seeds[domain, lang]:>10}{'':10}" for lang in languages).rstrip())
    for key in ("same", "near"):
        print(f"{key:30}" + "".join(f"{report.texts[lang, key]:>10}{'':10}" for lang in languages).rstrip())
    for kind in CLASSES:
        shown = (f"{report.traps[lang, kind, 'one_word']:>10} + {report.traps[lang, kind, 'reworded']:<7}" for lang in languages)
        print(f"{'traps ' + kind:30}" + "".join(shown).rstrip())
    print("traps: one_word + reworded")


def main() -> int:
    """Check the files named on the command line, or all; print the counts and every problem, return the exit code."""
    files = [Path(name) for name in sys.argv[1:]] or sorted(PAIRS.glob("*.jsonl"))
    report = check(files)
    print_counts(report)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    return 1 if report.problems or not files else 0


if __name__ == "__main__":
    sys.exit(main())
