"""Every example runs; what pages show is run by test_docs.py."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from emulation import need_linker
from helpers import define_missing_operators

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LISTED = ROOT / "examples" / "README.md"


SLOW = {"cifar_fine_tune": ["2"]}  # with these arguments
NEED_DATA = "cifar_fine_tune", "detector_to_raspberry_pi"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in SLOW), id=path.stem) for path in EXAMPLES],
)
def test_example(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if path.stem in NEED_DATA:
        request.getfixturevalue("data_dir")
    if path.stem == "torch_compile" and "graphprune" not in torch._dynamo.list_backends():
        pytest.skip("graphprune was installed before it had a backend for torch.compile: pip install it again")
    if path.stem == "detector_to_raspberry_pi":
        need_linker()
    define_missing_operators()  # which transformers looks up where a torchvision for CUDA lies beside torch
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *SLOW.get(path.stem, [])])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(path), run_name="__main__")


def test_examples_are_listed_with_what_they_print() -> None:
    """`examples/README.md` names every example and shows what it prints."""
    sections = dict(re.findall(r"^## `(\w+)\.py`\n(.*?)(?=^## |\Z)", LISTED.read_text(), re.DOTALL | re.MULTILINE))
    assert sections.keys() == {path.stem for path in EXAMPLES}
    assert all("```" in section for section in sections.values())


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
