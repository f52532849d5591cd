"""`sidecar prices`: every price, since when, by whose word; and the comparison with the real list of the package genai-prices."""

import csv
import io
import json
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from sidecar.cli import main
from sidecar.commands import prices as command

TODAY = date(2026, 11, 21)
SHEET = """
[models."gpt-5.4"]
input = "2.4999999"
[models."gpt-5.4".over.200000]
input = "5.00"
output = "22.50"
[models.house]
provider = "lab"
input = "0.000001"
output = "12"
call = "0.000000001"
image = "0.25"
as_of = 2026-11-01
[models.nobody]
provider = "openai"
context_tokens = 1000
[models.free]
provider = "lab"
[providers.lab]
base_url = "http://lab:8000/v1"
[catalog]
unpriced = "estimate"
"""

Output = pytest.CaptureFixture[str]


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(SHEET.replace("2.4999999", "2.499999"))
    return file


def run(capsys: Output, *words: str, file: Path | None = None, today: date = TODAY) -> tuple[int, str, str]:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    status = command.prices(parser.parse_args(["prices", *words]), file, {}, today)
    found = capsys.readouterr()
    return status, found.out, found.err


def table(text: str) -> dict[tuple[str, str], list[str]]:
    return {(row[0], row[3]): row[4:] for row in (line.split() for line in text.splitlines()[2:])}


def test_every_price_is_shown_in_dollars(capsys: Output, sheet: Path) -> None:
    status, out, err = run(capsys, file=sheet)
    assert (status, err) == (0, "")
    rows = table(out)
    assert rows["gpt-4o", "-"] == ["2.50", "1.25", "2.50", "2.50", "10.00", "10.00", "0.00", "0.00", "2026-11-21", "catalogue"]
    assert rows["claude-sonnet-4-6", "-"][:6] == ["3.00", "0.30", "3.75", "6.00", "15.00", "15.00"]
    assert rows["text-embedding-3-small", "-"][0] == "0.02"
    assert rows["gpt-5.4", "200000"][:5] == ["5.00", "5.00", "5.00", "5.00", "22.50"]  # of the settings, in place of the catalogue's
    assert ("gpt-5.4", "272000") not in rows
    assert rows["house", "-"][:8] == ["0.000001", "0.000001", "0.000001", "0.000001", "12.00", "12.00", "0.25", "0.000000001"]
    assert rows["house", "-"][8:] == ["2026-11-01", "settings"]
    assert rows["free", "-"] == ["-"] * 9 + ["none"]
    assert rows["nobody", "-"][8:] == ["-", "estimated:", "the", "provider's", "dearest"]
    words = " ".join(rows["gpt-5.4", "-"][9:])
    assert words == "settings (input, cache_write_5m, cache_write_1h, over), else catalogue"


def test_as_json_and_csv_prices_are_whole_numbers(capsys: Output, sheet: Path) -> None:
    status, out, _ = run(capsys, "--json", "gpt-5.4", "house", file=sheet)
    assert status == 0
    found = json.loads(out)
    assert found["units"] == {"tokens": "pico-USD per token", "image": "nano-USD", "call": "nano-USD"}
    by_name = {(line["model"], line["over_tokens"]): line for line in found["prices"]}
    assert by_name["gpt-5.4", None]["input"] == 2_499_999
    assert by_name["gpt-5.4", 200_000]["output"] == 22_500_000
    assert (by_name["house", None]["image"], by_name["house", None]["call"]) == (250_000_000, 1)
    assert by_name["house", None]["age_days"] == 20
    status, out, _ = run(capsys, "--csv", "house", file=sheet)
    (row,) = csv.DictReader(io.StringIO(out))
    assert (status, row["input"], row["call"], row["over_tokens"], row["kind"]) == (0, "1", "1", "", "generate+embed")


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (("gpt-4o",), {"gpt-4o", "gpt-4o-mini"}),
        (("anthropic",), {"claude-sonnet-4", "claude-sonnet-4-6", "claude-sonnet-5-5"}),
        (("claude-sonnet-4-20250514", "echo"), {"claude-sonnet-4", "echo"}),  # by the provider's own name
    ],
)
def test_some_models(capsys: Output, words: tuple[str, ...], models: set[str]) -> None:
    _, out, _ = run(capsys, "--json", *words)
    assert {line["model"] for line in json.loads(out)["prices"]} == models


