"""Accuracy of trained CIFAR-10 ResNets at fewer multiply-adds: without training, and recovered.

    GRAPHPRUNE_DATA=... python benchmarks/cifar_pruning.py [--depths 20 32] [--only no-training | page]

Both tools prune to the same multiply-adds; Torch-Pruning with every one of its criteria, globally and layer by layer.
Every measurement is kept in build/cifar_pruning.jsonl: what was measured is not measured again, so that it can be
interrupted. The networks to fine-tune are left in build/cifar_slim, for cifar_tuning.py. About two hours on two cores.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cifar import accuracy, data_folder, load
from cifar_tuning import GRID, LONG, RECIPE, SEARCHED, SHORT, SPEEDUPS, TOOLS, key_of, search_key
from common import ROOT, machine, page, show
from graphprune.files import atomic_path
from graphprune.report import markdown
from pruning_runs import COLUMNS, Records, Task, no_training_rows, ours, peer, without_training

SLIM = ROOT / "build" / "cifar_slim"
CALIBRATION = 1024


def task_of(folder: Path, depth: int, train: Any, test: Any) -> Task:
    """The trained network of this depth, with images for calibration from the training set."""
    from resnet_cifar import resnet

    dense = resnet(depth, folder / "cifar10_models" / f"resnet{depth}_cifar10.pt")
    some = train[0][:CALIBRATION], train[1][:CALIBRATION]
    return Task(str(depth), dense, torch.zeros(1, 3, 32, 32), some, lambda m: accuracy(m, *test), lambda m: [m.linear])


def leave(task: Task, speedups: Sequence[float], records: Records) -> None:
    """Keep the networks that are to be fine-tuned: ours, recovered, and the peer's best."""
    SLIM.mkdir(exist_ok=True)
    torch.save(task.dense, SLIM / f"dense{task.name}.pt")
    for speedup in speedups:
        for tool in TOOLS:
            path = SLIM / f"{task.name}-{speedup}-{tool}.pt"
            if path.exists():
                continue
            if tool == "ours":
                slim = ours(task, speedup, "reconstruction", True)
            else:
                slim = peer(task, speedup, records.best_peer(task.name, speedup)[0])
            torch.save(slim, path)


def main() -> None:
    """Measure what is missing, then write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--depths", type=int, nargs="+", default=[20, 32])
    options.add_argument("--speedups", type=float, nargs="+", default=SPEEDUPS, help="what to measure now")
    options.add_argument("--only", choices=("no-training", "page"))
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    folder, records = data_folder(), Records(ROOT / "build" / "cifar_pruning.jsonl")
    train, test = load("train", 50_000), load("test_a", 10_000)
    for depth in given.depths:
        task = task_of(folder, depth, train, test)
        if given.only in (None, "no-training"):
            without_training(task, given.speedups, records)
            leave(task, given.speedups, records)
    write(given.depths, records, given.threads, len(test[1]))


TEXT = """Printed by `python benchmarks/cifar_pruning.py`. {machine}.

