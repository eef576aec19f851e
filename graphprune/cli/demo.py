"""`graphprune demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..progress import tell
from .options import AsJson
from .output import print_json, stages

EXAMPLES = ("graphprune demo", "graphprune demo --out here --threads 2")


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where models and picture go.")] = Path("graphprune-demo"),
    seed: Annotated[int, typer.Option(help="Seed of initialisation and training.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads to train and measure with.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Train, prune, verify, fine-tune, compile and measure a small network on handwritten digits; a minute."""
    with stages():
        tell("start")
        from ..demo import run

    figures = run(out, seed, threads, Console(stderr=as_json))
    if as_json:
        print_json(figures)
