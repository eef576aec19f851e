"""Fine-tuning of the pruned CIFAR-10 networks that cifar_pruning.py leaves in build/cifar_slim; here or beside a GPU.

    GRAPHPRUNE_DATA=... python benchmarks/cifar_tuning.py [--device cuda] [--only 20] [--epochs 40]

Both tools' networks are trained by one recipe on the same images in the same order; on a GPU side by side. What was
measured is kept in build/cifar_tuning.jsonl and not measured again; `cifar_pruning.py --only page` writes it down.
Forty epochs of ResNet-20 at half of the multiply-adds take about an hour of one core.
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
SPEEDUPS = (1.25, 1.5, 2.0, 2.5, 3.0)
SHORT, LONG = 3, 40
TOOLS = ("ours", "peer")
DEPTHS = (20, 32)


def key_of(depth: int, speedup: float, tool: str, epochs: int, device: str) -> str:
    """The name of a measurement."""
    return f"{depth} {speedup} {tool} {epochs} epochs on {device}"


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
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    data_folder()
    train, test = load("train", 50_000), load("test_a", 10_000)
    records = Records(given.records)
    for epochs in given.epochs:
        for depth in given.only:
            wanted = [
                (key_of(depth, speedup, tool, epochs, given.device), given.slim / f"{depth}-{speedup}-{tool}.pt")
                for speedup, tool in cells(depth, epochs)
                if tool in given.tools
            ]
            missing = [(key, path) for key, path in wanted if path.exists() and key not in records.known]
            # Processors train one after the other; a GPU has room for all.
            for group in [missing] if given.device == "cuda" else [[cell] for cell in missing]:
                if group:
                    _train(group, given.slim / f"dense{depth}.pt", train, test, epochs, given, records)


def _train(
    group: list[tuple[str, Path]], teacher: Path, train: Any, test: Any, epochs: int, given: Any, records: Records
) -> None:
    """Train some networks side by side, and keep their accuracies."""
    slims = [torch.load(path, weights_only=False) for _, path in group]
    dense = torch.load(teacher, weights_only=False)
    start = time.perf_counter()
    recipe = RECIPE._replace(epochs=epochs)
    tuned = fine_tuned(slims, dense, train, [recipe] * len(slims), given.device)
    seconds = (time.perf_counter() - start) / len(slims)
    where = torch.cuda.get_device_name() if given.device == "cuda" else machine(given.threads)
    for (key, _), model in zip(group, tuned, strict=True):
        model = model.to(given.device)
        found = accuracy(model, *(part.to(given.device) for part in test))
        records.add(key, accuracy=found, seconds=seconds, machine=where)


if __name__ == "__main__":
    main()
