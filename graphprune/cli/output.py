"""What commands write: JSON for programs, files, and how far work has come."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from ..files import atomic_path
from ..progress import Progress, lines, listening


@contextmanager
def stages() -> Iterator[Progress]:
    """Within this block, a terminal shows what is being done and how far it is (on stderr; elsewhere nothing)."""
    with lines() as report, listening(report):
        yield report


def show(*things: Any) -> None:
    """Print texts and tables for people."""
    console = Console()
    for thing in things:
        if isinstance(thing, str):
            print(thing)
        else:
            console.print(thing)


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def print_json(figures: dict[str, Any]) -> None:
    """Print figures for programs."""
    print(json.dumps(figures, indent=2))


def check_out(path: Path, *endings: str) -> None:
    """Exit with usage where a result could not be written to `path`: before the work, not after it."""
    if endings and path.suffix not in endings:
        known = " or ".join(filter(None, [", ".join(endings[:-1]), endings[-1]]))
        raise typer.BadParameter(f"{str(path)!r} must end in {known}", param_hint="--out")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{folder} is no folder that you may write to", param_hint="--out")
