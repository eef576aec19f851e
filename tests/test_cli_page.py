"""docs/cli.md is what its script makes of the command line, and its commands print what it shows."""

import re
from pathlib import Path

import pytest

from helpers import script_of

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "cli.md").read_text()


@pytest.fixture(scope="module")
def script():
    return script_of("cli_page")


def test_reference_and_exit_codes_are_up_to_date(script) -> None:
    assert script.page(TEXT, None) == TEXT, "run benchmarks/cli_page.py"
    changed = TEXT.replace("--sparsity NUMBER", "--sparseness NUMBER").replace("| 3 |", "| 33 |")
    assert changed != TEXT and script.page(changed, None) == TEXT


def test_commands_print_what_is_shown(script, graphprune_, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for numbers: times, sizes of code and last digits are those of another machine."""
    (folder / "my_models.py").write_text(script.module_of(TEXT))
    monkeypatch.setenv("COLUMNS", script.COLUMNS)
    monkeypatch.setenv("NO_COLOR", "1")
    ran = []

    def run(words: list[str]) -> tuple[int, str]:
        ran.append(words[1])
        code, out, err = graphprune_(*words[1:])
        return code, err + out

    assert shape_of(script.page(TEXT, run)) == shape_of(TEXT)
    assert {"explain", "plan", "apply", "verify", "compile", "inspect", "optimize"} <= set(ran)


def shape_of(text: str) -> list[str]:
    """The words of a text, without its numbers, versions and lines of tables."""
    words = re.sub(r"[─━┏┓┗┛┡┩┌┐└┘┳╇┴┷┬┼│┃]+", " ", text)
    return re.sub(r"\S*\d\S*|\b[kMG]?B\b|\b[kMG]\b", "#", words).split()
