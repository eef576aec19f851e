"""One operator at a time: the artifact against PyTorch and ONNX Runtime, on four megabytes and one thread.

python benchmarks/operators.py [--turns 10] [--only sin softmax ...]
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import graphprune
from common import console, machine, page, show
from graphprune.backends import peers

COLUMNS = ("operator", "artifact, ms", "time / PyTorch", "time / ONNX Runtime", "error")
SHAPE = (64, 128, 128)
UNARY = ("exp", "exp2", "expm1", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "erf",
         "sigmoid", "abs", "floor", "round")  # fmt: skip
POSITIVE = ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")
ACTIVATIONS = ("gelu", "silu", "elu", "mish", "softplus", "logsigmoid", "hardswish")


class Operator(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the function gives."""
        return self.function(*inputs)


def operators() -> dict[str, tuple[Callable, tuple[torch.Tensor, ...]]]:
    """Functions and their inputs, by name."""
    torch.manual_seed(0)
    x, y, image = torch.randn(SHAPE), torch.randn(SHAPE), torch.randn(1, 32, 128, 256)
    positive = x.abs() + 0.1
    return {
        **{name: (getattr(torch, name), (x.tanh() if name in ("asin", "acos") else x,)) for name in UNARY},
        **{name: (getattr(torch, name), (positive,)) for name in POSITIVE},
        **{name: (getattr(F, name), (x,)) for name in ACTIVATIONS},
        "add": (torch.add, (x, y)),
        "divide": (torch.div, (x, positive)),
        "atan2": (torch.atan2, (x, y)),
        "power 3": (lambda a: a**3, (x,)),
        "power of tensors": (torch.pow, (positive, y)),
        "sum, last axis": (lambda a: a.sum(-1), (x,)),
        "maximum, last axis": (lambda a: a.amax(-1), (x,)),
        "maximum, two axes": (lambda a: a.amax((1, 2)), (x,)),
        "maximum, all": (lambda a: a.amax((0, 1, 2)), (x,)),
        "product, last axis": (lambda a: a.prod(-1), (x,)),
        "softmax, last axis": (lambda a: a.softmax(-1), (x,)),
        "softmax, axis 1": (lambda a: a.softmax(1), (x,)),
        "log softmax, axis 1": (lambda a: a.log_softmax(1), (x,)),
        "layer norm": (lambda a: F.layer_norm(a, SHAPE[-1:]), (x,)),
        "group norm": (lambda a: F.group_norm(a, 8), (image,)),
        "transpose 0 2": (lambda a: a.permute(2, 1, 0) + 1, (x,)),
        "transpose 1 2": (lambda a: a.permute(0, 2, 1) + 1, (x,)),
        "join, last axis": (lambda a, b: torch.cat([a, b], -1), (x, y)),
        "cumulated sum": (lambda a: a.cumsum(-1), (x,)),
        "windows": (lambda a: F.unfold(a, 3, padding=1), (image[:, :8],)),
    }


def measure(function: Callable, inputs: tuple[torch.Tensor, ...], turns: int) -> list[str]:
    """The cells of a row after its name."""
    model = Operator(function).eval()
    artifact = graphprune.compile(model, example_inputs=inputs, threads=1)
    calls: dict[str, Callable[[], Any]] = {"own": lambda: artifact(*inputs), "torch": lambda: model(*inputs)}
    try:
        calls["onnxruntime"] = peers.onnx_runtime(model, inputs, 1)
    except Exception:  # of whatever kind: the exporter or the runtime lacks the operator
        console.print("not in ONNX Runtime")
    with torch.no_grad():
        exact = model(*(tensor.double() for tensor in inputs))
        error = float((artifact(*inputs) - exact).abs().max() / exact.abs().max())
        seconds = _least(calls, turns)
    ratios = [f"{seconds['own'] / seconds[name]:.2f}" if name in seconds else "-" for name in list(seconds)[1:]]
    return [f"{1e3 * seconds['own']:.2f}", *ratios, *["-"] * (2 - len(ratios)), f"{error:.0e}"]


def _least(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """The least processor time of each call; they take turns."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(turns):
        for name, call in calls.items():
            for _ in range(2):  # the first one finds the caches full of others' numbers
                start = time.thread_time()
                call()
                least[name] = min(least[name], time.thread_time() - start)
    return least


def main() -> None:
    """Measure, print, write the page."""
    table = operators()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=10)
    options.add_argument("--only", nargs="+", default=list(table), choices=table, metavar="OPERATOR")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of exporters, about their own future
    rows: list[Sequence[str]] = []
    for name in given.only:
        with console.status(f"{name} ..."):
            rows.append([name, *measure(*table[name], given.turns)])
    show("Operators", COLUMNS, rows)
    if given.only == list(table):
        text = TEXT.format(machine(1, "apache-tvm", "onnxruntime"))
        page("operators", "One operator at a time", text, (COLUMNS, rows))


TEXT = """
Printed by `python benchmarks/operators.py`. {}.

Tensors of four megabytes (what makes windows is smaller), the least processor time of many calls that take turns. Below
1, the artifact is faster. A call of the artifact allocates its result; so do the others. The error is the largest one,
relative to the largest result, against PyTorch in float64. A dash: the peer does not have the operator.
"""


if __name__ == "__main__":
    main()
