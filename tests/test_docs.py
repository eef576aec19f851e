"""What the documentation shows must run, every link must lead somewhere, and what is generated must be up to date."""

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

import graphprune
from graphprune import cli
from graphprune.frontends.torch.names import TRANSLATIONS
from graphprune.ops import OPS
from helpers import define_missing_operators
from pages import PAGES, ROOT, Fence, anchors, commands, fences, links, name

REASONS = {
    "needs a GPU",
    "needs another machine",
    "needs several processes",
    "needs a download",
    "names files of yours",
    "needs more packages",
    "takes minutes",
    "a sketch",
}
LANGUAGES = {"", "python", "sh", "console", "c", "cpp", "cmake", "text", "json", "yaml", "toml", "html", "mermaid"}
WITH_CODE = [
    page for page in PAGES if any(fence.language in ("python", "sh", "console") for fence in fences(page.read_text()))
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder; forget the modules that a page wrote there, and what it added to tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the command line has its own
    before = [(table, dict(table)) for table in (OPS, TRANSLATIONS)]
    with warnings.catch_warnings():
        yield
    for table, content in before:
        table.clear()
        table.update(content)
    for key, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[key]


@pytest.mark.filterwarnings("ignore")  # those of trainers and exporters
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page.read_text(), name(page), monkeypatch)


