"""Accuracy of trained ImageNet networks at fewer multiply-adds, without training: SqueezeNet and MobileNetV1.

    GRAPHPRUNE_DATA=... python benchmarks/imagenet_pruning.py [--models squeezenet1_1] [--speedups 2] [--only page]

Both tools prune to the same multiply-adds. Of 750 images every third one calibrates, the others test. What was measured
is kept in build/imagenet_pruning.jsonl and not measured again. About an hour on two cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar import accuracy, data_folder
from common import ROOT, machine, page, show
from pruning_runs import COLUMNS, Records, Task, no_training_rows, without_training

SPEEDUPS = (1.25, 1.5, 2.0)

TEXT = """Printed by `python benchmarks/imagenet_pruning.py`. {machine}.

Trained SqueezeNet 1.1 (224x224, no batch norm) and MobileNetV1 0.75 (192x192, batch norm folded), pruned to fewer
multiply-adds without any training; top-1 accuracy on {test} images in per cent, calibrated on {calibration} other ones
without labels. The images appear to be from ImageNet's training set: they tell what pruning loses, not how good the
networks are. Dense: {dense}. *peer*: Torch-Pruning, the best of its criteria (magnitude, LAMP, FPGM, Taylor, Hessian;
globally or layer by layer), at the same multiply-adds."""


def squeezenet(folder: Path) -> tuple[Any, int, Any]:
    """The model, the size of its images, and how pixels become inputs."""
    from helpers import import_torchvision

    model = import_torchvision().models.squeezenet1_1().eval()
    state = torch.load(folder / "squeezenet1_1_imagenet_fp16.pt", weights_only=True)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model, 224, ()


def mobilenet(folder: Path) -> tuple[Any, int, Any]:
    """The model, the size of its images, and how pixels become inputs."""
    import mobilenet_tf

    return (
        mobilenet_tf.load(str(folder / "mobilenetv1_075_imagenet.pt")).eval(),
        192,
        (np.float32(0.5), np.float32(0.5)),
    )


MODELS = {"squeezenet1_1": squeezenet, "mobilenet_v1_075": mobilenet}


def last_layer(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layer whose outputs are the classes."""
    wide = (torch.nn.Conv2d, torch.nn.Linear)
    return [part for part in model.modules() if isinstance(part, wide)][-1:]


def main() -> None:
    """Measure what is missing, then write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="what to measure now")
    options.add_argument("--speedups", type=float, nargs="+", default=SPEEDUPS, help="what to measure now")
    options.add_argument("--only", choices=("page",))
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    folder, records = data_folder(), Records(ROOT / "build" / "imagenet_pruning.jsonl")
    sys.path.insert(0, str(ROOT / "tests"))
    from graphdata import images, nchw

    rows, dense, counts = [], [], (0, 0)
    for name, build in MODELS.items():
        model, size, scaling = build(folder)
        pixels, classes = images(str(folder / "imagenet_750.npz"), size)
        x, y = torch.from_numpy(nchw(pixels, *scaling)), torch.from_numpy(np.asarray(classes)).long()
        third = torch.arange(len(x)) % 3 == 0
        counts = int((~third).sum()), int(third.sum())
        test = x[~third], y[~third]
        task = Task(
            name,
            model,
            torch.zeros(1, 3, size, size),
            (x[third], y[third]),
            lambda m, test=test: accuracy(m, *test),
            last_layer,
        )
        if given.only is None and name in given.models:
            without_training(task, given.speedups, records)
        if f"{name} dense" not in records.known:
            continue
        rows += no_training_rows(name, SPEEDUPS, records)
        dense.append(f"{name} {100 * records.known[f'{name} dense']['accuracy']:.2f}")
    show("ImageNet sample", COLUMNS, rows)
    text = TEXT.format(
        machine=machine(given.threads, "torch-pruning"), test=counts[0], calibration=counts[1], dense=", ".join(dense)
    )
    page("imagenet_pruning", "ImageNet networks at fewer multiply-adds, without training", text, (COLUMNS, rows))


if __name__ == "__main__":
    main()
