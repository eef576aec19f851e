"""Fine-tuning of the pruned CIFAR-10 networks that cifar_pruning.py leaves in build/cifar_slim; here or beside a GPU.

    GRAPHPRUNE_DATA=... python benchmarks/cifar_tuning.py [--device cuda] [--only 20] [--epochs 40] [--search]

Both tools' networks are trained by one recipe on the same images in the same order; on a GPU side by side. What was
measured is kept in build/cifar_tuning.jsonl and not measured again; `cifar_pruning.py --only page` writes it down.
Forty epochs of ResNet-20 at half of the multiply-adds take about an hour of one core. `--search` trains GraphPrune's
networks at half of the multiply-adds by every recipe of GRID instead: hours, or minutes on a GPU.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from cifar import accuracy, data_folder, load
from common import ROOT, machine
from pruning_runs import Records
from tuning import Recipe, fine_tuned

RECIPE = Recipe(rate=0.05, alpha=0.7)
GRID = (
    *(Recipe(rate=rate, alpha=alpha) for rate in (0.05, 0.1, 0.2) for alpha in (0.5, 0.7, 0.9)),
    Recipe(rate=0.1, alpha=0.7, decay=2e-4),
    Recipe(rate=0.1, alpha=0.9, decay=1e-3),
)
"""Recipes that were tried, for 15 epochs each."""

SPEEDUPS = (1.25, 1.5, 2.0, 2.5, 3.0)
SHORT, SEARCHED, LONG = 1, 15, 40
TOOLS = ("ours", "peer")
DEPTHS = (20, 32)


def key_of(depth: int, speedup: float, tool: str, epochs: int, device: str) -> str:
    """The name of a measurement."""
    return f"{depth} {speedup} {tool} {epochs} epochs on {device}"


def search_key(depth: int, recipe: Recipe, device: str) -> str:
    """The name of a measurement of `--search`."""
    told = f"rate {recipe.rate:g} alpha {recipe.alpha:g} decay {recipe.decay:g}"
    return f"{depth} 2.0 ours {recipe.epochs} epochs {told} on {device}"


def cells(depth: int, epochs: int) -> list[tuple[float, str]]:
    """What is trained for so long: everything for a short time, half of the multiply-adds for a long one."""
    return [(speedup, tool) for speedup in (SPEEDUPS if epochs == SHORT else (2.0,)) for tool in TOOLS]


def main() -> None:
    """Train what was not trained yet, group by group."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--slim", type=Path, default=ROOT / "build" / "cifar_slim")
    options.add_argument("--records", type=Path, default=ROOT / "build" / "cifar_tuning.jsonl")
    options.add_argument("--only", type=int, nargs="+", default=DEPTHS, metavar="DEPTH")
    options.add_argument("--epochs", type=int, nargs="+", default=[LONG, SHORT])
    options.add_argument("--tools", nargs="+", default=TOOLS, choices=TOOLS)
    options.add_argument("--search", action="store_true")
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    data_folder()
    train, test = load("train", 50_000), load("test_a", 10_000)
    records = Records(given.records)
    if given.search:
        for depth in given.only:
            recipes = [recipe._replace(epochs=SEARCHED) for recipe in GRID]
            told = [(search_key(depth, recipe, given.device), recipe) for recipe in recipes]
            path = given.slim / f"{depth}-2.0-ours.pt"
            missing = [(key, path, recipe) for key, recipe in told if key not in records.known]
            _train_all(missing, given.slim / f"dense{depth}.pt", train, test, given, records)
        return
    for epochs in given.epochs:
        for depth in given.only:
            wanted = [
                (key_of(depth, speedup, tool, epochs, given.device), given.slim / f"{depth}-{speedup}-{tool}.pt")
                for speedup, tool in cells(depth, epochs)
                if tool in given.tools
            ]
            recipe = RECIPE._replace(epochs=epochs)
            missing = [(key, path, recipe) for key, path in wanted if path.exists() and key not in records.known]
            _train_all(missing, given.slim / f"dense{depth}.pt", train, test, given, records)


Cell = tuple[str, Path, Recipe]


def _train_all(missing: list[Cell], teacher: Path, train: Any, test: Any, given: Any, records: Records) -> None:
    """Train networks side by side where a GPU has room for all, one after the other on a processor; keep accuracies."""
    dense = torch.load(teacher, weights_only=False)
    where = torch.cuda.get_device_name() if given.device == "cuda" else machine(given.threads)
    for group in [missing] if given.device == "cuda" else [[cell] for cell in missing]:
        if not group:
            continue
        slims = [torch.load(path, weights_only=False) for _, path, _ in group]
        start = time.perf_counter()
        tuned = fine_tuned(slims, dense, train, [recipe for _, _, recipe in group], given.device)
        seconds = (time.perf_counter() - start) / len(group)
        for (key, _, _), model in zip(group, tuned, strict=True):
            found = accuracy(model.to(given.device), *(part.to(given.device) for part in test))
            records.add(key, accuracy=found, seconds=seconds, machine=where)


if __name__ == "__main__":
    main()