def test_an_unknown_model_is_a_mistake(capsys: Output) -> None:
    status, out, err = run(capsys, "gpt-4p")
    assert (status, out) == (2, "")
    assert err.startswith('sidecar prices: no model is called "gpt-4p"')
    assert "gpt-4o" in err


def test_old_prices_are_told_of(capsys: Output, sheet: Path) -> None:
    assert run(capsys, file=sheet, today=date(2027, 1, 30))[2] == ""  # 90 days after the oldest
    status, _, err = run(capsys, file=sheet, today=date(2027, 1, 31))
    assert status == 0
    assert err.startswith("sidecar prices: the prices of 1 model are older than 90 days, the oldest house's of 2026-11-01; look them up")
    assert "the prices of 18 models are older" in run(capsys, file=sheet, today=date(2028, 1, 1))[2]


# --- the real list --------------------------------------------------------------------------------------------------------------


def test_the_catalogue_is_the_lists(capsys: Output) -> None:
    """Where this fails after the list has been updated, look the price up with its provider, and correct the one that is wrong."""
    status, out, err = run(capsys, "--compare")
    assert (status, err) == (0, ""), out
    assert out.startswith("14 models compared with genai-prices ")
    assert out.endswith(": no prices differ\n")


def test_each_difference_is_told_with_both_prices(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        '[models.gpt-4o]\ninput = "2.500001"\n[models."claude-sonnet-5-5"]\ncached_input = "0.20"\ncache_write_1h = "2.00"\n'
        '[models."gpt-5.4".over.200000]\ninput = "5.00"\ncached_input = "0.50"\noutput = "22.50"\n'
        '[models."gpt-99"]\nprovider = "openai"\ncontext_tokens = 9\ninput = "1"\noutput = "1"\n'
    )
    status, out, _ = run(capsys, "--compare", file=file)
    assert status == 1
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert rows == [
        ["model", "price", "over_tokens", "ours", "theirs", "ratio"],
        ["gpt-4o", "input", "-", "2.500001", "2.50", "1.000"],
        ["gpt-5.4", "input", "200000", "5.00", "2.50", "2.000"],
        ["gpt-5.4", "cached_input", "200000", "0.50", "0.25", "2.000"],
        ["gpt-5.4", "output", "200000", "22.50", "15.00", "1.500"],
        ["gpt-5.4", "reasoning", "200000", "22.50", "15.00", "1.500"],
        ["claude-sonnet-5-5", "cached_input", "-", "0.20", "0.10", "2.000"],
        ["claude-sonnet-5-5", "cache_write_1h", "-", "2.00", "4.00", "0.500"],
    ]
    assert out.splitlines()[-1].endswith(": 7 prices differ; it does not have gpt-99")
    status, out, _ = run(capsys, "--compare", "--json", "sonnet-5-5", file=file)
    found = json.loads(out)
    assert (status, found["compared"]) == (1, ["claude-sonnet-5-5"])
    assert [(Decimal(line["ours"]), Decimal(line["theirs"])) for line in found["differences"]] == [
        (Decimal("0.2"), Decimal("0.1")),
        (2, 4),
    ]
    status, out, _ = run(capsys, "--compare", "--csv", "sonnet-5-5", file=file)
    assert (status, out.splitlines()[1]) == (1, "claude-sonnet-5-5,cached_input,,0.20,0.10,2.000")


def test_a_server_in_openais_format_is_known_by_its_address(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    sheet = '[providers.fast]\nbase_url = "{}"\n[models."llama-3.1-8b-instant"]\nprovider = "fast"\ninput = "1"\noutput = "1"\n'
    file.write_text(sheet.format("https://api.groq.com/openai/v1"))
    status, out, _ = run(capsys, "--compare", "llama-3.1", file=file)
    assert status == 1
    assert "llama-3.1-8b-instant" in out
    file.write_text(sheet.format("http://own:8000/v1"))  # nobody bills for that
    assert run(capsys, "--compare", "llama-3.1", file=file)[:2][0] == 0


def test_without_the_package_it_says_what_to_install(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    status, out, err = run(capsys, "--compare")
    assert (status, out) == (2, "")
    assert err == "sidecar prices: --compare needs the package genai-prices: pip install 'llm-sidecar[prices]'\n"


def test_unreadable_settings_are_told_as_everywhere(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[models.gpt-4o]\ninput = 2.5\n")
    assert main(["prices", "--settings", str(file)]) == 2
    assert "expected US dollars" in capsys.readouterr().err
