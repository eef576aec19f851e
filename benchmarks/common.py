"""What the benchmarks share: torchvision models, the machine in words, the page with a table."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from graphprune import report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
console = Console(width=160)


def torchvision_model(name: str, seed: int = 0) -> torch.nn.Module:
    """Build a torchvision classifier with seeded random weights, ready for inference."""
    from helpers import import_torchvision

    models = import_torchvision().models
    torch.manual_seed(seed)
    return models.get_model(name, weights=None, **({"init_weights": True} if name == "googlenet" else {})).eval()


def machine(threads: int | None, *packages: str) -> str:
    """One line: processor, threads unless there are several numbers of them, versions, date."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", *packages))
    python = f"Python {platform.python_version()}"
    counted = "" if threads is None else f", {threads} thread{'s' * (threads > 1)}"
    return f"{_processor()}{counted}; {python}, {versions}; {date.today()}"


def _processor() -> str:
    cores = os.cpu_count()
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({cores} cores)"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table."""
    console.print(report.table(title, columns, rows))


def page(
    name: str,
    title: str,
    text: str,
    *tables: tuple[Sequence[str], Sequence[Sequence[str]]],
    more: Sequence[str] = (),
    folder: str = "benchmarks",
) -> None:
    """Write `docs/FOLDER/NAME.md`: a text, tables, and more sections in Markdown."""
    path = ROOT / "docs" / folder / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}", text.strip(), *(report.markdown(*table).strip() for table in tables), *more]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    console.print(f"written to {path.relative_to(ROOT)}")


def parameters(model: Any) -> int:
    """The number of parameters of a module."""
    return sum(parameter.numel() for parameter in model.parameters())
