"""What the site does to pages that also read well where the repository is browsed (see `hooks` in mkdocs.yml).

Links out of docs/ lead to pages made of the files that they name; blocks of code that tests do not run say why.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")
# What options of fences say to readers: `no-run="reason"`, `with="another library"`. Some reasons are plain to see.
OPTION = re.compile(r'^( *```\w+) (no-run|with)="([^"]*)"', re.MULTILINE)
SAID = {"no-run": "not run by the tests: ", "with": "with "}
PLAIN = ("names files of yours",)
FENCES = {".py": "python", ".h": "c", ".cc": "cpp", ".txt": "cmake"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file or folder of the repository outside docs/ that a page links to."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    made = set[Path]()
    while waiting:
        page = waiting.pop()
        for path in linked(page.read_text(encoding="utf-8"), page):
            if path not in made and not path.is_relative_to(DOCS) and path.exists():
                made.add(path)
                files.append(File.generated(config, address(path), content=source_page(path)))
                waiting += [file for file in (path, path / "README.md") if file.suffix == ".md" and file.is_file()]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the pages that were made, and show why a block is not run."""
    origin = origin_of(page.file.src_uri)
    folder = origin if origin.is_dir() else origin.parent

    def moved(link: re.Match[str]) -> str:
        path = (folder / link[1]).resolve()
        if not path.is_relative_to(ROOT) or (path.is_relative_to(DOCS) and origin.is_relative_to(DOCS)):
            return link[0]
        target = posixpath.relpath(address(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"]({target}{link[2] or ''})"

    return OPTION.sub(titled, LINK.sub(moved, markdown))


def titled(fence: re.Match[str]) -> str:
    """The first line of a block with a title in the place of the option."""
    start, option, words = fence.groups()
    return start if words in PLAIN else f'{start} title="{SAID[option]}{words}"'


def linked(text: str, page: Path) -> list[Path]:
    """The files of the repository that a page links to."""
    found = ((page.parent / link[1]).resolve() for link in LINK.finditer(text))
    return [path for path in found if path.is_relative_to(ROOT)]


def address(path: Path) -> str:
    """Where a file of the repository stands on the site: `examples/a.py` at `source/examples/a.py.md`."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return f"source/{name}" if path.suffix == ".md" else f"source/{name}.md"


def origin_of(uri: str) -> Path:
    """The file of the repository that a page of the site shows."""
    if not uri.startswith("source/"):
        return DOCS / uri
    path = ROOT / uri.removeprefix("source/")
    return path if path.exists() else path.with_suffix("")


def source_page(path: Path) -> str:
    """A file as a page: Markdown as it is, code in a fence, a folder as its README and all the code in it."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    parts = [f"# {path.relative_to(ROOT)}"]
    if path.is_dir():
        if (path / "README.md").exists():
            parts = [(path / "README.md").read_text(encoding="utf-8")]
        files = sorted(file for file in path.rglob("*") if file.suffix in FENCES)
        parts += [f"## {file.relative_to(path)}\n\n{fenced(file)}" for file in files]
    else:
        parts.append(fenced(path))
    return "\n\n".join(parts) + "\n"


def fenced(path: Path) -> str:
    """The text of a file in a fence."""
    return f"````{FENCES.get(path.suffix, '')}\n{path.read_text(encoding='utf-8').rstrip()}\n````"
