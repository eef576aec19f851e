"""What the documentation shows must run: the README's Python blocks and every example."""

import re
import runpy
import sys
import textwrap
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


PAGES = ["README.md", "docs/architectures.md", "docs/criteria.md", "docs/extending.md", "docs/recovery.md"]


@pytest.mark.parametrize("page", PAGES)
def test_pages(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page run in order, in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    found = re.findall(r"^ *```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    blocks = [textwrap.dedent(block) for block in found]
    assert blocks
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    for block in blocks:
        exec(compile(block, page, "exec"), module.__dict__)
