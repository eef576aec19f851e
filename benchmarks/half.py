"""Weights in half precision: time and size beside float32, on one thread.

python benchmarks/half.py [--seconds 2] [--only "resnet18" ...]
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import graphprune
from common import console, machine, page, show, torchvision_model
from graphprune.backends.targets import get_target
from int8 import alternate

COLUMNS = ("model", "fp32, ms", "fp16, ms", "bf16, ms", "fp32, MB", "fp16, MB", "error of fp16", "error of bf16")
TEXT = """
Models of random weights. Errors are relative to the largest number of the output, against the artifact with float32
weights. Programs take turns; milliseconds of processor time of the calling thread, medians. Printed by
`benchmarks/half.py` on

{machine}; target {target}.
"""


def models() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Modules and the shapes of their inputs, by name."""
    return {
        "two linear, 1 row, 1024 and 4096": (lambda: linear(1024, 4096), (1, 1024)),
        "two linear, 1 row, 2048 and 8192": (lambda: linear(2048, 8192), (1, 2048)),
        "two linear, 128 rows, 768 and 3072": (lambda: linear(768, 3072), (128, 768)),
        "alexnet": (lambda: torchvision_model("alexnet"), (1, 3, 224, 224)),
        "resnet18": (lambda: torchvision_model("resnet18"), (1, 3, 224, 224)),
        "mobilenet_v2": (lambda: torchvision_model("mobilenet_v2"), (1, 3, 224, 224)),
    }


def linear(inner: int, outer: int) -> nn.Module:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(inner, outer), nn.ReLU(), nn.Linear(outer, inner)).eval()


def measure(build: Callable[[], nn.Module], shape: tuple[int, ...], seconds: float) -> list[str]:
    """The cells of a row after its name."""
    torch.manual_seed(0)
    model, x = build(), torch.randn(shape)
    names = ("fp32", "fp16", "bf16")
    artifacts = {n: graphprune.compile(model, example_inputs=x, threads=1, precision=n) for n in names}

    def caller(name: str) -> Callable[[], Any]:
        return lambda: artifacts[name](x)

    times = alternate([caller(name) for name in names], seconds)
    wanted = artifacts["fp32"](x)
    errors = [float((artifacts[n](x) - wanted).abs().max() / wanted.abs().max()) for n in names[1:]]
    sizes = [artifacts[n].size / 1e6 for n in names[:2]]
    return [*(f"{t:.3f}" for t in times), *(f"{size:.1f}" for size in sizes), *(f"{error:.1e}" for error in errors)]


def main() -> None:
    """Print the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    rows = []
    for name, (build, shape) in models().items():
        if options.only and name not in options.only:
            continue
        rows.append([name, *measure(build, shape, options.seconds)])
        console.print(*rows[-1])
    show("half precision", COLUMNS, rows)
    if not options.only:
        text = TEXT.format(machine=machine(1, "apache-tvm"), target=get_target("x86").name)
        page("half", "Weights in half precision", text, (COLUMNS, rows))


if __name__ == "__main__":
    main()