Trained CIFAR-10 ResNet-20 and ResNet-32 (dense: {dense} % of {test:,} test images), pruned to so many times fewer
multiply-adds; accuracies in per cent. *recovered*: `recover=True`, on {calibration:,} training images without labels
or, *data-free*, on none. *points lost*: by the reconstruction criterion with recovery, against the dense network.
*peer*: Torch-Pruning at the same multiply-adds, the best of its twelve settings (magnitude, batch-norm scale, LAMP,
FPGM, Taylor, Hessian; globally or layer by layer), as it is and with batch-norm statistics estimated anew on the same
images."""

TUNED = """Fine-tuned by `python benchmarks/cifar_tuning.py`: from the reconstruction criterion with recovery, and from
the peer's best setting, by the same recipe on the same {images:,} training images in the same order: {recipe}.
{machines}
A single epoch at such a rate can also undo what recovery won: compare with the column *reconstruction recovered*."""

SEARCH = """The recipe was looked for with GraphPrune's networks at 2x, and by the test images: what it reaches may be a
little more than it would be on others. After {epochs} epochs on the GPU:"""


def write(depths: list[int], records: Records, threads: int, test: int) -> None:
    """The page and the picture, of what was measured."""
    rows = [row for depth in depths for row in no_training_rows(str(depth), SPEEDUPS, records)]
    dense = ", ".join(records.percent(f"{depth} dense") for depth in depths)
    text = TEXT.format(machine=machine(threads, "torch-pruning"), dense=dense, test=test, calibration=CALIBRATION)
    tuned = Records(ROOT / "build" / "cifar_tuning.jsonl")
    machines = " ".join(
        f"*{device}*: {name}."
        for device, name in sorted({e["key"].split()[-1]: e["machine"] for e in tuned.known.values()}.items())
    )
    sections = [TUNED.format(images=49_441, recipe=RECIPE, machines=machines)]
    sections.append(
        markdown(("", "dense", "GraphPrune", "Torch-Pruning", "minutes, each"), tuned_rows(depths, tuned, records))
    )
    sections.append(SEARCH.format(epochs=SEARCHED))
    tried = [f"ResNet-{depth}, {records.percent(f'{depth} dense')} dense" for depth in depths]
    sections.append(markdown(("rate, weight of the teacher, weight decay", *tried), search_rows(depths, tuned)))
    sections.append("![accuracy over the reduction of multiply-adds](cifar_pruning.svg)")
    show("without training", COLUMNS, rows)
    page("cifar_pruning", "CIFAR-10 networks at fewer multiply-adds", text, (COLUMNS, rows), more=sections)
    draw(depths, records)


def search_rows(depths: list[int], tuned: Records) -> list[list[str]]:
    """One row for every recipe that was tried."""
    recipes = [recipe._replace(epochs=SEARCHED) for recipe in GRID]
    return [
        [
            f"{recipe.rate:g}, {recipe.alpha:g}, {recipe.decay:g}",
            *(tuned.percent(search_key(depth, recipe, "cuda")) for depth in depths),
        ]
        for recipe in recipes
    ]


def tuned_rows(depths: list[int], tuned: Records, records: Records) -> list[list[str]]:
    """One row for every network, number of epochs and device."""
    rows = []
    for depth in depths:
        for device in ("cpu", "cuda"):
            for speedup, epochs in [(speedup, SHORT) for speedup in SPEEDUPS] + [(2.0, LONG)]:
                keys = [key_of(depth, speedup, tool, epochs, device) for tool in TOOLS]
                found = [tuned.known[key] for key in keys if key in tuned.known]
                if found:
                    name = f"{depth}, {speedup}x, {epochs} epoch{'s' * (epochs > 1)}, {device}"
                    # Single epochs were trained beside other work: how long they took tells nothing.
                    minutes = f"{found[0]['seconds'] / 60:.1f}" if epochs == LONG else "-"
                    rows.append([name, records.percent(f"{depth} dense"), *map(tuned.percent, keys), minutes])
    return rows


def draw(depths: list[int], records: Records) -> None:
    """Accuracy over the reduction of multiply-adds, one panel per network."""
    from matplotlib.figure import Figure

    figure, known = Figure(figsize=(9, 3.6), layout="constrained"), records.known
    for axes, depth in zip(figure.subplots(1, len(depths), squeeze=False)[0], depths, strict=True):
        lines = {
            "GraphPrune, recovered": [known.get(f"{depth} {s} reconstruction recovered") for s in SPEEDUPS],
            "GraphPrune, l2 alone": [known.get(f"{depth} {s} l2") for s in SPEEDUPS],
        }
        lines = {name: [entry and entry["accuracy"] for entry in own] for name, own in lines.items()}
        peers = [records.best_peer(str(depth), speedup) for speedup in SPEEDUPS]
        lines["Torch-Pruning, statistics anew"] = [anew for _, _, anew in peers]
        lines["Torch-Pruning"] = [plain for _, plain, _ in peers]
        for (name, own), colour in zip(lines.items(), ("#2f6fb2", "#9cc0e4", "#d2691e", "#e7b98f"), strict=True):
            points = [(speedup, 100 * value) for speedup, value in zip(SPEEDUPS, own, strict=True) if value]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
        if f"{depth} dense" in known:
            axes.axhline(100 * known[f"{depth} dense"]["accuracy"], color="#999999", linewidth=1, label="dense")
        axes.set(title=f"ResNet-{depth}, no training", xlabel="times fewer multiply-adds", ylabel="accuracy in %")
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
    figure.get_axes()[0].legend(frameon=False, fontsize=8)
    with atomic_path(ROOT / "docs" / "benchmarks" / "cifar_pruning.svg") as temporary:
        figure.savefig(temporary, format="svg")


if __name__ == "__main__":
    main()
