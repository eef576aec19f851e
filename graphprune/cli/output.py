"""What commands write: JSON for programs, files, and how far work has come."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ..files import atomic_path


def spinner(text: str) -> Any:
    """A spinner on the terminal while something takes its time."""
    return Console(stderr=True).status(text + " ...")


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
