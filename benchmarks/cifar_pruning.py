"""Accuracy of trained CIFAR-10 ResNets at fewer multiply-adds: without training, recovered, and fine-tuned.

    GRAPHPRUNE_DATA=... python benchmarks/cifar_pruning.py [--depths 20 32] [--only no-training | training | page]

Both tools prune to the same multiply-adds; Torch-Pruning with every one of its criteria, globally and layer by layer,
and fine-tuned from the best of these. Every measurement is kept in build/cifar_pruning.jsonl: what was measured is not
measured again, so that it can be interrupted. About two hours on two cores.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import graphprune
from cifar import accuracy, data_folder, load
from common import ROOT, machine, page, show
from graphprune.files import atomic_path
from graphprune.report import markdown
from peer_pruning import macs
from pruning_runs import COLUMNS, Records, Task, no_training_rows, ours, peer, without_training

SPEEDUPS = (1.25, 1.5, 2.0, 2.5, 3.0)
SHORT, LONG = 1, 15
CALIBRATION = 1024


def task_of(folder: Path, depth: int, train: Any, test: Any) -> Task:
    """The trained network of this depth, with images for calibration from the training set."""
    from resnet_cifar import resnet

    dense = resnet(depth, folder / "cifar10_models" / f"resnet{depth}_cifar10.pt")
    some = train[0][:CALIBRATION], train[1][:CALIBRATION]
    return Task(str(depth), dense, torch.zeros(1, 3, 32, 32), some, lambda m: accuracy(m, *test), lambda m: [m.linear])


def fine_tuned(slim: Any, dense: Any, train: Any, epochs: int) -> Any:
    """SGD with a one-cycle rate, flips and shifts, and the original's outputs as soft targets, in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    images, labels = train
    slim = copy.deepcopy(slim).to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, epochs * -(-len(images) // 128), pct_start=0.15)
    for _ in range(epochs):
        slim.train()
        for batch in torch.randperm(len(images), generator=generator).split(128):
            down, right = torch.randint(0, 9, (2,), generator=generator).tolist()
            x = functional.pad(images[batch], (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
            flip = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
            x = torch.where(flip, x.flip(3), x).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    soft = teacher(x).float()
                outputs = slim(x).float()
            optimizer.zero_grad()
            graphprune.distillation(outputs, soft, labels[batch], temperature=4.0, alpha=0.7).backward()
            optimizer.step()
            schedule.step()
    return slim.eval()


def with_training(task: Task, train: Any, records: Records) -> None:
    """Fine-tune ours and the peer's best by the same recipe; at 2x also for longer."""
    for speedup in sorted(SPEEDUPS, key=lambda speedup: abs(speedup - 2)):
        for epochs in (LONG, SHORT) if speedup == 2 else (SHORT,):
            for tool in ("ours", "peer"):
                key = f"{task.name} {speedup} {tool} tuned {epochs}"
                if key in records.known:
                    continue
                if tool == "ours":
                    slim = ours(task, speedup, "reconstruction", True)
                else:
                    slim = peer(task, speedup, records.best_peer(task.name, speedup)[0])
                start = time.perf_counter()
                tuned = fine_tuned(slim, task.dense, train, epochs)
                seconds = time.perf_counter() - start
                records.add(key, accuracy=task.accuracy(tuned), macs=macs(slim, task.example), seconds=seconds)


def main() -> None:
    """Measure what is missing, then write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--depths", type=int, nargs="+", default=[20, 32])
    options.add_argument("--only", choices=("no-training", "training", "page"))
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    folder, records = data_folder(), Records(ROOT / "build" / "cifar_pruning.jsonl")
    train, test = load("train", 50_000), load("test_a", 10_000)
    for depth in given.depths:
        task = task_of(folder, depth, train, test)
        if given.only in (None, "no-training"):
            without_training(task, SPEEDUPS, records)
        if given.only in (None, "training"):
            with_training(task, train, records)
    write(given.depths, records, given.threads, len(test[1]))


TEXT = """Printed by `python benchmarks/cifar_pruning.py`. {machine}.

Trained CIFAR-10 ResNet-20 and ResNet-32 (dense: {dense} % of {test:,} test images), pruned to so many times fewer
multiply-adds; accuracies in per cent. *recovered*: `recover=True`, on {calibration:,} training images without labels
or, *data-free*, on none. *points lost*: by the reconstruction criterion with recovery, against the dense network.
*peer*: Torch-Pruning at the same multiply-adds, the best of its twelve settings (magnitude, batch-norm scale, LAMP,
FPGM, Taylor, Hessian; globally or layer by layer), as it is and with batch-norm statistics estimated anew on the same
images."""

TUNED = """Fine-tuned: from the reconstruction criterion with recovery, and from the peer's best setting, with the same
recipe and the same images in the same order: {short} or {long} epochs over {images:,} training images, SGD with a
one-cycle rate up to 0.05, flips and shifts, the outputs of the dense network as soft targets (temperature 4, weight
0.7), bfloat16."""


def write(depths: list[int], records: Records, threads: int, test: int) -> None:
    """The page and the picture, of what was measured."""
    rows = [row for depth in depths for row in no_training_rows(str(depth), SPEEDUPS, records)]
    tuned = []
    for depth in depths:
        for speedup, epochs in [(speedup, SHORT) for speedup in SPEEDUPS] + [(2.0, LONG)]:
            keys = [f"{depth} {speedup} {tool} tuned {epochs}" for tool in ("ours", "peer")]
            if any(key in records.known for key in keys):
                tuned.append([f"{depth}, {speedup}x, {epochs} epochs", *map(records.percent, keys)])
    dense = ", ".join(records.percent(f"{depth} dense") for depth in depths)
    text = TEXT.format(machine=machine(threads, "torch-pruning"), dense=dense, test=test, calibration=CALIBRATION)
    facts = {"short": SHORT, "long": LONG, "images": 49_441}
    sections = [TUNED.format(**facts)]
    sections.append(markdown(("", "GraphPrune", "Torch-Pruning"), tuned))
    sections.append("![accuracy over the reduction of multiply-adds](cifar_pruning.svg)")
    show("without training", COLUMNS, rows)
    page("cifar_pruning", "CIFAR-10 networks at fewer multiply-adds", text, (COLUMNS, rows), more=sections)
    draw(depths, records)


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
