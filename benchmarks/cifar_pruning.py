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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import graphprune
from cifar import accuracy, data_folder, load
from common import ROOT
from peer_pruning import macs
from pruning_runs import Records, Task, ours, peer, without_training

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
    """SGD with a one-cycle rate, flips and shifts, the original's outputs as soft targets, in bfloat16.

    The result is the running average of the weights.
    """
    generator = torch.Generator().manual_seed(0)
    images, labels = train
    slim = copy.deepcopy(slim).to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    average = AveragedModel(slim, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, epochs * -(-len(images) // 128), pct_start=0.15)
    for _ in range(epochs):
        slim.train()
        for batch in torch.randperm(len(images), generator=generator).split(128):
            x = shifted(images[batch], generator)
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    soft = teacher(x).float()
                outputs = slim(x).float()
            optimizer.zero_grad()
            graphprune.distillation(outputs, soft, labels[batch], temperature=4.0, alpha=0.9).backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(slim)
    return average.module.eval()


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image flipped or not, and shifted by up to four pixels either way."""
    wide = functional.pad(images, (4, 4, 4, 4))
    places = torch.randint(0, 9, (len(images), 2), generator=generator).tolist()
    x = torch.stack(
        [one[:, down : down + 32, right : right + 32] for one, (down, right) in zip(wide, places, strict=True)]
    )
    flip = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flip, x.flip(3), x).contiguous(memory_format=torch.channels_last)


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


if __name__ == "__main__":
    main()
