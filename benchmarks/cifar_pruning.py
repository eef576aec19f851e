"""Accuracy of trained CIFAR-10 ResNets at fewer multiply-adds: without training, recovered, and fine-tuned.

    GRAPHPRUNE_DATA=... python benchmarks/cifar_pruning.py [--depths 20 32] [--only no-training | training | page]

Both tools prune to the same multiply-adds; Torch-Pruning with every one of its criteria, globally and layer by layer,
and fine-tuned from the best of these. Every measurement is kept in build/cifar_pruning.jsonl: what was measured is not
measured again, so that it can be interrupted. About two hours on two cores.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import graphprune
from cifar import accuracy, data_folder, load
from common import ROOT, console, machine, page
from peer_pruning import CRITERIA, macs, pruned, reestimated

SPEEDUPS = (1.25, 1.5, 2.0, 2.5, 3.0)
SHORT, LONG = 2, 15
RECORDS = ROOT / "build" / "cifar_pruning.jsonl"
CALIBRATION = 1024
EXAMPLE = torch.zeros(1, 3, 32, 32)


def remembered() -> dict[str, Any]:
    """What was measured, by what it is."""
    lines = RECORDS.read_text().splitlines() if RECORDS.exists() else []
    return {entry["key"]: entry for entry in map(json.loads, lines)}


def remember(key: str, **facts: Any) -> None:
    """Keep one measurement."""
    RECORDS.parent.mkdir(exist_ok=True)
    with RECORDS.open("a") as file:
        file.write(json.dumps({"key": key, **facts}) + "\n")
    console.print(key, facts)


def dense_model(folder: Path, depth: int) -> torch.nn.Module:
    """The trained network."""
    from resnet_cifar import resnet

    return resnet(depth, folder / "cifar10_models" / f"resnet{depth}_cifar10.pt")


def ours(dense: Any, speedup: float, images: torch.Tensor, criterion: str, recover: bool | str, free: bool = False) -> Any:
    """Pruned by GraphPrune to 1 / `speedup` of the multiply-adds; calibrated on unlabelled training images."""
    batches = None if free else list(images.split(128))
    options = {"criterion": criterion} | ({"data": batches} if batches else {})
    return graphprune.optimize(
        dense, 1 - 1 / speedup, budget="macs", example_inputs=EXAMPLE, recover=recover, verify=False, **options
    )


def without_training(folder: Path, depth: int, train: Any, test: Any) -> None:
    """Every tool and setting before any training."""
    known, dense = remembered(), dense_model(folder, depth)
    images, labels = train[0][:CALIBRATION], train[1][:CALIBRATION]
    total = macs(dense, EXAMPLE)
    if f"{depth} dense" not in known:
        remember(f"{depth} dense", accuracy=accuracy(dense, *test), macs=total)
    for speedup in SPEEDUPS:
        for name, options in OURS.items():
            key = f"{depth} {speedup} {name}"
            if key not in known:
                start = time.perf_counter()
                slim = ours(dense, speedup, images, **options)
                seconds = time.perf_counter() - start
                remember(key, accuracy=accuracy(slim, *test), macs=macs(slim, EXAMPLE), seconds=seconds)
        for criterion in CRITERIA:
            for everywhere in (True, False):
                key = f"{depth} {speedup} peer {criterion} {'global' if everywhere else 'layer'}"
                if key in known:
                    continue
                batches = list(zip(images[:256].split(128), labels[:256].split(128), strict=True))
                keep = lambda model: [model.linear]  # noqa: E731
                slim = pruned(dense, EXAMPLE, total / speedup, criterion, everywhere, keep, batches)
                if slim is None:
                    remember(key, accuracy=0.0, reestimated=0.0, macs=0)
                    continue
                fresh = reestimated(slim, list(images.split(128)))
                remember(key, accuracy=accuracy(slim, *test), reestimated=accuracy(fresh, *test), macs=macs(slim, EXAMPLE))


OURS: dict[str, dict[str, Any]] = {
    "l2": {"criterion": "l2", "recover": False},
    "l2 recovered": {"criterion": "l2", "recover": True},
    "l2 recovered data-free": {"criterion": "l2", "recover": True, "free": True},
    "reconstruction": {"criterion": "reconstruction", "recover": False},
    "reconstruction recovered": {"criterion": "reconstruction", "recover": True},
}


def best_peer(depth: int, speedup: float) -> tuple[str, float, float]:
    """Torch-Pruning's best setting: its name, accuracy as it is, accuracy with statistics estimated anew."""
    start = f"{depth} {speedup} peer "
    entries = {key[len(start) :]: entry for key, entry in remembered().items() if key.startswith(start)}
    name = max(entries, key=lambda key: max(entries[key]["accuracy"], entries[key]["reestimated"]))
    return name, max(e["accuracy"] for e in entries.values()), max(e["reestimated"] for e in entries.values())


def fine_tuned(slim: Any, dense: Any, train: Any, epochs: int) -> Any:
    """SGD with a one-cycle rate, flips and shifts, and the original's outputs as soft targets, in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    images, labels = train
    slim = copy.deepcopy(slim).to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, steps, pct_start=0.15)
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


def with_training(folder: Path, depth: int, train: Any, test: Any) -> None:
    """Fine-tune ours and the peer's best, the same recipe for both; 2x longer than the others."""
    dense = dense_model(folder, depth)
    total, images = macs(dense, EXAMPLE), train[0][:CALIBRATION]
    for speedup in sorted(SPEEDUPS, key=lambda speedup: abs(speedup - 2)):
        for tool in ("ours", "peer"):
            for epochs in (LONG, SHORT) if speedup == 2 else (SHORT,):
                key = f"{depth} {speedup} {tool} tuned {epochs}"
                if key in remembered():
                    continue
                if tool == "ours":
                    slim = ours(dense, speedup, images, "reconstruction", True)
                else:
                    criterion, scope = best_peer(depth, speedup)[0].split()
                    batches = list(zip(images[:256].split(128), train[1][:256].split(128), strict=True))
                    slim = pruned(
                        dense, EXAMPLE, total / speedup, criterion, scope == "global", lambda m: [m.linear], batches
                    )
                start = time.perf_counter()
                tuned = fine_tuned(slim, dense, train, epochs)
                seconds = time.perf_counter() - start
                remember(key, accuracy=accuracy(tuned, *test), macs=macs(slim, EXAMPLE), seconds=seconds)


def main() -> None:
    """Measure what is missing, then write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--depths", type=int, nargs="+", default=[20, 32])
    options.add_argument("--only", choices=("no-training", "training", "page"))
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    folder = data_folder()
    train, test = load("train", 50_000), load("test_a", 10_000)
    for depth in given.depths:
        if given.only in (None, "no-training"):
            without_training(folder, depth, train, test)
        if given.only in (None, "training"):
            with_training(folder, depth, train, test)


if __name__ == "__main__":
    main()
