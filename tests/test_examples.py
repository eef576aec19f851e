"""What the documentation shows must run: the README's Python blocks and every example."""

import re
import runpy
import sys
import textwrap
import types
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


PAGES = (
    "architectures",
    "budgets",
    "criteria",
    "extending",
    "from-torch-pruning",
    "recovery",
    "sparse",
    "sweep",
    "training",
)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_pages(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore")  # those of the trainers
def test_page_of_other_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    define_missing_operators()
    for package in ("accelerate", "pytorch_lightning", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    run_page("docs/training-loops.md", tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore")
def test_page_of_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    define_missing_operators()
    pytest.importorskip("transformers", reason="transformers is not installed")
    run_page("docs/plugging-in.md", tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore")
def test_the_other_side_of_the_page_for_those_who_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says that one writes with Torch-Pruning works with it, each block on a fresh model."""
    define_missing_operators()
    for package in ("torch_pruning", "timm"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import timm
    import torch

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/from-torch-pruning.md").read_text()
    first, *_ = re.findall(r"^```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    space = {"__name__": "page", "image": torch.randn(1, 3, 32, 32)}
    monkeypatch.setitem(sys.modules, "page", types.SimpleNamespace(**space))
    exec(first, space)
    monkeypatch.setattr(sys.modules["page"], "Net", space["Net"], raising=False)  # torch.save looks it up
    space["vit"] = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    blocks = re.findall(r"^```py\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    for block in blocks:
        space["model"] = space["Net"]().eval()
        exec(block, space)


def run_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
