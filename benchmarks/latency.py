"""Latency of one image, dense and at half the parameters: our artifact, ONNX Runtime, PyTorch.

    python benchmarks/latency.py [--repeats 30] [--models resnet18 ...]

One thread; all programs of a model take turns; medians.
"""

import argparse
import io
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import torch

import graphprune
from common import console, machine, page, parameters, show, torchvision_model
from graphprune import report
from graphprune.timing import alternate

MODELS = ("resnet18", "resnet50", "mobilenet_v2")
COLUMNS = ("model", "parameters", "GraphPrune artifact", "ONNX Runtime", "PyTorch", "artifact / ONNX Runtime")


def onnx_session(model: Any, example: torch.Tensor) -> Callable[[], object]:
    """The model in ONNX Runtime on one thread."""
    buffer = io.BytesIO()
    torch.onnx.export(model, (example,), buffer, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: example.numpy()}
    return lambda: session.run(None, feed)


def programs(model: Any, example: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The same model three ways."""
    artifact = graphprune.compile(model, target="x86", example_inputs=example, threads=1)
    error = (artifact(example) - model(example)).abs().max() / model(example).abs().max()
    assert error < 1e-4, f"the artifact differs from PyTorch by {error:.1e}"
    return {
        "artifact": lambda: artifact(example),
        "onnxruntime": onnx_session(model, example),
        "torch": lambda: model(example),
    }


@torch.inference_mode()
def measure(name: str, repeats: int) -> list[list[str]]:
    """Two lines of the table: dense and slim."""
    dense, example = torchvision_model(name), torch.randn(1, 3, 224, 224)
    slim = graphprune.optimize(dense, sparsity=0.5, target="x86", example_inputs=example)
    models = {"dense": dense, "slim": slim}
    calls = {
        f"{kind} {place}": call for kind, model in models.items() for place, call in programs(model, example).items()
    }
    medians = alternate(calls, repeats)
    rows = []
    for kind, model in models.items():
        seconds = [medians[f"{kind} {place}"] for place in ("artifact", "onnxruntime", "torch")]
        shown = [report.duration(value) for value in seconds]
        rows.append([f"{name}, {kind}", report.count(parameters(model)), *shown, f"{seconds[0] / seconds[1]:.2f}"])
    return rows


def main() -> None:
    """Measure every model; print and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=30)
    options.add_argument("--models", nargs="+", default=MODELS)
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of exporters, about their own future
    rows = []
    for name in given.models:
        with console.status(f"compiling and measuring {name} ..."):
            rows += measure(name, given.repeats)
    show("Latency of one 224x224 image, 1 thread", COLUMNS, rows)
    text = TEXT.format(machine(1, "apache-tvm", "onnxruntime"))
    page("latency", "Latency on x86", text, (COLUMNS, rows))


TEXT = """
Printed by `python benchmarks/latency.py`. {}.

One 224x224 image, one thread, medians, all six programs of a model taking turns. *slim* is
`graphprune.optimize(dense, sparsity=0.5, target="x86")`: half of the parameters, by global L2 magnitude, in multiples
that suit the vectors of this machine. The weights are random: the figures are about speed only.
"""


if __name__ == "__main__":
    main()
