"""Accuracy of a trained CIFAR-10 ResNet-20 after half of its parameters are gone.

    GRAPHPRUNE_DATA=... python benchmarks/cifar.py [--epochs 3] [--images 20000] [--threads 2]

The data folder holds the trained network, the images and their loaders. Torch-Pruning removes as many parameters with
the same criterion, and is fine-tuned on the same images in the same order.
"""

import argparse
import copy
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.nn import functional

import graphprune
from common import console, machine, page, parameters, show

COLUMNS = ("", "parameters", "MACs", "accuracy, no training", "after fine-tuning")


def data_folder() -> Path:
    """The folder that GRAPHPRUNE_DATA names, also made importable."""
    folder = Path(os.environ.get("GRAPHPRUNE_DATA", ""))
    if not (folder / "resnet_cifar.py").is_file():
        sys.exit("GRAPHPRUNE_DATA must name the folder with resnet_cifar.py, graphdata.py and the CIFAR-10 archives")
    sys.path.insert(0, str(folder))
    return folder


def load(split: str, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (n, 3, 32, 32) and their labels."""
    import graphdata

    images, labels = graphdata.cifar10(split)
    return torch.from_numpy(graphdata.nchw(images[:limit])), torch.from_numpy(labels[:limit].astype(numpy.int64))


@torch.inference_mode()
def accuracy(model: Any, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that are recognised."""
    hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return int(sum(hits)) / len(labels)


def fine_tune(model: Any, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """SGD with a cosine rate; images flipped and shifted by up to four pixels. The seed fixes every choice."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(images) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(128):
            down, right, flip = torch.randint(0, 9, (3,), generator=generator).tolist()
            x = functional.pad(images[batch], (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
            loss = functional.cross_entropy(model(x.flip(3) if flip < 4 else x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def torch_pruning_half(model: Any, example: torch.Tensor, target: int) -> Any:
    """Prune a copy with Torch-Pruning: the smallest ratio of channels that leaves at most `target` parameters."""
    import torch_pruning

    low, high = 0.0, 1.0
    best = None
    for _ in range(12):
        ratio = (low + high) / 2
        slim = copy.deepcopy(model)
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        options = {"pruning_ratio": ratio, "global_pruning": True, "ignored_layers": [slim.linear]}
        torch_pruning.pruner.BasePruner(slim, example, importance=importance, **options).step()
        if parameters(slim) <= target:
            best, high = slim, ratio
        else:
            low = ratio
    return best


def main() -> None:
    """Measure dense, ours and Torch-Pruning's; print and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--images", type=int, default=20000)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    folder = data_folder()
    from resnet_cifar import resnet

    example, test = torch.randn(1, 3, 32, 32), load("test_a", 10000)
    dense = resnet(20, folder / "cifar10_models" / "resnet20_cifar10.pt")
    ours = graphprune.optimize(dense, sparsity=0.5, example_inputs=example)
    theirs = torch_pruning_half(dense, example, parameters(dense) // 2)
    train = load("train", given.images)
    rows = []
    for name, model in (("dense", dense), ("GraphPrune", ours), ("Torch-Pruning", theirs)):
        macs = graphprune.analyze(model, example_inputs=example).cost().macs
        figures = [accuracy(model, *test)]
        if model is not dense:
            start = time.perf_counter()
            fine_tune(model, *train, given.epochs)
            figures.append(accuracy(model, *test))
            console.print(f"{name}: fine-tuned in {time.perf_counter() - start:.0f} s")
        shares = [f"{100 * share:.2f} %" for share in figures]
        rows.append([name, f"{parameters(model):,}", f"{macs:,}", *shares, *["-"] * (2 - len(shares))])
    show("CIFAR-10 ResNet-20", COLUMNS, rows)
    text = TEXT.format(
        machine=machine(given.threads, "torch-pruning"), test=len(test[1]), epochs=given.epochs, images=len(train[1])
    )
    page("cifar", "Accuracy of CIFAR-10 ResNet-20 at half the parameters", text, (COLUMNS, rows))


TEXT = """
Printed by `python benchmarks/cifar.py`. {machine}.

A trained ResNet-20, tested on {test:,} images of the CIFAR-10 test set. Both tools remove whole channels by global L2
magnitude until at most half of the parameters are left; then {epochs} epochs of fine-tuning on {images:,} training
images (SGD, cosine rate from 0.02, flips and shifts), the same images in the same order for both.
"""


if __name__ == "__main__":
    main()
