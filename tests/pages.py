"""What the documentation holds, for tests: its pages, their blocks of code, headings and links."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


class Fence(NamedTuple):
    """A block of code: its language, its options (`no-run="reason"`, `title="file.py"`), its text and first line."""

    language: str
    options: dict[str, str]
    text: str
    line: int


class Link(NamedTuple):
    """A link or picture: where it leads, with the anchor after `#`, and the line that its block begins on."""

    target: str
    anchor: str
    line: int


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def tokens(text: str) -> list[Token]:
    return MarkdownIt().enable("table").parse(text)


def fences(text: str) -> list[Fence]:
    found = []
    for token in tokens(text):
        if token.type == "fence":
            language, *options = shlex.split(token.info) or [""]
            pairs = dict(option.partition("=")[::2] for option in options)
            found.append(Fence(language, pairs, token.content, token.map[0] + 2))
    return found


def commands(fence: Fence) -> list[list[str]]:
    """The command lines of a block of sh, or of what a terminal shows (console), as words."""
    lines = fence.text.replace("\\\n", " ").splitlines()
    if fence.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def links(text: str) -> list[Link]:
    found = []
    for block in tokens(text):
        for token in block.children or ():
            target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
            if token.type in ("link_open", "image") and target:
                path, _, anchor = str(target).partition("#")
                found.append(Link(path, anchor, block.map[0] + 1))
    return found


def anchors(text: str) -> set[str]:
    """Where links into a page may lead: its headings, in the spelling of GitHub and of the site."""
    found, stream = set(), tokens(text)
    for heading, inline in zip(stream, stream[1:], strict=False):
        if heading.type == "heading_open":
            words = "".join(part.content for part in inline.children or ())
            found.add(re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-"))
    return found
