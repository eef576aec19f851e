"""Quantised models: integers against float32, and against ONNX Runtime on the same quantised model, on one thread.

python benchmarks/int8.py [--seconds 2] [--only "resnet18" ...]
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

import graphprune
from common import console, machine, page, show, torchvision_model
from graphprune.backends import peers
from graphprune.backends.targets import get_target

COLUMNS = (
    "model",
    "integers, ms",
    "float32, ms",
    "ONNX Runtime int8, ms",
    "float32 / integers",
    "ONNX Runtime / integers",
)
TEXT = """
Models of random weights, quantised by ONNX Runtime's `quantize_static` (QDQ, uint8 activations, int8 weights per
channel). *integers* is the artifact of the quantised model, *float32* that of the original. Programs take turns;
milliseconds of processor time of the calling thread, medians. Printed by `benchmarks/int8.py` on

{machine}; target {target}.
"""


def layers() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Modules and the shapes of their inputs, by name."""

    def conv(inner: int, outer: int, kernel: int, groups: int = 1) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            one = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, groups=groups)
            two = nn.Conv2d(outer, inner, kernel, padding=kernel // 2, groups=groups)
            return nn.Sequential(one, nn.ReLU(), two, nn.ReLU())

        return build

    return {
        "two 3x3, 64 channels, 56x56": (conv(64, 64, 3), (1, 64, 56, 56)),
        "two 3x3, 256 channels, 14x14": (conv(256, 256, 3), (1, 256, 14, 14)),
        "two 3x3, 512 channels, 7x7": (conv(512, 512, 3), (1, 512, 7, 7)),
        "two 1x1, 256 and 64 channels, 56x56": (conv(256, 64, 1), (1, 256, 56, 56)),
        "two depthwise 3x3, 144 channels, 56x56": (conv(144, 144, 3, 144), (1, 144, 56, 56)),
        "two linear, 1 row, 1024 and 4096": (lambda: mlp(1024, 4096), (1, 1024)),
        "two linear, 128 rows, 768 and 3072": (lambda: mlp(768, 3072), (128, 768)),
        "resnet18": (lambda: torchvision_model("resnet18"), (1, 3, 224, 224)),
        "resnet50": (lambda: torchvision_model("resnet50"), (1, 3, 224, 224)),
        "mobilenet_v2": (lambda: torchvision_model("mobilenet_v2"), (1, 3, 224, 224)),
    }


def mlp(inner: int, outer: int) -> nn.Module:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(inner, outer), nn.ReLU(), nn.Linear(outer, inner))


class Samples(CalibrationDataReader):
    """A few random inputs."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self.samples = iter([{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(3)])

    def get_next(self) -> Any:
        """The next one, or None."""
        return next(self.samples, None)


def both(model: nn.Module, shape: tuple[int, ...]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A module as an ONNX model, and quantised."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = [str(Path(folder, name)) for name in ("float.onnx", "int8.onnx")]
        torch.onnx.export(
            model.eval(), (torch.zeros(shape),), paths[0], dynamo=False, input_names=["x"], opset_version=17
        )
        quantize_static(
            *paths, Samples(shape), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, per_channel=True,
        )  # fmt: skip
        return onnx.load(paths[0]), onnx.load(paths[1])


def alternate(calls: list[Callable[[], Any]], seconds: float) -> list[float]:
    """Milliseconds of each call; they take turns."""
    found: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while len(found[0]) < 7 or time.perf_counter() < end:
        for call, times in zip(calls, found, strict=True):
            call()
            start = time.thread_time()
            call()
            times.append((time.thread_time() - start) * 1e3)
    return [median(times) for times in found]


def measure(build: Callable[[], nn.Module], shape: tuple[int, ...], seconds: float) -> list[str]:
    """The cells of a row after its name."""
    torch.manual_seed(0)
    single, integers = both(build(), shape)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    artifacts = [graphprune.compile(model, example_inputs=x, threads=1) for model in (integers, single)]
    calls: list[Callable[[], Any]] = [lambda: artifacts[0](x), lambda: artifacts[1](x)]
    own, floats, peer = alternate([*calls, peers.onnx_runtime(integers, (x,), 1)], seconds)
    return [f"{own:.3f}", f"{floats:.3f}", f"{peer:.3f}", f"{floats / own:.2f}", f"{peer / own:.2f}"]


def main() -> None:
    """Print the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    rows = []
    for name, (build, shape) in layers().items():
        if options.only and name not in options.only:
            continue
        rows.append([name, *measure(build, shape, options.seconds)])
        console.print(*rows[-1])
    show("int8", COLUMNS, rows)
    if not options.only:
        text = TEXT.format(machine=machine(1, "onnxruntime", "apache-tvm"), target=get_target("x86").name)
        page("int8", "Quantised models", text, (COLUMNS, rows))


if __name__ == "__main__":
    main()