def run_page(text: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page in order, as a reader would type them.

    Python blocks share one namespace. A block with a title is a file. Of sh blocks the lines that call graphprune run;
    of console blocks their options are looked at.
    """
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    for fence in fences(text):
        if fence.language in ("sh", "console"):
            for words in commands(fence):
                check_command(words)
        if fence.options.keys() & {"no-run", "with"}:
            continue
        if "title" in fence.options:
            Path(fence.options["title"]).write_text(fence.text)
        elif fence.language == "python":
            require_packages(fence.text)
            exec(compile("\n" * (fence.line - 1) + fence.text, where, "exec"), module.__dict__)
        elif fence.language == "sh":
            for words in commands(fence):
                run_command(words, monkeypatch)


def require_packages(text: str) -> None:
    """Skip pages about packages that are not installed, or installed before they had what the page shows."""
    if 'backend="graphprune"' in text:
        import torch

        if "graphprune" not in torch._dynamo.list_backends():
            pytest.skip("graphprune was installed before it had a backend for torch.compile: pip install it again")
    for package in ("accelerate", "lightning", "pytorch_lightning", "ray", "timm", "torch_pruning", "transformers"):
        if re.search(rf"^ *(import|from)\b.*\b{package}\b", text, re.MULTILINE):
            define_missing_operators()
            pytest.importorskip(package, reason=f"{package} is not installed")


def check_command(words: list[str]) -> None:
    """A command of ours has these options; a script and a target of make exist."""
    if words[0] == "graphprune":
        group = typer.main.get_command(cli.app)
        if len(words) > 1 and not words[1].startswith("-"):
            command = group.commands[words[1]]
            command.make_context(words[1], words[2:])
    elif words[0] == "python" and words[1].endswith(".py"):
        assert any((ROOT / folder / words[1]).exists() for folder in (".", "benchmarks")), words
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), words


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] != "graphprune":
        return
    monkeypatch.setattr(sys, "argv", words)
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, words


@pytest.mark.filterwarnings("ignore")
def test_the_other_side_of_the_page_for_those_who_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says that one writes with Torch-Pruning works with it, each block on a fresh model."""
    require_packages("import timm, torch_pruning")
    import timm
    import torch

    first, *shown = fences((ROOT / "docs/from-torch-pruning.md").read_text())
    space = {"__name__": "page", "image": torch.randn(1, 3, 32, 32)}
    monkeypatch.setitem(sys.modules, "page", types.SimpleNamespace(**space))
    exec(first.text, space)
    monkeypatch.setattr(sys.modules["page"], "Net", space["Net"], raising=False)  # torch.save looks it up
    space["vit"] = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    blocks = [fence for fence in shown if "with" in fence.options]
    assert len(blocks) >= 8
    for block in blocks:
        space["model"] = space["Net"]().eval()
        exec(block.text, space)


def test_a_page_that_does_not_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks above see a wrong line, an option that is gone, a file that is missing."""
    run_page('```python title="of_page.py"\nx = 1\n```\n\n```python\nimport of_page\n```', "page", monkeypatch)
    for text, error in (
        ("```python\nundefined_name\n```", NameError),
        ("```sh\ngraphprune explain net.onnx --no-such-option\n```", Exception),
        ("```sh\ngraphprune no-such-command\n```", KeyError),
        ("```sh\ngraphprune explain missing.onnx\n```", AssertionError),
        ("```sh\npython benchmarks/missing.py\n```", AssertionError),
    ):
        with pytest.raises(error):
            run_page(text, "page", monkeypatch)


def test_blocks_that_do_not_run_say_why() -> None:
    for page in PAGES:
        for fence in fences(page.read_text()):
            where = f"{name(page)}:{fence.line}"
            assert fence.language in LANGUAGES, where
            assert fence.options.get("no-run", "a sketch") in REASONS, where
            assert fence.options.keys() <= {"no-run", "title", "with"}, where


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(), page) == []


def broken_links(text: str, page: Path) -> list[str]:
    broken = []
    for link in links(text):
        if re.match(r"[a-z]+:", link.target):
            continue
        path = (page.parent / link.target).resolve() if link.target else page
        whole = text if path == page else path.read_text() if path.suffix == ".md" and path.exists() else ""
        if not path.exists() or not path.is_relative_to(ROOT) or (link.anchor and link.anchor not in anchors(whole)):
            broken.append(f"{name(page)}:{link.line} {link.target}#{link.anchor}")
    return broken


def test_broken_links_are_found() -> None:
    page = ROOT / "README.md"
    assert broken_links("# Here\n[a](#here) [b](docs/onnx.md#inputs)", page) == []
    assert len(broken_links("[a](#gone) [b](docs/gone.md) [c](docs/onnx.md#gone) ![d](gone.svg)", page)) == 4


def test_figures_of_the_readme_are_on_the_pages_that_it_links() -> None:
    """Every figure of a paragraph stands, rounded to as many digits, on a page that the paragraph links to."""
    prose = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    paragraphs = prose.split("\n\n")
    assert sum(len(missing_figures(part)[0]) for part in paragraphs) > 5
    assert [figure for part in paragraphs for figure in missing_figures(part)[1]] == []
    wrong = "It keeps 12.3 % ([table](docs/benchmarks/cifar_pruning.md))."
    assert missing_figures(wrong)[1] == ["12.3"]


def test_the_readme_fits_on_a_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 55


def missing_figures(paragraph: str) -> tuple[list[str], list[str]]:
    """The figures of a paragraph (per cent, decimals, thousands), and those that no linked page holds."""
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", paragraph)
    figures = re.findall(r"(?<![\w.-])(\d+(?:,\d{3})+|\d+\.\d+(?![.\d])|\d+(?= ?%| of \d| times| models))", prose)
    known = set[float]()
    for link in links(paragraph):
        path = ROOT / link.target
        if path.suffix == ".md" and path.exists():
            known |= {float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*(?:\.\d+)?", path.read_text())}
    missing = []
    for figure in figures:
        digits = len(figure.partition(".")[2])
        if float(figure.replace(",", "")) not in {round(number, digits) for number in known}:
            missing.append(figure)
    return figures, missing


# The reference


def public() -> dict[str, object]:
    return {key: getattr(graphprune, key) for key in graphprune.__all__ if key != "__version__"}


def reference() -> dict[str, object]:
    """What docs/api.md shows, by its path: functions, classes, modules."""
    paths = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    return {path: pkgutil.resolve_name(path) for path in paths}


def test_the_reference_covers_the_public_names() -> None:
    assert {f"graphprune.{key}" for key in public()} - reference().keys() == set(), "docs/api.md lacks these"


def examples() -> Iterator[tuple[str, Fence]]:
    """The blocks of the docstrings of everything that the reference shows, and of public members."""
    for path, thing in reference().items():
        named = inspect.getmembers(thing, inspect.isroutine) if inspect.isclass(thing) else []
        for key, part in [(path, thing), *((f"{path}.{at}", part) for at, part in named if not at.startswith("_"))]:
            for fence in fences(inspect.getdoc(part) or ""):
                yield key, fence


EXAMPLES = list(examples())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("key", "fence"), EXAMPLES, ids=[f"{key}:{fence.line}" for key, fence in EXAMPLES])
def test_example_of_a_docstring_runs(key: str, fence: Fence) -> None:
    assert fence.language == "python" and not fence.options
    require_packages(fence.text)
    exec(compile(fence.text, key, "exec"), {"__name__": "example"})


def test_every_public_function_has_an_example() -> None:
    functions = {f"graphprune.{key}" for key, thing in public().items() if inspect.isroutine(thing)}
    needs_a_gpu = {"graphprune.to_semi_structured"}
    assert functions - {key for key, _ in EXAMPLES} == needs_a_gpu


# What is generated


@pytest.mark.parametrize("script", ["benchmark_index", "operator_page"])
def test_generated_pages_are_up_to_date(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs/generate")
    module = importlib.import_module(script)
    assert module.PAGE.read_text() == module.text(), f"python docs/generate/{script}.py writes it"


def test_pictures_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs/generate")
    pictures = importlib.import_module("pictures")
    for key, draw in pictures.PICTURES.items():
        path = pictures.FOLDER / f"{key}.svg"
        assert path.read_text() == draw(), "python docs/generate/pictures.py draws them"


# The site


class Loaded(HTMLParser):
    """The addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        wanted = given.get("href") if tag == "link" else given.get("src")
        self.addresses += [wanted] if wanted else []


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the documentation's tools are not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement, not a warning about these pages
    build += ["--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run(build, capture_output=True, text=True, cwd=ROOT, env=quiet)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text())
        assert parser.addresses and not [address for address in parser.addresses if re.match(r"(https?:)?//", address)]
    reference = (tmp_path / "site" / "api.html").read_text()
    for key in public():
        assert f'id="graphprune.{key}"' in reference, key
